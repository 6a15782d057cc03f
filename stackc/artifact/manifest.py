"""What an artifact says about itself: the model, its tensors and their stacks."""

from __future__ import annotations

from typing import Any

import msgspec

from stackc.companions import may_be_bundled
from stackc.errors import ArtifactError, ModelError
from stackc.spec import ITEM_BYTES, RESERVED_NAME, PlaneSpec

#: Position in this list is the number of a dtype in the manifest; append only.
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
assert set(DTYPES) == set(ITEM_BYTES)

KINDS = ("transformers", "safetensors", "module")


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
    shape: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def spec(self) -> PlaneSpec:
        """Spec of the decoded tensor."""
        dtype = DTYPES[self.dtype]
        return PlaneSpec(self.shape, dtype, 0, 1) if dtype == "bool" else PlaneSpec(self.shape, dtype)


class Manifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The manifest; see ``docs/format.md`` for the meaning of every field.

    Parameters
    ----------
    kind : int
        Number in `KINDS`.
    config : dict or None
        Hugging Face configuration of the model, as in its ``config.json``.
    stacks : list
        Table of stacks, as `stackc.stack.to_wire` writes them.
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
    """

    kind: int
    config: dict[str, Any] | None
    stacks: list[Any]
    names: list[str]
    tensors: list[TensorEntry]
    ties: dict[str, int]
    bundle: dict[str, tuple[int, int]]
    checksums: bytes

    def encode(self) -> bytes:
        """MessagePack form.

        Raises
        ------
        ModelError
            If the config holds what MessagePack cannot: integers of more than 64 bits, or itself.
        """
        try:
            return msgspec.msgpack.encode(self)
        except (OverflowError, TypeError, RecursionError) as error:
            raise ModelError(f"the config of the model cannot be stored: {error}") from error


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Parse and cross-check a manifest.

    Raises
    ------
    ArtifactError
        If it does not have the form of one.
    """
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{name} is damaged: its manifest does not parse ({error})") from error
    problem = _problem(manifest)
    if problem:
        raise ArtifactError(f"{name} is damaged: {problem}")
    return manifest


def _problem(manifest: Manifest) -> str | None:
    count = len(manifest.tensors)
    if not 0 <= manifest.kind < len(KINDS):
        return f"its kind of model is number {manifest.kind}, which is not known"
    if len(manifest.names) != count:
        return f"it has {len(manifest.names)} names for {count} tensors"
    if len({*manifest.names, *manifest.ties}) != count + len(manifest.ties):
        return "a tensor name stands twice"
    if RESERVED_NAME in manifest.names or RESERVED_NAME in manifest.ties:
        return f"a tensor is called {RESERVED_NAME}, which no safetensors file can hold"
    if any(not 0 <= index < count for index in manifest.ties.values()):
        return "a tied name stands for a tensor that is not there"
    if any(not 0 <= entry.dtype < len(DTYPES) for entry in manifest.tensors):
        return "a tensor has a dtype that is not known"
    if any(not 0 <= entry.stack < len(manifest.stacks) for entry in manifest.tensors):
        return "a tensor has a stack that is not there"
    if any(length < 0 for entry in manifest.tensors for length in (*entry.shape, *entry.lengths)):
        return "a length is negative"
    if any(min(sizes) < 0 for sizes in manifest.bundle.values()):
        return "a bundled file has a negative length"
    # What is bundled is written beside the decoded model: data of a list of names, and nothing that stands in for the model.
    foreign = next((name for name in manifest.bundle if not may_be_bundled(name)), None)
    if foreign is not None:
        return f"it bundles {foreign[:80]!r}, which is not the name of a tokenizer file or another companion of a model"
    return None
