"""Make the choices that need a look at the whole model: a global threshold, a rank from a share of variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stackc.core.abilities import Settling
from stackc.core.packer import Packer
from stackc.core.transform import Transform, Weighted
from stackc.planning.encode import walk
from stackc.planning.plan import TensorPlan, address, planes_of_stage
from stackc.planning.program import Program, Session
from stackc.util.errors import PlanError, StackcError, TensorError


class _LazyPlanes(Mapping[str, Weighted]):
    """The planes that a stage matches, each computed when it is asked for and then forgotten.

    ``given`` is the address of the plane that was given last, for error messages; None while one is being computed.
    """

    def __init__(self, program: Program, session: Session, stage: int) -> None:
        self.given: str | None = None
        self._program = program
        self._session = session
        self._stage = stage
        self._places: dict[str, tuple[TensorPlan, str]] = {
            address(tensor.name, path): (tensor, path) for tensor, path, _ in planes_of_stage(program.plan, stage)
        }

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
        if not isinstance(config, Settling) or config.settled or index in made:
            continue
        program = program.with_choices(made)
        planes = _LazyPlanes(program, session, index)
        try:
            made[index] = dict(config.settle(planes))
        except StackcError as error:
            if planes.given is None:  # an earlier stage, which says where itself
                raise
            raise TensorError(f"stages[{index}] ({stage.stage.use}) on {planes.given}: {error}") from error
    if made:
        program = program.with_choices(made)
    for index, stage in enumerate(program.plan.stages[:until]):
        if not stage.settled:
            raise PlanError(
                f"stages[{index}] ({stage.stage.use}): the choice for one of its planes is missing; if the recipe is locked, "
                "remove its 'lock' key"
            )
    return program
