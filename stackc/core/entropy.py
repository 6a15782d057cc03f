"""Order-0 entropy of planes, beside which packers are held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stackc.core.planes import byte_view
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Planes of no more elements than this are counted in numpy, by their bytes.
_FEW = 1 << 12

# Above this span a table of counts costs more than sorting.
_TABLE_SPAN = 1 << 22
_CHUNK = 1 << 22


def entropy_bits(plane: Tensor) -> float:
    """Order-0 entropy of a whole plane in bits: what an ideal coder of independent symbols needs, tables not counted.

    Parameters
    ----------
    plane : Tensor
        Integer or bool planes: each value is a symbol. Real planes: the entropies of the byte positions (sign and
        exponent, mantissa ...) are added, as a byte-shuffling packer sees them.

    Returns
    -------
    float
        Bits of all elements together (Shannon 1948); 0 for an empty or constant plane.

    Examples
    --------
    >>> import torch
    >>> entropy_bits(torch.tensor([0, 1, 2, 3], dtype=torch.int8))
    8.0
    >>> entropy_bits(torch.tensor([1.0, -1.0]))
    2.0
    """
    plane, count = plane.detach().cpu(), plane.numel()
    if not count:
        return 0.0
    if count <= _FEW and (plane.is_floating_point() or plane.element_size() == 1):
        # One pass of numpy's over all positions, since that many calls cost more than they count.
        columns = byte_view(plane).reshape(count, -1)
        places = columns + 256 * numpy.arange(columns.shape[1])
        return _entropy_of_counts([numpy.bincount(places.reshape(-1))], count)
    flat = plane.contiguous().reshape(-1)
    if flat.is_floating_point():
        positions = flat.view(torch.uint8).reshape(-1, flat.element_size())
        return _entropy_of_counts([torch.bincount(column) for column in positions.T.contiguous()], count)
    return _entropy_of_counts([_symbol_counts(flat)], count)


def _symbol_counts(flat: Tensor) -> Tensor:
    """How often each symbol occurs; which one it is does not matter for the entropy."""
    if flat.element_size() == 1:
        return torch.bincount(flat.view(torch.uint8))
    least, most = (int(bound) for bound in torch.aminmax(flat))
    if most - least >= _TABLE_SPAN:
        occurring: Tensor = torch.unique(flat, return_counts=True)[1]
        return occurring
    counts = torch.zeros(most - least + 1, dtype=torch.int64)
    for chunk in torch.split(flat, _CHUNK):  # bounds the memory of the copy to int64
        counts += torch.bincount(chunk.long() - least, minlength=counts.numel())
    return counts


def _entropy_of_counts(counts: Sequence[Tensor | np.ndarray], total: int) -> float:
    """Bits of several sequences of so many symbols each. In numpy, which takes a tenth of torch's time for a few numbers."""
    arrays = [numpy.asarray(of_one) for of_one in counts]
    every = numpy.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    positive = every[every > 0]
    return max(float((positive * (math.log2(total) - numpy.log2(positive))).sum()), 0.0)
