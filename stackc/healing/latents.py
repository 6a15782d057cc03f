"""The training form of a stored tensor: real numbers at some depth of its stack, from which the tensor is decoded.

A stack becomes a tree of nodes. Above the numbers that are trained, `Transform.decode` is exact, as in the decoder
(`_Exact`). Below them every stage is simulated (`_Simulated`): what it would store is computed again from the trained
numbers, rounded, and decoded.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from stackc.lazy import torch
from stackc.spec import PlaneSpec
from stackc.stack import Leaf, Stack, join
from stackc.transform import Transform

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Gives the bits of relaxed codes by the path of their plane.
Bits = Callable[[str, "Tensor"], "Tensor"]


class Hardened(NamedTuple):
    """What training left of one tensor.

    ``transforms`` are those that training changed, by the path that they split; ``planes`` are those at the leaves;
    ``inputs`` is what was trained and what simulated stages were given of it, by path, for a later stage that heals again.
    """

    transforms: dict[str, Transform]
    planes: dict[str, Tensor]
    inputs: dict[str, Tensor]


class Start(NamedTuple):
    """Where training begins: planes at the leaves, and what transforms on the way were given, as far as it is known."""

    planes: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]

    def value(self, stack: Stack, spec: PlaneSpec, path: str) -> Tensor:
        """The plane at a path: as it was given, or decoded from below."""
        if path in self.inputs:
            return self.inputs[path].detach()
        if isinstance(stack, Leaf):
            return self.planes[path]
        specs = stack.transform.plan(spec)
        below = {plane: self.value(child, specs[plane], join(path, plane)) for plane, child in stack.planes.items()}
        with torch.no_grad():
            return stack.transform.decode(below, spec)


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
    >>> from stackc.registry import find, find_packer
    >>> from stackc.stack import Branch
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
        self._dense = latent == "dense" and spec.is_real
        build = _Builder(start, device)
        self._root: _Node = build.latent(stack, spec, "") if self._dense else build.node(stack, spec, "")
        nodes = list(self._root.walk())
        self._values = {node.path: node for node in nodes if isinstance(node, _Value) and node.parameter is not None}
        self._simulated = {node.path: node for node in nodes if isinstance(node, _Simulated)}

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
        found = [bits for node in self._root.walk() if isinstance(node, _Latent) for bits in node.bits(price)]
        return torch.stack(found).sum() if found else None

    def rechoose(self) -> None:
        """Choose masks and bases again, from the tensor as it is now; only dense training has some to choose."""
        if isinstance(self._root, _Latent) and isinstance(self._root.below, _Simulated):
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


class _Node(abc.ABC):
    """A plane at a path, as training sees it."""

    def __init__(self, path: str, spec: PlaneSpec) -> None:
        self.path = path
        self.spec = spec

    @abc.abstractmethod
    def value(self, rows: Tensor | None) -> Tensor:
        """The plane, or some of its rows."""

    @abc.abstractmethod
    def harden(self, done: Hardened) -> None:
        """Write down what is stored of it."""

    @abc.abstractmethod
    def walk(self) -> Iterator[_Node | _Simulated]:
        """The node and all below."""

    @abc.abstractmethod
    def has_rows(self) -> bool:
        """Whether `value` can give single rows without the others."""


class _Value(_Node):
    """A plane that is there as numbers: constant, trained, or (``positive``) trained as a factor on what it was."""

    def __init__(self, path: str, spec: PlaneSpec, plane: Tensor, *, trained: bool, positive: bool = False) -> None:
        super().__init__(path, spec)
        self._plane = plane
        self.positive = positive
        self.parameter: nn.Parameter | None = None
        if trained:
            # Masters are at least float32: half precision under Adam is not finite after a step.
            wide = plane.to(torch.promote_types(plane.dtype, torch.float32), copy=True)
            self._plane = wide
            self.parameter = torch.nn.Parameter(torch.zeros_like(wide) if positive else wide)

    def value(self, rows: Tensor | None) -> Tensor:
        plane = self._plane
        if self.parameter is not None:
            plane = self._plane * self.parameter.exp() if self.positive else self.parameter
        plane = plane if rows is None else plane[rows]
        return plane.to(getattr(torch, self.spec.dtype))

    def harden(self, done: Hardened) -> None:
        done.planes[self.path] = self.value(None)

    def walk(self) -> Iterator[_Node | _Simulated]:
        yield self

    def has_rows(self) -> bool:
        return True


class _Exact(_Node):
    """A plane that a transform splits, with all that is trained further down: decoded as in the decoder."""

    def __init__(self, path: str, spec: PlaneSpec, transform: Transform, children: dict[str, _Node]) -> None:
        super().__init__(path, spec)
        self._transform = transform
        self._children = children

    def value(self, rows: Tensor | None) -> Tensor:
        numbers = self._numbers(rows)
        planes = {plane: child.value(numbers[plane]) for plane, child in self._children.items()}
        return self._transform.decode(planes, _with_rows(self.spec, rows))

    def harden(self, done: Hardened) -> None:
        for child in self._children.values():
            child.harden(done)

    def walk(self) -> Iterator[_Node | _Simulated]:
        yield self
        for child in self._children.values():
            yield from child.walk()

    def has_rows(self) -> bool:
        numbers = self._transform.row_planes(torch.zeros(1, dtype=torch.int64), self._integers())
        if numbers is None:
            return False
        return all(numbers[plane] is None or child.has_rows() for plane, child in self._children.items())

    def _numbers(self, rows: Tensor | None) -> Mapping[str, Tensor | None]:
        numbers = None if rows is None else self._transform.row_planes(rows, self._integers())
        return dict.fromkeys(self._children) if numbers is None else numbers

    def _integers(self) -> dict[str, Tensor]:
        return {plane: child.value(None) for plane, child in self._children.items() if not child.spec.is_real}


class _Latent(_Node):
    """A trained plane with the stages below it simulated."""

    def __init__(self, path: str, spec: PlaneSpec, trained: _Value, below: _Simulated | None) -> None:
        super().__init__(path, spec)
        self.trained = trained
        self.below = below

    def value(self, rows: Tensor | None) -> Tensor:
        x = self.trained.value(rows)
        return x if self.below is None else self.below.shown(x, rows, top=True)

    def bits(self, price: Bits) -> Iterator[Tensor]:
        """Bits of every plane of codes below."""
        if self.below is not None:
            yield from self.below.bits(self.trained.value(None), price)

    def harden(self, done: Hardened) -> None:
        x = self.trained.value(None)
        if self.below is None:
            done.planes[self.path] = x
            return
        done.inputs[self.path] = x
        self.below.harden_from(x, done)

    def walk(self) -> Iterator[_Node | _Simulated]:
        yield self
        yield self.trained
        if self.below is not None:
            yield from self.below.walk()

    def has_rows(self) -> bool:
        return self.below is None or self.below.has_rows()


class _Simulated:
    """A stage below a trained plane: it encodes what the plane is now, with the masks, bases and scales that are there.

    ``sides`` are planes that are trained themselves, such as steps and codebooks; ``held`` are those that stay, as they
    were made last; ``children`` are further stages on planes that are made anew.
    """

    def __init__(
        self,
        path: str,
        spec: PlaneSpec,
        transform: Transform,
        sides: dict[str, _Node],
        held: dict[str, Tensor],
        children: dict[str, _Simulated],
    ) -> None:
        self.path = path
        self._spec = spec
        self._transform = transform
        self._sides = sides
        self.held = held
        self._children = children
        self._quantises = _quantises(transform, spec)
        self.remembers = False
        #: What `shown` has made of the whole plane, for `bits` of the same step.
        self._made: dict[str, Tensor] | None = None

    def shown(self, x: Tensor, rows: Tensor | None, *, top: bool = False) -> Tensor:
        """What would come back of ``x`` (rows of the plane), with gradients; ``top`` if ``x`` itself is what is trained."""
        spec = _with_rows(self._spec, rows)
        around = self._around(rows)
        made = self._transform.relax(x, around) if self._quantises else None
        self._made = made if top and self.remembers else None
        straight = made is None
        if made is None:
            made = self._transform.hold(x.detach(), around)
        planes = {
            plane: self._children[plane].shown(value, None)
            if plane in self._children
            else around.get(plane, value)
            if plane in self._sides
            else value
            for plane, value in made.items()
        }
        decoded = self._transform.decode(planes, spec)
        return decoded + (x - x.detach()) if straight else decoded

    def bits(self, x: Tensor, price: Bits) -> Iterator[Tensor]:
        """Bits of all codes that are made of ``x``."""
        made, self._made = self._made, None
        if made is None:
            around = self._around(None)
            made = self._transform.relax(x, around)
            if made is None:
                made = self._transform.hold(x, around)
        bits = self._transform.rate(made, lambda plane, codes: price(join(self.path, plane), codes))
        if bits is not None:
            yield bits
        for plane, child in self._children.items():
            yield from child.bits(made[plane], price)

    def rechoose(self, x: Tensor) -> None:
        """Encode anew, masks and bases included; scales that are trained stay."""
        if self._quantises:
            return
        made = self._transform.encode(x)
        self.held = {plane: made[plane] for plane in self.held}
        for plane, child in self._children.items():
            child.rechoose(made[plane])

    def harden_from(self, x: Tensor, done: Hardened) -> None:
        """Write down what is stored of ``x``."""
        transform, made = self._transform.harden(x, self._around(None))
        if transform != self._transform:
            done.transforms[self.path] = transform
        for plane, value in made.items():
            if plane in self._sides:
                self._sides[plane].harden(done)
            elif plane in self._children:
                done.inputs[join(self.path, plane)] = value
                self._children[plane].harden_from(value, done)
            else:
                done.planes[join(self.path, plane)] = value

    def walk(self) -> Iterator[_Node | _Simulated]:
        yield self
        for side in self._sides.values():
            yield from side.walk()
        for child in self._children.values():
            yield from child.walk()

    def has_rows(self) -> bool:
        return (
            not self._children and self._transform.row_planes(torch.zeros(1, dtype=torch.int64), self.held) is not None
        )

    def _around(self, rows: Tensor | None) -> dict[str, Tensor]:
        numbers = None if rows is None else self._transform.row_planes(rows, self.held)
        some: Mapping[str, Tensor | None] = {} if numbers is None else numbers
        around = {}
        for plane, value in self.held.items():
            index = some.get(plane)
            around[plane] = value if index is None else value[index]
        return around | {plane: node.value(some.get(plane)) for plane, node in self._sides.items()}


class _Builder:
    """Makes the nodes of a stack."""

    def __init__(self, start: Start, device: torch.device | None) -> None:
        self._start = start
        self._device = device

    def node(self, stack: Stack, spec: PlaneSpec, path: str, *, side: bool = False) -> _Node:
        """The plane at a path, with trained numbers as far down as there are real ones that decode to it."""
        if isinstance(stack, Leaf):
            plane = self._here(stack, spec, path)
            trained = spec.is_real and spec.numel > 0
            return _Value(path, spec, plane, trained=trained, positive=trained and side and bool((plane > 0).all()))
        if not spec.is_real:
            return _Constant(path, spec, self._here(stack, spec, path), self._leaves(stack, spec, path))
        if _quantises(stack.transform, spec):
            return self.latent(stack, spec, path)
        specs = stack.transform.plan(spec)
        children = {plane: self.node(child, specs[plane], join(path, plane)) for plane, child in stack.planes.items()}
        return _Exact(path, spec, stack.transform, children)

    def latent(self, stack: Stack, spec: PlaneSpec, path: str) -> _Latent:
        """The plane at a path as trained numbers, with all below simulated."""
        trained = _Value(path, spec, self._here(stack, spec, path), trained=spec.numel > 0)
        return _Latent(path, spec, trained, None if isinstance(stack, Leaf) else self._below(stack, spec, path))

    def _below(self, stack: Stack, spec: PlaneSpec, path: str) -> _Simulated:
        assert not isinstance(stack, Leaf)
        specs = stack.transform.plan(spec)
        quantises = _quantises(stack.transform, spec)
        sides: dict[str, _Node] = {}
        held: dict[str, Tensor] = {}
        children: dict[str, _Simulated] = {}
        for plane, child in stack.planes.items():
            below, its = join(path, plane), specs[plane]
            if quantises and its.is_real and plane in stack.transform.side:
                sides[plane] = self.node(child, its, below, side=True)
                continue
            held[plane] = self._here(child, its, below)
            if not isinstance(child, Leaf):
                children[plane] = self._below(child, its, below)
        return _Simulated(path, spec, stack.transform, sides, held, children)

    def _here(self, stack: Stack, spec: PlaneSpec, path: str) -> Tensor:
        plane = self._start.value(stack, spec, path)
        return plane if self._device is None else plane.to(self._device)

    def _leaves(self, stack: Stack, spec: PlaneSpec, path: str) -> dict[str, Tensor]:
        if isinstance(stack, Leaf):
            return {path: self._start.planes[path]}
        specs = stack.transform.plan(spec)
        found: dict[str, Tensor] = {}
        for plane, child in stack.planes.items():
            found |= self._leaves(child, specs[plane], join(path, plane))
        return found


class _Constant(_Value):
    """A plane of integers that transforms split further: it stays as it is."""

    def __init__(self, path: str, spec: PlaneSpec, plane: Tensor, leaves: Mapping[str, Tensor]) -> None:
        super().__init__(path, spec, plane, trained=False)
        self._leaves = leaves

    def harden(self, done: Hardened) -> None:
        done.planes.update(self._leaves)


def _with_rows(spec: PlaneSpec, rows: Tensor | None) -> PlaneSpec:
    return spec if rows is None else msgspec.structs.replace(spec, shape=(len(rows), *spec.shape[1:]))


def _quantises(transform: Transform, spec: PlaneSpec) -> bool:
    """Whether a transform makes no real plane that is as wide as its input and more than side information."""
    return not any(
        made.is_real and made.item_bytes >= spec.item_bytes and plane not in transform.side
        for plane, made in transform.plan(spec).items()
    )
