"""Cast: a real plane in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec

from stackc.core.abilities import Trainable
from stackc.core.planes import limited
from stackc.core.registry import Preset
from stackc.core.spec import ITEM_BYTES, PlaneSpec
from stackc.core.transform import NOTHING, Known, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Cast(Trainable, frozen=True):
    """Round a float32 or float64 plane to a half-precision dtype.

    Makes one plane, ``values``, with the shape of the input. Rounding is to nearest, ties to even (IEEE 754).

    Parameters
    ----------
    to : {"float16", "bfloat16"}
        ``float16`` keeps 11 significant bits up to 65504; ``bfloat16`` keeps 8 over the range of float32.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([1.0, 1 / 3])
    >>> planes = Cast(to="float16").encode(x)
    >>> planes["values"].dtype
    torch.float16
    >>> Cast(to="float16").decode(planes, PlaneSpec.of(x))
    tensor([1.0000, 0.3333])
    """

    name: ClassVar[str] = "cast"
    version: ClassVar[int] = 1

    to: Annotated[Literal["float16", "bfloat16"], msgspec.Meta(description="half-precision dtype to round to")]

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """One plane ``values`` of the same shape.

        Raises
        ------
        SpecError
            If the plane is not real, or not wider than the target.
        """
        if not spec.is_real or spec.item_bytes <= ITEM_BYTES[self.to]:
            raise SpecError(f"cast to {self.to} takes float32 and float64 planes, this one is {spec}")
        return {"values": PlaneSpec(spec.shape, self.to)}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Round every value; row weights change nothing.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or a value too large for the target.
        """
        require_finite(x)
        values = x.detach().to(getattr(torch, self.to), memory_format=torch.contiguous_format)
        overflows = int(values.isinf().sum())
        if overflows:
            remedy = "cast to bfloat16 instead" if self.to == "float16" else "leave this tensor in float32"
            raise TensorError(
                f"{overflows} of {x.numel()} values exceed the largest {self.to}, {torch.finfo(values.dtype).max:g}; {remedy}"
            )
        return {"values": values}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Widen the values; exact."""
        return planes["values"].to(getattr(torch, spec.dtype))

    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Round; torch hands the gradient on as it is. What is too large for the target becomes its largest number."""
        return {"values": limited(x, self.to)}

    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        """As `relax` rounds."""
        return self, {"values": limited(x.detach(), self.to).contiguous()}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of ``values`` are rows of the plane."""
        return {"values": index}

    def error_bound(self, x: Tensor) -> float:
        """Half a unit in the last place of every value, down to the spacing of the subnormal numbers."""
        limits = torch.finfo(getattr(torch, self.to))
        magnitudes = x.detach().abs().to(torch.float64)
        half_spacing = torch.clamp(magnitudes * limits.eps / 2, min=limits.smallest_normal * limits.eps / 2)
        # torch rounds float64 to half precision by way of float32: the second rounding adds 2^-13 of the first at most
        return float(torch.linalg.vector_norm(half_spacing)) * (1 + 2**-12)

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of ``values`` are rows of the input."""
        return {"values": Known(known.weights)}


fp16 = Preset(Cast, {"to": "float16"})
bf16 = Preset(Cast, {"to": "bfloat16"})
