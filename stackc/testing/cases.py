"""The planes that a transform takes, each with the transform settled on it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.spec import PlaneSpec
from stackc.core.transform import Transform, Weighted
from stackc.testing.check import require
from stackc.testing.planes import standard_planes

if TYPE_CHECKING:
    from torch import Tensor


class Case(NamedTuple):
    """A plane that the transform takes, with the transform settled on it."""

    name: str
    spec: PlaneSpec
    transform: Transform
    plane: Tensor

    @property
    def x(self) -> Tensor:
        """A copy of the plane, so that a transform that writes to its input spoils no other check."""
        return self.plane.clone()


class LazyPlanes(Mapping[str, Weighted]):
    """Planes as the runner hands them to `settle`: not a dict, and loaded anew each time they are read."""

    def __init__(self, planes: dict[str, Weighted]) -> None:
        self._planes = planes

    def __getitem__(self, name: str) -> Weighted:
        plane, weights = self._planes[name]
        return Weighted(plane.clone(), None if weights is None else weights.clone())

    def __iter__(self) -> Iterator[str]:
        return iter(self._planes)

    def __len__(self) -> int:
        return len(self._planes)


def settled_on(transform: Transform, x: Tensor, weights: Tensor | None = None) -> Transform:
    """The transform as `settle` returns it for one plane."""
    if transform.settled:
        return transform
    settled = transform.settle(LazyPlanes({"x": Weighted(x, weights)}))
    require(list(settled) == ["x"], f"settle was given the plane 'x' and returned transforms for {list(settled)}")
    return settled["x"]


class Cases:
    """What the checks of one transform share."""

    def __init__(self, transform: Transform, seed: int, planes: dict[str, Tensor]) -> None:
        self.transform = transform
        self.seed = seed
        self.own_planes = planes

    @functools.cached_property
    def planes(self) -> dict[str, Tensor]:
        return {**standard_planes(self.seed), **self.own_planes}

    @functools.cached_property
    def cases(self) -> list[Case]:
        """Planes that the transform takes without an error; ``edge planes`` judges the errors."""
        cases = []
        for name, plane in self.planes.items():
            spec = PlaneSpec.of(plane)
            try:
                self.transform.plan(spec)
                settled = settled_on(self.transform, plane.clone())
                settled.decode(settled.encode(plane.clone()), spec)
            except Exception:  # noqa: BLE001 -- another check reports it with its message
                continue
            cases.append(Case(name, spec, settled, plane))
        require(
            bool(cases),
            f"{self.transform!r} takes none of the planes, so nothing was checked; pass some that it takes as 'planes'",
        )
        return cases
