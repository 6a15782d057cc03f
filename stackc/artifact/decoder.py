"""One tensor or shared plane of a file: its stack, its bytes, and what it decodes to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from stackc.artifact.container import CheckedPayload
from stackc.artifact.stacks import FittedStack, StackTable
from stackc.core.packer import Packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import PlannedPlane, decode
from stackc.util.errors import ArtifactError, BaseNeededError, DependencyError
from stackc.util.parallel import one_thread_per_operation

if TYPE_CHECKING:
    from torch import Tensor

#: The stored planes of a tensor may take at most this many times its own bytes (plus a megabyte): no honest stack comes
#: near.
MAX_PLANES = 64

#: Gives the shared plane of a name, which has this spec.
SharedAt = Callable[[str, PlaneSpec], "Tensor"]


class StoredPlane(NamedTuple):
    """One plane in the file: its plan and its place in the payload."""

    planned: PlannedPlane
    start: int
    length: int


class Entry(NamedTuple):
    """What the file says of a tensor or of a shared plane; ``title`` is what messages call it."""

    title: str
    spec: PlaneSpec
    stack: int
    lengths: tuple[int, ...]
    start: int


class Decoder:
    """Decodes entries of a file. Several threads may use it at once.

    Parameters
    ----------
    file : str
        Name of the file, for messages.
    payload : CheckedPayload
        Its payload.
    stacks : StackTable
        Its stacks.
    """

    def __init__(self, file: str, payload: CheckedPayload, stacks: StackTable) -> None:
        self._file = file
        self._payload = payload
        self._stacks = stacks

    def fitted(self, entry: Entry) -> FittedStack:
        """The stack of an entry.

        Raises
        ------
        ArtifactError
            If the file describes one that cannot be.
        DependencyError
            If a stage of it is not installed.
        """
        try:
            return self._stacks.at(entry.stack, entry.spec)
        except ArtifactError as error:
            raise ArtifactError(f"{self._file} is damaged: {entry.title}: {error}") from error

    def planes(self, entry: Entry) -> list[StoredPlane]:
        """The stored planes of an entry, in the order of their bytes; raises as `fitted` does."""
        fitted = self.fitted(entry)
        if len(fitted.planes) != len(entry.lengths):
            raise ArtifactError(
                f"{self._file} is damaged: the stack of {entry.title} has {len(fitted.planes)} planes, the file lists "
                f"{len(entry.lengths)}"
            )
        if fitted.nbytes > MAX_PLANES * entry.spec.nbytes + (1 << 20):
            raise ArtifactError(
                f"{self._file} is damaged: the planes of {entry.title} would take more than {MAX_PLANES} times its own bytes"
            )
        starts = accumulate(entry.lengths, initial=entry.start)  # and the end, where nothing starts
        return [StoredPlane(*triple) for triple in zip(fitted.planes, starts, entry.lengths, strict=False)]

    def plane_bytes(self, plane: StoredPlane) -> bytes:
        """Packed bytes of a plane, checked."""
        return self._payload.read(plane.start, plane.length)

    def decoded(self, entry: Entry, shared_at: SharedAt) -> Tensor:
        """What an entry decodes to; it may be a shared plane or a view of one.

        Raises
        ------
        ArtifactError
            If it does not decode, or refers to a plane that does not.
        DependencyError
            If a stage is not installed.
        """
        stack = self.fitted(entry).stack
        packed = {plane.planned.path: self.plane_bytes(plane) for plane in self.planes(entry)}

        def plane_at(path: str, spec: PlaneSpec, packer: Packer) -> Tensor:
            plane = packer.unpack(packed.pop(path), spec)
            difference = spec.mismatch(plane)
            if difference is not None:
                raise ArtifactError(f"plane {path!r}: {difference}")
            return plane

        try:
            with one_thread_per_operation():  # how a sum is split between threads decides how it rounds
                tensor = decode(stack, entry.spec, plane_at, shared_at)
            difference = entry.spec.mismatch(tensor)
            if difference is not None:
                raise ArtifactError(difference)
        except Exception as error:
            if isinstance(error, DependencyError | BaseNeededError):
                raise
            # Checksums match, so the file was written like this: planes that contradict each other, in any of the ways
            # that stages can notice.
            message = "it does not fit in memory" if isinstance(error, MemoryError) else " ".join(str(error).split())
            raise ArtifactError(f"{self._file}: {entry.title} ({entry.spec}) does not decode: {message}") from error
        return tensor
