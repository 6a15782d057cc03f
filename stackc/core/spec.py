"""`PlaneSpec`: what is known about a plane before any data is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from stackc.util.errors import SpecError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes per element of every dtype that a plane may have, by torch's name for it.
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

#: A plane has at most so many axes, as arrays of numpy do.
MAX_AXES = 64

#: No tensor can have this name: safetensors files keep their metadata under it.
RESERVED_NAME = "__metadata__"

_REAL = frozenset({"float64", "float32", "float16", "bfloat16"})


class PlaneSpec(msgspec.Struct, frozen=True):
    """Shape, dtype and bounds of one plane.

    Parameters
    ----------
    shape : tuple of int
        Length of every axis; ``()`` for a single number.
    dtype : str
        torch's name of the element type, such as ``"float32"``; see `ITEM_BYTES`.
    lo, hi : int, optional
        Smallest and largest value of an integer plane, so that packers know the alphabet. Both or neither.

    Raises
    ------
    SpecError
        If the dtype is unknown, there are too many axes, a length is negative, or the bounds do not fit the dtype.

    Examples
    --------
    >>> spec = PlaneSpec((2, 3), "int8", lo=-7, hi=7)
    >>> spec.numel, spec.bits, spec.nbytes
    (6, 4, 6)
    """

    shape: tuple[int, ...]
    dtype: str
    lo: int | None = None
    hi: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_BYTES:
            raise SpecError(f"dtype {self.dtype!r} is not supported; supported are {', '.join(ITEM_BYTES)}")
        if len(self.shape) > MAX_AXES:
            raise SpecError(f"a plane of {len(self.shape)} axes is not supported; {MAX_AXES} or fewer fit")
        if any(length < 0 for length in self.shape):
            raise SpecError(f"shape {self.shape} has a negative length")
        if (self.lo is None) != (self.hi is None):
            raise SpecError("a plane is bounded on both sides or on neither: give lo and hi together")
        if self.lo is not None and self.hi is not None:
            if self.is_real:
                raise SpecError(f"bounds are for integer planes, not for {self.dtype}")
            least, most = integer_range(self.dtype)
            if not least <= self.lo <= self.hi <= most:
                raise SpecError(f"bounds {self.lo}..{self.hi} do not fit {self.dtype}, which holds {least}..{most}")

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of one element as torch stores it."""
        return ITEM_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the plane as torch stores it."""
        return self.numel * self.item_bytes

    @property
    def is_real(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self.dtype in _REAL

    @property
    def bits(self) -> int:
        """Bits that one element needs at fixed width: from the bounds if there are any, else from the dtype."""
        if self.lo is None or self.hi is None:
            return 1 if self.dtype == "bool" else 8 * self.item_bytes
        return (self.hi - self.lo).bit_length()

    @property
    def _is_unbounded(self) -> bool:
        """Whether the bounds are those of the dtype, so that all its values lie in them."""
        return self.dtype == "bool" or (self.lo, self.hi) == integer_range(self.dtype)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) if self.shape else "0-d"
        bounds = "" if self.lo is None else f" in {self.lo}..{self.hi}"
        return f"{self.dtype} {shape}{bounds}"

    @classmethod
    def of(cls, tensor: Tensor) -> PlaneSpec:
        """Spec of a tensor: bounds are known for ``bool`` only.

        Examples
        --------
        >>> import torch
        >>> str(PlaneSpec.of(torch.zeros(4, 2)))
        'float32 4x2'
        """
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype == "bool":
            return cls(tuple(tensor.shape), dtype, 0, 1)
        return cls(tuple(tensor.shape), dtype)

    def mismatch(self, tensor: Tensor) -> str | None:
        """Say how a tensor breaks this spec, or return None if it fits."""
        if tensor.dtype is not getattr(torch, self.dtype) or tensor.shape != self.shape:
            return f"expected {self}, got {PlaneSpec.of(tensor)}"
        if self.lo is not None and self.hi is not None and self.numel and not self._is_unbounded:
            least, most = (int(bound) for bound in torch.aminmax(tensor))
            if least < self.lo or most > self.hi:
                return f"expected values in {self.lo}..{self.hi}, got {least}..{most}"
        return None


def integer_range(dtype: str) -> tuple[int, int]:
    """Smallest and largest value that an integer or bool dtype can hold.

    Examples
    --------
    >>> integer_range("int8")
    (-128, 127)
    """
    if dtype == "bool":
        return 0, 1
    width = 8 * ITEM_BYTES[dtype]
    return (0, (1 << width) - 1) if dtype.startswith("u") else (-(1 << (width - 1)), (1 << (width - 1)) - 1)


def smallest_integer_dtype(lo: int, hi: int) -> str:
    """Narrowest dtype that holds ``lo..hi``.

    Examples
    --------
    >>> smallest_integer_dtype(-7, 7), smallest_integer_dtype(0, 255), smallest_integer_dtype(0, 256)
    ('int8', 'uint8', 'int16')
    """
    for dtype in ("int8", "uint8", "int16", "int32", "int64"):
        least, most = integer_range(dtype)
        if least <= lo and hi <= most:
            return dtype
    raise SpecError(f"no integer dtype holds {lo}..{hi}")


def total_bytes(specs: Iterable[PlaneSpec]) -> int:
    """Bytes of several planes as torch stores them."""
    return sum(spec.nbytes for spec in specs)


def as_matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a tensor has rows: what comes after the first axis of three or more is one axis.

    A row is then what makes one output, as in a convolution's weight, whose first axis counts its output channels.

    Examples
    --------
    >>> as_matrix((64, 32, 3, 3)), as_matrix((64, 32)), as_matrix((64,))
    ((64, 288), (64, 32), (64,))
    """
    return shape if len(shape) < 3 else (shape[0], math.prod(shape[1:]))
