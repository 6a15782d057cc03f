"""Codebook: values, or short vectors of them, by the number of the nearest entry of a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec

from stackc.core.abilities import Narrowing, Settling, Trainable
from stackc.core.planes import from_bytes, limited, to_bytes
from stackc.core.spec import ITEM_BYTES, PlaneSpec, as_matrix, smallest_integer_dtype
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import numpy, torch

from . import _kmeans

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


#: What it takes to round one number of a table, in multiplications of a matrix product.
_TABLE_WORK = 64


class Codebook(Trainable, Settling, Narrowing, frozen=True):
    """Store ``dims`` consecutive values of a row as one code: the number of the nearest entry of a table.

    With ``dims=1`` this is scalar quantisation to the levels of smallest squared error (Max 1960, Lloyd 1982), with more
    it is vector quantisation of consecutive values (Jégou et al. 2011, "Product quantization for nearest neighbor
    search", with one codebook for all positions): ``log2(entries) / dims`` bits per value. The entries come from k-means,
    weighted by row if weights are given. With ``dims=1`` they are the best ones for up to about a hundred thousand
    distinct values, and close to that for more.

    ============ ============================= ==============================================================
    plane        shape                         holds
    ============ ============================= ==============================================================
    ``codes``    ``(*lead, ceil(width/dims))`` numbers of entries, in the narrowest integer dtype
    ``codebook`` ``(entries, dims)``           the entries; absent with ``shared``
    ============ ============================= ==============================================================

    A row of a tensor with three or more axes is all that belongs to one place of the first axis, as in `int`; ``lead``
    is then that axis alone, and ``width`` the others in one. A row shorter than ``dims`` is one vector; the last vector of a row may have fewer values
    than the others, and only these count when the nearest entry is sought and when entries are averaged. A plane of fewer
    vectors than ``entries`` gets as many entries as vectors. Single values are numbered in ascending order, vectors by
    falling frequency. Entries that no code names repeat the last one that is named.

    A plane with no more distinct vectors than entries is exact, if the dtype of the codebook holds its values.

    Parameters
    ----------
    entries : int
        2 to 65,536, at most.
    dims : int
        Values per code.
    shared : bool
        Whether all matched planes have one codebook. `settle` makes it, and the file holds it in its table of stacks.
    dtype : {"float16", "float32", "float64"}, optional
        Of the codebook; by default float32, or float64 if the plane (with ``shared``: any of them) is. Float16 halves the
        codebook, for values of 6e-8 to 65,504.
    table : bytes, optional
        Entries of a shared codebook, little-endian. Written by `settle`, not by people.

    Raises
    ------
    ValueError
        If ``table`` comes without ``shared`` or ``dtype``, or is no whole number of entries.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.1, 0.2, 3.0], [3.1, -1.0, 0.1]])
    >>> planes = Codebook(entries=3).encode(x)
    >>> planes["codes"], planes["codebook"]
    (tensor([[1, 1, 2],
            [2, 0, 1]], dtype=torch.int8), tensor([[-1.0000],
            [ 0.1333],
            [ 3.0500]]))
    >>> Codebook(entries=3).decode(planes, PlaneSpec.of(x))
    tensor([[ 0.1333,  0.1333,  3.0500],
            [ 3.0500, -1.0000,  0.1333]])
    """

    name: ClassVar[str] = "codebook"
    version: ClassVar[int] = 2
    side: ClassVar[frozenset[str]] = frozenset({"codebook"})
    lighter: ClassVar[str] = "fewer entries, dtype: float16 or shared: true makes it smaller"

    entries: Annotated[int, msgspec.Meta(ge=2, le=65536, description="entries of the codebook, at most")] = 16
    dims: Annotated[int, msgspec.Meta(ge=1, description="consecutive values of a row that share a code")] = 1
    shared: Annotated[bool, msgspec.Meta(description="one codebook for all matched planes, stored once")] = False
    dtype: Annotated[
        Literal["float16", "float32", "float64"] | None,
        msgspec.Meta(description="dtype of the codebook; by default float32, or float64 of a float64 plane"),
    ] = None
    table: Annotated[
        bytes | None, msgspec.Meta(description="the shared codebook; stackc makes it for shared: true")
    ] = None

    def __post_init__(self) -> None:
        if self.table is None:
            return
        if not self.shared or self.dtype is None:
            raise ValueError("table goes with shared: true and the dtype of its numbers")
        rows, rest = divmod(len(self.table), self.dims * ITEM_BYTES[self.dtype])
        if rest or not 1 <= rows <= self.entries:
            raise ValueError(
                f"a table of {len(self.table)} bytes is not 1 to {self.entries} entries of {self.dims} {self.dtype} numbers"
            )

    @property
    def settled(self) -> bool:
        """Whether the codebook is made by `encode`, or is there already."""
        return not self.shared or self.table is not None

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
        entries = self._rows if self.shared else min(self.entries, cut.vectors)
        most = max(entries - 1, 0)
        codes = PlaneSpec((*cut.lead, cut.groups), smallest_integer_dtype(0, most), 0, most)
        if self.shared:
            return {"codes": codes}
        dtype = self.dtype or ("float64" if spec.dtype == "float64" else "float32")
        return {"codes": codes, "codebook": PlaneSpec((entries, cut.size), dtype)}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Find the entries and number them, or look up those of the shared codebook.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, if the entries overflow ``dtype``, or if the codebook is not settled yet.
        """
        if not self.settled:
            raise TensorError("a shared codebook is made from all tensors: settle() it first")
        specs = self.plan(PlaneSpec.of(x))
        x = self._in_rows(x)
        cut = _kmeans.grid(tuple(x.shape), self.dims)
        if self.shared:
            require_finite(x)
            table = self._book(cut.size).numpy()
            return {"codes": _plane(_codes(x, table)[0], specs["codes"])}
        book = specs["codebook"]
        if not cut.vectors:
            return {name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for name, spec in specs.items()}

        def planes() -> Iterator[Weighted]:
            yield Weighted(x, known.weights)

        seen = _kmeans.extent(planes, cut.size)
        table = _rounded(_kmeans.fit(planes, cut.size, book.shape[0], seen, refine=True), book.dtype)
        codes, table = _numbered(*_codes(x, table), table)
        table = numpy.concatenate([table, numpy.repeat(table[-1:], book.shape[0] - len(table), axis=0)])
        return {"codes": _plane(codes, specs["codes"]), "codebook": torch.from_numpy(table)}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Look every code up in the table, whose numbers are rounded to the dtype of the spec, by way of float32."""
        cut = _kmeans.grid(self._rows_in(spec.shape), self.dims)
        codes = planes["codes"]
        book = self._book(cut.size).to(codes.device) if self.shared else planes["codebook"]
        # two steps, because libraries differ in how they round float64 to half precision
        book = limited(limited(book, "float64" if spec.dtype == "float64" else "float32"), spec.dtype)
        if not spec.numel:
            return book.new_zeros(spec.shape)
        vectors = torch.nn.functional.embedding(codes.to(torch.int32), book)
        rows = vectors.reshape(*cut.lead, cut.groups * cut.size)
        return rows[..., : cut.width].reshape(spec.shape).contiguous()

    def work(self, spec: PlaneSpec) -> int:
        """Rounding the table, however few of its entries are looked up."""
        return _TABLE_WORK * self._rows * self.dims if self.shared else 0

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Look up the nearest entry of the codebook that is there; gradients pass the look-up unchanged."""
        specs = self.plan(PlaneSpec.of(x))
        if self.shared or not x.numel():
            return self.encode(x)
        book = planes["codebook"].detach()
        codes = _plane(_codes(self._in_rows(x), book.cpu().numpy())[0], specs["codes"])
        return {"codes": codes.to(x.device), "codebook": book}

    def narrowed(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Entries that are zero in half precision, beside the means of the values that they stand for."""
        rows = self._in_rows(x)
        size = _kmeans.grid(tuple(rows.shape), self.dims).size
        book = self._book(size) if self.shared else planes["codebook"]
        lost = book == 0
        if torch.finfo(book.dtype).tiny <= torch.finfo(x.dtype).tiny or not x.numel() or not bool(lost.any()):
            return {}
        codes, entries = planes["codes"].reshape(-1).to(torch.int64).numpy(), lost.any(dim=1).numpy()
        sums, counts = numpy.zeros(tuple(book.shape)), numpy.zeros((len(book), 1))
        begin = 0
        for some in _kmeans.points(rows, None, size, _kmeans.Scale(0, True)):
            named = codes[begin : begin + len(some.values)]
            begin += len(named)
            here = entries[named]
            numpy.add.at(sums, named[here], some.values[here])
            numpy.add.at(counts, named[here], 1)
        means = torch.from_numpy(sums / numpy.maximum(counts, 1))
        # An entry that zero is the best value of, as in a pruned plane, stands for numbers that do not round to it.
        lost &= means.to(book.dtype) == 0
        return {"codebook": (torch.where(lost, means, book.to(torch.float64)), book)}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of ``codes`` are rows of the plane, unless codes stand for several values of one axis."""
        if planes["codes"].ndim < 2:
            return None
        return {"codes": index} if self.shared else {"codes": index, "codebook": None}

    def error_bound(self, x: Tensor) -> float:
        """The error itself; infinity as long as a shared codebook is not there."""
        if not self.settled:
            return math.inf
        decoded = self.decode(self.encode(x), PlaneSpec.of(x))
        return float(torch.linalg.vector_norm(x.detach().to(torch.float64) - decoded.to(torch.float64))) * (1 + 2**-40)

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Make the codebook that all planes share, from a sample of their vectors; row weights count within each plane.

        Raises
        ------
        TensorError
            If a plane holds NaN or infinity, or the entries overflow ``dtype``.
        """
        if self.settled:
            return dict.fromkeys(planes, self)

        def walk() -> Iterator[Weighted]:
            for name in planes:
                plane, weights = planes[name]
                yield Weighted(self._in_rows(plane), weights)

        seen = _kmeans.extent(walk, self.dims)
        dtype = self.dtype or ("float64" if seen.double else "float32")
        found = _kmeans.fit(walk, self.dims, self.entries, seen, refine=False) if seen.vectors else None
        table = _rounded(numpy.zeros((1, self.dims)) if found is None else found, dtype)
        settled = msgspec.structs.replace(self, dtype=dtype, table=to_bytes(torch.from_numpy(table)))
        return dict.fromkeys(planes, settled)

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of ``codes`` are rows of the input, unless that has one axis and codes stand for several values."""
        weights = known.weights
        by_row = weights is not None and planes["codes"].shape[:1] == weights.shape
        return {"codes": Known(weights)} if by_row else {}

    @property
    def _rows(self) -> int:
        """Entries of the shared codebook."""
        if self.table is None or self.dtype is None:
            return self.entries
        return len(self.table) // (self.dims * ITEM_BYTES[self.dtype])

    def _in_rows(self, x: Tensor) -> Tensor:
        """A plane without its graph, in the shape in which its rows lie along the last axis."""
        return x.detach().contiguous().reshape(self._rows_in(tuple(x.shape)))

    def _rows_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return as_matrix(shape)

    def _book(self, size: int) -> Tensor:
        """The shared codebook, as far as the rows of a plane reach; shape ``(entries, size)``."""
        whole = PlaneSpec((self._rows, self.dims), self.dtype or "float32")
        return from_bytes(self.table or b"", whole)[:, :size].contiguous()


class Codebook1(Codebook, frozen=True):
    """The format of old files: rows of every tensor lie along its last axis."""

    version: ClassVar[int] = 1

    def _rows_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


def _rounded(centroids: np.ndarray, dtype: str) -> np.ndarray:
    """Entries as they are stored.

    Raises
    ------
    TensorError
        If one does not fit the dtype.
    """
    with numpy.errstate(over="ignore"):
        table = centroids.astype(dtype)
    if not numpy.isfinite(table).all():
        wider = "float32" if dtype == "float16" and abs(centroids).max() < 3e38 else "float64"
        raise TensorError(f"entries up to {abs(centroids).max():g} overflow a codebook in {dtype}; say dtype: {wider}")
    return table


def _codes(x: Tensor, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest entry of every vector, int32, 1-d, and how many have each number."""
    entries, size = table.shape
    ends = [abs(float(end)) for end in torch.aminmax(x)] if x.numel() else []
    double = x.dtype == torch.float64 or table.dtype == numpy.float64
    scale = _kmeans.scale_of(max([*ends, float(abs(table).max())]), double)
    centroids = numpy.ldexp(table.astype(numpy.float64), scale.exponent)
    codes, counts = (
        numpy.empty(_kmeans.grid(tuple(x.shape), size).vectors, numpy.int32),
        numpy.zeros(entries, numpy.int64),
    )
    begin = 0
    for some in _kmeans.points(x, None, size, scale):
        found, _ = _kmeans.nearest(some, centroids)
        codes[begin : begin + len(found)] = found
        counts += numpy.bincount(found, minlength=entries)
        begin += len(found)
    return codes, counts


def _numbered(codes: np.ndarray, counts: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the entries that no code names; single values stay in order, vectors are put in that of falling frequency."""
    order = numpy.arange(len(table)) if table.shape[1] == 1 else numpy.lexsort((*table.T[::-1], -counts))
    order = order[counts[order] > 0]
    ranks = numpy.zeros(len(table), numpy.int32)
    ranks[order] = numpy.arange(len(order))
    return ranks[codes], table[order]


def _plane(codes: np.ndarray, spec: PlaneSpec) -> Tensor:
    return torch.from_numpy(codes).to(getattr(torch, spec.dtype)).reshape(spec.shape)
