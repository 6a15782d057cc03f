"""Planes to little-endian bytes and back for packers, and to their dtype for transforms."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def byte_view(x: Tensor) -> np.ndarray:
    """Elements in C order, little-endian, as a 1-d uint8 array; shares the memory of a dense plane where it can."""
    dense = x.detach().contiguous()
    if dense.dtype == torch.bfloat16:  # which numpy does not know
        dense = dense.view(torch.int16)
    array: np.ndarray = dense.numpy().reshape(-1).view(numpy.uint8)
    if sys.byteorder == "big":
        array = array.reshape(-1, x.element_size())[:, ::-1].reshape(-1)
    return array


def to_bytes(x: Tensor) -> bytes:
    """Elements in C order, little-endian, as torch stores them.

    Examples
    --------
    >>> import torch
    >>> to_bytes(torch.tensor([1, -1], dtype=torch.int16)).hex()
    '0100ffff'
    """
    return byte_view(x).tobytes()


def limited(x: Tensor, dtype: str) -> Tensor:
    """Convert a real plane; finite numbers that the dtype cannot hold become the largest that it can.

    An approximation may overshoot: a code may stand for a step more than the largest value. Differentiable.

    Examples
    --------
    >>> import torch
    >>> limited(torch.tensor([1.5, -70000.0]), "float16").tolist()
    [1.5, -65504.0]
    """
    target = getattr(torch, dtype)
    if x.numel():
        largest = min(torch.finfo(target).max, torch.finfo(x.dtype).max)
        least, most = torch.aminmax(x.detach())
        if not -largest <= float(least) <= float(most) <= largest:
            x = x.clamp(-largest, largest)
    return x.to(target)


def from_bytes(data: bytes | memoryview, spec: PlaneSpec) -> Tensor:
    """Inverse of `to_bytes`.

    Raises
    ------
    ArtifactError
        If there are more or fewer bytes than the spec needs, or a mask holds a byte other than 0 and 1.
    """
    if len(data) != spec.nbytes:
        raise ArtifactError(f"a plane of {spec} needs {spec.nbytes} bytes, the file holds {len(data)}")
    if spec.dtype == "bool" and len(data) and int(numpy.frombuffer(data, numpy.uint8).max()) > 1:
        raise ArtifactError("a mask holds a byte other than 0 and 1")
    dtype = getattr(torch, spec.dtype)
    if not len(data):
        return torch.empty(spec.shape, dtype=dtype)
    if sys.byteorder == "big":
        data = numpy.frombuffer(data, numpy.uint8).reshape(-1, spec.item_bytes)[:, ::-1].tobytes()
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(spec.shape)
