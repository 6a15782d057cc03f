"""What an artifact says about itself: the model, its tensors and their stacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from stackc.artifact.container import PLAIN_VERSION, SHARING_VERSION
from stackc.artifact.counting import items_of, require_few_items
from stackc.artifact.limits import (
    CONFIG_ITEMS_PER_BYTE,
    FREE_CONFIG_ITEMS,
    FREE_TENSORS,
    FREE_TIES,
    MAX_BASES,
    MAX_BUNDLED,
    MAX_CONFIG_DEPTH,
    MAX_STORED_PLANES,
)
from stackc.core.spec import ITEM_BYTES, MAX_AXES, RESERVED_NAME, PlaneSpec
from stackc.models.companions import may_be_bundled
from stackc.util.errors import ArtifactError, ModelError

#: Position in this list is the number of a dtype in the manifest; append only.
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
assert set(DTYPES) == set(ITEM_BYTES)

KINDS = ("transformers", "safetensors", "module")

#: Bytes of a SHA-256.
_DIGEST_BYTES = 32

#: First bytes of what a config may be in MessagePack.
_MAP_OR_NIL = frozenset(bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF, 0xC0))


class TensorEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One distinct tensor.

    Parameters
    ----------
    stack : int
        Number of its stack in the manifest's table.
    dtype : int
        Number in `DTYPES`.
    shape : list of int
        Length of every axis.
    lengths : list of int
        Bytes of each stored plane, in the order of the stack's leaves.
    """

    stack: int
    dtype: int
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_AXES)]
    lengths: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_STORED_PLANES)]

    @property
    def spec(self) -> PlaneSpec:
        """Spec of the decoded tensor."""
        dtype = DTYPES[self.dtype]
        return PlaneSpec(self.shape, dtype, 0, 1) if dtype == "bool" else PlaneSpec(self.shape, dtype)


class SharedEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One plane that stacks refer to by its number in the manifest's plane table.

    Parameters
    ----------
    stack : int, optional
        Number of its stack in the manifest's table; none for a tensor of a base model.
    dtype : int
        Number in `DTYPES`.
    shape : list of int
        Length of every axis.
    lengths : list of int
        Bytes of each plane that is stored for it, in the order of the stack's leaves.
    low, high : int, optional
        Bounds of an integer plane, where it has any.
    base : (int, str), optional
        Number of the base model and name of the tensor in it, for one that lies there.
    """

    stack: int | None
    dtype: int
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_AXES)]
    lengths: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_STORED_PLANES)]
    low: int | None
    high: int | None
    base: tuple[int, str] | None

    @property
    def spec(self) -> PlaneSpec:
        """Spec of the plane."""
        return PlaneSpec(self.shape, DTYPES[self.dtype], self.low, self.high)


class BaseEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A model outside of the file that some of its planes lie in.

    Parameters
    ----------
    sha256 : bytes
        Its fingerprint; see `stackc.core.fingerprint`.
    hint : str
        What it was called where the file was made, for people. Nothing is opened because of it.
    """

    sha256: bytes
    hint: str


class Manifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest; see ``docs/format.md`` for the meaning of every field.

    What may hold anything at all, the config and the stacks, stays as it is in the file until somebody asks for it.

    Parameters
    ----------
    kind : int
        Number in `KINDS`.
    config : msgspec.Raw
        Hugging Face configuration of the model, as in its ``config.json``, or nil; see `pack_config` and `unpack_config`.
    stacks : list of msgspec.Raw
        Table of stacks, as `stackc.core.stack.to_wire` writes them.
    names : list of str
        Name of each tensor.
    tensors : list of TensorEntry
        In the order of ``names`` and of the payload.
    ties : dict
        Number of the tensor that a further name stands for.
    bundle : dict
        ``{file name: (compressed bytes, bytes)}`` of files that follow the planes, each one zstd frame.
    checksums : bytes
        CRC-32 of every 64 KiB of the payload.
    shared : list of SharedEntry
        The plane table, in the order of the payload; none in version 1. A plane refers only to those after it.
    bases : list of BaseEntry
        Models that planes of the table lie in; none in version 1.
    """

    kind: int
    config: msgspec.Raw
    stacks: list[msgspec.Raw]
    names: list[str]
    tensors: list[TensorEntry]
    ties: dict[str, int]
    bundle: dict[str, tuple[int, int]]
    checksums: bytes
    shared: list[SharedEntry] = []
    bases: list[BaseEntry] = []

    @property
    def version(self) -> int:
        """The first version of the format that can say all this."""
        return SHARING_VERSION if self.shared or self.bases else PLAIN_VERSION

    def encode(self) -> bytes:
        """MessagePack form in that version."""
        fields = msgspec.structs.astuple(self)
        return msgspec.msgpack.encode(fields if self.version == SHARING_VERSION else fields[:_PLAIN_FIELDS])


class _PlainSections(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest of version 1 before any object is made of what it lists."""

    kind: msgspec.Raw
    config: msgspec.Raw
    stacks: msgspec.Raw
    names: msgspec.Raw
    tensors: msgspec.Raw
    ties: msgspec.Raw
    bundle: msgspec.Raw
    checksums: msgspec.Raw


class _Sections(_PlainSections, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest before any object is made of what it lists."""

    shared: msgspec.Raw
    bases: msgspec.Raw


_PLAIN_FIELDS = len(_PlainSections.__struct_fields__)


def _upgraded(plain: _PlainSections) -> _Sections:
    """What a manifest of version 1 is in version 2: nothing is shared, and there is no base."""
    nothing = msgspec.Raw(msgspec.msgpack.encode([]))
    return _Sections(**msgspec.structs.asdict(plain), shared=nothing, bases=nothing)


def pack_config(config: Mapping[str, Any] | None) -> msgspec.Raw:
    """A config as the manifest holds it.

    Raises
    ------
    ModelError
        If it holds what MessagePack cannot: integers of more than 64 bits, or itself.

    Examples
    --------
    >>> unpack_config(pack_config({"hidden_size": 4}), file_bytes=100)
    {'hidden_size': 4}
    """
    try:
        return msgspec.Raw(msgspec.msgpack.encode(None if config is None else dict(config)))
    except (OverflowError, TypeError, RecursionError) as error:
        raise ModelError(f"the config of the model cannot be stored: {error}") from error


def unpack_config(config: msgspec.Raw, file_bytes: int) -> dict[str, Any] | None:
    """Inverse of `pack_config`, for a file of so many bytes.

    Raises
    ------
    ArtifactError
        If it is no map with texts for keys, or has more in it than a config has.
    """
    try:
        require_few_items(config, FREE_CONFIG_ITEMS + CONFIG_ITEMS_PER_BYTE * file_bytes, MAX_CONFIG_DEPTH)
        return msgspec.msgpack.decode(config, type=dict[str, Any] | None)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(str(error)) from error


def decode_manifest(data: bytes, name: str, file_bytes: int, version: int = PLAIN_VERSION) -> Manifest:
    """Parse and cross-check a manifest.

    Parameters
    ----------
    data : bytes
        Its MessagePack form.
    name : str
        Name of the file, for messages.
    file_bytes : int
        Size of the file, which bounds how much it may list.
    version : int
        The format version that the file states.

    Raises
    ------
    ArtifactError
        If it does not have the form of one.
    """
    try:
        if version == PLAIN_VERSION:
            sections = _upgraded(msgspec.msgpack.decode(data, type=_PlainSections))
            data = msgspec.msgpack.encode(sections)
        else:
            sections = msgspec.msgpack.decode(data, type=_Sections)
        problem = _surplus(sections, file_bytes)
        if problem is None:
            manifest = msgspec.msgpack.decode(data, type=Manifest)
            problem = _problem(manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{name} is damaged: its manifest does not parse ({error})") from error
    if problem is not None:
        raise ArtifactError(f"{name} is damaged: {problem}")
    return manifest


def _surplus(sections: _Sections, file_bytes: int) -> str | None:
    """What the manifest lists more of than there can be."""
    names, tensors, stacks = map(items_of, (sections.names, sections.tensors, sections.stacks))
    shared, bases = map(items_of, (sections.shared, sections.bases))
    if names != tensors:
        return f"it has {names} names for {tensors} tensors"
    if stacks > tensors + shared:
        return f"it has {stacks} stacks for {tensors} tensors{f' and {shared} shared planes' if shared else ''}"
    if tensors > FREE_TENSORS + file_bytes:
        return f"it lists {tensors} tensors in {file_bytes} bytes"
    if shared > FREE_TENSORS + file_bytes:
        return f"it lists {shared} shared planes in {file_bytes} bytes"
    if bases > min(shared, MAX_BASES):
        return f"it lists {bases} base models for {shared} shared planes"
    if items_of(sections.ties) > FREE_TIES + tensors:
        return f"it has {items_of(sections.ties)} ties for {tensors} tensors"
    if items_of(sections.bundle) > MAX_BUNDLED:
        return f"it bundles {items_of(sections.bundle)} files, more than {MAX_BUNDLED}"
    return None


def _problem(manifest: Manifest) -> str | None:
    count = len(manifest.tensors)
    if not 0 <= manifest.kind < len(KINDS):
        return f"its kind of model is number {manifest.kind}, which is not known"
    if bytes(memoryview(manifest.config)[:1]) not in _MAP_OR_NIL:
        return "its config is no map"
    if len({*manifest.names, *manifest.ties}) != count + len(manifest.ties):
        return "a tensor name stands twice"
    if RESERVED_NAME in manifest.names or RESERVED_NAME in manifest.ties:
        return f"a tensor is called {RESERVED_NAME}, which no safetensors file can hold"
    if any(not 0 <= index < count for index in manifest.ties.values()):
        return "a tied name stands for a tensor that is not there"
    if any(not 0 <= entry.stack < len(manifest.stacks) for entry in manifest.tensors):
        return "a tensor has a stack that is not there"
    entries: list[TensorEntry | SharedEntry] = [*manifest.tensors, *manifest.shared]
    for entry in entries:
        if not 0 <= entry.dtype < len(DTYPES):
            return "a tensor has a dtype that is not known"
        if any(length < 0 for length in (*entry.shape, *entry.lengths)):
            return "a length is negative"
    if any(min(sizes) < 0 for sizes in manifest.bundle.values()):
        return "a bundled file has a negative length"
    if any(len(base.sha256) != _DIGEST_BYTES for base in manifest.bases):
        return f"the fingerprint of a base model has other than {_DIGEST_BYTES} bytes"
    wrong = next(filter(None, (_shared_problem(entry, manifest) for entry in manifest.shared)), None)
    if wrong is not None:
        return wrong
    # What is bundled is written beside the decoded model: data of a list of names, and nothing that stands in for the model.
    foreign = next((name for name in manifest.bundle if not may_be_bundled(name)), None)
    if foreign is not None:
        return f"it bundles {foreign[:80]!r}, which is not the name of a tokenizer file or another companion of a model"
    return None


def _shared_problem(entry: SharedEntry, manifest: Manifest) -> str | None:
    if (entry.stack is None) == (entry.base is None):
        return "a shared plane is to be stored in the file or to lie in a base model, one of the two"
    if entry.stack is not None and not 0 <= entry.stack < len(manifest.stacks):
        return "a shared plane has a stack that is not there"
    if entry.base is not None and not 0 <= entry.base[0] < len(manifest.bases):
        return "a shared plane lies in a base model that is not there"
    if entry.base is not None and entry.lengths:
        return "a shared plane that lies in a base model has bytes in the file"
    return None
