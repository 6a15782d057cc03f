"""The ways to store one tensor: a tree of open choices that is explored where it matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stackc.core.abilities import is_open, settle_each
from stackc.core.packer import Packer
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import join
from stackc.core.transform import Transform
from stackc.planning.allocation.frontier import Point, best, hull, total
from stackc.planning.allocation.ladder import Ladder
from stackc.planning.allocation.sensitivity import squared_norm
from stackc.planning.encode import Walker
from stackc.planning.plan import TensorPlan, action_of, address
from stackc.planning.program import Program

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """What storing one tensor with an error costs."""

    @property
    def measures(self) -> bool:
        """Whether `measured` knows better than `estimated`."""

    def estimated(self, change: Tensor) -> float:
        """Estimated loss for a change of the tensor."""

    def measured(self, value: Tensor) -> float:
        """Loss of the model with another value of the tensor."""


class Closed(NamedTuple):
    """A plane with nothing to choose below it: its bytes, and what it decodes to."""

    size: int
    value: Tensor


#: Changes of so much of the squared norm are measured: those that something open lies below, such as dropped rows and low
#: ranks, whose error has a structure; and rounding, but only where it would be chosen.
_STRUCTURED, _ROUNDED = 0.01, 0.2

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
        Positions that are to be looked at, or to be measured.
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

    def points(self, above: float = 0.0) -> list[Point[Pick]]:
        """The hull of everything that is known, if the loss without this choice is ``above``."""
        return hull(
            point
            for position, branch in sorted(self.branches.items())
            for point in branch.points(above, (Pick(self, position),))
        )

    def refine(self, price: float, gap: float, least: float, above: float = 0.0) -> bool:
        """Ask for what lies next to the best at a price of a byte, or for a measurement if the best is only estimated.

        Parameters
        ----------
        price : float
            Loss that a byte is worth.
        gap : float
            Distance on the ladders down to which the search goes.
        least : float
            What stays below so many bytes is searched half as finely.
        above : float
            The loss without this choice.

        Returns
        -------
        bool
            Whether anything is wanted.
        """
        costs = {position: branch.cost(price, above) for position, branch in self.branches.items()}
        place = min(costs, key=lambda position: (costs[position], position))
        if not self.branches[place].sure:
            self.wanted.add(place)
            return True
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
                    asked |= below.refine(price, gap, least, self.branches[position].loss(above))
        return asked


@dataclasses.dataclass(eq=False)
class Branch:
    """One value of a choice.

    Attributes
    ----------
    value : Transform
        In its settled form.
    size : int
        Bytes of what is not open.
    added : float
        Estimated loss that it adds to what is above, with everything open below it exact.
    sure : bool
        Whether the estimate can be relied on, or the loss has been measured.
    below : tuple of Choice
        What is open.
    lossy : mapping
        Beside something open: the planes that stages without a choice round, as they decode.
    measured : float, optional
        The loss itself, that of what is above included.
    """

    value: Transform
    size: int
    added: float
    sure: bool
    below: tuple[Choice, ...]
    lossy: Mapping[str, Tensor]
    measured: float | None = None

    def loss(self, above: float) -> float:
        """Loss with everything open below exact, on top of another one if it is only estimated."""
        return above + self.added if self.measured is None else self.measured

    def points(self, above: float, picks: tuple[Pick, ...] = ()) -> list[Point[Pick]]:
        """The hull of what is known with this value."""
        loss = self.loss(above)
        return total([choice.points(loss) for choice in self.below], Point(self.size, loss, picks))

    def cost(self, price: float, above: float) -> float:
        """The smallest loss plus price times bytes that is known with this value."""
        points = self.points(above)
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
    program : Program
        Settled as far as it is.
    tensor : TensorPlan
        Of this tensor.
    weights, moments, shared
        As for `stackc.planning.encode.Walker`.
    """

    def __init__(
        self,
        program: Program,
        tensor: TensorPlan,
        weights: Sequence[Tensor | None] = (),
        moments: Mapping[str, Tensor] | None = None,
        shared: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.plan = tensor
        self._stages = program.recipe.stages
        self._made = program.choices
        self._weights = weights
        self._moments = moments
        self._shared = shared
        self._bases = program.bases
        self._default = find_packer("raw")

    def begin(self, x: Tensor) -> Closed | Choice:
        """The root of the tree: nothing measured yet, or, with nothing to choose, everything."""
        maker = self._stages[self.plan.maker].config if self.plan.is_shared else None
        parent = maker if isinstance(maker, Transform) else None
        return self._open(self._walker(x), "", self.plan.maker + 1, parent)

    def expand(self, root: Choice, positions: Sequence[float], x: Tensor, loss: Loss) -> None:
        """Measure everything that is wanted at some positions of the root and below."""
        self._expand(root, positions, self._walker(x), loss, _Exact(x, lambda value: value))

    def _walker(self, x: Tensor) -> Walker:
        return Walker(self.plan, x, self._weights, self._moments, shared=self._shared)

    def _expand(self, choice: Choice, positions: Sequence[float], walker: Walker, loss: Loss, above: _Exact) -> None:
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
            planes = _made(fork, choice.stage, choice.path, value.plan(spec))
            if position not in choice.branches:
                closed, below = self._below(fork, choice, value, planes)
                lossy = {plane: made.value for plane, made in closed.items() if made.value is not planes[plane]}
                size = sum(made.size for made in closed.values())
                here = above.whole(value.decode({**planes, **lossy}, spec))
                change = here - above.tensor
                relied = (_STRUCTURED if below else _ROUNDED) * squared_norm(above.tensor)
                sure = not loss.measures or squared_norm(change) <= relied
                branch = Branch(value, size, loss.estimated(change), sure, below, lossy if below else {})
                if below and not sure:  # at once, since what is measured and what is estimated cannot be compared
                    branch.measured, branch.sure = loss.measured(here), True
                choice.branches[position] = branch
            else:
                branch = choice.branches[position]
                lossy = dict(branch.lossy) if branch.below else self._lossy(fork, choice, value, planes)
                here = above.whole(value.decode({**planes, **lossy}, spec))
                if position in choice.wanted:
                    branch.measured, branch.sure = loss.measured(here), True
            choice.wanted.discard(position)
            for inner in branch.below:
                if inner.pending:
                    plane = inner.path.rpartition("/")[2]
                    within = partial(_decoded, value, {**planes, **branch.lossy}, spec, plane)
                    exact = _Exact(here, partial(_through, above.whole, within))
                    self._expand(inner, inner.pending, fork, loss, exact)
            del fork, planes, here

    def _lossy(
        self, walker: Walker, choice: Choice, value: Transform, planes: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        closed, _ = self._below(walker, choice, value, planes)
        return {plane: made.value for plane, made in closed.items()}

    def _below(
        self, walker: Walker, choice: Choice, value: Transform, planes: Mapping[str, Tensor]
    ) -> tuple[dict[str, Closed], tuple[Choice, ...]]:
        opened = {
            plane: self._open(walker, join(choice.path, plane), choice.stage + 1, value)
            if join(choice.path, plane) in walker.planes
            else Closed(0, made)  # it stands elsewhere, and is paid for there
            for plane, made in planes.items()
        }
        closed = {plane: found for plane, found in opened.items() if isinstance(found, Closed)}
        return closed, tuple(found for found in opened.values() if isinstance(found, Choice))

    def _open(self, walker: Walker, path: str, stage: int, parent: Transform | None) -> Closed | Choice:
        """What the recipe does from a stage on with a plane, which ``parent`` made."""
        spec, x = walker.planes[path]
        # What a stage that trains makes of a plane is not known yet: it is encoded as if nothing were trained.
        for index in range(stage, len(self._stages)):
            action = action_of(
                self._stages[index],
                self._made.get(index, {}),
                address(self.plan.name, path),
                self.plan.places(path),
                spec,
                parent,
                self._bases,
            )
            if action is None or action.refusal is not None:
                continue
            config = action.config
            if isinstance(config, Packer):
                return self._packed(walker, path, config)
            if is_open(config):
                with walker.placed(index, path, config):
                    ladder = Ladder[Transform](config.options(x))
                return Choice(index, path, ladder, wanted=set(ladder.coarse))
            value = self._settled(config, walker, index, path)
            fork = next(walker.forks(index, path, [value]))
            choice = Choice(index, path, Ladder([config]), wanted={0.0})
            planes = _made(fork, index, path, value.plan(spec))
            closed, below = self._below(fork, choice, value, planes)
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

    def _settled(self, config: Transform, walker: Walker, stage: int, path: str) -> Transform:
        """A choice of the allocation in its final form, from this plane alone."""
        with walker.placed(stage, path, config):
            return settle_each(config, {path: walker.weighted(stage, path)})[path]


def _made(walker: Walker, stage: int, path: str, planes: Iterable[str]) -> dict[str, Tensor]:
    """What a stage has made of a plane, those of it that stand elsewhere included."""
    standing = walker.standing(stage, path)
    return {plane: standing[plane] if plane in standing else walker.planes[join(path, plane)][1] for plane in planes}


class _Exact(NamedTuple):
    """A tensor with everything exact from some place on, and what it becomes with another plane at that place."""

    tensor: Tensor
    whole: Callable[[Tensor], Tensor]


def _decoded(transform: Transform, planes: Mapping[str, Tensor], spec: PlaneSpec, plane: str, value: Tensor) -> Tensor:
    return transform.decode({**planes, plane: value}, spec)


def _through(outer: Callable[[Tensor], Tensor], inner: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    return outer(inner(value))


def _between(place: float, other: float, gap: float) -> float:
    """A position halfway to another one, on a grid of the gap."""
    middle = round((place + other) / 2 / gap) * gap
    return middle if min(place, other) < middle < max(place, other) else place + gap * (1 if other > place else -1)
