"""What a file will list, collected tensor by tensor: the manifest before it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from stackc.artifact.bases import Base
from stackc.artifact.container import BLOCK_BYTES, compress, frame_manifest
from stackc.artifact.manifest import DTYPES, KINDS, BaseEntry, Manifest, SharedEntry, TensorEntry, pack_config
from stackc.artifact.order import numbered
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Stack, shared_planes, to_wire
from stackc.util.errors import OutputError


class SharedPlane(NamedTuple):
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


class Contents:
    """The tensors of a file, the planes that they share, and the tables that these need.

    Parameters
    ----------
    kind : str
        ``transformers``, ``safetensors`` or ``module``.
    config : dict or None
        Hugging Face configuration.

    Attributes
    ----------
    shared : dict
        The shared planes by name.
    """

    def __init__(self, kind: str, config: Mapping[str, Any] | None) -> None:
        self._kind = KINDS.index(kind)
        self._config = pack_config(config)
        self._stacks = _Stacks()
        self._names: list[str] = []
        self._tensors: list[TensorEntry] = []
        self._ties: dict[str, int] = {}
        self._wanted: dict[str, None] = {}
        self.shared: dict[str, SharedPlane] = {}

    def add(self, names: Sequence[str], spec: PlaneSpec, stack: Stack, lengths: tuple[int, ...]) -> None:
        """List a tensor: its first name and its ties, and the bytes of its packed planes in stored order."""
        self._wanted.update(dict.fromkeys(shared_planes(stack)))
        self._ties.update(dict.fromkeys(names[1:], len(self._names)))
        self._names.append(names[0])
        self._tensors.append(TensorEntry(self._stacks.number(stack), DTYPES.index(spec.dtype), spec.shape, lengths))

    def add_shared(self, name: str, plane: SharedPlane) -> None:
        """List a plane that stacks refer to by a name.

        Raises
        ------
        OutputError
            If there is one of this name.
        """
        if name in self.shared:
            raise OutputError(f"the shared plane {name!r} was given twice: the file cannot be written")
        self.shared[name] = plane

    def order(self) -> list[str]:
        """The shared planes in the order of the file; those that nothing refers to are not among them."""
        if not self._wanted:
            return []
        return numbered({name: plane.uses for name, plane in self.shared.items()}, self._wanted)

    def manifest(self, order: Sequence[str], files: Mapping[str, tuple[int, int]], checksums: bytes) -> Manifest:
        """The manifest, with bundled files by name: their compressed and their own bytes."""
        stacks, bases = self._stacks.copy(), dict[str, Base]()
        return Manifest(
            kind=self._kind,
            config=self._config,
            names=self._names,
            tensors=self._tensors,
            ties=self._ties,
            bundle=dict(files),
            checksums=checksums,
            shared=[_entry(self.shared[name], stacks, bases) for name in order],
            stacks=stacks.wires({name: number for number, name in enumerate(order)}),
            bases=[BaseEntry(bytes.fromhex(base.sha256), base.hint) for base in bases.values()],
        )

    def expected_bytes(self, files: Mapping[str, bytes]) -> int:
        """Size of a file with these contents and bundled files, but for what compression makes of its checksums."""
        order = self.order()
        listed = {name: (len(compress(content)), len(content)) for name, content in files.items()}
        payload = sum(sum(entry.lengths) for entry in self._tensors) + sum(packed for packed, _ in listed.values())
        payload += sum(sum(self.shared[name].lengths) for name in order)
        blocks = -(-payload // BLOCK_BYTES)
        checksums = hashlib.shake_128(b"").digest(4 * blocks)  # as hard to compress as real ones
        manifest = self.manifest(order, listed, checksums)
        return len(frame_manifest(manifest.encode(), payload, manifest.version)) + payload


def _entry(shared: SharedPlane, stacks: _Stacks, bases: dict[str, Base]) -> SharedEntry:
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
