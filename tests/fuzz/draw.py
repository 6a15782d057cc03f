"""What mutants draw from: a generator for each number, and values at the edges of what fields may hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from tests.fuzz.parts import MAGIC

T = TypeVar("T")

INTEGERS = [
    *(-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257),
    *(4095, 4096, 65535, 65536, 65537, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40),
    *(1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -2, -128, -(1 << 15), -(1 << 31), -(1 << 63)),
]
FLOATS = [0.0, -0.0, 1.0, 0.5, -1.0, 1e-300, 5e-324, 1.7e308, 1.0000000000000002, float("nan"), float("inf"), -1e9]
TEXTS = [
    *("", "w", "\0", ".", "..", "a/b", "values/codes", "é", "\ud7ff", "x" * 300, "__metadata__", "config.json"),
    *("tokenizer.json", "model.safetensors", "tensor", "row", "group", "global", "auto", "float16", "bfloat16"),
    *("float32", "float64", "int8", "bool", "AAAAAA==", "AAAAAAAAAAA=", "!!!!", "prune", "seed", "int", "cast", "tcq"),
    *("codebook", "raw", "zstd", "ans", "floats", "context", "fp16", "heal", "none"),
]
STAGES = [
    "prune",
    "seed",
    "int",
    "cast",
    "share",
    "tcq",
    "codebook",
    "delta",
    "raw",
    "zstd",
    "ans",
    "floats",
    "context",
]
TOKENS = [
    *(b"", b"\0", b"\xff", b"\x80", b"\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\x80\x7f", b"\0\0\xc0\x7f"),
    *(b"\x20", b"\x40", b"\x01", b"\x02", b"\x03", b"\x08", b"\x10", b"\x18", b"\xf8\xff", b"\x28\xb5\x2f\xfd"),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\x91" * 40, b"\x81\xa0", MAGIC),
    *(b"\xff\xff\xff\xff\x0f", b"\xff" * 9, b"\x80" * 8 + b"\x01"),
]


class Draw(random.Random):
    """Draws of one mutant: the same for the same seed and number, everywhere."""

    def one(self, values: Sequence[T]) -> T:
        """One of them."""
        return values[int(self.random() * len(values))]

    def below(self, limit: int) -> int:
        """A number from 0 to one less than the limit; 0 where that is 0."""
        return int(self.random() * limit)

    def chance(self, share: float) -> bool:
        """True so often."""
        return self.random() < share

    def value(self) -> Any:
        """Anything that a manifest can hold."""
        match self.below(10):
            case 0 | 1 | 2 | 3:
                return self.one(INTEGERS)
            case 4:
                return self.one(FLOATS)
            case 5 | 6:
                return self.one(TEXTS)
            case 7:
                return self.one((None, True, False))
            case 8:
                return self.one(([], {}, b"", [[]], {"": None}, [0], [None] * 3, {"rank": 1}))
            case _:
                return self.randbytes(self.below(9))

    def near(self, number: int) -> int:
        """A number beside another one, or at an edge; always one that MessagePack can hold."""
        match self.below(6):
            case 0:
                found = number + self.one((-1, 1))
            case 1:
                found = number * self.one((2, 3, 16))
            case 2:
                found = number // 2
            case 3:
                found = -number
            case _:
                found = self.one(INTEGERS)
        return min(max(found, -(1 << 63)), (1 << 64) - 1)

    def changed(self, data: bytes, others: Sequence[bytes] = ()) -> bytes:
        """Bytes with a few changes: bits, bytes, tokens, cuts, repeats and pieces of others."""
        out = bytearray(data)
        for _ in range(self.one((1, 1, 1, 2, 3, 6))):
            at, length = self.below(len(out) + 1), 1 + self.below(self.one((1, 2, 4, 16)))
            match self.below(9):
                case 0 | 1 if out:
                    out[min(at, len(out) - 1)] ^= 1 << self.below(8)
                case 2 if out:
                    out[min(at, len(out) - 1)] = self.below(256)
                case 3:
                    token = self.one(TOKENS)
                    out[at : at + self.one((0, len(token)))] = token
                case 4:
                    del out[at : at + length]
                case 5:
                    del out[at:]
                case 6:
                    out[at:at] = out[at : at + length]
                case 7 if others:
                    other = self.one(others)
                    start = self.below(len(other) + 1)
                    out[at : at + self.one((0, length))] = other[start : start + length]
                case _:
                    out[at:at] = self.randbytes(length)
        return bytes(out)
