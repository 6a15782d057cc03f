"""Hypothesis strategies for specs and planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stackc.core.planes import from_bytes
from stackc.core.spec import ITEM_BYTES, PlaneSpec, integer_range
from stackc.testing.packers import Plane
from stackc.testing.planes import random_bits, random_integers
from stackc.util.errors import DependencyError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from torch import Tensor


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise DependencyError(
            "stackc.testing.strategies needs the package hypothesis: pip install hypothesis"
        ) from error
    return strategies


def plane_specs(
    *, dtypes: Sequence[str] = tuple(ITEM_BYTES), max_axes: int = 3, max_length: int = 12, bounded: bool | None = None
) -> SearchStrategy[PlaneSpec]:
    """Specs of small planes, empty and 0-d ones included.

    Parameters
    ----------
    dtypes : sequence of str
        Element types to choose from.
    max_axes, max_length : int
        Largest number of axes, and largest length of one.
    bounded : bool, optional
        Whether integer planes have bounds; by default some do.

    Raises
    ------
    DependencyError
        If hypothesis is not installed.
    """
    st = _strategies()

    @st.composite  # type: ignore[untyped-decorator]
    def build(draw: Any) -> PlaneSpec:
        shape = tuple(draw(st.lists(st.integers(0, max_length), max_size=max_axes)))
        dtype = draw(st.sampled_from(list(dtypes)))
        spec = PlaneSpec(shape, dtype)
        if spec.is_real or not (draw(st.booleans()) if bounded is None else bounded):
            return spec
        least, most = integer_range(dtype)
        lo = draw(st.integers(least, most))
        width = draw(st.integers(0, (most - lo).bit_length()))
        hi = draw(st.integers(lo, min(most, lo + (1 << width) - 1)))
        return PlaneSpec(shape, dtype, lo, hi)

    return build()  # type: ignore[no-any-return]


def planes(specs: SearchStrategy[PlaneSpec] | None = None) -> SearchStrategy[Plane]:
    """Planes of any bits that their specs allow, NaN payloads included; small ones shrink element by element.

    Parameters
    ----------
    specs : strategy of PlaneSpec, optional
        By default `plane_specs`.

    Raises
    ------
    DependencyError
        If hypothesis is not installed.
    """
    st = _strategies()
    chosen = plane_specs() if specs is None else specs

    @st.composite  # type: ignore[untyped-decorator]
    def build(draw: Any) -> Plane:
        spec: PlaneSpec = draw(chosen)
        return Plane(spec, _large(draw, st, spec) if spec.numel > 64 else _small(draw, st, spec))

    return build()  # type: ignore[no-any-return]


def _small(draw: Any, st: Any, spec: PlaneSpec) -> Tensor:
    if spec.is_real:
        return from_bytes(draw(st.binary(min_size=spec.nbytes, max_size=spec.nbytes)), spec)
    from stackc.util.lazy import torch

    lo, hi = integer_range(spec.dtype) if spec.lo is None or spec.hi is None else (spec.lo, spec.hi)
    values = draw(st.lists(st.integers(lo, hi), min_size=spec.numel, max_size=spec.numel))
    return torch.tensor(values, dtype=getattr(torch, spec.dtype)).reshape(spec.shape)


def _large(draw: Any, st: Any, spec: PlaneSpec) -> Tensor:
    seed = draw(st.integers(0, (1 << 32) - 1))
    return random_bits(spec, seed, "strategy") if spec.is_real else random_integers(spec, seed, "strategy")
