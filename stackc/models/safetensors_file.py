"""Safetensors files: the header without torch, one tensor at a time, and a bare file as a reference.

Source of the format: the section "Format" of the safetensors README. The header is read here because planning a recipe
needs names, dtypes and shapes only, and must not wait for torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from stackc.core.spec import ITEM_BYTES, PlaneSpec
from stackc.models.reference import Kind, Reference, require_known
from stackc.util.errors import ModelError
from stackc.util.lazy import torch
from stackc.util.paths import require_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

_LENGTH_BYTES = 8
#: The cap that the safetensors library itself sets.
_MAX_HEADER_BYTES = 100_000_000
_MAX_AXES = 64
_CHUNK_BYTES = 1 << 20

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class StoredTensor(NamedTuple):
    """One tensor of a safetensors file: its spec and the position of its bytes in the file."""

    spec: PlaneSpec
    start: int
    stop: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Names, specs and positions of the tensors of a safetensors file, in the order of their bytes.

    Parameters
    ----------
    path : Path
        The file; only its header is read.

    Raises
    ------
    ModelError
        If the file cannot be read, is not a safetensors file, is truncated or damaged (lengths, offsets, holes and
        overlaps are checked), or holds a dtype that stackc does not support.
    """
    try:
        require_regular(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            start = _LENGTH_BYTES + length
            if size < _LENGTH_BYTES or start > size:
                raise ModelError(f"{path} is truncated, or not a safetensors file: it has {size} bytes")
            if length > _MAX_HEADER_BYTES:
                raise ModelError(f"{path} has a header of {length} bytes; safetensors allows {_MAX_HEADER_BYTES}")
            header = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    tensors = sorted(_parse(header, path, start), key=lambda item: (item[1].start, item[1].stop))
    _require_gapless(tensors, start, size, path)
    return dict(tensors)


def _parse(header: bytes, path: Path, start: int) -> Iterator[tuple[str, StoredTensor]]:
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        decoder = msgspec.json.Decoder(_Entry)
        for name, raw in entries.items():
            entry = decoder.decode(raw)
            first, last = entry.data_offsets
            yield name, StoredTensor(_spec(name, entry, path), start + first, start + last)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(
            f"{path} is damaged, or not a safetensors file: its header does not parse ({error})"
        ) from error


def _spec(name: str, entry: _Entry, path: Path) -> PlaneSpec:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise ModelError(unsupported(name, path, entry.dtype))
    if len(entry.shape) > _MAX_AXES or any(length < 0 for length in entry.shape):
        raise ModelError(f"{path} is damaged: the shape of {name!r} is not possible")
    spec = PlaneSpec(tuple(entry.shape), dtype, *((0, 1) if dtype == "bool" else ()))
    first, last = entry.data_offsets
    if last - first != spec.nbytes:
        raise ModelError(f"{path} is damaged: {name!r} is {spec}, but the file gives it {last - first} bytes")
    return spec


def _require_gapless(tensors: list[tuple[str, StoredTensor]], start: int, size: int, path: Path) -> None:
    end = start
    for name, stored in tensors:
        if stored.start != end:
            raise ModelError(f"{path} is damaged: {name!r} leaves a hole or overlaps the tensor before it")
        end = stored.stop
    if end != size:
        raise ModelError(f"{path} is damaged or truncated: its header describes {end} bytes, the file has {size}")


def unsupported(name: str, where: object, dtype: object) -> str:
    """The sentence that refuses a tensor because of its dtype."""
    return (
        f"{name!r} in {where} has dtype {dtype}, which stackc does not support: "
        f"start from a model whose tensors are {', '.join(ITEM_BYTES)}"
    )


def read_tensor(path: Path, name: str, spec: PlaneSpec) -> Tensor:
    """One tensor of a safetensors file: a contiguous copy that leaves no mapping of the file behind.

    Raises
    ------
    ModelError
        If the file changed since its header was read, or a bool tensor holds a byte other than 0 and 1.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            mapped: Tensor = file.get_tensor(name)
            if mapped.dtype == torch.bool and mapped.numel() and int(mapped.view(torch.uint8).max()) > 1:
                raise ModelError(f"{path} is damaged: {name!r} is bool but holds a byte other than 0 and 1")
            tensor = mapped.clone()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{name!r} cannot be read from {path}: {error}") from error
    difference = spec.mismatch(tensor)
    if difference is not None:
        raise ModelError(f"{path} changed while it was in use: {name!r}: {difference}")
    return tensor


def read_chunks(path: Path, stored: StoredTensor) -> Iterator[bytes]:
    """Bytes of one tensor in pieces of at most 1 MiB.

    Raises
    ------
    ModelError
        If the file changed since its header was read.
    """
    try:
        with path.open("rb") as file:
            file.seek(stored.start)
            left = stored.stop - stored.start
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise ModelError(f"{path} became shorter while it was read")
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SafetensorsReference(Reference):
    """A bare weights file: enough for sizes and weight errors; there is no architecture to build."""

    kind: ClassVar[Kind] = "safetensors"

    path: Path
    stored: Mapping[str, StoredTensor] = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: Path, source: str) -> SafetensorsReference:
        """Read the header of a file.

        Raises
        ------
        ModelError
            See `read_header`.
        """
        stored = read_header(path)
        specs = {name: tensor.spec for name, tensor in stored.items()}
        return cls(source=source, specs=specs, path=path, stored=stored)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor; see `Reference.tensor`."""
        require_known(name, self)
        return read_tensor(self.path, name, self.specs[name])

    def chunks(self, name: str) -> Iterator[bytes]:
        """Bytes of one tensor; see `Reference.chunks`."""
        require_known(name, self)
        return read_chunks(self.path, self.stored[name])

    def build(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Always refused: a bare file has no architecture.

        Raises
        ------
        ModelError
            Says what to give instead.
        """
        raise ModelError(
            f"{self.source} is a bare weights file and says nothing about the architecture, so no model can be built: "
            "give the Hugging Face folder with its config.json, or a factory as package.module:function"
        )

    def tokenizer(self) -> Any | None:
        """None: a bare file has no tokenizer."""
        return None
