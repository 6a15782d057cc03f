"""Prune: leave out single weights, rows or columns of small magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec

from stackc.core.abilities import Allocated, Trainable
from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec, as_matrix
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import ArtifactError, SpecError, TensorError
from stackc.util.lazy import torch
from stackc.util.parallel import one_thread_per_operation

if TYPE_CHECKING:
    from torch import Tensor

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]

#: Rows that are held in float64 at a time, so that memory stays near that of the plane itself.
_CHUNK_ROWS = 4096

#: Shares to remove that the rate allocation begins with.
_SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3, 0.15, 0.0)

#: Bits of the second digit of a float32 bit pattern; the first one has the remaining 15, as magnitudes have no sign.
_LOW_BITS = 16


class Prune(Trainable, Allocated, frozen=True):
    """Remove a share of the single weights, rows or columns: those of smallest magnitude (Han et al. 2015).

    Of ``n`` candidates ``n - round(share * n)`` are kept, always exactly; of equal ones those that come first.

    ============ ======================== ============================ ================================
    removes      ``mask`` (bool)          ``values``                   ``fallback``
    ============ ======================== ============================ ================================
    sparsity     shape of the input       kept values in C order, 1-d  --
    rows         ``(rows,)``              ``(kept, ...)``              ``(1, ...)``: mean dropped row
    columns      ``(columns,)``           ``(..., kept)``              ``(..., 1)``: mean dropped column
    ============ ======================== ============================ ================================

    Single weights are ranked by magnitude, rows and columns by their squared norm. Rows lie along the first axis; columns
    are those of the matrix that a tensor of three or more axes is when all but its first are one, as `seed` sees it.
    Row weights scale the squared magnitudes. Dropped weights decode to zero; dropped rows and columns to the fallback.

    Parameters
    ----------
    sparsity, rows, columns : float or "auto", optional
        Share to remove, 0 to 1; exactly one of the three. ``auto`` leaves it to the rate allocation.
    scope : {"tensor", "global"}
        With ``sparsity``: whether the share holds for each plane, or for all matched planes together, which then share
        one magnitude threshold.
    keep : int, optional
        Number of weights kept in this plane. Written by `settle` for ``scope="global"``, not by people.

    Raises
    ------
    ValueError
        If not exactly one share is given, or ``scope`` or ``keep`` does not go with it.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.1, -3.0], [2.0, 0.2]])
    >>> prune = Prune(sparsity=0.5)
    >>> planes = prune.encode(x)
    >>> planes["values"]
    tensor([-3.,  2.])
    >>> prune.decode(planes, PlaneSpec.of(x))
    tensor([[ 0., -3.],
            [ 2.,  0.]])
    """

    name: ClassVar[str] = "prune"
    version: ClassVar[int] = 2
    side: ClassVar[frozenset[str]] = frozenset({"mask", "fallback"})
    lighter: ClassVar[str] = "context or ans packs a sparse mask, and that of whole rows or columns is small"

    sparsity: Annotated[
        _Share | Literal["auto"] | None,
        msgspec.Meta(description="share of single weights to remove; auto: by rate allocation"),
    ] = None
    rows: Annotated[
        _Share | Literal["auto"] | None,
        msgspec.Meta(description="share of rows (first axis) to remove; auto: by rate allocation"),
    ] = None
    columns: Annotated[
        _Share | Literal["auto"] | None,
        msgspec.Meta(
            description="share of columns to remove (of three or more axes, all but the first are one); auto: by rate allocation"
        ),
    ] = None
    scope: Annotated[
        Literal["tensor", "global"],
        msgspec.Meta(description="whether sparsity holds for each tensor or for all of them together"),
    ] = "tensor"
    keep: Annotated[
        _Count | None,
        msgspec.Meta(description="number of weights kept here; stackc chooses it for scope: global"),
    ] = None

    def __post_init__(self) -> None:
        given = [name for name in ("sparsity", "rows", "columns") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of sparsity, rows and columns, not {' and '.join(given) or 'none'}")
        if self.scope == "global" and self.sparsity is None:
            raise ValueError(f"scope: global goes with sparsity, not with {given[0]}")
        if self.scope == "global" and self.sparsity == "auto":
            raise ValueError("sparsity: auto chooses a share for each tensor; remove scope: global, or give the share")
        if self.keep is not None and self.scope != "global":
            raise ValueError("keep goes with scope: global; with scope: tensor it follows from the share")

    @property
    def settled(self) -> bool:
        """Whether the number of kept weights is known."""
        return self.allocated and (self.scope == "tensor" or self.keep is not None)

    @property
    def allocated(self) -> bool:
        """Whether the share is not left to the rate allocation."""
        return "auto" not in (self.sparsity, self.rows, self.columns)

    def options(self, x: Tensor) -> Sequence[Self]:
        """The same with shares from nearly everything down to nothing."""
        if self.allocated:
            return (self,)
        what = next(name for name in ("sparsity", "rows", "columns") if getattr(self, name) == "auto")
        return tuple(msgspec.structs.replace(self, **{what: share}) for share in _SHARES)

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``mask``, ``values`` and, for rows and columns, ``fallback``.

        Raises
        ------
        SpecError
            If the plane is not real, has fewer than two axes where rows or columns go, or fewer values than ``keep``.
        """
        if not spec.is_real:
            raise SpecError(f"prune takes real planes (float16, bfloat16, float32, float64), this one is {spec}")
        if self.sparsity is not None:
            keep = self._count(spec.numel)
            if keep > spec.numel:
                raise SpecError(f"a plane of {spec} has no {keep} values to keep; {spec.numel} or fewer fit")
            return {"mask": PlaneSpec(spec.shape, "bool", 0, 1), "values": PlaneSpec((keep,), spec.dtype)}
        if len(spec.shape) < 2:
            what = "rows" if self.rows is not None else "columns"
            raise SpecError(f"pruning {what} takes planes with two axes or more, this one is {spec}; sparsity fits")
        shape = self._seen_as(spec.shape)
        length = shape[self._axis]
        return {
            "mask": PlaneSpec((length,), "bool", 0, 1),
            "values": PlaneSpec(self._resized(shape, self._count(length)), spec.dtype),
            "fallback": PlaneSpec(self._resized(shape, 1), "float64" if spec.dtype == "float64" else "float32"),
        }

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Select what is kept.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or ``scope: global`` is not settled yet.
        """
        require_finite(x)
        x = x.detach().contiguous()  # sums over strided memory round differently
        self._require_share()
        if not self.settled:
            raise TensorError("prune with scope: global chooses its threshold over all tensors: settle() it first")
        if self.sparsity is not None:
            mask = _largest(_magnitudes(x, known.weights).reshape(-1), self._count(x.numel())).reshape(x.shape)
            return {"mask": mask, "values": x[mask]}
        axis, x = self._axis, x.reshape(self._seen_as(tuple(x.shape)))
        mask = _largest(_energies(x, known.weights, axis), self._count(x.shape[axis]))
        values = x.index_select(axis, mask.nonzero().reshape(-1))
        return {"mask": mask, "values": values, "fallback": _fallback(x, mask, known.weights, axis)}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Put the kept values back in their places.

        Raises
        ------
        ArtifactError
            If the mask does not mark as many places as there are values.
        """
        mask, values = planes["mask"], limited(planes["values"], spec.dtype)
        axis = 0 if self.sparsity is not None else self._axis
        marked, stored = int(mask.sum()), values.shape[axis]
        if marked != stored:
            raise ArtifactError(f"the mask of a pruned plane marks {marked} places, but {stored} are stored")
        if self.sparsity is not None:
            return values.new_zeros(spec.shape).masked_scatter(mask, values)
        candidates = torch.cat([values, limited(planes["fallback"], spec.dtype)], dim=axis)
        # the fallback is the last candidate, and every dropped position refers to it
        source = torch.where(mask, mask.cumsum(0) - 1, stored)
        return candidates.index_select(axis, source).reshape(spec.shape)

    def error_bound(self, x: Tensor) -> float:
        """Norm of what is dropped, less the fallback; the norm of ``x`` as long as the count is not settled."""
        x = x.detach().contiguous()
        x = x.reshape(self._seen_as(tuple(x.shape)))
        wide = x.to(torch.float64)
        if not self.settled:
            dropped = wide
        elif self.sparsity is not None:
            kept = _largest(_magnitudes(x, None).reshape(-1), self._count(x.numel()))
            dropped = wide.reshape(-1)[~kept]
        else:
            mask = _largest(_energies(x, None, self._axis), self._count(x.shape[self._axis]))
            fallback = _fallback(x, mask, None, self._axis).to(x.dtype).to(torch.float64)
            dropped = wide.index_select(self._axis, (~mask).nonzero().reshape(-1)) - fallback
        return float(torch.linalg.vector_norm(dropped)) * (1 + 2**-40)

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Choose how many weights every plane keeps, so that all planes together keep exactly the share asked for.

        Magnitudes are compared as float32. A radix search over their bit patterns, whose order is that of the numbers,
        finds the exact threshold in two walks over the planes, and a third one counts; memory holds one plane at a
        time. Of weights equal to the threshold, those of the planes that come first are kept.
        """
        if self.settled:
            return dict.fromkeys(planes, self)
        self._require_share()
        high = torch.zeros(1 << (31 - _LOW_BITS), dtype=torch.int64)
        for name in planes:
            high += _histogram(_pattern(planes[name]) >> _LOW_BITS, high.numel())
        digit, missing = _descend(high, self._share_kept(int(high.sum())))
        low = torch.zeros(1 << _LOW_BITS, dtype=torch.int64)
        for name in planes:
            low += _low_histogram(_pattern(planes[name]), digit, low.numel())
        rest, ties = _descend(low, missing)
        threshold = (digit << _LOW_BITS) | rest
        settled = {}
        for name in planes:
            above, equal = _count_from(_pattern(planes[name]), threshold)
            equal = min(equal, ties)
            ties -= equal
            settled[name] = msgspec.structs.replace(self, keep=above + equal)
        return settled

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Kept rows keep their weights and meet the inputs; of columns all rows stay, and meet the inputs of kept ones."""
        weights, moments = known.weights, known.moments
        if self.rows is not None:
            kept = None if weights is None else weights[planes["mask"]]
            return {"values": Known(kept, moments), "fallback": Known(None, moments)}
        if self.columns is not None:
            met = planes["mask"].nonzero().reshape(-1)
            seen = None if moments is None else moments[met][:, met]
            return {"values": Known(weights, seen), "fallback": Known(weights)}
        return {}

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select what the mask marks; differentiable."""
        mask = planes["mask"]
        if self.sparsity is not None:
            return {"mask": mask, "values": x[mask]}
        axis, x = self._axis, x.reshape(self._seen_as(tuple(x.shape)))
        kept, dropped = (chosen.nonzero().reshape(-1) for chosen in (mask, ~mask))
        left = x.index_select(axis, dropped).to(planes["fallback"].dtype)
        fallback = left.sum(axis, keepdim=True) / max(len(dropped), 1)
        return {"mask": mask, "values": x.index_select(axis, kept), "fallback": fallback}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of ``values`` by their rank among the kept ones; single weights cannot be had by row."""
        if self.sparsity is not None:
            return None
        if self.columns is not None:
            return {"mask": None, "values": index, "fallback": index}
        mask = planes["mask"]
        return {"mask": index, "values": (mask.cumsum(0) - 1)[index[mask[index]]], "fallback": None}

    @property
    def _axis(self) -> int:
        return 0 if self.rows is not None else -1

    def _seen_as(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which a plane has what is removed along one axis."""
        return shape if self.columns is None else as_matrix(shape)

    def _require_share(self) -> None:
        if not self.allocated:
            raise TensorError(
                "the share to remove is left to the rate allocation; give the recipe a target, or the share"
            )

    def _count(self, length: int) -> int:
        """How many of the candidates are kept; all of them as long as nothing is settled."""
        if self.scope == "global":
            return length if self.keep is None else self.keep
        return self._share_kept(length)

    def _share_kept(self, length: int) -> int:
        share = next(share for share in (self.sparsity, self.rows, self.columns) if share is not None)
        if share == "auto":  # an upper bound
            return length
        return length - round(share * length)

    def _resized(self, shape: tuple[int, ...], length: int) -> tuple[int, ...]:
        return (length, *shape[1:]) if self.rows is not None else (*shape[:-1], length)


class Prune1(Prune, frozen=True):
    """The format of old files: columns of every tensor lie along its last axis."""

    version: ClassVar[int] = 1

    def _seen_as(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


def _magnitudes(x: Tensor, weights: Tensor | None) -> Tensor:
    """Score of every weight: its magnitude, times the root of its row's weight."""
    if weights is None:
        return x.abs()
    rows = weights.to(torch.float64).sqrt().reshape(-1, *[1] * (x.ndim - 1))
    return x.abs().to(torch.float64) * rows


@one_thread_per_operation()
def _energies(x: Tensor, weights: Tensor | None, axis: int) -> Tensor:
    """Score of every row or column: its squared norm, rows weighted."""
    # largest magnitude 1: neither the squares of tiny weights vanish nor those of huge ones overflow
    largest = x.abs().amax().to(torch.float64) if x.numel() else torch.zeros((), dtype=torch.float64)
    unit = torch.where(largest > 0, largest, 1)
    importance = (torch.ones(x.shape[0]) if weights is None else weights).to(torch.float64)
    parts = []
    for chunk, share in zip(torch.split(x, _CHUNK_ROWS), torch.split(importance, _CHUNK_ROWS), strict=True):
        squares = (chunk.to(torch.float64) / unit).square_() * share.reshape(-1, *[1] * (x.ndim - 1))
        parts.append(squares.flatten(1).sum(1) if axis == 0 else squares.flatten(0, -2).sum(0))
    return torch.cat(parts) if axis == 0 else torch.stack(parts).sum(0)


@one_thread_per_operation()
def _fallback(x: Tensor, mask: Tensor, weights: Tensor | None, axis: int) -> Tensor:
    """Mean of the dropped rows (weighted) or columns, which minimises their squared error; zeros if none is dropped."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    chosen = ~mask
    if axis != 0:
        dropped = x.index_select(axis, chosen.nonzero().reshape(-1)).to(torch.float64)
        return (dropped.sum(axis, keepdim=True) / max(dropped.shape[axis], 1)).to(dtype)
    share = chosen.to(torch.float64)
    if weights is not None and float(weights[chosen].sum()) > 0:
        share = share * weights.to(torch.float64)
    share = share / torch.where(share.sum() > 0, share.sum(), 1)
    mean = torch.zeros(math.prod(x.shape[1:]), dtype=torch.float64)
    for part, chunk in zip(torch.split(share, _CHUNK_ROWS), torch.split(x, _CHUNK_ROWS), strict=True):
        mean += part @ chunk.flatten(1).to(torch.float64)
    return mean.reshape(1, *x.shape[1:]).to(dtype)


def _largest(scores: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest scores, 1-d; of equal ones the first.

    A selection instead of a sort: embeddings have tens of millions of weights.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    no_less = scores >= threshold
    if int(no_less.sum()) == count:
        return no_less
    above = scores > threshold
    equal = scores == threshold
    return above | (equal & (equal.cumsum(0) <= count - int(above.sum())))


def _pattern(weighted: Weighted) -> Tensor:
    """Scores of a plane as the bit patterns of float32, int32, 1-d."""
    require_finite(weighted.plane)
    return _magnitudes(weighted.plane.detach(), weighted.weights).to(torch.float32).reshape(-1).view(torch.int32)


def _histogram(digits: Tensor, bins: int) -> Tensor:
    return torch.bincount(digits, minlength=bins).cpu()


def _low_histogram(keys: Tensor, digit: int, bins: int) -> Tensor:
    """Histogram of the low digit of the keys with this high digit."""
    return _histogram(keys[keys >> _LOW_BITS == digit] & (bins - 1), bins)


def _count_from(keys: Tensor, threshold: int) -> tuple[int, int]:
    """How many keys are above the threshold, and how many equal it."""
    return int((keys > threshold).sum()), int((keys == threshold).sum())


def _descend(histogram: Tensor, wanted: int) -> tuple[int, int]:
    """The bin in which the ``wanted``-th largest key lies, and how many of that bin are wanted."""
    from_top = histogram.flip(0).cumsum(0)
    position = min(int(torch.searchsorted(from_top, wanted)), histogram.numel() - 1)
    above = int(from_top[position - 1]) if position else 0
    return histogram.numel() - 1 - position, wanted - above
