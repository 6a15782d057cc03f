"""Explore what a recipe leaves open, and choose so that a file of a given size loses the least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackc.artifact.contents import Contents, SharedPlane
from stackc.core.abilities import Sharing, is_open
from stackc.core.stack import stored_planes
from stackc.core.transform import Transform
from stackc.planning.allocation.frontier import Point, slope
from stackc.planning.allocation.sensitivity import Sensitivity, TensorLoss
from stackc.planning.allocation.tree import Choice, Closed, Explorer, Pick
from stackc.planning.bases import StandingPlanes
from stackc.planning.plan import Plan, TensorPlan, address, planes_of_stage
from stackc.planning.program import Program, Session
from stackc.recipe.targets import open_choices
from stackc.util.errors import PlanError, TensorError
from stackc.util.humanise import size_text
from stackc.util.parallel import map_ordered

if TYPE_CHECKING:
    from torch import Tensor

#: The file is at most this share smaller than the target.
TOLERANCE = 0.01

#: Share of the target that the choice itself may leave unused; container and rounding take some of the rest.
_CLOSE = 0.003

#: Distances on the ladders at which the search stops, first for all tensors and then for those that matter.
_GAPS = (1.0, 0.5)

#: Share of the target from which on a tensor is searched at the finer distance.
_LARGE = 0.005

#: Share of the target below which a plane is searched half as finely.
_SMALL = 0.001

#: Tensors of so many values are worked on by several threads, one for each position of the root.
_SPLIT = 1 << 18

#: Rounds of a search, each halving the distances on ladders of a few dozen options, or measuring what looked best.
_ROUNDS = 24

#: Steps of the last search, for what fills the room that is left.
_STRETCHES = 8


class Fit(NamedTuple):
    """A choice for the whole model.

    Parameters
    ----------
    choices : dict
        ``{stage: {plane: transform}}`` for the stages that left something open.
    loss : float
        Estimated loss, in the unit of the sensitivity.
    price : float
        Decrease of the loss that one more byte would buy, anywhere in the model.
    size : int
        Expected bytes of the file.
    """

    choices: dict[int, dict[str, Transform]]
    loss: float
    price: float
    size: int


class Allocator:
    """Chooses what a recipe leaves open.

    Every tensor has a tree of choices, and its explored part gives a lower convex hull of bytes and estimated loss. One
    price of a byte for all tensors (Shoham and Gersho 1988) gives the file with the smallest loss of its size. Bytes are
    real: planes are encoded and packed with the stages of the recipe. Ladders are explored from coarse to fine around the
    price that the target needs.

    Parameters
    ----------
    program : Program
        With everything settled that comes before the open stages.
    session : Session
        Gives the tensors and what stages are given beside them.
    sensitivity : Sensitivity
        Estimates losses.
    weights : sequence of Tensor or None, optional
        Row weights by stage, if others than those of the session.
    """

    def __init__(
        self,
        program: Program,
        session: Session,
        sensitivity: Sensitivity,
        weights: Sequence[Tensor | None] | None = None,
    ) -> None:
        self._program = program
        self._plan = program.plan
        self._reference = session.reference
        self._sensitivity = sensitivity
        self._files = session.files
        self._progress = session.progress
        self._open = set(open_choices(program.recipe))
        weights = session.weights if weights is None else weights
        self._standing = StandingPlanes(program.shared, program.plan, session.bases)
        self._bases = session.bases
        _require_closed(program.plan)
        # Shared planes have no rows of a tensor, and meet nothing.
        self._explorers = {
            tensor.name: Explorer(program, tensor, (), None, self._standing)
            if tensor.is_shared
            else Explorer(program, tensor, weights, session.moments, self._standing)
            for tensor in program.plan.everything
        }
        self._roots: dict[str, Choice] = {}
        self._fixed: dict[str, int] = {}
        self._overhead = 0

    def explore(self, target: int) -> None:
        """Find out what the choices cost, finely around those that a file of so many bytes needs.

        Raises
        ------
        PlanError
            If no choice comes to so many bytes, with the range that is within reach.
        """
        if not self._roots:
            self._begin()
        for gap in _GAPS:
            for _ in range(_ROUNDS):
                points, price = self._chosen(target)
                asked = [
                    root.refine(price, gap, _SMALL * target)
                    for name, root in self._roots.items()
                    if gap == _GAPS[0] or points[name].size > _LARGE * target
                ]
                if not any(asked):
                    break
                self._expand()

    def fit(self, target: int) -> Fit:
        """The choice for a file of at most so many bytes, and as near to it as the ladders allow.

        Raises
        ------
        PlanError
            As `explore`.
        """
        points, _ = self._chosen(target)
        self._overhead = self._container(points)
        points, price = self._chosen(target)
        hulls = {name: root.points() for name, root in self._roots.items()}
        if self._size(chain[-1] for chain in hulls.values()) < (1 - TOLERANCE) * target:
            raise self._out_of_reach(target, hulls)
        room = target - self._size(points.values())
        for name in sorted(points, key=lambda name: -points[name].size):
            if room <= _CLOSE * target:
                break
            points[name] = self._stretched(name, points[name], room)
            room = target - self._size(points.values())
        return Fit(self._choices(points), sum(point.loss for point in points.values()), price, target - room)

    def _choices(self, points: Mapping[str, Point[Pick]]) -> dict[int, dict[str, Transform]]:
        choices: dict[int, dict[str, Transform]] = {stage: {} for stage in self._open}
        for name, point in points.items():
            for pick in point.picks:
                if pick.choice.stage in self._open:
                    choices[pick.choice.stage][address(name, pick.choice.path)] = pick.branch.value
        return choices

    def _begin(self) -> None:
        """Open every tensor and measure the coarse ladders."""
        for tensor, found in map_ordered(self._opened, self._plan.everything):
            if isinstance(found, int):
                self._fixed[tensor.name] = found
            else:
                self._roots[tensor.name] = found
        self._expand()

    def _opened(self, tensor: TensorPlan) -> tuple[TensorPlan, Choice | int]:
        x = self._standing[tensor.name] if tensor.is_shared else self._reference.tensor(tensor.name)
        root = self._explorers[tensor.name].begin(x)
        return tensor, root.size if isinstance(root, Closed) else root

    def _expand(self) -> None:
        """Measure what is wanted, in all tensors."""
        jobs: list[tuple[TensorPlan, Sequence[float]]] = []
        for tensor in self._plan.tensors:
            pending = self._roots[tensor.name].pending if tensor.name in self._roots else []
            if tensor.spec.numel >= _SPLIT:
                jobs += [(tensor, [position]) for position in pending]
            elif pending:
                jobs.append((tensor, pending))
        jobs.sort(key=lambda job: -job[0].spec.numel)
        with self._progress.task("allocate", sum(tensor.spec.nbytes for tensor, _ in jobs)) as advance:
            for (tensor, _), _done in zip(jobs, map_ordered(lambda job: self._measure(*job), jobs), strict=True):
                advance(tensor.spec.nbytes)

    def _measure(self, tensor: TensorPlan, positions: Sequence[float]) -> None:
        x = self._reference.tensor(tensor.name)
        try:
            self._explorers[tensor.name].expand(
                self._roots[tensor.name], positions, x, TensorLoss(self._sensitivity, tensor.name)
            )
        except MemoryError as error:
            raise TensorError(f"{tensor.name} ({tensor.spec}) does not fit in memory") from error

    def _chosen(self, target: int) -> tuple[dict[str, Point[Pick]], float]:
        """The point of every tensor at the lowest price of a byte that keeps to the target, and that price."""
        hulls = {name: root.points() for name, root in self._roots.items()}
        if not self._overhead:
            self._overhead = self._container({name: chain[0] for name, chain in hulls.items()})
        taken = dict.fromkeys(hulls, 0)
        smallest = self._size(chain[0] for chain in hulls.values())
        if smallest > target:
            raise self._out_of_reach(target, hulls)
        edges = sorted(
            (-slope(chain[step], chain[step + 1]), chain[step + 1].size - chain[step].size, name, step)
            for name, chain in hulls.items()
            for step in range(len(chain) - 1)
        )
        room = target - smallest
        price: float | None = None
        for negative, cost, name, step in edges:
            if taken[name] == step and cost <= room:
                taken[name] += 1
                room -= cost
            elif price is None:  # from here on what is left buys the next steps that fit
                price = -negative
        return {name: chain[taken[name]] for name, chain in hulls.items()}, price or 0.0

    def _out_of_reach(self, target: int, hulls: Mapping[str, Sequence[Point[Pick]]]) -> PlanError:
        smallest, largest = (self._size(chain[end] for chain in hulls.values()) for end in (0, -1))
        return PlanError(
            f"a file of {target:,} bytes is out of reach: with its open choices the recipe makes files of about "
            f"{size_text(smallest)} to {size_text(largest)}; choose a target between these, or change the stages"
        )

    def _stretched(self, name: str, point: Point[Pick], room: int) -> Point[Pick]:
        """The same with the largest part of the tensor a little finer, so that it takes most of the room that is left."""
        movable = [
            pick
            for pick in point.picks
            if not pick.branch.below and pick.choice.stage in self._open and pick.position < pick.choice.ladder.top
        ]
        if not movable:
            return point
        pick = max(movable, key=lambda pick: pick.branch.size)
        tensor = next(tensor for tensor in self._plan.tensors if tensor.name == name)
        branches, ladder = pick.choice.branches, pick.choice.ladder
        low, limit = pick.position, pick.branch.size + room
        high = min((p for p, branch in branches.items() if p > low and branch.size > limit), default=None)
        for _ in range(_STRETCHES):
            if limit - branches[low].size <= room / 8 or low == ladder.top:
                break
            if high is None:
                trial = min(low + 1, float(ladder.top))
            else:
                share = (limit - branches[low].size) / (branches[high].size - branches[low].size)
                trial = low + (high - low) * min(max(0.97 * share, 0.02), 0.95)
            if trial not in branches:
                if not pick.choice.want(trial):
                    break
                self._measure(tensor, self._roots[name].pending)
            if branches[trial].size > limit:
                high = trial
            elif branches[trial].size > branches[low].size:
                low = trial
            else:
                break
        moved = Pick(pick.choice, low)
        return Point(
            point.size + moved.branch.size - pick.branch.size,
            point.loss + moved.branch.added - pick.branch.added,
            tuple(moved if other == pick else other for other in point.picks),
        )

    def _size(self, points: Iterable[Point[Pick]]) -> int:
        """Expected bytes of the file."""
        return sum(self._fixed.values()) + sum(point.size for point in points) + self._overhead

    def _container(self, points: Mapping[str, Point[Pick]]) -> int:
        """Bytes of header, manifest and bundled files, but for what compression makes of lengths and checksums."""
        plan = self._program.with_choices({**self._program.choices, **self._choices(points)}).plan
        sizes = {**self._fixed, **{name: point.size for name, point in points.items()}}
        contents = Contents(self._reference.kind, self._reference.config)
        payload = 0
        for tensor in plan.everything:
            leaves = len(stored_planes(tensor.stacks[-1], tensor.spec))
            lengths = tuple(sizes[tensor.name] // leaves + leaf for leaf in range(leaves))
            if tensor.is_shared:
                contents.add_shared(tensor.name, SharedPlane(tensor.spec, tensor.stacks[-1], lengths))
            else:
                contents.add(tensor.names, tensor.spec, tensor.stacks[-1], lengths)
            payload += sum(lengths)
        for name, plane in plan.outside.items():
            contents.add_shared(name, SharedPlane(plane.spec, outside=(self._bases[plane.base].base, plane.tensor)))
        return contents.expected_bytes(self._files) - payload


def _require_closed(plan: Plan) -> None:
    """Refuse open choices that the search cannot make, each tensor by itself as it goes through them.

    Raises
    ------
    PlanError
        If a choice is left open for a plane that tensors share, or what tensors share is found after open choices.
    """
    first: int | None = None
    for index, stage in enumerate(plan.stages):
        if first is not None and isinstance(stage.config, Sharing) and stage.config.common:
            raise PlanError(
                f"stages[{index}] ({stage.stage.use}): what its tensors share depends on what the rate allocation chooses for "
                f"stages[{first}] ({plan.stages[first].stage.use}), which it does with the rest known; put the stage that shares "
                "first, or give the other's value"
            )
        for tensor, path, config in planes_of_stage(plan, index):
            if not is_open(config):
                continue
            first = index if first is None else first
            if tensor.is_shared:
                raise PlanError(
                    f"stages[{index}] ({stage.stage.use}) leaves a choice to the rate allocation for "
                    f"{address(tensor.name, path)}, a plane that several tensors share; the allocation weighs tensors one by "
                    "one, so give the value for shared planes, in a stage of their own"
                )
