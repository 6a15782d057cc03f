"""Delta: a tensor as its difference from that of another model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from stackc.core.abilities import Outside, Trainable
from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Integers of so many bytes; their bit patterns stand for those of other dtypes as wide.
_SIGNED = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}

#: Dtype of differences of elements of so many bytes: what holds them all as numbers from 0, or all but the highest bit.
_FOLDED = {1: "uint8", 2: "int32", 4: "int32", 8: "int64"}

#: From so many bytes on the highest bit of a difference is a plane of its own.
_WIDE = 4


class Delta(Outside, Trainable, frozen=True):
    """Store a tensor as what it differs by from the tensor of the same name in another model, its base.

    For a fine-tune of a base, for a later checkpoint of one training, or for a merge: what later stages compress is the
    difference, which is small and takes fewer bits. The base stays outside of the file, which names it by its fingerprint;
    decoding needs it.

    ============== ========= =================== =======================================================================
    plane          dtype     shape               holds
    ============== ========= =================== =======================================================================
    ``base``       that of the tensor            the tensor of the base; not in the file
    ``difference`` that of the tensor            tensor minus base
    ============== ========= =================== =======================================================================

    With ``exact`` the difference is that of bit patterns, and every bit comes back, in all dtypes. Patterns of real numbers are
    taken as integers that grow with the number, so the difference counts the numbers between the two and is small where they
    are near each other. It is taken modulo ``2**bits`` and folded, so that no bit of a small one is set but the lowest: 0, -1,
    1, -2 become 0, 1, 2, 3. That is what all packers do best with.

    ============== ========= =================== =======================================================================
    elements       plane     dtype               holds
    ============== ========= =================== =======================================================================
    bool           ``difference`` bool           whether they differ
    8 bits         ``difference`` uint8          folded difference
    16 bits        ``difference`` int32          folded difference, at most ``2**16 - 1``
    32, 64 bits    ``difference`` int32, int64   the folded difference without its highest bit
    32, 64 bits    ``far``   bool                that bit: whether a quarter of all patterns or more lie between them
    ============== ========= =================== =======================================================================

    Tensors that the base does not have, or has in another shape or dtype, are left alone. Without a base, which is how nobody
    but a test calls it, a tensor differs from zeros.

    Parameters
    ----------
    base : str
        The base, as recipes name models. A file does not hold this name, but as a hint.
    exact : bool
        Whether every bit is to come back. Without, only real tensors are taken, and what comes back is
        ``base + difference``, rounded.

    Examples
    --------
    >>> import torch
    >>> base, x = torch.tensor([1.0, -2.0]), torch.tensor([1.5, -2.0])
    >>> planes = Delta().encode(x, Known(shared={"base": base}))
    >>> planes["difference"]
    tensor([0.5000, 0.0000])
    >>> near = torch.nextafter(base, x)
    >>> Delta(exact=True).encode(near, Known(shared={"base": base}))["difference"]
    tensor([2, 0], dtype=torch.int32)
    """

    name: ClassVar[str] = "delta"
    version: ClassVar[int] = 1
    outside: ClassVar[str] = "base"
    side: ClassVar[frozenset[str]] = frozenset({"base"})

    exact: Annotated[bool, msgspec.Meta(description="difference of bit patterns, which gives every bit back")] = False

    @property
    def is_lossless(self) -> bool:
        """Whether it is exact."""
        return self.exact

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``base`` and ``difference``; ``far`` for exact differences of 32 or 64 bits.

        Raises
        ------
        SpecError
            If the plane is not real and the difference not exact.
        """
        base = PlaneSpec(spec.shape, spec.dtype, *((0, 1) if spec.dtype == "bool" else ()))
        if not self.exact:
            if not spec.is_real:
                raise SpecError(f"delta takes real tensors, this one is {spec}; with exact: true it takes all")
            return {"base": base, "difference": PlaneSpec(spec.shape, spec.dtype)}
        if spec.dtype == "bool":
            return {"base": base, "difference": base}
        bits = 8 * spec.item_bytes
        if spec.item_bytes < _WIDE:
            return {"base": base, "difference": PlaneSpec(spec.shape, _FOLDED[spec.item_bytes], 0, 2**bits - 1)}
        difference = PlaneSpec(spec.shape, _FOLDED[spec.item_bytes], 0, 2 ** (bits - 1) - 1)
        return {"base": base, "difference": difference, "far": PlaneSpec(spec.shape, "bool", 0, 1)}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Take the difference; row weights change nothing.

        Raises
        ------
        TensorError
            If the difference is not exact and ``x`` or the base holds NaN or infinity, or they differ by more than their dtype
            can hold.
        """
        x = x.detach().contiguous()
        return self._planes(x, known.shared["base"] if "base" in known.shared else torch.zeros_like(x))

    def _planes(self, x: Tensor, base: Tensor) -> dict[str, Tensor]:
        if self.exact:
            return {"base": base, **_folded_difference(x, base)}
        require_finite(x)
        difference = x - base
        try:
            require_finite(difference)
        except TensorError as error:
            raise TensorError(
                f"the base holds NaN or infinity, or differs by more than {PlaneSpec.of(x).dtype} can hold; exact: true takes "
                "such tensors"
            ) from error
        return {"base": base, "difference": difference}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Add the difference to the base: in the dtype of the tensor, but half precision in float32 and then rounded."""
        base = planes["base"]
        if self.exact:
            return _with_folded(base, planes)
        wide = torch.promote_types(base.dtype, torch.float32)
        return limited(base.to(wide) + planes["difference"].to(wide), spec.dtype)

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The difference from the base that is there; differentiable if it is not exact."""
        if self.exact:
            return self._planes(x.detach(), planes["base"])
        return {"base": planes["base"], "difference": x - planes["base"]}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of all planes are rows of the tensor."""
        return {**dict.fromkeys(planes, index), "base": index, "difference": index}

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """An error of the difference is an error of the tensor, so all that is known about one holds for the other."""
        return {} if self.exact else {"difference": Known(known.weights, known.moments)}


def _ordered(x: Tensor) -> Tensor:
    """Bit patterns as signed integers: of real numbers such that they grow with the number; -0.0 is the one before 0.0."""
    signed = getattr(torch, _SIGNED[x.element_size()])
    bits = x.view(signed)
    return bits ^ (bits >> (8 * x.element_size() - 1)) & torch.iinfo(signed).max if x.is_floating_point() else bits


def _from_ordered(ordered: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of `_ordered`."""
    if dtype.is_floating_point:
        width = 8 * ordered.element_size()
        ordered = ordered ^ (ordered >> (width - 1)) & torch.iinfo(ordered.dtype).max
    return ordered.view(dtype)


def _folded_difference(x: Tensor, base: Tensor) -> dict[str, Tensor]:
    """The planes of an exact difference."""
    if x.dtype == torch.bool:
        return {"difference": x != base}
    size = x.element_size()
    difference = _ordered(x) - _ordered(base)  # integers wrap
    folded = (difference + difference) ^ (difference >> (8 * size - 1))
    if size < _WIDE:
        mask = (1 << 8 * size) - 1
        return {"difference": (folded.to(torch.int32) & mask).to(getattr(torch, _FOLDED[size]))}
    return {"difference": folded & torch.iinfo(folded.dtype).max, "far": folded < 0}


def _with_folded(base: Tensor, planes: Mapping[str, Tensor]) -> Tensor:
    """What differs from a base by the planes of `_folded_difference`."""
    folded = planes["difference"]
    if base.dtype == torch.bool:
        return base != folded
    size = base.element_size()
    if size < _WIDE:
        folded = folded.to(torch.int32).to(getattr(torch, _SIGNED[size]))
    limits = torch.iinfo(folded.dtype)
    folded = torch.where(planes["far"], folded | limits.min, folded) if size >= _WIDE else folded
    difference = (folded >> 1) & limits.max ^ -(folded & 1)
    return _from_ordered(_ordered(base) + difference, base.dtype)
