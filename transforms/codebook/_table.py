"""Looking codes up in a table, which is all that a reader of files does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec
from stackc.util.lazy import torch

from ._kmeans import Grid

if TYPE_CHECKING:
    from torch import Tensor


def looked_up(codes: Tensor, book: Tensor, cut: Grid, spec: PlaneSpec) -> Tensor:
    """The plane with this spec whose sub-vectors are the entries of ``book`` that ``codes`` name; differentiable in these."""
    # two steps, because libraries differ in how they round float64 to half precision
    book = limited(limited(book, "float64" if spec.dtype == "float64" else "float32"), spec.dtype)
    if not spec.numel:
        return book.new_zeros(spec.shape)
    vectors = torch.nn.functional.embedding(codes.to(torch.int32), book)
    rows = vectors.reshape(*cut.lead, cut.groups * cut.size)
    return rows[..., : cut.width].reshape(spec.shape).contiguous()
