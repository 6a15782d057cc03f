"""`Transform`: an invertible map from one plane to named planes."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import msgspec

from stackc.core.spec import PlaneSpec
from stackc.util.errors import TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class StageMeta(msgspec.StructMeta, abc.ABCMeta):
    """Metaclass of transforms and packers: a msgspec struct that may be abstract."""


class Weighted(NamedTuple):
    """A plane with the importance of each of its rows (None: all rows count the same)."""

    plane: Tensor
    weights: Tensor | None = None


class Transform(msgspec.Struct, metaclass=StageMeta, frozen=True, forbid_unknown_fields=True):
    """Base class of transforms: a frozen value whose fields are its whole configuration.

    A subclass names its format (``name``, ``version``), says whether it is exact (``lossless``) and which of its planes
    are side information (``side``), and implements `plan`, `encode` and `decode`. The rest has defaults.

    A transform whose result depends on data beyond one plane, or whose planes have shapes that only the data decides,
    is *unsettled*: `settle` looks at all matched planes and returns one settled transform for each. The artifact stores
    settled transforms only.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    lossless: ClassVar[bool] = False
    side: ClassVar[frozenset[str]] = frozenset()
    #: Those of ``side`` that multiply all values of a block, such as a scale: a zero in one is a block of zeros.
    factors: ClassVar[frozenset[str]] = frozenset()
    #: What makes side information smaller, for people whose file is mostly that.
    lighter: ClassVar[str] = "compress these planes with later stages, or leave small tensors out of this one with 'on'"
    #: Fields that only `encode` reads: the file does not hold them.
    encode_only: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Specs of the planes that `encode` makes of a plane with this spec; reads no data.

        For an unsettled transform these are upper bounds.

        Raises
        ------
        SpecError
            If the transform does not take such a plane; the message says what would fit.
        """

    @abc.abstractmethod
    def encode(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Split a plane into the planes of `plan`; deterministic, and ``x`` is left as it was.

        Parameters
        ----------
        x : Tensor
            A plane with a spec that `plan` accepts.
        weights : Tensor, optional
            Importance of each row of ``x`` in the squared error, shape ``(x.shape[0],)``, not negative.

        Raises
        ------
        TensorError
            If the transform is lossy and ``x`` holds NaN or infinity.
        """

    @abc.abstractmethod
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Rebuild the plane with this spec: pure torch, differentiable in every real plane."""

    def work(self, spec: PlaneSpec) -> int:
        """Multiplications that `decode` of a plane with this spec takes, beyond a few for each element; reads no data.

        A reader refuses files that would keep it busy out of proportion to their size, so transforms with matrix products,
        or with tables that every `decode` goes through, say so here. A few operations for each element of the plane, and of
        those it is made from, are counted anyway: 0, as by default, is right for most.
        """
        return 0

    def fake(self, x: Tensor) -> Tensor:
        """Straight-through round trip for training: forward as stored, gradient as identity."""
        spec = PlaneSpec.of(x)
        with torch.no_grad():
            change = self.decode(self.encode(x.detach()), spec) - x
        return x + change

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`encode` in a training step: choices that take time, such as a mask or a basis, are those of ``planes``.

        Parameters
        ----------
        x : Tensor
            What the plane is now.
        planes : mapping
            Planes that this value made, or that training has changed since.
        """
        return self.encode(x)

    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """`hold` with gradients: integer planes are real here, rounded, and pass gradients on as if they were not.

        `decode` of them has the value of what would be stored; its gradient reaches ``x`` and the real ones of ``planes``.
        None, as by default, if that is too dear: the gradient then passes the transform, and all below it, unchanged.
        """
        return None

    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        """What is stored of a trained plane: this transform, settled for it, and its planes.

        Parameters
        ----------
        x : Tensor
            The trained plane.
        planes : mapping
            As in `hold`; trained side information, such as a scale, is among them and stays.
        """
        made = self.hold(x.detach(), planes)
        return self, made

    def narrowed(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Side information that `encode` rounded so far that some of it may have become zero, by plane; none by default.

        The report counts such zeros, as it does those of later stages.

        Parameters
        ----------
        x : Tensor
            What was encoded.
        planes : mapping
            What `encode` made of it.

        Returns
        -------
        dict
            Two tensors of one shape for each: the numbers as they were, and as they are stored.
        """
        return {}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Which rows of each plane decode to some rows of this one; a value of None stands for all of the plane.

        ``decode`` of these rows, with as many rows in the spec, is then what ``decode`` gives there. So a training step
        decodes those rows of an embedding that it meets. None, as by default, if rows cannot be had alone. Only planes with
        two axes or more are asked for rows.

        Parameters
        ----------
        index : Tensor
            Numbers of rows, int64, ascending.
        planes : mapping
            Planes of integers, such as masks.
        """
        return None

    def rate(self, planes: Mapping[str, Tensor], bits: Callable[[str, Tensor], Tensor] | None = None) -> Tensor | None:
        """Differentiable estimate of the bits of relaxed integer planes, for training; never reported as a size.

        Parameters
        ----------
        planes : mapping
            As `relax` returns them.
        bits : callable, optional
            Gives the bits of one plane of rounded numbers by its name; `stackc.core.rate.code_bits` without it. A training loop
            passes one that remembers how the codes are distributed from one step to the next.

        Returns
        -------
        Tensor or None
            0-d; None if there are no such planes.
        """
        return None

    def error_bound(self, x: Tensor) -> float:
        """Upper bound on the Frobenius norm of ``x - decode(encode(x))``, in units of ``x``; 0 if lossless.

        Subclasses that lose something override it; infinity claims nothing.
        """
        return 0.0 if self.lossless else float("inf")

    @property
    def calibrated(self) -> bool:
        """Whether `encode_calibrated` wants the second moments of what rows of the tensor meet."""
        return False

    def encode_calibrated(self, x: Tensor, weights: Tensor | None, moments: Tensor | None) -> dict[str, Tensor]:
        """`encode` for a calibrated transform, where the error ``d`` of a row of ``x`` costs ``d @ moments @ d``.

        Parameters
        ----------
        x, weights
            As in `encode`.
        moments : Tensor, optional
            Mean of ``v v^T`` over the inputs ``v`` that rows of ``x`` are multiplied with, or, where they are looked up,
            over gradients of what the model says; shape ``(columns, columns)``, of rows as
            `stackc.core.spec.as_matrix` has them. None where there is neither, as with biases.
        """
        return self.encode(x, weights)

    def encode_each(
        self, x: Tensor, weights: Tensor | None, options: Sequence[Self], moments: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """The planes of every option for one input; override it where the options share work.

        Parameters
        ----------
        x, weights
            As in `encode`.
        options : sequence
            Settled values of this class.
        moments : Tensor, optional
            As in `encode_calibrated`, for the options that are calibrated.
        """
        return (
            option.encode_calibrated(x, weights, moments) if option.calibrated else option.encode(x, weights)
            for option in options
        )

    @property
    def stored(self) -> Self:
        """What the file stores of this value: fields that only `encode` reads are at their defaults.

        It plans and decodes as this value does. Equal stacks are stored once, so a field left in costs bytes.
        """
        if not self.encode_only or not self.settled:
            return self
        defaults = _defaults(type(self))
        return msgspec.structs.replace(self, **{name: defaults[name] for name in self.encode_only})

    @property
    def settled(self) -> bool:
        """Whether `encode` can run without a look at the other planes."""
        return True

    @property
    def allocated(self) -> bool:
        """Whether no field is left to the rate allocation, as ``step: auto`` is; what is not allocated is not settled."""
        return True

    def options(self, x: Tensor) -> Sequence[Self]:
        """The values that the rate allocation may choose from for a plane, the one with the fewest bytes first.

        For transforms that are not `allocated`. The choices may still have to be settled.
        """
        return (self,)

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Choose one settled transform for each plane; ``planes`` may be walked several times and loads lazily."""
        return dict.fromkeys(planes, self)

    def carry(self, weights: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Row weights of the encoded planes, for those planes whose rows are rows of the input."""
        return {}

    def carry_moments(self, moments: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Second moments for the encoded planes whose rows meet the same as rows of the input, or a part of it."""
        return {}


def config_fields(transform: Transform) -> dict[str, Any]:
    """The fields of a transform as plain data; those that only `encode` reads are left out where they have defaults.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> config_fields(find("int").stage(bits=4))
    {'bits': 4, 'symmetric': True, 'granularity': 'row', 'group_size': None}
    """
    fields: dict[str, Any] = msgspec.to_builtins(transform)
    if transform.encode_only:
        defaults = _defaults(type(transform))
        for name in transform.encode_only:
            if getattr(transform, name) == defaults[name]:
                del fields[name]
    return fields


@functools.cache
def _defaults(kind: type[Transform]) -> dict[str, Any]:
    """Default of every field: msgspec reads the annotations again each time, which takes longer than encoding a small tensor."""
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def require_finite(x: Tensor) -> None:
    """Refuse a plane with NaN or infinity.

    Raises
    ------
    TensorError
        With the number of such values and the flat position of the first.

    Examples
    --------
    >>> import torch
    >>> require_finite(torch.tensor([1.0, float("nan")]))
    Traceback (most recent call last):
        ...
    stackc.util.errors.TensorError: 1 of 2 values is NaN or infinite (first at flat position 1); repair the weights, or store this tensor with a lossless packer alone
    """
    if not x.is_floating_point() or not x.numel():
        return
    # NaN is the smallest and the largest of whatever it is among; a tenth of the time of looking at each value
    if all(math.isfinite(float(end)) for end in torch.aminmax(x.detach())):
        return
    bad = ~torch.isfinite(x.detach())
    count = int(bad.sum())
    first = int(bad.reshape(-1).to(torch.uint8).argmax())
    verb = "is" if count == 1 else "are"
    raise TensorError(
        f"{count} of {x.numel()} values {verb} NaN or infinite (first at flat position {first}); "
        "repair the weights, or store this tensor with a lossless packer alone"
    )
