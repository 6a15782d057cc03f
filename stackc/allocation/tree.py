"""The ways to store one tensor: a tree of open choices that is explored where it matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackc.allocation.frontier import Point, best, hull, total
from stackc.allocation.ladder import Ladder
from stackc.encode import Walker
from stackc.errors import SpecError
from stackc.packer import Packer
from stackc.patterns import matches
from stackc.plan import Choices, TensorPlan, address
from stackc.recipe.recipe import Stage
from stackc.registry import find_packer
from stackc.spec import PlaneSpec
from stackc.stack import join
from stackc.transform import Transform

if TYPE_CHECKING:
    from torch import Tensor

#: Estimated loss of the model with this tensor in the place of the original.
Loss = Callable[["Tensor"], float]


class Closed(NamedTuple):
    """A plane with nothing to choose below it: its bytes, and what it decodes to."""

    size: int
    value: Tensor


#: A value is explored further if its cost is larger than the best one by at most so much of it, per distance searched.
_WORTHWHILE = 0.1


@dataclasses.dataclass(eq=False)
class Choice:
    """A transform of one plane with values to choose from, and what has been found out about them.

    Attributes
    ----------
    stage, path
        Which stage of the recipe, and where in the tensor's stack.
    ladder : Ladder
        Its values; a single one if only something below it is open.
    branches : dict
        By position on the ladder: what was measured.
    wanted : set of float
        Positions that are to be measured.
    """

    stage: int
    path: str
    ladder: Ladder[Transform]
    branches: dict[float, Branch] = dataclasses.field(default_factory=dict)
    wanted: set[float] = dataclasses.field(default_factory=set)

    @property
    def pending(self) -> list[float]:
        """Positions where something is still to be measured, here or below."""
        incomplete = (p for p, branch in self.branches.items() if any(below.pending for below in branch.below))
        return sorted({*self.wanted, *incomplete})

    def want(self, position: float) -> bool:
        """Ask for a position, unless it is known or its value is that of a known one."""
        value = self.ladder.at(position)
        known = (self.ladder.at(other) for other in (*self.branches, *self.wanted))
        if not 0 <= position <= self.ladder.top or any(value == other for other in known):
            return False
        self.wanted.add(position)
        return True

    def points(self) -> list[Point]:
        """The hull of everything that has been measured."""
        return hull(
            point
            for position, branch in sorted(self.branches.items())
            for point in total(
                [below.points() for below in branch.below],
                Point(branch.size, branch.loss, (Pick(self, position),)),
            )
        )

    def refine(self, price: float, gap: float, least: float) -> bool:
        """Ask for what lies next to the best at a price of a byte.

        Parameters
        ----------
        price : float
            Loss that a byte is worth.
        gap : float
            Distance on the ladders down to which the search goes.
        least : float
            What stays below so many bytes is searched half as finely.

        Returns
        -------
        bool
            Whether anything is wanted.
        """
        costs = {position: branch.cost(price) for position, branch in self.branches.items()}
        place = min(costs, key=lambda position: (costs[position], position))
        known = sorted(costs)
        index = known.index(place)
        near = known[max(index - 1, 0) : index + 2]
        asked = False
        if not self.branches[place].below and self.branches[place].size < least:
            gap *= 2
        for other in near:
            if abs(other - place) > gap:
                asked |= self.want(_between(place, other, gap))
        for position in near:
            # What is clearly worse with its best so far will not become the best.
            if costs[position] - costs[place] <= _WORTHWHILE * gap * abs(costs[place]):
                for below in self.branches[position].below:
                    asked |= below.refine(price, gap, least)
        return asked


@dataclasses.dataclass(eq=False)
class Branch:
    """One value of a choice.

    Attributes
    ----------
    value : Transform
        In its settled form.
    loss, size
        The estimated loss with everything open below it exact, and the bytes of what is not open.
    below : tuple of Choice
        What is open.
    lossy : mapping
        Beside something open: the planes that stages without a choice round, as they decode.
    """

    value: Transform
    loss: float
    size: int
    below: tuple[Choice, ...]
    lossy: Mapping[str, Tensor]

    def cost(self, price: float) -> float:
        """The smallest loss plus price times bytes that is known with this value."""
        points = total([choice.points() for choice in self.below], Point(self.size, self.loss))
        chosen = points[best(points, price)]
        return chosen.loss + price * chosen.size


class Pick(NamedTuple):
    """A position on the ladder of a choice."""

    choice: Choice
    position: float

    @property
    def branch(self) -> Branch:
        """What is known about it."""
        return self.choice.branches[self.position]


class Explorer:
    """Measures the wanted parts of one tensor's tree; holds no tensor between two calls.

    Parameters
    ----------
    stages : sequence of Stage
        Of the recipe.
    plan : TensorPlan
        Of this tensor, settled as far as it is.
    weights, moments
        As for `stackc.encode.Walker`.
    made : mapping
        What stages without anything open have settled on.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        plan: TensorPlan,
        weights: Sequence[Tensor | None],
        moments: Mapping[str, Tensor],
        made: Choices,
    ) -> None:
        self.plan = plan
        self._stages = stages
        self._weights = weights
        self._moments = moments
        self._made = made
        self._default = find_packer("raw")

    def begin(self, x: Tensor) -> Closed | Choice:
        """The root of the tree: nothing measured yet, or, with nothing to choose, everything."""
        return self._open(self._walker(x), "", 0)

    def expand(self, root: Choice, positions: Sequence[float], x: Tensor, loss: Loss) -> None:
        """Measure everything that is wanted at some positions of the root and below."""
        self._expand(root, positions, self._walker(x), loss)

    def _walker(self, x: Tensor) -> Walker:
        return Walker(self.plan, x, self._weights, self._moments)

    def _expand(self, choice: Choice, positions: Sequence[float], walker: Walker, loss: Loss) -> None:
        spec, _ = walker.planes[choice.path]
        values = [
            choice.branches[position].value
            if position in choice.branches
            else self._settled(choice.ladder.at(position), walker, choice.stage, choice.path)
            for position in positions
        ]
        forks = walker.forks(choice.stage, choice.path, values)
        for position, value in zip(positions, values, strict=True):
            fork = next(forks)
            planes = {plane: fork.planes[join(choice.path, plane)][1] for plane in value.plan(spec)}
            if position not in choice.branches:
                closed, below = self._below(fork, choice, planes)
                lossy = {plane: made.value for plane, made in closed.items() if made.value is not planes[plane]}
                size = sum(made.size for made in closed.values())
                measured = loss(value.decode({**planes, **lossy}, spec))
                choice.branches[position] = Branch(value, measured, size, below, lossy if below else {})
                choice.wanted.discard(position)
            branch = choice.branches[position]
            for inner in branch.below:
                if inner.pending:
                    plane = inner.path.rpartition("/")[2]
                    inner_loss = _Inner(loss, value, {**planes, **branch.lossy}, spec, plane)
                    self._expand(inner, inner.pending, fork, inner_loss)
            del fork, planes

    def _below(
        self, walker: Walker, choice: Choice, planes: Mapping[str, Tensor]
    ) -> tuple[dict[str, Closed], tuple[Choice, ...]]:
        opened = {plane: self._open(walker, join(choice.path, plane), choice.stage + 1) for plane in planes}
        closed = {plane: found for plane, found in opened.items() if isinstance(found, Closed)}
        return closed, tuple(found for found in opened.values() if isinstance(found, Choice))

    def _open(self, walker: Walker, path: str, stage: int) -> Closed | Choice:
        """What the recipe does with a plane from a stage on."""
        spec, x = walker.planes[path]
        for index, config in self._actions(path, spec, stage):
            if isinstance(config, Packer):
                return self._packed(walker, path, config)
            if not config.allocated:
                with walker.placed(index, path, config):
                    ladder = Ladder(config.options(x))
                return Choice(index, path, ladder, wanted=set(ladder.coarse))
            value = self._settled(config, walker, index, path)
            fork = next(walker.forks(index, path, [value]))
            choice = Choice(index, path, Ladder([config]), wanted={0.0})
            planes = {plane: fork.planes[join(path, plane)][1] for plane in value.plan(spec)}
            closed, below = self._below(fork, choice, planes)
            if below:
                return choice
            decoded = value.decode({plane: made.value for plane, made in closed.items()}, spec)
            return Closed(sum(made.size for made in closed.values()), decoded)
        return self._packed(walker, path, self._default)

    def _packed(self, walker: Walker, path: str, packer: Packer) -> Closed:
        spec, x = walker.planes[path]
        with walker.placed(None, path, packer):
            _, data = packer.choose(x, spec)
        return Closed(len(data), x)

    def _actions(self, path: str, spec: PlaneSpec, first: int) -> Iterator[tuple[int, Transform | Packer]]:
        """The stages that take a plane, as `stackc.plan` finds them; only the first one matters."""
        for index in range(first, len(self._stages)):
            stage = self._stages[index]
            if not matches(stage.on, self.plan.names, path):
                continue
            config = stage.config
            if isinstance(config, Packer):
                if config.accepts(spec):
                    yield index, config
                continue
            chosen = self._made.get(index, {}).get(address(self.plan.name, path), config)
            try:
                assert isinstance(chosen, Transform)
                chosen.plan(spec)
            except SpecError:
                continue
            yield index, chosen

    def _settled(self, config: Transform, walker: Walker, stage: int, path: str) -> Transform:
        """A choice of the allocation in its final form, from this plane alone."""
        if config.settled:
            return config
        with walker.placed(stage, path, config):
            return config.settle({path: walker.weighted(stage, path)})[path]


@dataclasses.dataclass(frozen=True)
class _Inner:
    """The loss of the model with another plane below a transform, all others being exact."""

    outer: Loss
    transform: Transform
    planes: Mapping[str, Tensor]
    spec: PlaneSpec
    plane: str

    def __call__(self, value: Tensor) -> float:
        return self.outer(self.transform.decode({**self.planes, self.plane: value}, self.spec))


def _between(place: float, other: float, gap: float) -> float:
    """A position halfway to another one, on a grid of the gap."""
    middle = round((place + other) / 2 / gap) * gap
    return middle if min(place, other) < middle < max(place, other) else place + gap * (1 if other > place else -1)
