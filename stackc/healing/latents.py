"""The training form of a stored tensor: real numbers at some depth of its stack, from which the tensor is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, join, stored_planes
from stackc.healing.nodes import Bits, Builder, Latent, Node, Simulated, Start, Value
from stackc.planning.trained import Hardened
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class TrainedTensor:
    """One tensor, decoded from numbers that an optimiser changes.

    Parameters
    ----------
    stack : Stack
        Settled.
    spec : PlaneSpec
        Of the tensor.
    start : Start
        What is stored now.
    latent : {"planes", "dense"}
        What is trained: planes above the last quantiser, or the tensor.
    device : torch.device, optional
        Where to train; where ``start`` is without it.

    Examples
    --------
    >>> import torch
    >>> from stackc.core.registry import find, find_packer
    >>> from stackc.core.stack import Branch, Leaf
    >>> x, step = torch.tensor([[0.9, -0.4], [2.1, 0.2]]), find("int").stage(step=0.5, bits=4)
    >>> stack = Branch(step, {"codes": Leaf(find_packer("raw")), "scale": Leaf(find_packer("raw"))})
    >>> trained = TrainedTensor(stack, PlaneSpec.of(x), Start(step.encode(x), {"": x}), "planes")
    >>> trained.value().tolist(), sorted(trained.parameters)
    ([[1.0, -0.5], [2.0, 0.0]], ['', 'scale'])
    """

    def __init__(
        self,
        stack: Stack,
        spec: PlaneSpec,
        start: Start,
        latent: Literal["planes", "dense"],
        device: torch.device | None = None,
    ) -> None:
        self.spec = spec
        # A tensor that stands elsewhere as a whole has nothing of its own to train.
        self._dense = latent == "dense" and spec.is_real and bool(stored_planes(stack, spec))
        build = Builder(start, device)
        self._root: Node = build.latent(stack, spec, "") if self._dense else build.node(stack, spec, "")
        nodes = list(self._root.walk())
        self._values = {node.path: node for node in nodes if isinstance(node, Value) and node.parameter is not None}
        self._simulated = {node.path: node for node in nodes if isinstance(node, Simulated)}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, by path."""
        return {path: node.parameter for path, node in self._values.items() if node.parameter is not None}

    @property
    def factors(self) -> frozenset[str]:
        """Paths of the parameters that are logarithms of factors on what was there, as those of steps are."""
        return frozenset(path for path, node in self._values.items() if node.positive)

    @property
    def has_rows(self) -> bool:
        """Whether single rows can be decoded without the others."""
        return not self._dense and len(self.spec.shape) > 1 and self._root.has_rows()

    def value(self, rows: Tensor | None = None, *, remember: bool = False) -> Tensor:
        """The tensor as its file would decode, with gradients.

        Parameters
        ----------
        rows : Tensor, optional
            Numbers of rows, ascending, to have only these; needs `has_rows`.
        remember : bool
            Whether `bits`, called before the gradients are taken, may use the codes that are made here.
        """
        for node in self._simulated.values():
            node.remembers = remember and rows is None and torch.is_grad_enabled()
        return self._root.value(rows)

    def bits(self, price: Bits) -> Tensor | None:
        """Estimated bits of all codes, 0-d; None where there are none that an estimate is known for.

        Parameters
        ----------
        price : callable
            Gives those of one plane from its path and its relaxed codes.
        """
        found = [bits for node in self._root.walk() if isinstance(node, Latent) for bits in node.bits(price)]
        return torch.stack(found).sum() if found else None

    def rechoose(self) -> None:
        """Choose masks and bases again, from the tensor as it is now; only dense training has some to choose."""
        if isinstance(self._root, Latent) and isinstance(self._root.below, Simulated):
            with torch.no_grad():
                self._root.below.rechoose(self._root.trained.value(None).detach())

    def state(self) -> dict[str, Tensor]:
        """Copies of all that training changes, for `restore`."""
        state = {f"parameter {path}": value.detach().clone() for path, value in self.parameters.items()}
        for path, node in self._simulated.items():
            state |= {f"held {join(path, plane)}": value for plane, value in node.held.items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` copied."""
        with torch.no_grad():
            for path, parameter in self.parameters.items():
                parameter.copy_(state[f"parameter {path}"])
        for path, node in self._simulated.items():
            node.held = {
                plane: state[f"held {join(path, plane)}"].to(value.device) for plane, value in node.held.items()
            }

    def harden(self) -> Hardened:
        """What is stored: codes as integers, and transforms settled anew where codes ask for it; on the CPU."""
        done = Hardened({}, {}, {})
        with torch.no_grad():
            self._root.harden(done)
        return Hardened(
            done.transforms,
            {path: plane.detach().cpu().contiguous() for path, plane in done.planes.items()},
            {path: plane.detach().cpu().clone() for path, plane in done.inputs.items()},
        )


class SharedTensor:
    """A plane that several trained tensors use: decoded once for a forward pass, so that gradients add up.

    Parameters
    ----------
    form : TrainedTensor or Tensor
        What is trained, or the plane itself if it stays as it is.
    """

    def __init__(self, form: TrainedTensor | Tensor) -> None:
        self._form = form
        self._known: tuple[tuple[bool, ...], tuple[int, ...], Tensor] | None = None

    def value(self) -> Tensor:
        """The plane, whole; with gradients if they are recorded."""
        if not isinstance(self._form, TrainedTensor):
            return self._form
        # An optimiser changes parameters in place, which torch counts.
        state = (torch.is_grad_enabled(),), tuple(value._version for value in self._form.parameters.values())
        if self._known is None or self._known[:2] != state:
            self._known = (*state, self._form.value(remember=True))
        return self._known[2]

    def forget(self) -> None:
        """Decode again when the plane is asked for next: a graph serves one pass."""
        self._known = None
