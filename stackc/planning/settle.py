"""Make the choices that need a look at the whole model: a global threshold, a rank from a share of variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stackc.core.abilities import Settling, Sharing
from stackc.core.packer import Packer
from stackc.core.stack import Branch, Ref, node_at
from stackc.core.transform import Transform, Weighted
from stackc.planning.encode import walk
from stackc.planning.kept import choices_bytes, prefix_key, read_choices
from stackc.planning.plan import StagePlan, TensorPlan, address, planes_of_stage
from stackc.planning.program import Program, Session
from stackc.util.errors import PlanError, StackcError, TensorError

if TYPE_CHECKING:
    from torch import Tensor


class _LazyPlanes(Mapping[str, Weighted]):
    """The planes that a stage matches, each computed when it is asked for and then forgotten.

    ``given`` is the address of the plane that was given last, for error messages; None while one is being computed.
    """

    def __init__(
        self, program: Program, session: Session, stage: int, places: Mapping[str, tuple[TensorPlan, str]]
    ) -> None:
        self.given: str | None = None
        self._program = program
        self._session = session
        self._stage = stage
        self._places = places

    def __getitem__(self, plane: str) -> Weighted:
        tensor, path = self._places[plane]
        self.given = None
        walker = walk(self._program, self._session, tensor)
        for before in range(self._stage):
            walker.apply(before)
        weighted = walker.weighted(self._stage, path)
        self.given = plane
        return weighted

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def settle(program: Program, session: Session, until: int | None = None) -> Program:
    """Settle every stage of a program, in order, and plan again with what was chosen.

    Parameters
    ----------
    program : Program
        As planned from the specs, perhaps with some choices made, as a lock file holds them.
    session : Session
        Gives tensors, row weights and second moments.
    until : int, optional
        Settle the stages before this one only.

    Raises
    ------
    TensorError
        If a transform cannot choose, with stage, plane and reason.
    PlanError
        If the choices that were made lack a plane.
    """
    made: dict[int, Mapping[str, Transform | Packer]] = dict(program.choices)
    for index, stage in enumerate(program.plan.stages[:until]):
        config = stage.config
        unsettled = isinstance(config, Settling) and not config.settled and index not in made
        shares = isinstance(config, Sharing) and bool(config.common)
        if not unsettled and not shares:
            continue
        program = program.with_choices(made)
        key = prefix_key(program, session, index + 1)
        known = session.memo.recall("choices", key)
        if known is not None:
            chosen, shared = read_choices(known)
        else:
            chosen, shared = _chosen(program, session, index) if unsettled else {}, {}
            if shares:
                shared = _common(program.with_choices({**made, index: chosen} if unsettled else made), session, index)
            session.memo.keep("choices", key, choices_bytes(chosen, shared))
        if unsettled:
            made[index] = chosen
        program = program.with_choices(made)._replace(shared={**program.shared, **shared})
    if made:
        program = program.with_choices(made)
    for index, stage in enumerate(program.plan.stages[:until]):
        if not stage.settled:
            raise PlanError(
                f"stages[{index}] ({stage.stage.use}): the choice for one of its planes is missing; if the recipe is locked, "
                "remove its 'lock' key"
            )
    return program


def _places(program: Program, stage: int) -> dict[str, tuple[TensorPlan, str]]:
    """What a stage applies to, by address."""
    return {address(tensor.name, path): (tensor, path) for tensor, path, _ in planes_of_stage(program.plan, stage)}


@contextmanager
def _named(planes: _LazyPlanes, index: int, stage: StagePlan) -> Iterator[_LazyPlanes]:
    """Name stage and plane in what a transform says about planes; an earlier stage says where itself."""
    try:
        yield planes
    except StackcError as error:
        if planes.given is None:
            raise
        raise TensorError(f"stages[{index}] ({stage.stage.use}) on {planes.given}: {error}") from error


def _chosen(program: Program, session: Session, index: int) -> dict[str, Transform | Packer]:
    """What a stage chooses for each of its planes."""
    stage = program.plan.stages[index]
    assert isinstance(stage.config, Settling)
    with _named(_LazyPlanes(program, session, index, _places(program, index)), index, stage) as planes:
        return dict(stage.config.settle(planes))


def _common(program: Program, session: Session, index: int) -> dict[str, Tensor]:
    """The planes that a stage's groups have in common, by name."""
    places = _places(program, index)
    users: dict[str, list[str]] = {}
    names: dict[str, dict[str, str]] = {}
    for plane, (tensor, path) in places.items():
        node = node_at(tensor.stacks[index], path)
        assert isinstance(node, Branch)
        refs = {name: below.plane for name, below in node.planes.items() if isinstance(below, Ref)}
        if not refs:
            continue
        group = "\n".join(refs.values())
        users.setdefault(group, []).append(plane)
        names[group] = refs
    found: dict[str, Tensor] = {}
    for group, members in users.items():
        tensor, path = places[members[0]]
        config = tensor.steps[index][path]
        assert isinstance(config, Sharing)
        lazy = _LazyPlanes(program, session, index, {plane: places[plane] for plane in members})
        with _named(lazy, index, program.plan.stages[index]) as planes:
            common = config.find_common(planes)
        found |= {name: common[plane] for plane, name in names[group].items()}
    return found
