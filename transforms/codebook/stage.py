"""Codebook: values, or short vectors of them, by the number of the nearest entry of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec

from stackc.core.abilities import Narrowing, Sharing, Trainable
from stackc.core.spec import PlaneSpec, as_matrix, smallest_integer_dtype
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import numpy, torch

from ..shared.groups import Group, grouped
from . import _kmeans
from ._table import looked_up

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Codebook(Trainable, Narrowing, Sharing, frozen=True):
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
    ``codebook`` ``(entries, dims)``           the entries
    ============ ============================= ==============================================================

    A row of a tensor with three or more axes is all that belongs to one place of the first axis, as in `int`; ``lead``
    is then that axis alone, and ``width`` the others in one. A row shorter than ``dims`` is one vector; the last vector of a row may have fewer values
    than the others, and only these count when the nearest entry is sought and when entries are averaged. A plane of fewer
    vectors than ``entries`` gets as many entries as vectors. Single values are numbered in ascending order, vectors by
    falling frequency. Entries that no code names repeat the last one that is named.

    A plane with no more distinct vectors than entries is exact, if the dtype of the codebook holds its values.

    With ``group`` planes whose rows are at least as long as a vector have one codebook, which is stored once, with all its
    entries. It is made from a sample of the vectors of all of them; row weights count within each plane. Planes of shorter
    rows, or of another dtype where that decides on the dtype of the codebook, have others among themselves.

    Parameters
    ----------
    entries : int
        2 to 65,536, at most.
    dims : int
        Values per code.
    dtype : {"float16", "float32", "float64"}, optional
        Of the codebook; by default float32, or float64 if the plane is. Float16 halves the codebook, for values of 6e-8 to
        65,504.
    group : "all", "alike" or list of str, optional
        Planes that have one codebook: all that the stage matches, those whose names are alike but for numbers, or those
        that each of several patterns matches.
    shared : bool
        Whether the codebook has all its entries, however few vectors the plane has, because other planes use it too. Files
        hold it; in a recipe it follows from ``group``.

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
    version: ClassVar[int] = 3
    side: ClassVar[frozenset[str]] = frozenset({"codebook"})
    lighter: ClassVar[str] = "fewer entries, dtype: float16 or group: all makes it smaller"
    encode_only: ClassVar[frozenset[str]] = frozenset({"group"})
    stored_only: ClassVar[Mapping[str, str]] = {"shared": "for one codebook of all planes that match, write group: all"}

    entries: Annotated[int, msgspec.Meta(ge=2, le=65536, description="entries of the codebook, at most")] = 16
    dims: Annotated[int, msgspec.Meta(ge=1, description="consecutive values of a row that share a code")] = 1
    dtype: Annotated[
        Literal["float16", "float32", "float64"] | None,
        msgspec.Meta(description="dtype of the codebook; by default float32, or float64 of a float64 plane"),
    ] = None
    group: Group = None
    shared: Annotated[bool, msgspec.Meta(description="whether the codebook has all entries; follows from group")] = (
        False
    )

    @property
    def stored(self) -> Self:
        """What the file stores: not which planes are in the group, but that there is one."""
        return self if self.group is None else msgspec.structs.replace(self, group=None, shared=True)

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``codes`` and ``codebook``.

        Raises
        ------
        SpecError
            If the plane is not real.
        """
        if not spec.is_real:
            raise SpecError(f"codebook takes real planes (float16, bfloat16, float32, float64), this one is {spec}")
        cut = _kmeans.grid(as_matrix(spec.shape), self.dims)
        whole = self.shared or self.group is not None
        entries = self.entries if whole else min(self.entries, cut.vectors)
        dtype = self.dtype or ("float64" if spec.dtype == "float64" else "float32")
        return {
            "codes": _codes_spec((*cut.lead, cut.groups), entries),
            "codebook": PlaneSpec((entries, cut.size), dtype),
        }

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Find the entries and number them, or look up those of the codebook that a group shares.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or if the entries overflow ``dtype``.
        """
        specs = self.plan(PlaneSpec.of(x))
        x = _in_rows(x)
        if "codebook" in known.shared:
            require_finite(x)
            return _with_codes(x, known.shared["codebook"])
        cut = _kmeans.grid(tuple(x.shape), self.dims)
        book = specs["codebook"]
        if not cut.vectors:
            return {name: torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for name, spec in specs.items()}

        def planes() -> Iterator[Weighted]:
            yield Weighted(x, known.weights)

        seen = _kmeans.extent(planes, cut.size)
        table = _rounded(_kmeans.fit(planes, cut.size, book.shape[0], seen, refine=True), book.dtype)
        codes, table = _numbered(*_codes(x, table), table)
        return {"codes": _plane(codes, specs["codes"]), "codebook": _filled_up(table, book.shape[0])}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Look every code up in the table, whose numbers are rounded to the dtype of the spec, by way of float32."""
        cut = _kmeans.grid(as_matrix(spec.shape), self.dims)
        return looked_up(planes["codes"], planes["codebook"], cut, spec)

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Look up the nearest entry of the codebook that is there; gradients pass the look-up unchanged."""
        return _with_codes(_in_rows(x), planes["codebook"].detach())

    def narrowed(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Entries that are zero in half precision, beside the means of the values that they stand for."""
        rows = _in_rows(x)
        size = _kmeans.grid(tuple(rows.shape), self.dims).size
        book = planes["codebook"]
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
        return None if planes["codes"].ndim < 2 else {"codes": index, "codebook": None}

    def error_bound(self, x: Tensor) -> float:
        """The error itself, with a codebook of its own."""
        decoded = self.decode(self.encode(x), PlaneSpec.of(x))
        return float(torch.linalg.vector_norm(x.detach().to(torch.float64) - decoded.to(torch.float64))) * (1 + 2**-40)

    @property
    def common(self) -> frozenset[str]:
        """The codebook of a group."""
        return frozenset() if self.group is None else frozenset({"codebook"})

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """As ``group`` says."""
        return grouped(names, self.group)

    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        """Entries for all planes of the group, from a sample of their vectors; row weights count within each plane.

        Raises
        ------
        TensorError
            If a plane holds NaN or infinity, or the entries overflow ``dtype``.
        """
        book = self.plan(PlaneSpec.of(next(iter(planes.values())).plane))["codebook"]
        entries, size = book.shape

        def walk() -> Iterator[Weighted]:
            for name in planes:
                plane, weights = planes[name]
                yield Weighted(_in_rows(plane), weights)

        seen = _kmeans.extent(walk, size)
        found = _kmeans.fit(walk, size, entries, seen, refine=False) if seen.vectors else numpy.zeros((1, size))
        return {"codebook": _filled_up(_rounded(found, book.dtype), entries)}

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of ``codes`` are rows of the input, unless that has one axis and codes stand for several values."""
        weights = known.weights
        by_row = weights is not None and planes["codes"].shape[:1] == weights.shape
        return {"codes": Known(weights)} if by_row else {}


def _in_rows(x: Tensor) -> Tensor:
    """A plane without its graph, in the shape in which its rows lie along the last axis."""
    return x.detach().contiguous().reshape(as_matrix(tuple(x.shape)))


def _with_codes(rows: Tensor, book: Tensor) -> dict[str, Tensor]:
    """The planes of rows whose vectors are looked up in a codebook that is there."""
    cut = _kmeans.grid(tuple(rows.shape), book.shape[1])
    # bounds are those of the codebook, not of the rows: a training step looks up a few of them in what all have
    spec = _codes_spec((*cut.lead, cut.groups), len(book))
    found = _codes(rows.cpu(), _without_repeats(book.cpu().numpy()))[0] if cut.vectors else numpy.zeros(0)
    return {"codes": _plane(found, spec).to(rows.device), "codebook": book}


def _codes_spec(shape: tuple[int, ...], entries: int) -> PlaneSpec:
    most = max(entries - 1, 0)
    return PlaneSpec(shape, smallest_integer_dtype(0, most), 0, most)


def _filled_up(table: np.ndarray, entries: int) -> Tensor:
    """A table with so many entries; those that it lacks repeat the last one."""
    return torch.from_numpy(numpy.concatenate([table, numpy.repeat(table[-1:], entries - len(table), axis=0)]))


def _without_repeats(table: np.ndarray) -> np.ndarray:
    """A table without entries at its end that repeat one before them."""
    others = numpy.flatnonzero((table != table[-1:]).any(axis=1))
    return table[: others[-1] + 2 if len(others) else 1]


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
