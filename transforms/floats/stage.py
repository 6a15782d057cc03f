"""``floats``: lossless compression of real numbers, by exponent, sign and mantissa."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from stackc.core.packer import Packer
from stackc.core.planes import byte_view, from_bytes
from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy

from ..zstd import Zstd, _compress, shuffle
from ._split import LAYOUTS, read_split, write_split

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_RAW, _ZSTD, _SPLIT = range(3)

#: Planes of fewer bytes hardly gain what the split form needs to begin with.
_LEAST_BYTES = 64

#: Rows narrower than this are not told apart; a plane of such rows, or of one axis, is cut into `_PIECE` elements each.
_NARROWEST_ROW = 16
_PIECE = 256

#: Of weights Zstandard at its fastest leaves a tenth more than the split form does. If it leaves less, it found
#: repeats.
_TRIAL_LEVEL = 1
_WORTH_TRYING = 1.05


class Floats(Packer, frozen=True):
    """Store real planes in fewer bytes, bit for bit: NaN payloads, signed zeros and all.

    Trained weights look like noise around zero whose size changes from row to row. What can be saved is in the
    exponents, and a little in the top bits of mantissas, which are not quite uniform. Exponents are coded by how often
    each was seen so far in rows and columns of that size, then the sign with the top mantissa bits by how often they
    were seen with that exponent. The lower bits are stored as they are, or with Zstandard where they repeat. On weights
    that leaves about 26.5 of 32 bits, and 10.5 of the 16 bits of bfloat16.

    Planes that Zstandard stores in fewer bytes, such as those that repeat rows or few values, are left to the packer
    ``zstd``. No plane takes more than one byte above ``raw``.

    The byte layout is described in docs/format.md. Entropy coding is that of Duda (2013), adaptive and in integers; the
    split into exponents and the rest follows Hershcovitch et al. 2024, "ZipNN: Lossless Compression for AI Models".

    Examples
    --------
    >>> import torch
    >>> x = torch.sin(torch.arange(4096.0) ** 2).reshape(64, 64) * torch.linspace(0.1, 1, 64)[:, None]
    >>> spec = PlaneSpec.of(x)
    >>> data = Floats().pack(x, spec)
    >>> len(data) < 0.83 * 4 * x.numel(), torch.equal(Floats().unpack(data, spec), x)
    (True, True)
    """

    name: ClassVar[str] = "floats"
    version: ClassVar[int] = 1

    def refusal(self, spec: PlaneSpec) -> str | None:
        """Why this packer cannot take a plane: it takes real ones only."""
        if not spec.is_real:
            return f"floats takes real planes, this one is {spec}; use zstd, or ans if it has bounds"
        return None

    def _pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        words: np.ndarray = byte_view(x).view(LAYOUTS[spec.dtype].word)
        best = bytes([_RAW]) + words.tobytes()
        if spec.nbytes < _LEAST_BYTES:
            return best
        split = write_split(words, LAYOUTS[spec.dtype], _width(spec))
        if split is not None and 1 + len(split) < len(best):
            best = bytes([_SPLIT]) + split
        if _suits_zstd(words.view(numpy.uint8).data, spec.item_bytes, len(best)):
            best = min(best, bytes([_ZSTD]) + Zstd().pack(x, spec), key=len)
        return best

    def _unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        if not data or data[0] > _SPLIT:
            raise ArtifactError(
                f"the file names the floats form {data[0] if data else 'of no bytes'}, known are 0 to 2; it is damaged"
            )
        if data[0] == _RAW:
            return from_bytes(data[1:], spec)
        if data[0] == _ZSTD:
            return Zstd().unpack(data[1:], spec)
        words = read_split(data[1:], spec.numel, LAYOUTS[spec.dtype])
        return from_bytes(words.view(numpy.uint8).data, spec)

    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        """The byte that names the form."""
        return min(1, len(data))


def _suits_zstd(content: memoryview, item_bytes: int, known: int) -> bool:
    """Whether Zstandard at its best may take fewer than the known bytes, as its fastest level tells."""
    if len(_compress(content, _TRIAL_LEVEL)) < _WORTH_TRYING * known:
        return True
    return len(_compress(shuffle(content, item_bytes), _TRIAL_LEVEL)) < known


def _width(spec: PlaneSpec) -> int:
    width = math.prod(spec.shape[1:])
    if len(spec.shape) > 1 and width >= _NARROWEST_ROW:
        return width
    return min(_PIECE, spec.numel)
