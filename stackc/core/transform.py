"""`Transform`: an invertible map from one plane to named planes."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
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


class Known(NamedTuple):
    """What may be known about a plane when it is encoded.

    Parameters
    ----------
    weights : Tensor, optional
        Importance of each row in the squared error, shape ``(rows,)``, not negative.
    moments : Tensor, optional
        What an error ``d`` of a row costs: ``d @ moments @ d``. The mean of ``v v^T`` over the inputs ``v`` that rows are
        multiplied with, or, where they are looked up, over gradients of what the model says; shape ``(columns, columns)``,
        of rows as `stackc.core.spec.as_matrix` has them. None where there is neither, as with biases.
    shared : mapping
        Planes of the transform that this plane has in common with others, or that lie in another model, by name; see
        `stackc.core.abilities.Sharing` and `stackc.core.abilities.Outside`.
    """

    weights: Tensor | None = None
    moments: Tensor | None = None
    shared: Mapping[str, Tensor] = MappingProxyType({})


#: Nothing is known.
NOTHING = Known()


class Transform(msgspec.Struct, metaclass=StageMeta, frozen=True, forbid_unknown_fields=True):
    """Base class of transforms: a frozen value whose fields are its whole configuration.

    A subclass names its format (``name``, ``version``), says whether it is exact (``lossless``) and which of its planes
    are side information (``side``), and implements `plan`, `encode` and `decode`. The rest has defaults.

    What only some transforms can do, such as being trained or choosing from data, is in the base classes of
    `stackc.core.abilities`.
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
    #: Fields that only files hold, each with what a recipe says instead: `stored` sets them, and no recipe may.
    stored_only: ClassVar[Mapping[str, str]] = MappingProxyType({})

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
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Split a plane into the planes of `plan`; deterministic, and ``x`` is left as it was.

        Parameters
        ----------
        x : Tensor
            A plane with a spec that `plan` accepts.
        known : Known
            What may be known about the plane. A transform uses what helps it, and may use none of it.

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

    def error_bound(self, x: Tensor) -> float:
        """Upper bound on the Frobenius norm of ``x - decode(encode(x))``, in units of ``x``; 0 if lossless.

        Subclasses that lose something override it; infinity claims nothing.
        """
        return 0.0 if self.is_lossless else float("inf")

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """What is known about the encoded planes, for those whose rows are rows of the input, or meet the same as they do.

        Parameters
        ----------
        known : Known
            As `encode` was given it.
        planes : mapping
            What `encode` made.

        Returns
        -------
        dict
            By plane; none by default.
        """
        return {}

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
        """Whether every choice is made, so that `encode` can run; see `stackc.core.abilities.Settling`."""
        return True

    @property
    def is_lossless(self) -> bool:
        """Whether this value gives every bit back: what its class says, unless a field decides."""
        return self.lossless


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


def is_finite(x: Tensor) -> bool:
    """Whether a real plane holds neither NaN nor infinity.

    Examples
    --------
    >>> import torch
    >>> is_finite(torch.tensor([3e38, 3e38])), is_finite(torch.tensor([torch.inf, -torch.inf]))
    (True, False)
    """
    x = x.detach()
    # No sum with one of them is finite, and to add up takes a tenth of the time of looking at each value. What remains is a
    # sum that overflows.
    return math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all())


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
    if not x.is_floating_point() or is_finite(x):
        return
    bad = ~torch.isfinite(x.detach())
    count = int(bad.sum())
    first = int(bad.reshape(-1).to(torch.uint8).argmax())
    verb = "is" if count == 1 else "are"
    raise TensorError(
        f"{count} of {x.numel()} values {verb} NaN or infinite (first at flat position {first}); "
        "repair the weights, or store this tensor with a lossless packer alone"
    )
