"""The formats of old files: a table that several planes use is part of the configuration, and so of every stack.

They decode only. Today's format is that of `stage`, where such a table is a shared plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from stackc.core.planes import from_bytes
from stackc.core.spec import ITEM_BYTES, PlaneSpec, as_matrix, smallest_integer_dtype
from stackc.core.transform import NOTHING, Known, Transform
from stackc.util.errors import SpecError, TensorError

from . import _kmeans
from ._table import looked_up

if TYPE_CHECKING:
    from torch import Tensor

#: What it takes to round one number of a table, in multiplications of a matrix product.
_TABLE_WORK = 64


class Codebook2(Transform, frozen=True):
    """Version 2: with ``shared`` the entries are in ``table``, little-endian, and there is no plane of them.

    Raises
    ------
    ValueError
        If ``table`` comes without ``shared`` or ``dtype``, or the other way round, or is no whole number of entries.
    """

    name: ClassVar[str] = "codebook"
    version: ClassVar[int] = 2
    side: ClassVar[frozenset[str]] = frozenset({"codebook"})

    entries: Annotated[int, msgspec.Meta(ge=2, le=65536)] = 16
    dims: Annotated[int, msgspec.Meta(ge=1)] = 1
    shared: bool = False
    dtype: Literal["float16", "float32", "float64"] | None = None
    table: bytes | None = None

    def __post_init__(self) -> None:
        if self.shared != (self.table is not None) or (self.shared and self.dtype is None):
            raise ValueError("table goes with shared: true and the dtype of its numbers")
        if self.table is None or self.dtype is None:
            return
        rows, rest = divmod(len(self.table), self.dims * ITEM_BYTES[self.dtype])
        if rest or not 1 <= rows <= self.entries:
            raise ValueError(
                f"a table of {len(self.table)} bytes is not 1 to {self.entries} entries of {self.dims} {self.dtype} numbers"
            )

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``codes`` and, unless shared, ``codebook``.

        Raises
        ------
        SpecError
            If the plane is not real.
        """
        if not spec.is_real:
            raise SpecError(f"codebook takes real planes (float16, bfloat16, float32, float64), this one is {spec}")
        cut = _kmeans.grid(self._rows_in(spec.shape), self.dims)
        table = self._table
        entries = min(self.entries, cut.vectors) if table is None else table.shape[0]
        most = max(entries - 1, 0)
        codes = PlaneSpec((*cut.lead, cut.groups), smallest_integer_dtype(0, most), 0, most)
        if table is not None:
            return {"codes": codes}
        dtype = self.dtype or ("float64" if spec.dtype == "float64" else "float32")
        return {"codes": codes, "codebook": PlaneSpec((entries, cut.size), dtype)}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Refuse: new files have today's format.

        Raises
        ------
        TensorError
            Always.
        """
        raise TensorError(
            f"codebook@{self.version} is a format of old files, which is read and not written; use codebook"
        )

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Look every code up in the table, as far as its entries reach into the rows of the plane."""
        cut = _kmeans.grid(self._rows_in(spec.shape), self.dims)
        codes, table = planes["codes"], self._table
        if table is None:
            return looked_up(codes, planes["codebook"], cut, spec)
        book = from_bytes(self.table or b"", table)[:, : cut.size].contiguous()
        return looked_up(codes, book.to(codes.device), cut, spec)

    def work(self, spec: PlaneSpec) -> int:
        """Rounding the table, however few of its entries are looked up."""
        return 0 if self._table is None else _TABLE_WORK * self._table.numel

    @property
    def _table(self) -> PlaneSpec | None:
        """Spec of the entries in ``table``."""
        if self.table is None or self.dtype is None:
            return None
        return PlaneSpec((len(self.table) // (self.dims * ITEM_BYTES[self.dtype]), self.dims), self.dtype)

    def _rows_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return as_matrix(shape)


class Codebook1(Codebook2, frozen=True):
    """Version 1: rows of every tensor lie along its last axis."""

    version: ClassVar[int] = 1

    def _rows_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape
