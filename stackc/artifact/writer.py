"""Write an artifact: tensors one after another, the file in one step at the end."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from stackc.artifact.container import BlockChecksums, compress, frame_manifest
from stackc.artifact.manifest import DTYPES, KINDS, Manifest, TensorEntry, pack_config
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, to_wire
from stackc.util.output import writing
from stackc.util.partial import atomic_file


class ArtifactWriter:
    """Collects encoded tensors and writes the file when `finish` is called; without it nothing is left behind.

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
        self._kind = KINDS.index(kind)
        self._config = pack_config(config)
        self._stacks: dict[bytes, int] = {}
        self._names: list[str] = []
        self._tensors: list[TensorEntry] = []
        self._ties: dict[str, int] = {}
        self._bundle: dict[str, tuple[int, int]] = {}
        self._checksums = BlockChecksums()
        self.payload_bytes = 0
        with writing(path):
            self._payload = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - lives as long as the writer

    def add(self, names: Sequence[str], spec: PlaneSpec, stack: Stack, planes: Sequence[bytes]) -> None:
        """Append one tensor: its first name and its ties, and its packed planes in stored order."""
        number = self._stacks.setdefault(msgspec.msgpack.encode(to_wire(stack)), len(self._stacks))
        self._ties.update(dict.fromkeys(names[1:], len(self._names)))
        self._names.append(names[0])
        self._tensors.append(
            TensorEntry(number, DTYPES.index(spec.dtype), spec.shape, tuple(len(plane) for plane in planes))
        )
        for plane in planes:
            self._append(plane)

    def add_file(self, name: str, content: bytes) -> None:
        """Append a bundled file; call it after the last tensor."""
        compressed = compress(content)
        self._bundle[name] = (len(compressed), len(content))
        self._append(compressed)

    def _append(self, data: bytes) -> None:
        self._checksums.update(data)
        self.payload_bytes += len(data)
        with writing(self.path):
            self._payload.write(data)

    def projected_bytes(self, files: Mapping[str, bytes]) -> int:
        """Size of the file if it were finished now with these files bundled; exact, and nothing is written."""
        checksums, bundle, size = copy.deepcopy(self._checksums), dict(self._bundle), self.payload_bytes
        for name, content in files.items():
            compressed = compress(content)
            checksums.update(compressed)
            bundle[name] = (len(compressed), len(content))
            size += len(compressed)
        return len(self._head(bundle, checksums, size)) + size

    def _head(self, bundle: dict[str, tuple[int, int]], checksums: BlockChecksums, payload_bytes: int) -> bytes:
        manifest = Manifest(
            kind=self._kind,
            config=self._config,
            stacks=list(map(msgspec.Raw, self._stacks)),
            names=self._names,
            tensors=self._tensors,
            ties=self._ties,
            bundle=bundle,
            checksums=checksums.digest(),
        )
        return frame_manifest(manifest.encode(), payload_bytes)

    def finish(self) -> int:
        """Write the file under a temporary name, sync and rename it; returns its size in bytes.

        Raises
        ------
        OutputError
            If it cannot be written; a file that stood there before is left as it was.
        """
        head = self._head(self._bundle, self._checksums, self.payload_bytes)
        with writing(self.path), atomic_file(self.path) as temporary, temporary.open("wb") as file:
            file.write(head)
            self._payload.seek(0)
            shutil.copyfileobj(self._payload, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        self.close()
        return len(head) + self.payload_bytes

    def close(self) -> None:
        """Drop what was collected."""
        with contextlib.suppress(OSError):  # a full disk: what cannot be flushed is not wanted either
            self._payload.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
