"""Write an artifact: tensors one after another, the file in one step at the end."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stackc.artifact.bases import Base
from stackc.artifact.container import BlockChecksums, compress, frame_manifest
from stackc.artifact.contents import Contents, SharedPlane
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, shared_name
from stackc.util.output import writing
from stackc.util.partial import atomic_file

_PIECE = 1 << 20


class _Spool:
    """Bytes that wait in an unnamed file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0
        with writing(path):
            self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - lives as long as the writer

    def append(self, data: bytes) -> None:
        self.size += len(data)
        with writing(self._path):
            self._file.seek(0, os.SEEK_END)
            self._file.write(data)

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        while length:
            with writing(self._path):
                self._file.seek(start)
                piece = self._file.read(min(length, _PIECE))
            start, length = start + len(piece), length - len(piece)
            yield piece

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: what cannot be flushed is not wanted either
            self._file.close()


class ArtifactWriter:
    """Collects encoded tensors and writes the file when `finish` is called; without it nothing is left behind.

    Tensors come in the order of the file. Shared planes may come before or after what refers to them; those that nothing
    refers to are left out of the file.

    Parameters
    ----------
    path : Path
        Where the artifact goes; must be in an existing folder.
    kind : str
        ``transformers``, ``safetensors`` or ``module``.
    config : dict or None
        Hugging Face configuration.
    """

    def __init__(self, path: Path, kind: str, config: Mapping[str, Any] | None) -> None:
        self.path = path
        self._contents = Contents(kind, config)
        self._files: dict[str, tuple[bytes, int]] = {}
        self._checksums = BlockChecksums()
        self._payload = _Spool(path)
        self._shared_payload: _Spool | None = None

    def add(self, names: Sequence[str], spec: PlaneSpec, stack: Stack, planes: Sequence[bytes]) -> None:
        """Append one tensor: its first name and its ties, and its packed planes in stored order."""
        self._contents.add(names, spec, stack, tuple(map(len, planes)))
        for plane in planes:
            self._checksums.update(plane)
            self._payload.append(plane)

    def add_shared(self, name: str, spec: PlaneSpec, stack: Stack, planes: Sequence[bytes]) -> None:
        """Take a plane that stacks refer to by a name, and its packed planes in stored order.

        Raises
        ------
        OutputError
            If there is one of this name.
        """
        if self._shared_payload is None:
            self._shared_payload = _Spool(self.path)
        start = self._shared_payload.size
        self._contents.add_shared(name, SharedPlane(spec, stack, tuple(map(len, planes)), start))
        for plane in planes:
            self._shared_payload.append(plane)

    def add_outside(self, name: str, spec: PlaneSpec, base: Base, tensor: str) -> None:
        """Take a plane that stacks refer to by a name, and that is a tensor of another model.

        Raises
        ------
        OutputError
            If there is one of this name.
        """
        self._contents.add_shared(name, SharedPlane(spec, outside=(base, tensor)))

    def add_file(self, name: str, content: bytes) -> None:
        """Append a bundled file."""
        self._files[name] = (compress(content), len(content))

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payload if the file were finished now."""
        return self._payload.size + sum(map(len, self._after(self._contents.order(), self._files)))

    def projected_bytes(self, files: Mapping[str, bytes]) -> int:
        """Size of the file if it were finished now with these files bundled; exact, and nothing is written."""
        bundle = self._files | {name: (compress(content), len(content)) for name, content in files.items()}
        head, size = self._head(self._contents.order(), bundle)
        return len(head) + size

    def file_names(self) -> dict[str, str]:
        """What a reader calls the shared planes of the file, by their names here; those that it leaves out are not in it."""
        return {name: shared_name(number) for number, name in enumerate(self._contents.order())}

    def _after(self, order: Sequence[str], files: Mapping[str, tuple[bytes, int]]) -> Iterator[bytes]:
        """What follows the tensors' planes in the payload, piece by piece."""
        for shared in map(self._contents.shared.__getitem__, order):
            if self._shared_payload is not None:
                yield from self._shared_payload.pieces(shared.start, sum(shared.lengths))
        for compressed, _ in files.values():
            yield compressed

    def _head(self, order: Sequence[str], files: Mapping[str, tuple[bytes, int]]) -> tuple[bytes, int]:
        """Header and manifest, and the bytes of the payload after them."""
        checksums, size = copy.deepcopy(self._checksums), self._payload.size
        for piece in self._after(order, files):
            checksums.update(piece)
            size += len(piece)
        listed = {name: (len(compressed), content) for name, (compressed, content) in files.items()}
        manifest = self._contents.manifest(order, listed, checksums.digest())
        return frame_manifest(manifest.encode(), size, manifest.version), size

    def finish(self) -> int:
        """Write the file under a temporary name, sync and rename it; returns its size in bytes.

        Raises
        ------
        OutputError
            If it cannot be written, or stacks refer to shared planes that are not there or to each other in a circle; a
            file that stood there before is left as it was.
        """
        order = self._contents.order()
        head, size = self._head(order, self._files)
        with writing(self.path), atomic_file(self.path) as temporary, temporary.open("wb") as file:
            file.write(head)
            for piece in self._payload.pieces(0, self._payload.size):
                file.write(piece)
            for piece in self._after(order, self._files):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        self.close()
        return len(head) + size

    def close(self) -> None:
        """Drop what was collected."""
        self._payload.close()
        if self._shared_payload is not None:
            self._shared_payload.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
