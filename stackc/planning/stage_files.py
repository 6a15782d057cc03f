"""The files that stages leave, kept from one run to the next: a run that differs later begins where it differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from stackc.artifact.reader import Artifact
from stackc.core.abilities import uses_moments
from stackc.core.stack import Branch, Ref, Stack, stored_planes
from stackc.planning.bases import StandingPlanes
from stackc.planning.encode import Walker
from stackc.planning.kept import Named, prefix_key
from stackc.planning.plan import TensorPlan
from stackc.planning.program import Program, Session
from stackc.planning.zeroed import Zeroed
from stackc.util.lazy import torch

#: A file is kept if so many of its size fit.
_SHARE = 8


class StageRecord(msgspec.Struct, frozen=True):
    """How the file that a stage left was made.

    Parameters
    ----------
    file_bytes : int
        Its size.
    seconds : list of float
        Encoding time of every stage so far, summed over tensors.
    peaks : dict
        Peak memory in bytes by stage.
    zeroed : list of Zeroed
        What the stages so far turned to zero in side information.
    result : ResultRecord, optional
        What only the last file of a run needs.
    """

    file_bytes: int
    seconds: list[float]
    peaks: dict[str, int]
    zeroed: list[Zeroed]
    result: ResultRecord | None = None


class ResultRecord(msgspec.Struct, frozen=True):
    """More about a file that was the result of a run; see `stackc.planning.encode_model.EncodedModel`."""

    entropy_bits: list[tuple[str, str, float]]
    plane_bytes: list[tuple[str, str, int]]
    weights_bytes: int
    payload_bytes: int
    self_contained_bytes: int | None
    packers: dict[int, dict[str, Named]]


class StageFiles:
    """Takes the files of a program's first stages from earlier runs, as far as they were kept.

    Parameters
    ----------
    program : Program
        Settled.
    session : Session
        Gives the memo.
    paths : sequence of Path
        Where the files of the last stages go; those that were kept are there afterwards.

    Attributes
    ----------
    records : list of StageRecord
        Of the leading files that are there.
    """

    def __init__(self, program: Program, session: Session, paths: Sequence[Path]) -> None:
        self._program = program
        self._session = session
        self._paths = paths
        self._first = len(program.plan.stages) - len(paths)
        self.records: list[StageRecord] = []
        for stage, path in enumerate(paths, self._first):
            record = self._recall(stage, path)
            if record is None or (path is paths[-1] and record.result is None):
                break
            self.records.append(record)
        if self.records and not self._self_sufficient(self.done):
            self.records = []

    @property
    def recalled(self) -> int:
        """How many of the files are from an earlier run, and not from an earlier pass of this one."""
        keys = (prefix_key(self._program, self._session, self._first + n + 1) for n in range(len(self.records)))
        return sum(key not in self._session.own for key in keys)

    @property
    def done(self) -> int:
        """How many stages are behind what is there; 0 if nothing is."""
        return self._first + len(self.records) if self.records else 0

    @property
    def complete(self) -> StageRecord | None:
        """The record of the last file, if it is there."""
        return self.records[-1] if len(self.records) == len(self._paths) else None

    def open(self) -> Artifact:
        """The last file that is there."""
        return Artifact(self._paths[len(self.records) - 1])

    def walker(self, artifact: Artifact, tensor: TensorPlan) -> Walker:
        """A tensor that is in a file, as the last of its stages left it."""
        stack = tensor.stacks[self.done - 1]
        if tensor.is_shared:
            stored = artifact.shared.planes(self._names(artifact)[tensor.name])
        else:
            stored = artifact.planes(tensor.name)
        planes = {
            plane.planned.path: plane.planned.packer.unpack(artifact.plane_bytes(plane), plane.planned.spec)
            for plane in stored
        }
        specs = {plane.path: plane.spec for plane in stored_planes(stack, tensor.spec)}
        standing = StandingPlanes(self._program.shared, self._program.plan, self._session.bases)
        walker = Walker(tensor, torch.empty(0), trained=self._program.trained, shared=standing)
        walker.stage = self.done
        walker.planes = {path: (specs[path], planes[path]) for path in specs}
        return walker

    def _names(self, artifact: Artifact) -> dict[str, str]:
        """What shared planes are called in a file, by their names in the program."""
        found: dict[str, str] = {}
        tensors = {tensor.name: tensor for tensor in self._program.plan.everything}
        waiting = [(tensor, artifact.stack(tensor.name)) for tensor in self._program.plan.tensors]
        while waiting:
            tensor, stack = waiting.pop()
            for name, other in _paired(tensor.stacks[self.done - 1], stack):
                if name not in found:
                    found[name] = other
                    below = artifact.shared.stack(other)
                    if below is not None:
                        waiting.append((tensors[name], below))
        return found

    def keep(self, stage: int, path: Path, record: StageRecord) -> None:
        """Keep a file for later runs, with how it was made."""
        memo = self._session.memo
        key = prefix_key(self._program, self._session, stage + 1)
        if memo.active and _SHARE * record.file_bytes <= memo.most_bytes:
            self._session.own.add(key)
            memo.keep_file("file", key, path)
            memo.keep("file-record", key, msgspec.msgpack.encode(record))

    def _recall(self, stage: int, path: Path) -> StageRecord | None:
        memo = self._session.memo
        key = prefix_key(self._program, self._session, stage + 1)
        known = memo.recall("file-record", key)
        if known is None or not memo.recall_file("file", key, path):
            return None
        return msgspec.msgpack.decode(known, type=StageRecord)

    def _self_sufficient(self, stage: int) -> bool:
        """Whether the stages from here on need nothing that follows planes through the stages before."""
        rest = self._program.plan.stages[stage:]
        return not any(one.stage.weights is not None or uses_moments(one.config) for one in rest)


def _paired(stack: Stack, other: Stack) -> Iterator[tuple[str, str]]:
    """The references of two stacks that are alike but for the names of shared planes."""
    if isinstance(stack, Ref) and isinstance(other, Ref):
        yield stack.plane, other.plane
    if isinstance(stack, Branch) and isinstance(other, Branch):
        for plane, child in stack.planes.items():
            yield from _paired(child, other.planes[plane])
