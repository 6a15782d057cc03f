"""Seed: principal components of the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self

import msgspec

from stackc.core.abilities import Allocated, Calibrated, Trainable
from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch
from stackc.util.parallel import one_thread_per_operation

from ._product import rows_in_basis

if TYPE_CHECKING:
    from torch import Tensor

#: Share of the variance that float64 rounding may hide.
_VARIANCE_SLACK = 1e-12


#: Rows that are held in float64 at a time, so that memory stays near that of the plane itself.
_CHUNK_ROWS = 4096


#: Ranks that the rate allocation begins with, as shares of the full one.
_RANK_SHARES = (1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)


#: Share of the mean second moment that is added to every one, so that no direction is free.
_DAMPING = 0.01


class Components(NamedTuple):
    """Principal components in float64: ``rows ~ mean + (rows - mean) @ projection.T @ basis``.

    ``projection`` is ``basis`` itself where distances are the plain ones.
    """

    mean: Tensor
    basis: Tensor
    projection: Tensor
    variances: Tensor


class Metric(NamedTuple):
    """Distances between rows: ``norm(d @ root)``; ``root`` is symmetric and of determinant one, ``inverse`` its inverse."""

    root: Tensor
    inverse: Tensor


class Seed(Trainable, Allocated, Calibrated, frozen=True):
    """Store every row as a few coordinates in a basis that all rows share: ``mean + scores @ basis``.

    Principal component analysis (Hotelling 1933), which is the best approximation of that rank in the squared error,
    weighted by row if weights are given (Eckart and Young 1936). Axes after the first are flattened.

    ========== ==================== ============================================================
    plane      shape                holds
    ========== ==================== ============================================================
    ``mean``   ``(1, columns)``     mean row, weighted; absent with ``center=False``
    ``basis``  ``(rank, columns)``  orthonormal rows, largest variance first, each with its entry
                                    of largest magnitude positive
    ``scores`` ``(rows, rank)``     coordinates of every row
    ========== ==================== ============================================================

    Computed in float64 through the smaller Gram matrix; stored as float32, or float64 of a float64 plane.

    With ``calibrated`` an error ``d`` of a row counts as ``d @ moments @ d`` instead of ``d @ d``: as what it changes in the
    output of a linear layer (as in SVD-LLM, Wang et al. 2024, arXiv 2403.07378) or, for an embedding, in what the model
    says. The components are those of ``rows @ root``, ``root`` being the square root of the moments, damped by a hundredth
    of their mean and scaled to determinant one, and the rows of ``basis`` are orthonormal after that product only. Equal steps
    for all scores then cost the model equally: a Karhunen-Loeve transform in its own metric. Files do not tell.

    Parameters
    ----------
    rank : int or "auto", optional
        Number of components, at most the smaller side of the matrix; ``auto`` leaves it to the rate allocation.
    variance : float, optional
        Instead of ``rank``: take the smallest rank that keeps this share of the (weighted) variance. `settle` replaces
        it by that rank.
    center : bool
        Whether to take the mean row out first. Without, this is a truncated singular value decomposition, and
        ``variance`` is a share of the squared norm.
    calibrated : bool
        Whether to use the second moments of what rows meet. Planes that have none get plain components.

    Raises
    ------
    ValueError
        If not exactly one of ``rank`` and ``variance`` is given, or ``variance`` with ``calibrated``.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]])
    >>> planes = Seed(rank=1).encode(x)
    >>> {name: tuple(plane.shape) for name, plane in planes.items()}
    {'mean': (1, 2), 'basis': (1, 2), 'scores': (3, 1)}
    >>> bool(torch.dist(Seed(rank=1).decode(planes, PlaneSpec.of(x)), x) < 1e-5)
    True
    """

    name: ClassVar[str] = "seed"
    version: ClassVar[int] = 1
    side: ClassVar[frozenset[str]] = frozenset({"mean", "basis"})
    lighter: ClassVar[str] = "int on */basis makes it smaller, and matrices with fewer rows than columns gain little"
    encode_only: ClassVar[frozenset[str]] = frozenset({"calibrated"})

    rank: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | Literal["auto"] | None,
        msgspec.Meta(description="number of components; auto: by rate allocation"),
    ] = None
    variance: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=1)] | None,
        msgspec.Meta(description="share of the variance to keep; instead of rank"),
    ] = None
    center: Annotated[bool, msgspec.Meta(description="take the mean row out first")] = True
    calibrated: Annotated[
        bool,
        msgspec.Meta(
            description="components by what they change in the layer's outputs, or in what the model says for embeddings"
        ),
    ] = False

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.variance is None):
            given = "neither" if self.rank is None else "both"
            raise ValueError(f"give exactly one of rank and variance, not {given}")
        if self.calibrated and self.variance is not None:
            raise ValueError("calibrated goes with rank, since no share of the variance is what it keeps; give rank")

    @property
    def settled(self) -> bool:
        """Whether the rank is known."""
        return isinstance(self.rank, int)

    @property
    def allocated(self) -> bool:
        """Whether the rank is not left to the rate allocation."""
        return self.rank != "auto"

    def options(self, x: Tensor) -> Sequence[Self]:
        """The same with ranks from a 16th of the smaller side of the matrix up to all of it."""
        if self.allocated:
            return (self,)
        most = min(x.shape[0], math.prod(x.shape[1:]))
        ranks = sorted({max(round(most * share), 1) for share in _RANK_SHARES})
        return tuple(msgspec.structs.replace(self, rank=rank) for rank in ranks)

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``mean`` (if centred), ``basis`` and ``scores``; of full rank as long as that is not settled.

        Raises
        ------
        SpecError
            If the plane is not real, has fewer than two axes, is empty, or has a side shorter than the rank.
        """
        if not spec.is_real or len(spec.shape) < 2 or not spec.numel:
            raise SpecError(f"seed takes real planes with two axes or more that are not empty, this one is {spec}")
        rows, columns = spec.shape[0], math.prod(spec.shape[1:])
        most = min(rows, columns)
        rank = self.rank if isinstance(self.rank, int) else most
        if not 1 <= rank <= most:
            raise SpecError(f"rank {rank} does not fit a matrix of {rows}x{columns}; 1 to {most} fit")
        dtype = "float64" if spec.dtype == "float64" else "float32"
        planes = {"basis": PlaneSpec((rank, columns), dtype), "scores": PlaneSpec((rows, rank), dtype)}
        return {"mean": PlaneSpec((1, columns), dtype), **planes} if self.center else planes

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Find the components and project all rows on them, also those of weight zero.

        With ``calibrated`` distances are those of the second moments, if they are known.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, if the scores overflow, if ``variance`` is not settled yet, or if the moments are
            not finite.
        """
        return next(self.encode_each(x, [self], known))

    def encode_each(self, x: Tensor, options: Sequence[Self], known: Known = NOTHING) -> Iterator[dict[str, Tensor]]:
        """The planes of several ranks, which share their components."""
        require_finite(x)
        x = x.detach().contiguous()  # BLAS rounds strided operands differently
        moments = known.moments
        fits = moments is not None and moments.shape[-1] == math.prod(x.shape[1:])
        found: dict[tuple[bool, bool], Components] = {}
        for option in options:
            key = (option.center, option.calibrated and fits)
            if key not in found:
                metric = _metric(moments) if moments is not None and key[1] else None
                found[key] = _components(x, known.weights, option.center, metric)
            yield option._planes(x, found[key])

    def _planes(self, x: Tensor, found: Components) -> dict[str, Tensor]:
        if not isinstance(self.rank, int):
            raise TensorError("seed with variance chooses its rank from the data: settle() it first")
        basis = found.basis[: self.rank]
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        scores = _scores(x, found.mean, found.projection[: self.rank], dtype)
        if not bool(scores.isfinite().all()):
            raise TensorError(
                f"values up to {float(x.abs().max()):g} make scores that overflow {dtype}; scale the weights"
            )
        planes = {"basis": basis.to(dtype).contiguous(), "scores": scores.contiguous()}
        return {"mean": found.mean.to(dtype), **planes} if self.center else planes

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """One matrix product, in the dtype of the planes, then rounded to the dtype of the spec.

        The order of its sums is that of the format, so the result is the same on every machine; see `rows_in_basis`.
        """
        rows = rows_in_basis(planes["scores"], planes["basis"], planes["mean"] if self.center else None)
        return limited(rows.reshape(spec.shape), spec.dtype)

    def work(self, spec: PlaneSpec) -> int:
        """Those of the matrix product."""
        scores = self.plan(spec)["scores"]
        return scores.numel * math.prod(spec.shape[1:])

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project on the basis that is there; differentiable, in the dtype of the planes.

        A calibrated basis is not orthonormal. The nearest point is then found in the plain distance, since the moments are
        not at hand; at full rank that is the row itself.
        """
        basis = planes["basis"]
        flat = x.flatten(1).to(basis.dtype)
        centred = flat - planes["mean"] if self.center else flat
        inverse = torch.linalg.pinv(basis) if self.calibrated else basis.T
        return {**planes, "scores": centred @ inverse}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of ``scores`` are rows of the matrix."""
        shared = {"mean": None, "basis": None} if self.center else {"basis": None}
        return {**shared, "scores": index}

    def error_bound(self, x: Tensor) -> float:
        """Root of the discarded variances, plus rounding of the planes and of the product in decode.

        Calibrated components discard the least in another metric, in which lengths are stretched differently by at most
        the condition number of its root.
        """
        x = x.detach().contiguous()
        found = _components(x, None, self.center)
        rank = self.rank if isinstance(self.rank, int) else _rank(found.variances, self.variance)
        basis = found.basis[:rank]
        rows = x.to(torch.float64).flatten(1)
        centred = rows - found.mean
        scores = centred @ basis.T
        discarded = float(torch.linalg.vector_norm(centred - scores @ basis))
        stored = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32)
        shown = torch.finfo(x.dtype)
        size = float(torch.linalg.vector_norm(rows))
        # Higham 2002, section 3.5: a dot product of length r is off by r units of |scores| |basis|; three more for the planes
        product = (rank + 3) * float(torch.linalg.vector_norm(scores.abs() @ basis.abs()))
        mean = 2 * float(torch.linalg.vector_norm(found.mean)) * math.sqrt(x.shape[0])
        if self.calibrated:
            condition = math.sqrt((rows.shape[1] + _DAMPING) / _DAMPING)
            discarded *= condition
            product *= condition
        rounding = stored.eps * (product + mean) + shown.eps / 2 * (size + discarded)
        subnormal = (stored.smallest_normal * stored.eps * (rank + 3) + shown.smallest_normal * shown.eps) * math.sqrt(
            x.numel()
        )
        return discarded * (1 + 2**-30) + 2**-40 * size + rounding * (1 + 2**-7) + subnormal

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Turn ``variance`` into the rank that each plane needs."""
        if self.settled:
            return dict.fromkeys(planes, self)
        if not self.allocated:
            raise TensorError("rank: auto is left to the rate allocation; give the recipe a target, or give the rank")
        return {
            name: msgspec.structs.replace(self, rank=_rank_of(planes[name], self.variance, self.center), variance=None)
            for name in planes
        }

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of ``mean`` and ``basis`` meet the inputs; those of ``scores`` are rows of the matrix, and meet them through it."""
        moments = known.moments
        if moments is None or moments.shape[-1] != planes["basis"].shape[1]:
            return {"scores": Known(known.weights)}
        met = {plane: Known(moments=moments) for plane in ("mean", "basis") if plane in planes}
        return {**met, "scores": Known(known.weights, _seen_through(moments, planes["basis"].to(moments.dtype)))}


@one_thread_per_operation()
def _seen_through(moments: Tensor, basis: Tensor) -> Tensor:
    """Second moments of ``basis @ v``."""
    return basis @ moments @ basis.T


def _rank(variances: Tensor, share: float | None) -> int:
    """Smallest number of leading components that hold this share of the variance, at least one."""
    cumulative = variances.cumsum(0)
    wanted = cumulative[-1] * ((share or 1.0) - _VARIANCE_SLACK)
    return min(int(torch.searchsorted(cumulative, wanted)) + 1, len(variances))


def _rank_of(weighted: Weighted, share: float | None, center: bool) -> int:
    require_finite(weighted.plane)
    return _rank(_components(weighted.plane.detach().contiguous(), weighted.weights, center).variances, share)


@one_thread_per_operation()
def _metric(moments: Tensor) -> Metric:
    """The distances that second moments stand for."""
    wide = moments.to(torch.float64)
    if not bool(wide.isfinite().all()):
        raise TensorError("its second moments are not finite; the model overflows on the calibration data")
    mean = float(wide.diagonal().mean())
    values, vectors = torch.linalg.eigh(wide / mean if mean > 0 else torch.eye(len(wide), dtype=torch.float64))
    logs = (values.clamp(min=0) + _DAMPING).log() / 2
    roots = (logs - logs.mean()).exp()
    return Metric((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)


@one_thread_per_operation()
def _components(x: Tensor, weights: Tensor | None, center: bool, metric: Metric | None = None) -> Components:
    """All principal components of the rows of a matrix.

    The basis is orthonormal (in the metric, if there is one) for every input, rank-deficient and zero matrices included: on
    the short side it consists of the eigenvectors of the Gram matrix, on the long side of the Q of a Householder QR.
    """
    rows = x.flatten(1)
    share = _shares(weights, rows)
    mean = torch.zeros(1, rows.shape[1], dtype=torch.float64)
    if center:
        for part, chunk in zip(torch.split(share, _CHUNK_ROWS), torch.split(rows, _CHUNK_ROWS), strict=True):
            mean += part @ chunk.to(torch.float64)
    # largest magnitude 1, so that the squares in the Gram matrix neither vanish nor overflow
    largest = torch.stack(
        [(chunk.to(torch.float64) - mean).abs().amax() for chunk in torch.split(rows, _CHUNK_ROWS)]
    ).amax()
    factors = torch.ones_like(share) if weights is None else (share * len(share)).sqrt()
    unit = torch.where(largest > 0, largest, 1)
    factors = factors[:, None]
    if rows.shape[1] <= rows.shape[0]:
        gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        for part, chunk in zip(torch.split(factors, _CHUNK_ROWS), torch.split(rows, _CHUNK_ROWS), strict=True):
            scaled = (chunk.to(torch.float64) - mean) / unit * part
            gram += scaled.T @ scaled
        eigenvalues, vectors = torch.linalg.eigh(gram if metric is None else metric.root @ gram @ metric.root)
        basis = vectors.flip(1).T
    else:
        scaled = (rows.to(torch.float64) - mean) / unit * factors
        if metric is not None:
            scaled = scaled @ metric.root
        eigenvalues, vectors = torch.linalg.eigh(scaled @ scaled.T)
        basis = torch.linalg.qr(scaled.T @ vectors.flip(1)).Q.T
    projection = basis
    if metric is not None:
        basis, projection = basis @ metric.inverse, basis @ metric.root
    signs = _signs(basis)
    return Components(mean, basis * signs, projection * signs, eigenvalues.flip(0).clamp(min=0))


@one_thread_per_operation()
def _scores(x: Tensor, mean: Tensor, projection: Tensor, dtype: torch.dtype) -> Tensor:
    """Coordinates of every row, computed in float64."""
    chunks = torch.split(x.flatten(1), _CHUNK_ROWS)
    return torch.cat([((chunk.to(torch.float64) - mean) @ projection.T).to(dtype) for chunk in chunks])


def _shares(weights: Tensor | None, rows: Tensor) -> Tensor:
    """Row weights that add up to one; equal ones if there are none, or only zeros."""
    equal = torch.full((rows.shape[0],), 1.0 / rows.shape[0], dtype=torch.float64)
    if weights is None:
        return equal
    wide = weights.to(torch.float64)
    return torch.where(wide.sum() > 0, wide / wide.sum(), equal)


def _signs(basis: Tensor) -> Tensor:
    """What turns every row so that its entry of largest magnitude is positive: an eigenvector has no sign of its own."""
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(basis.dtype)
