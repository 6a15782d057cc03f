"""k-means over planes that are walked in pieces: memory does not grow with the number of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.transform import Weighted, require_finite
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Sub-vectors that are held as an array at a time.
_CHUNK = 1 << 16

#: Values that the scalar search sorts, and sub-vectors per entry that the vector search iterates on.
_SCALAR_SAMPLE = 1 << 20
_VECTOR_SAMPLE = 256

#: Products of a coordinate of a point with one of an entry that a search takes, about; some seconds on one core.
_WORK = 1 << 34

#: Pairs of points that are compared to find entries to begin with.
_PAIRS = 1 << 26

#: Scalar entries whose places are planned together, the steps that this may take, and the least of cells for each.
_PLANNED, _STEPS, _CELLS_PER_ENTRY = 1024, 1 << 21, 4

#: Iterations of Lloyd's algorithm on sorted values.
_ITERATIONS = 100

_KEY = 0x6B6D65616E73


class Grid(NamedTuple):
    """How a plane is cut: ``lead`` rows of ``width`` values, each in ``groups`` sub-vectors of ``size``."""

    lead: tuple[int, ...]
    width: int
    groups: int
    size: int

    @property
    def vectors(self) -> int:
        """Number of sub-vectors."""
        return math.prod(self.lead) * self.groups


class Points(NamedTuple):
    """Some sub-vectors: ``values`` ``(n, dims)``, of which the first ``lengths`` of each count, and their weights."""

    values: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray


class Extent(NamedTuple):
    """What the planes hold together: sub-vectors, the largest magnitude, and whether any plane is float64."""

    vectors: int
    largest: float
    double: bool


class Scale(NamedTuple):
    """What planes are multiplied with, ``2**exponent``, and whether in float64, else float32."""

    exponent: int
    double: bool


#: Gives the planes; called once per walk.
Planes = Callable[[], Iterable[Weighted]]


def grid(shape: tuple[int, ...], dims: int) -> Grid:
    """Rows along the last axis, cut into sub-vectors no longer than a row; the last one of a row may be shorter.

    Examples
    --------
    >>> grid((3, 10), 4)
    Grid(lead=(3,), width=10, groups=3, size=4)
    """
    *lead, width = shape or (1,)
    size = max(min(dims, width), 1)
    return Grid(tuple(lead), width, -(-width // size), size)


def extent(planes: Planes, dims: int) -> Extent:
    """Walk over the planes and refuse those that are not finite.

    Raises
    ------
    TensorError
        If a plane holds NaN or infinity.
    """
    count, largest, double = 0, 0.0, False
    for x, _ in planes():
        require_finite(x)
        count += grid(tuple(x.shape), dims).vectors
        if x.numel():
            largest = max(largest, *(abs(float(end)) for end in torch.aminmax(x.detach())))
        double |= x.dtype == torch.float64
    return Extent(count, largest, double)


def scale_of(largest: float, double: bool) -> Scale:
    """Bring the largest magnitude near 1, so that squares neither overflow nor vanish."""
    limit = 1000 if double else 126
    return Scale(max(-limit, min(limit, -math.frexp(largest)[1])), double)


def points(x: Tensor, weights: Tensor | None, dims: int, scale: Scale) -> Iterator[Points]:
    """Sub-vectors of a plane in C order, scaled, filled up with zeros to ``dims`` coordinates."""
    cut = grid(tuple(x.shape), dims)
    rows = x.detach().reshape(math.prod(cut.lead), cut.width)
    dtype = torch.float64 if scale.double else torch.float32
    shares = numpy.ones((1, 1)) if weights is None else _shares(weights, cut)
    per_row, per_group = shares.shape[0] > 1, shares.shape[1] > 1
    across = min(max(cut.groups, 1), _CHUNK)
    down = max(_CHUNK // across, 1)
    for top in range(0, rows.shape[0], down):
        for left in range(0, cut.groups, across):
            part = rows[top : top + down, left * cut.size : (left + across) * cut.size].to(dtype)
            height, width = part.shape
            groups = -(-width // cut.size)
            # 0.0 also turns minus zero into zero: they are one value
            values = numpy.zeros((height, groups * cut.size), numpy.float64 if scale.double else numpy.float32)
            values[:, :width] += part.numpy()
            values = values.reshape(-1, cut.size)
            if cut.size < dims:
                values = numpy.pad(values, ((0, 0), (0, dims - cut.size)))
            values *= values.dtype.type(2.0**scale.exponent)
            lengths = numpy.full((height, groups), cut.size, numpy.int64)
            if groups:
                lengths[:, -1] -= groups * cut.size - width
            here = shares[top : top + down] if per_row else shares
            here = here[:, left : left + across] if per_group else here
            importance = numpy.broadcast_to(here, (height, groups)).reshape(-1)
            yield Points(values, lengths.reshape(-1), numpy.ascontiguousarray(importance))


def _shares(weights: Tensor, cut: Grid) -> np.ndarray:
    """Weight of every sub-vector, 1 on average over the rows; shape ``(rows, groups)`` or ``(rows, 1)``."""
    wide = weights.detach().to(torch.float64).numpy()
    total = float(wide.sum())
    wide = wide * (len(wide) / total) if total > 0 else numpy.ones(len(wide))
    if cut.lead:
        return numpy.repeat(wide, math.prod(cut.lead[1:]))[:, None]
    # a plane of one axis: its rows are single values, and a sub-vector counts as much as they do on average
    starts = numpy.arange(0, cut.width, cut.size)
    return (numpy.add.reduceat(wide, starts) / numpy.diff(starts, append=cut.width))[None]


def nearest(some: Points, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest centroid of every point, the first of equal ones, and the squared distances."""
    values = some.values
    if values.shape[1] == 1:
        order = numpy.argsort(centroids[:, 0], kind="stable")
        line = centroids[order, 0]
        middles = line[:-1] + (line[1:] - line[:-1]) / 2
        # between neighbouring floats there is no middle, and it must not be rounded up to the upper one
        middles = numpy.where(middles >= line[1:], line[:-1], middles)
        codes = order[numpy.searchsorted(middles, values[:, 0].astype(numpy.float64))].astype(numpy.int32)
        return codes, numpy.square(values[:, 0] - centroids[codes, 0])
    from ._kmeans_kernel import assign

    codes, errors = numpy.empty(len(values), numpy.int32), numpy.empty(len(values), values.dtype)
    assign(values, some.lengths, numpy.ascontiguousarray(centroids.T.astype(values.dtype)), codes, errors)
    return codes, errors


def fit(planes: Planes, dims: int, entries: int, seen: Extent, *, refine: bool) -> np.ndarray:
    """Centroids of small weighted squared error, float64 ``(count, dims)``, in units of the planes.

    Where there are no more distinct sub-vectors than entries, these are the centroids. Else Lloyd's algorithm
    (1957/1982) runs on a sample of the sub-vectors, which is all of them if there are few. For single values it starts
    from the best cuts between cells of them, for longer sub-vectors from k-means++ (Arthur and Vassilvitskii 2007).

    Parameters
    ----------
    planes : callable
        Gives the planes, one at a time.
    dims, entries : int
        Coordinates of a sub-vector, and centroids at most.
    seen : Extent
        Of these planes.
    refine : bool
        Whether to go on with all sub-vectors, which walks over the planes several times more.
    """
    few = _distinct(planes, dims, entries)
    if few is not None:
        return few
    scale = scale_of(seen.largest, seen.double)

    def walk() -> Iterator[Points]:
        for x, weights in planes():
            yield from points(x, weights, dims, scale)

    if dims == 1:
        limit = max(_SCALAR_SAMPLE, 64 * entries)
    else:
        limit = max(min(_VECTOR_SAMPLE * entries, _WORK // (4 * entries * dims)), 8 * entries, _CHUNK)
    some = _sample(walk, seen.vectors, limit)
    centroids = _scalars(some, entries) if dims == 1 else _vectors(some, entries)
    if refine and seen.vectors > limit:
        for _ in range(2 if dims == 1 else max(1, min(8, _WORK // (seen.vectors * entries * dims)))):
            moved = _step(walk(), centroids)
            if numpy.array_equal(moved, centroids):
                break
            centroids = moved
    found: np.ndarray = numpy.ldexp(centroids, -scale.exponent)
    return found


def _distinct(planes: Planes, dims: int, most: int) -> np.ndarray | None:
    """All distinct sub-vectors in ascending order, unless there are more than ``most``; short ones end in zeros."""
    found = None
    for x, _ in planes():
        for some in points(x, None, dims, Scale(0, x.dtype == torch.float64)):
            # nearly always the first few say that there are too many
            for part in (some.values[: 2 * most], some.values[2 * most :]):
                if not len(part):
                    continue
                fresh = part if found is None else numpy.concatenate([found, part])
                found = numpy.unique(fresh, axis=0) if dims > 1 else numpy.unique(fresh)[:, None]
                if len(found) > most:
                    return None
    return numpy.zeros((0, dims)) if found is None else found.astype(numpy.float64)


def _sample(walk: Callable[[], Iterator[Points]], count: int, limit: int) -> Points:
    """Points spread evenly over all of them, at random places within equal stretches; all if they are few enough."""
    if count > limit:
        places = ((numpy.arange(limit) + _draws(limit)) * (count / limit)).astype(numpy.int64)
    else:
        places = numpy.arange(count)
    taken, begin = [], 0
    for some in walk():
        end = begin + len(some.values)
        here = places[slice(*numpy.searchsorted(places, [begin, end]))] - begin
        taken.append(Points(*(part[here] for part in some)))
        begin = end
    whole = Points(*(numpy.concatenate(parts) for parts in zip(*taken, strict=True)))
    kept = whole.weights > 0
    if kept.all() or not kept.any():
        return whole if kept.any() else whole._replace(weights=numpy.ones(len(kept)))
    return Points(*(part[kept] for part in whole))


def _draws(count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), the same on every machine."""
    return (numpy.random.Philox(key=_KEY).random_raw(count) >> numpy.uint64(11)) * 2.0**-53


def _scalars(some: Points, entries: int) -> np.ndarray:
    """Entries for values, which are sorted and cut into stretches, each with its mean.

    The cuts are the best ones between cells of sorted values, of which there are as many as distinct values if these are
    few. If not, values move on to the stretch with the nearest mean; of very many entries, the last ones come from
    splitting the worst stretches.
    """
    from ._kmeans_kernel import best_stretches

    order = numpy.argsort(some.values[:, 0], kind="stable")
    values, weights = some.values[order, 0].astype(numpy.float64), some.weights[order]
    offset = float(numpy.mean(values))  # so that the sums below do not cancel
    values -= offset
    sums = [numpy.concatenate([[0.0], numpy.cumsum(weights * values**power)]) for power in range(3)]
    cells = _cells(values, max(_STEPS // entries, _CELLS_PER_ENTRY * min(entries, _PLANNED)))
    planned = min(entries, _PLANNED, len(cells) - 1)
    edges = cells[best_stretches(*(total[cells] for total in sums), planned)]
    edges = _lloyd(edges, values, sums)
    for _ in range(4 * entries.bit_length()):
        parts = _split(edges, values, sums, entries)
        if len(parts) == len(edges):
            break
        edges = _lloyd(parts, values, sums)
    total, first, _ = (numpy.diff(total[edges]) for total in sums)
    means: np.ndarray = (first / total + offset)[:, None]
    return means


def _cells(values: np.ndarray, most: int) -> np.ndarray:
    """Edges of cells of sorted values: all distinct ones if possible, else half as many equally full as equally wide."""
    starts = numpy.concatenate([[0], numpy.flatnonzero(numpy.diff(values)) + 1])
    if len(starts) > most:
        wide = numpy.linspace(values[0], values[-1], most // 2, endpoint=False)
        full = values[(numpy.arange(most // 2) * (len(values) / (most // 2))).astype(numpy.int64)]
        starts = numpy.searchsorted(values, numpy.union1d(wide, full))
    return numpy.unique(numpy.append(starts, len(values)))


def _lloyd(edges: np.ndarray, values: np.ndarray, sums: list[np.ndarray]) -> np.ndarray:
    """Move the edges of stretches midway between the means of their neighbours, until they stay."""
    for _ in range(_ITERATIONS):
        means = numpy.diff(sums[1][edges]) / numpy.diff(sums[0][edges])
        inner = numpy.searchsorted(values, (means[:-1] + means[1:]) / 2, "right")
        moved = numpy.unique(numpy.concatenate([[0], inner, [len(values)]]))
        if numpy.array_equal(moved, edges):
            break
        edges = moved
    return edges


def _split(edges: np.ndarray, values: np.ndarray, sums: list[np.ndarray], entries: int) -> np.ndarray:
    """Split the stretches of largest error at their means, half of them at most, until there are enough."""
    total, first, second = (numpy.diff(total[edges]) for total in sums)
    errors = numpy.where(values[edges[:-1]] < values[edges[1:] - 1], second - first**2 / total, -1.0)
    worst = numpy.argsort(-errors, kind="stable")[: min(entries - len(errors), -(-len(errors) // 2))]
    worst = worst[errors[worst] >= 0]
    cuts = numpy.searchsorted(values, (first / total)[worst], "right")
    return numpy.union1d(edges, numpy.clip(cuts, edges[worst] + 1, edges[worst + 1] - 1))


def _vectors(some: Points, entries: int) -> np.ndarray:
    """Entries for sub-vectors, by Lloyd's algorithm, the most frequent first and without those that nothing is near to.

    On the way such entries move to the worst sub-vectors.
    """
    from ._kmeans_kernel import spread

    count, dims = some.values.shape
    start = min(count, max(_PAIRS // entries, 4 * entries))
    if start * entries > 4 * _PAIRS:  # drawing them apart from each other would take too long
        chosen = (numpy.arange(entries) * (count / entries)).astype(numpy.int64)
    else:
        chosen = (numpy.arange(start) * (count / start)).astype(numpy.int64)
        chosen = chosen[spread(*(part[chosen] for part in some), _draws(entries))]
    centroids = some.values[chosen].astype(numpy.float64)
    if len(centroids) < entries:
        centroids = numpy.concatenate([centroids, numpy.repeat(centroids[-1:], entries - len(centroids), 0)])
    for _ in range(max(4, min(40, _WORK // (count * entries * dims)))):
        moved = _step([some], centroids, revive=True)
        if numpy.array_equal(moved, centroids):
            break
        centroids = moved
    counts = numpy.bincount(nearest(some, centroids)[0], minlength=len(centroids))
    found: np.ndarray = centroids[numpy.argsort(-counts, kind="stable")[: numpy.count_nonzero(counts)]]
    return found


def _step(parts: Iterable[Points], centroids: np.ndarray, *, revive: bool = False) -> np.ndarray:
    """Weighted means of the points that are nearest to each centroid."""
    from ._kmeans_kernel import accumulate

    sums, totals = numpy.zeros_like(centroids), numpy.zeros_like(centroids)
    errors = numpy.zeros(0)
    for some in parts:
        codes, errors = nearest(some, centroids)
        accumulate(*some, codes, sums, totals)
    moved = numpy.where(totals > 0, sums / numpy.where(totals > 0, totals, 1), centroids)
    unused = numpy.flatnonzero(totals[:, 0] == 0)
    if revive and len(unused):
        worst = numpy.argsort(-errors * some.weights, kind="stable")[: len(unused)]
        worst = worst[errors[worst] > 0]
        moved[unused[: len(worst)]] = some.values[worst]
    return moved
