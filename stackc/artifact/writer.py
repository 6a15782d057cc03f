"""Write an artifact: tensors one after another, the file in one step at the end."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from stackc.artifact.bases import Base
from stackc.artifact.container import BlockChecksums, compress, frame_manifest
from stackc.artifact.manifest import DTYPES, KINDS, BaseEntry, Manifest, SharedEntry, TensorEntry, pack_config
from stackc.artifact.order import numbered
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, shared_name, shared_planes, to_wire
from stackc.util.errors import OutputError
from stackc.util.output import writing
from stackc.util.partial import atomic_file

_PIECE = 1 << 20


class _Shared(NamedTuple):
    """A shared plane on its way to the file: its stack, bytes of its stored planes and where they are, or its base."""

    spec: PlaneSpec
    stack: Stack | None = None
    lengths: tuple[int, ...] = ()
    start: int = 0
    outside: tuple[Base, str] | None = None

    @property
    def uses(self) -> list[str]:
        """Names of the shared planes that it refers to."""
        return [] if self.stack is None else shared_planes(self.stack)


class _Stacks:
    """The table of stacks: each once, in the order in which they are first used."""

    def __init__(self) -> None:
        #: Number of each by a wire that tells it from the others, and what its own wire is made from if that is another one.
        self._numbers: dict[bytes, int] = {}
        self._referring: dict[int, Stack] = {}
        self._seen: dict[str, int] = {}

    def copy(self) -> _Stacks:
        other = _Stacks()
        other._numbers, other._referring, other._seen = dict(self._numbers), dict(self._referring), dict(self._seen)
        return other

    def number(self, stack: Stack) -> int:
        planes = shared_planes(stack)
        for plane in planes:  # which number it has in the file is not known yet
            self._seen.setdefault(plane, len(self._seen))
        number = self._numbers.setdefault(_encoded(stack, self._seen), len(self._numbers))
        if planes:
            self._referring[number] = stack
        return number

    def wires(self, numbers: Mapping[str, int]) -> list[msgspec.Raw]:
        """The table, with these numbers for shared planes."""
        wires = list(self._numbers)
        for number, stack in self._referring.items():
            wires[number] = _encoded(stack, numbers)
        return list(map(msgspec.Raw, wires))


def _encoded(stack: Stack, numbers: Mapping[str, int]) -> bytes:
    return msgspec.msgpack.encode(to_wire(stack, numbers))


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
        self._kind = KINDS.index(kind)
        self._config = pack_config(config)
        self._stacks = _Stacks()
        self._names: list[str] = []
        self._tensors: list[TensorEntry] = []
        self._ties: dict[str, int] = {}
        self._wanted: dict[str, None] = {}
        self._shared: dict[str, _Shared] = {}
        self._files: dict[str, tuple[bytes, int]] = {}
        self._checksums = BlockChecksums()
        self._payload = _Spool(path)
        self._shared_payload: _Spool | None = None

    def add(self, names: Sequence[str], spec: PlaneSpec, stack: Stack, planes: Sequence[bytes]) -> None:
        """Append one tensor: its first name and its ties, and its packed planes in stored order."""
        self._wanted.update(dict.fromkeys(shared_planes(stack)))
        self._ties.update(dict.fromkeys(names[1:], len(self._names)))
        self._names.append(names[0])
        lengths = tuple(len(plane) for plane in planes)
        self._tensors.append(TensorEntry(self._stacks.number(stack), DTYPES.index(spec.dtype), spec.shape, lengths))
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
        self._take(name, _Shared(spec, stack, tuple(len(plane) for plane in planes), start))
        for plane in planes:
            self._shared_payload.append(plane)

    def add_outside(self, name: str, spec: PlaneSpec, base: Base, tensor: str) -> None:
        """Take a plane that stacks refer to by a name, and that is a tensor of another model.

        Raises
        ------
        OutputError
            If there is one of this name.
        """
        self._take(name, _Shared(spec, outside=(base, tensor)))

    def _take(self, name: str, shared: _Shared) -> None:
        if name in self._shared:
            raise OutputError(f"the shared plane {name!r} was given twice: the file cannot be written")
        self._shared[name] = shared

    def add_file(self, name: str, content: bytes) -> None:
        """Append a bundled file."""
        self._files[name] = (compress(content), len(content))

    @property
    def payload_bytes(self) -> int:
        """Bytes of the payload if the file were finished now."""
        return self._payload.size + sum(map(len, self._after(self._order(), self._files)))

    def projected_bytes(self, files: Mapping[str, bytes]) -> int:
        """Size of the file if it were finished now with these files bundled; exact, and nothing is written."""
        bundle = self._files | {name: (compress(content), len(content)) for name, content in files.items()}
        head, size = self._head(self._order(), bundle)
        return len(head) + size

    def file_names(self) -> dict[str, str]:
        """What a reader calls the shared planes of the file, by their names here; those that it leaves out are not in it."""
        return {name: shared_name(number) for number, name in enumerate(self._order())}

    def _order(self) -> list[str]:
        """The shared planes in the order of the file."""
        if not self._wanted:
            return []
        return numbered({name: shared.uses for name, shared in self._shared.items()}, self._wanted)

    def _after(self, order: Sequence[str], files: Mapping[str, tuple[bytes, int]]) -> Iterator[bytes]:
        """What follows the tensors' planes in the payload, piece by piece."""
        for shared in map(self._shared.__getitem__, order):
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
        stacks, bases = self._stacks.copy(), dict[str, Base]()
        manifest = Manifest(
            kind=self._kind,
            config=self._config,
            names=self._names,
            tensors=self._tensors,
            ties=self._ties,
            bundle={name: (len(compressed), content) for name, (compressed, content) in files.items()},
            checksums=checksums.digest(),
            shared=[_entry(self._shared[name], stacks, bases) for name in order],
            stacks=stacks.wires({name: number for number, name in enumerate(order)}),
            bases=[BaseEntry(bytes.fromhex(base.sha256), base.hint) for base in bases.values()],
        )
        return frame_manifest(manifest.encode(), size, manifest.version), size

    def finish(self) -> int:
        """Write the file under a temporary name, sync and rename it; returns its size in bytes.

        Raises
        ------
        OutputError
            If it cannot be written, or stacks refer to shared planes that are not there or to each other in a circle; a
            file that stood there before is left as it was.
        """
        order = self._order()
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


def _entry(shared: _Shared, stacks: _Stacks, bases: dict[str, Base]) -> SharedEntry:
    """A line of the plane table; puts what it needs into the other tables."""
    spec, base = shared.spec, None
    if shared.outside is not None:
        model, tensor = shared.outside
        bases.setdefault(model.sha256, model)
        base = (list(bases).index(model.sha256), tensor)
    return SharedEntry(
        stack=None if shared.stack is None else stacks.number(shared.stack),
        dtype=DTYPES.index(spec.dtype),
        shape=spec.shape,
        lengths=shared.lengths,
        low=spec.lo,
        high=spec.hi,
        base=base,
    )
