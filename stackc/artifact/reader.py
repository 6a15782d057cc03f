"""Read an artifact: any tensor by name, without the others, without the reference, data or network."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from stackc.artifact.container import CheckedPayload, decompress, read_manifest
from stackc.artifact.manifest import KINDS, Manifest, decode_manifest
from stackc.errors import ArtifactError, DependencyError, SpecError
from stackc.nearest import nearest
from stackc.packer import Packer
from stackc.paths import require_regular, user_path
from stackc.spec import PlaneSpec, total_bytes
from stackc.stack import PlannedPlane, Stack, decode, from_wire, stored_planes

if TYPE_CHECKING:
    from torch import Tensor, nn

#: A file may decode to at most this many times its own size (plus a megabyte), unless the caller says otherwise.
MAX_EXPANSION = 100_000

#: The stored planes of a tensor may take at most this many times its own bytes (plus a megabyte): no honest stack comes
#: near, and without a limit a small file could ask for days of work.
MAX_PLANES = 64


class StoredPlane(NamedTuple):
    """One plane in the file: its plan and its place in the payload."""

    planned: PlannedPlane
    start: int
    length: int


class Artifact(Mapping[str, "Tensor"]):
    """An opened ``.stackc`` file: a read-only mapping from tensor names, tied ones included, to decoded tensors.

    Use `stackc.open`. The file is closed by `close` or at the end of a ``with`` block.

    Parameters
    ----------
    path : str or Path
        The file.
    max_bytes : int, optional
        Refuse files whose tensors would take more than this; by default 100,000 times the file's size.

    Raises
    ------
    ArtifactError
        If it is no artifact, is damaged, or announces more than ``max_bytes``.
    DependencyError
        If it needs a stage that is not installed.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        self.path = user_path(path)
        try:
            require_regular(self.path)
            self._file = self.path.open("rb")
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be opened: {error.strerror}") from error
        # Also when the last reference goes: opening a file for one tensor is no mistake.
        self._close = weakref.finalize(self, self._file.close)
        try:
            self._open(max_bytes)
        except OSError as error:
            self.close()
            raise ArtifactError(f"{self.path} cannot be read: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _open(self, max_bytes: int | None) -> None:
        data, offset = read_manifest(self._file, self.path.name)
        self.manifest: Manifest = decode_manifest(data, self.path.name)
        self.file_bytes = os.fstat(self._file.fileno()).st_size
        self.container_bytes = offset
        starts, length = self._layout()
        if offset + length != self.file_bytes:
            state = "truncated" if offset + length > self.file_bytes else "damaged"
            raise ArtifactError(
                f"{self.path.name} is {state}: it has {self.file_bytes} bytes, its manifest describes {offset + length}"
            )
        self._starts = starts
        self._payload = CheckedPayload(self._file, offset, length, self.manifest.checksums, self.path)
        self._index = {name: number for number, name in enumerate(self.manifest.names)} | self.manifest.ties
        try:
            specs = [entry.spec for entry in self.manifest.tensors]
        except SpecError as error:
            raise ArtifactError(f"{self.path.name} is damaged: {error}") from error
        self.specs = dict(zip(self.manifest.names, specs, strict=True))
        self.nbytes = sum(spec.nbytes for spec in specs)
        limit = MAX_EXPANSION * self.file_bytes + (1 << 20) if max_bytes is None else max_bytes
        if self.nbytes > limit:
            raise ArtifactError(
                f"{self.path.name} would decode to {self.nbytes} bytes, more than the limit of {limit}; "
                "if you trust it, open it with a larger max_bytes"
            )

    def _layout(self) -> tuple[list[int], int]:
        sizes = [sum(entry.lengths) for entry in self.manifest.tensors]
        sizes += [compressed for compressed, _ in self.manifest.bundle.values()]
        ends = list(accumulate(sizes, initial=0))
        return ends[:-1], ends[-1]

    @property
    def kind(self) -> str:
        """What the reference was: ``transformers``, ``safetensors`` or ``module``."""
        return KINDS[self.manifest.kind]

    @property
    def config(self) -> dict[str, Any] | None:
        """Hugging Face configuration of the model, if it has one."""
        return self.manifest.config

    @property
    def ties(self) -> dict[str, str]:
        """Further names: ``{other name: first name}``."""
        return {other: self.manifest.names[number] for other, number in self.manifest.ties.items()}

    def stack(self, name: str) -> Stack:
        """The stack that a tensor is stored with.

        Raises
        ------
        ArtifactError
            If the file describes one that cannot be.
        DependencyError
            If a stage of it is not installed.
        """
        number = self._number(name)
        try:
            return from_wire(self.manifest.stacks[self.manifest.tensors[number].stack], self._spec(number))
        except ArtifactError as error:
            raise ArtifactError(f"{self.path.name} is damaged: tensor {name!r}: {error}") from error

    def planes(self, name: str) -> list[StoredPlane]:
        """The stored planes of a tensor, in the order of their bytes; raises as `stack` does."""
        return self._planes(name, self.stack(name))

    def _planes(self, name: str, stack: Stack) -> list[StoredPlane]:
        number = self._number(name)
        lengths = self.manifest.tensors[number].lengths
        planned = stored_planes(stack, self._spec(number))
        if len(planned) != len(lengths):
            raise ArtifactError(
                f"{self.path.name} is damaged: the stack of {name!r} has {len(planned)} planes, the file lists {len(lengths)}"
            )
        if total_bytes(plane.spec for plane in planned) > MAX_PLANES * self._spec(number).nbytes + (1 << 20):
            raise ArtifactError(
                f"{self.path.name} is damaged: the planes of {name!r} would take more than {MAX_PLANES} times its own bytes"
            )
        starts = accumulate(lengths[:-1], initial=self._starts[number])
        return [StoredPlane(*triple) for triple in zip(planned, starts, lengths, strict=True)]

    def plane_bytes(self, plane: StoredPlane) -> bytes:
        """Packed bytes of a plane, checked."""
        return self._payload.read(plane.start, plane.length)

    def __getitem__(self, name: str) -> Tensor:
        stack, spec = self.stack(name), self._spec(self._number(name))
        packed = {plane.planned.path: self.plane_bytes(plane) for plane in self._planes(name, stack)}

        def plane_at(path: str, spec: PlaneSpec, packer: Packer) -> Tensor:
            plane = packer.unpack(packed.pop(path), spec)
            difference = spec.mismatch(plane)
            if difference is not None:
                raise ArtifactError(f"plane {path!r}: {difference}")
            return plane

        try:
            tensor = decode(stack, spec, plane_at)
            difference = spec.mismatch(tensor)
            if difference is not None:
                raise ArtifactError(difference)
        except Exception as error:
            if isinstance(error, DependencyError):
                raise
            # Checksums match, so the file was written like this: planes that contradict each other, in any of the ways
            # that stages can notice.
            message = "it does not fit in memory" if isinstance(error, MemoryError) else " ".join(str(error).split())
            raise ArtifactError(f"{self.path.name}: tensor {name!r} ({spec}) does not decode: {message}") from error
        return tensor

    def _number(self, name: str) -> int:
        if name not in self._index:
            raise KeyError(f"{self.path.name} has no tensor {name!r}{nearest(str(name), self._index)}")
        return self._index[name]

    def _spec(self, number: int) -> PlaneSpec:
        return self.specs[self.manifest.names[number]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    @property
    def bundled(self) -> dict[str, int]:
        """Compressed bytes of each bundled file."""
        return {name: compressed for name, (compressed, _) in self.manifest.bundle.items()}

    def bundled_file(self, name: str) -> bytes:
        """Content of a bundled file.

        Raises
        ------
        KeyError
            If there is no such file.
        ArtifactError
            If it is damaged.
        """
        compressed, size = self.manifest.bundle[name]
        number = list(self.manifest.bundle).index(name)
        data = self._payload.read(self._starts[len(self.manifest.tensors) + number], compressed)
        limit = MAX_EXPANSION * self.file_bytes
        if size > limit:
            raise ArtifactError(f"{self.path.name} is damaged: the bundled {name} would take {size} bytes")
        try:
            return decompress(data, size)
        except ArtifactError as error:
            raise ArtifactError(
                f"{self.path.name} is damaged: the bundled {name} does not decompress: {error}"
            ) from error

    def state_dict(self, workers: int | None = None) -> dict[str, Tensor]:
        """All tensors, decoded in parallel; tied names share one tensor."""
        from stackc.parallel import map_ordered

        state = dict(zip(self.manifest.names, map_ordered(self.__getitem__, self.manifest.names, workers), strict=True))
        for other, first in self.ties.items():
            state[other] = state[first]
        return state

    def build(self) -> nn.Module:
        """The model with the decoded weights, in evaluation mode.

        Raises
        ------
        ModelError
            If the file does not say which architecture it is for.
        """
        from stackc.errors import ModelError
        from stackc.reference import build_transformers

        if self.config is None:
            raise ModelError(
                f"{self.path.name} holds tensors without an architecture (its reference was a {self.kind}); "
                "load its state_dict() into your own module, or decode it to safetensors"
            )
        return build_transformers(self.config, self.state_dict())

    def tokenizer(self) -> Any | None:
        """The bundled tokenizer, or None."""
        from stackc.reference import tokenizer_from_files

        files = {name: self.bundled_file(name) for name in self.bundled}
        return tokenizer_from_files(files, self.config) if files else None

    def close(self) -> None:
        """Close the file; tensors can no longer be read."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<stackc artifact {self.path.name}: {len(self.manifest.tensors)} tensors, {self.file_bytes} bytes>"
