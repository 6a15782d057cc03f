"""The stacks of a file, each parsed once however many tensors it stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from stackc.artifact.counting import require_few_items
from stackc.artifact.limits import MAX_STACK_DEPTH, MAX_STACK_ITEMS
from stackc.core.spec import PlaneSpec, total_bytes
from stackc.core.stack import (
    Cost,
    PlannedPlane,
    SharedUse,
    Stack,
    Stages,
    cost,
    fit,
    references,
    stages_of,
    stored_planes,
)
from stackc.util.errors import ArtifactError

#: Fitted stacks that are kept: more than models have kinds of tensors, and few enough for a file that has millions.
_KEPT = 4096


class FittedStack(NamedTuple):
    """A stack for tensors of one spec: its tree, its stored planes in order with their bytes when they are unpacked, the
    shared planes that it refers to, and what decoding such a tensor takes when these are there.
    """

    stack: Stack
    planes: list[PlannedPlane]
    nbytes: int
    uses: list[SharedUse]
    cost: Cost


class StackTable:
    """The manifest's table of stacks, from which tensors take theirs by number. Several threads may ask at once.

    Parameters
    ----------
    wires : sequence of msgspec.Raw
        The stacks in MessagePack.
    shared : sequence of PlaneSpec
        The specs of shared planes, by number.
    """

    def __init__(self, wires: Sequence[msgspec.Raw], shared: Sequence[PlaneSpec] = ()) -> None:
        self._wires = wires
        self._shared = shared
        self._stages: dict[int, Stages] = {}
        self._fitted: dict[tuple[int, PlaneSpec], FittedStack] = {}

    def at(self, number: int, spec: PlaneSpec) -> FittedStack:
        """The stack with this number for a tensor with this spec.

        Raises
        ------
        ArtifactError
            If the file describes one that cannot be.
        DependencyError
            If a stage of it is not installed.
        """
        known = self._fitted.get((number, spec))
        if known is None:
            try:
                stack = fit(self._stages_at(number), spec, self._shared)
                planes = stored_planes(stack, spec)
                nbytes = total_bytes(plane.spec for plane in planes)
                known = FittedStack(stack, planes, nbytes, references(stack, spec), cost(stack, spec))
            except MemoryError as error:
                raise ArtifactError("its stack does not fit in memory") from error
            if len(self._fitted) >= _KEPT:
                self._fitted.clear()
            self._fitted[number, spec] = known
        return known

    def _stages_at(self, number: int) -> Stages:
        if number not in self._stages:
            try:
                require_few_items(self._wires[number], MAX_STACK_ITEMS, MAX_STACK_DEPTH)
                wire = msgspec.msgpack.decode(self._wires[number])
            except (ArtifactError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise ArtifactError(f"its stack does not parse ({error})") from error
            self._stages[number] = stages_of(wire)
        return self._stages[number]
