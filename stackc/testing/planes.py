"""The planes that the battery feeds to stages, built from integers alone so that every machine has the same ones."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from stackc.core.planes import from_bytes, to_bytes
from stackc.core.spec import PlaneSpec, integer_range
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Standard planes whose values (not spec) a transform may refuse with `TensorError`: they do not fit narrow formats.
EXTREME_PLANES = frozenset({"large", "tiny", "float16 large"})

_MATRIX = (48, 40)


def random_words(count: int, seed: int, tag: str) -> np.ndarray:
    """Pseudo-random unsigned 64-bit integers from Philox, which numpy keeps stable across releases and machines.

    Parameters
    ----------
    count : int
        How many.
    seed : int
        Not negative.
    tag : str
        Names the use; other tags give unrelated integers.

    Returns
    -------
    ndarray
        Shape ``(count,)``, dtype ``uint64``.

    Examples
    --------
    >>> random_words(3, 0, "a").dtype.name
    'uint64'
    """
    return numpy.random.Philox(key=[seed, zlib.crc32(tag.encode())]).random_raw(count)


def bell(shape: tuple[int, ...], seed: int, tag: str) -> Tensor:
    """Bell-shaped float32 values with a deviation of about 0.07, the same on every machine.

    Each is the sum of the four 16-bit lanes of one random word, centred and scaled by a power of two: exact in float32.

    Examples
    --------
    >>> x = bell((64, 64), 0, "doc")
    >>> round(float(x.std()), 2)
    0.07
    """
    count = PlaneSpec(shape, "float32").numel
    lanes = random_words(count, seed, tag).astype("<u8").view("<u2").reshape(count, 4)
    sums = lanes.astype(numpy.int64).sum(axis=1) - 2 * 65535
    return torch.from_numpy(sums.astype(numpy.float32) * numpy.float32(2.0**-19)).reshape(shape)


def standard_planes(seed: int = 0) -> dict[str, Tensor]:
    """Ordinary planes and edge cases for transforms, by name.

    Parameters
    ----------
    seed : int
        Picks the values; shapes and dtypes stay.

    Returns
    -------
    dict of str to Tensor
        Real planes of all four dtypes, edge shapes, degenerate and extreme values, and a few integer planes, most of
        which a transform of weights will refuse.

    Examples
    --------
    >>> tuple(standard_planes()["1xn"].shape)
    (1, 19)
    """
    matrix = bell(_MATRIX, seed, "matrix")
    outlier = matrix.clone()
    outlier[3, 5] = 1024.0
    signed_zeros = matrix.clone()
    signed_zeros[::2] = -0.0
    sparse = torch.where(matrix.abs() > 0.1, matrix, torch.zeros(()))
    return {
        "matrix": matrix,
        "wide": bell((160, 256), seed, "wide"),  # past torch's grain of 32,768: sums are split between threads
        "rows": bell((300, 8), seed, "rows"),
        "3-d": bell((12, 5, 20), seed, "3-d"),
        "4-d": bell((8, 4, 3, 3), seed, "4-d"),
        "1-d": bell((37,), seed, "1-d"),
        "0-d": bell((), seed, "0-d"),
        "1xn": bell((1, 19), seed, "1xn"),
        "nx1": bell((19, 1), seed, "nx1"),
        "1x1": bell((1, 1), seed, "1x1"),
        "empty": torch.empty(0),
        "no rows": torch.empty(0, 4),
        "no columns": torch.empty(4, 0),
        "constant": torch.full(_MATRIX, 0.3),
        "zeros": torch.zeros(_MATRIX),
        "signed zeros": signed_zeros,
        "sparse": sparse,
        "outlier": outlier,
        "transposed": bell(_MATRIX[::-1], seed, "transposed").t(),
        "strided": bell((48, 80), seed, "strided")[:, ::2],
        "float64": bell(_MATRIX, seed, "float64").double(),
        "float64 small": bell((7, 6), seed, "float64 small").double(),
        "float64 1-d": bell((23,), seed, "float64 1-d").double(),
        "float16": matrix.half(),
        "bfloat16": matrix.bfloat16(),
        "large": matrix * 2.0**100,  # squares overflow float32
        "tiny": matrix * 2.0**-100,  # squares underflow float32
        "float16 large": (matrix * 2.0**18).clamp(-65504, 65504).half(),  # sums of two overflow
        "bool": matrix > 0,
        "int8": (matrix * 400).to(torch.int8),
        "uint8": (matrix * 400).abs().to(torch.uint8),
        "int16": (matrix * 2.0**16).to(torch.int16),
        "int64": (matrix * 2.0**19).to(torch.int64),
    }


def non_finite_planes(seed: int = 0) -> dict[str, Tensor]:
    """Planes with NaN, infinity or both among ordinary values, by name."""
    planes = {}
    for name, value in {"NaN": float("nan"), "infinity": float("inf"), "minus infinity": -float("inf")}.items():
        plane = bell(_MATRIX, seed, "matrix")
        plane[7, 11] = value
        planes[name] = plane
        planes[f"{name} in float16"] = plane.half()
    return planes


def random_integers(spec: PlaneSpec, seed: int, tag: str) -> Tensor:
    """Uniform integers over the bounds of a spec (over the dtype if it has none); both ends occur if there is room.

    Examples
    --------
    >>> x = random_integers(PlaneSpec((50,), "int8", lo=-3, hi=3), 0, "doc")
    >>> int(x.min()), int(x.max())
    (-3, 3)
    """
    lo, hi = integer_range(spec.dtype) if spec.lo is None or spec.hi is None else (spec.lo, spec.hi)
    offsets = random_words(spec.numel, seed, tag)
    if hi - lo < (1 << 64) - 1:
        offsets = offsets % numpy.uint64(hi - lo + 1)
    if spec.numel > 1:
        offsets[0], offsets[-1] = 0, hi - lo
    values = (offsets + numpy.uint64(lo % (1 << 64))).view(numpy.int64)
    return torch.from_numpy(values).to(getattr(torch, spec.dtype)).reshape(spec.shape)


def random_bits(spec: PlaneSpec, seed: int, tag: str) -> Tensor:
    """Real plane of random bit patterns: NaN payloads, infinities, subnormal numbers and both zeros occur.

    Examples
    --------
    >>> bool(random_bits(PlaneSpec((4096,), "float16"), 0, "doc").isnan().any())
    True
    """
    words = random_words(-(-spec.nbytes // 8), seed, tag).astype("<u8")
    return from_bytes(words.tobytes()[: spec.nbytes], spec)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two planes have one shape, one dtype and the same bits: NaN equals itself, 0.0 and -0.0 differ.

    Examples
    --------
    >>> import torch
    >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    False
    """
    return a.shape == b.shape and a.dtype == b.dtype and to_bytes(a) == to_bytes(b)
