"""The coders, side by side: integers in, bytes out, and back."""

from __future__ import annotations

import lzma
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import nncodec_peer
import numpy as np
import torch
from integer_planes import Plane

from stackc.core.packer import Packer
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec


class Coder(ABC):
    """A coder with one or more ways to lay the integers out; the smallest result counts, and which one it is costs nothing."""

    name: str
    #: Whether it is part of stackc.
    ours: bool = False

    def forms(self, plane: Plane) -> list[str]:
        """Ways to code this plane."""
        return [""]

    @abstractmethod
    def encode(self, plane: Plane, form: str) -> bytes:
        """Bytes of the plane."""

    @abstractmethod
    def decode(self, data: bytes, plane: Plane, form: str) -> np.ndarray:
        """Codes again; of ``plane`` only shape and bounds may be used."""


class Stackc(Coder):
    """A packer of stackc."""

    def __init__(self, packer: Packer, *, ours: bool) -> None:
        self.name = packer.name
        self.ours = ours
        self._packer = packer

    @staticmethod
    def _spec(plane: Plane) -> PlaneSpec:
        return PlaneSpec(plane.codes.shape, "int8", plane.lo, plane.hi)

    def encode(self, plane: Plane, form: str) -> bytes:
        _, data = self._packer.choose(torch.from_numpy(plane.codes), self._spec(plane))
        return data

    def decode(self, data: bytes, plane: Plane, form: str) -> np.ndarray:
        return np.asarray(self._packer.unpack(data, self._spec(plane)).numpy())


class Chooser(Stackc):
    """A packer that stores which other one it chose; that name is part of a file's manifest, not of the plane."""

    def encode(self, plane: Plane, form: str) -> bytes:
        self._chosen, data = self._packer.choose(torch.from_numpy(plane.codes), self._spec(plane))
        return data

    def decode(self, data: bytes, plane: Plane, form: str) -> np.ndarray:
        return np.asarray(self._chosen.unpack(data, self._spec(plane)).numpy())


class NNCodec(Coder):
    """NNCodec's arithmetic coder, plain and in the form that knows the alphabet; the payload alone, without unit headers."""

    name = "nncodec"

    def forms(self, plane: Plane) -> list[str]:
        return ["plain", "alphabet"]

    def encode(self, plane: Plane, form: str) -> bytes:
        alphabet = (plane.lo, plane.hi) if form == "alphabet" else None
        return nncodec_peer.encode_integers(plane.codes.astype(np.int32), alphabet=alphabet)

    def decode(self, data: bytes, plane: Plane, form: str) -> np.ndarray:
        alphabet = (plane.lo, plane.hi) if form == "alphabet" else None
        return nncodec_peer.decode_integers(data, plane.codes.shape, alphabet=alphabet).astype(np.int8)


class GeneralPurpose(Coder):
    """A compressor of bytes: one byte for each code, or several codes in a byte where the alphabet is small."""

    def __init__(self, name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes]) -> None:
        self.name = name
        self._compress = compress
        self._decompress = decompress

    def forms(self, plane: Plane) -> list[str]:
        symbols = plane.hi - plane.lo + 1
        packed = {2: ["8 a byte"], 3: ["5 a byte", "4 a byte"]}.get(symbols, ["2 a byte"] if symbols <= 16 else [])
        return ["1 a byte", *packed]

    def encode(self, plane: Plane, form: str) -> bytes:
        return self._compress(_pack(plane, int(form[0])))

    def decode(self, data: bytes, plane: Plane, form: str) -> np.ndarray:
        return _unpack(self._decompress(data), plane, int(form[0]))


_BASES = {8: 2, 5: 3, 4: 4, 2: 16}


def _pack(plane: Plane, count: int) -> bytes:
    if count == 1:
        return plane.codes.tobytes()
    symbols = (plane.codes.reshape(-1).astype(np.int16) - plane.lo).astype(np.uint8)
    padded = np.concatenate([symbols, np.zeros(-symbols.size % count, np.uint8)]).reshape(-1, count)
    return (padded @ _weights(count)).astype(np.uint8).tobytes()


def _unpack(data: bytes, plane: Plane, count: int) -> np.ndarray:
    if count == 1:
        return np.frombuffer(data, np.int8).reshape(plane.codes.shape)
    digits = np.frombuffer(data, np.uint8)[:, None] // _weights(count) % _BASES[count]
    return (
        (digits.reshape(-1)[: plane.codes.size].astype(np.int16) + plane.lo).astype(np.int8).reshape(plane.codes.shape)
    )


def _weights(count: int) -> np.ndarray:
    return (_BASES[count] ** np.arange(count)).astype(np.uint8)


def _zstd(level: int) -> Coder:
    import zstandard

    # No magic number, length or checksum: a file around the plane knows these.
    options: dict[str, Any] = {"write_content_size": False, "write_checksum": False}
    magicless = zstandard.FORMAT_ZSTD1_MAGICLESS

    def compress(data: bytes) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=len(data), format=magicless, **options
        )
        return bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(data))

    def decompress(data: bytes) -> bytes:
        reader = zstandard.ZstdDecompressor(format=magicless, max_window_size=1 << 31).decompressobj()
        return bytes(reader.decompress(data))

    return GeneralPurpose(f"zstd-{level}", compress, decompress)


def _xz() -> Coder:
    # The payload of an .xz file without its headers; a dictionary larger than the data changes nothing but the time.
    def filters(size: int) -> list[dict[str, int]]:
        dictionary = min(max(size, 4096), 1 << 26)
        return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]

    def compress(data: bytes) -> bytes:
        return lzma.compress(data, lzma.FORMAT_RAW, filters=filters(len(data)))

    def decompress(data: bytes) -> bytes:
        return lzma.decompress(data, lzma.FORMAT_RAW, filters=filters(1 << 26))

    return GeneralPurpose("xz-9e", compress, decompress)


def _brotli() -> Coder:
    import brotli

    return GeneralPurpose("brotli-11", lambda data: brotli.compress(data, quality=11, lgwin=24), brotli.decompress)


def coders(names: list[str]) -> list[Coder]:
    """The coders of these names."""
    makers: dict[str, Callable[[], Coder]] = {
        "context": lambda: Stackc(find_packer("context"), ours=True),
        "auto": lambda: Chooser(find_packer("auto"), ours=True),
        "nncodec": NNCodec,
        "ans": lambda: Stackc(find_packer("ans"), ours=False),
        "zstd-22": lambda: _zstd(22),
        "zstd-3": lambda: _zstd(3),
        "xz-9e": _xz,
        "brotli-11": _brotli,
    }
    return [makers[name]() for name in names]


#: Those that a result must not be larger than.
PEERS = ("zstd-22", "xz-9e", "brotli-11", "ans", "nncodec")
OURS = ("context", "auto")
