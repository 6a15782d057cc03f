"""The planes that a transform takes, each with the transform settled on it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.abilities import Repeated, Trainable, settle_each, training_form
from stackc.core.spec import PlaneSpec, as_matrix
from stackc.core.transform import Transform, Weighted
from stackc.testing.check import require
from stackc.testing.planes import bell, random_words, standard_planes
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    from torch import Tensor


#: Longest rows that second moments are made for.
_MOST_COLUMNS = 512


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

    @property
    def form(self) -> Trainable | Repeated:
        """What training sees of the transform."""
        return training_form(self.transform)


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


def row_weights(x: Tensor, seed: int) -> Tensor:
    """Weights between 0 and 1 for the rows of a plane."""
    words = random_words(x.shape[0], seed, "row weights") >> numpy.uint64(48)
    return torch.from_numpy(words.astype(numpy.float32) / numpy.float32(65536))


def second_moments(spec: PlaneSpec, seed: int) -> Tensor | None:
    """Second moments of what rows of a plane may meet; None for planes that are no matrix, or have very long rows."""
    columns = as_matrix(spec.shape)[-1] if len(spec.shape) > 1 else 0
    if not 0 < columns <= _MOST_COLUMNS:
        return None
    inputs = bell((2 * columns, columns), seed, "inputs").to(torch.float64)
    return inputs.T @ inputs / len(inputs)


def settled_on(transform: Transform, x: Tensor, weights: Tensor | None = None) -> Transform:
    """The transform as `settle` returns it for one plane."""
    settled = settle_each(transform, LazyPlanes({"x": Weighted(x, weights)}))
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
