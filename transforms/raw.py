"""``raw``: integers at fixed width, everything else as it is. The default packer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stackc.core.packer import Packer
from stackc.core.planes import from_bytes, to_bytes
from stackc.core.spec import PlaneSpec

from .shared.bits import has_alphabet, pack_integers, unpack_integers

if TYPE_CHECKING:
    from torch import Tensor


class Raw(Packer, frozen=True):
    """Store planes without entropy coding: bounded integers at ``spec.bits`` each, all others as torch stores them.

    **Format, version 1.** There is no header.

    *Bounded integer planes* (``lo`` and ``hi`` known) *and bool planes* (as integers 0 and 1). Let ``w`` be the number of
    bits of ``hi - lo``; ``w`` is 0 if ``lo == hi``, at most 64. Element ``i`` in C order is stored as the unsigned integer
    ``x[i] - lo``. Its bit ``j`` (bit 0 has the value 1) is bit ``i * w + j`` of the stream, and bit ``k`` of the stream is
    bit ``k % 8`` of byte ``k // 8``. The plane takes ``ceil(numel * w / 8)`` bytes; bits after the last element are 0. A
    reader refuses other lengths, other bits at the end, and integers above ``hi - lo``.

    *All other planes*: elements in C order, each little-endian (IEEE 754 for real planes, bfloat16 as the upper half of
    float32, two's complement for integers). A reader refuses other lengths.

    Examples
    --------
    >>> import torch
    >>> spec = PlaneSpec((3,), "int8", lo=-1, hi=6)
    >>> data = Raw().pack(torch.tensor([-1, 0, 6], dtype=torch.int8), spec)
    >>> data.hex(), Raw().unpack(data, spec).tolist()
    ('c801', [-1, 0, 6])
    """

    name: ClassVar[str] = "raw"
    version: ClassVar[int] = 1

    def refusal(self, spec: PlaneSpec) -> str | None:
        """Return None: this packer takes every plane."""
        return None

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        return pack_integers(x, spec) if has_alphabet(spec) else to_bytes(x)

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        return unpack_integers(data, spec) if has_alphabet(spec) else from_bytes(data, spec)
