"""Int: uniform quantisation to 1 to 8 bits, with torchao's codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import msgspec

from stackc.errors import SpecError, TensorError
from stackc.lazy import torch
from stackc.parallel import one_thread_per_operation
from stackc.planes import limited
from stackc.registry import Preset
from stackc.spec import PlaneSpec
from stackc.transform import Transform, require_finite

if TYPE_CHECKING:
    from torch import Tensor


class Blocks(NamedTuple):
    """How values share scales: ``lead`` rows of ``width`` values, each cut into ``groups`` blocks of ``size``."""

    lead: tuple[int, ...]
    width: int
    groups: int
    size: int

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """One scale per block."""
        return (*self.lead, self.groups)


class Int(Transform, frozen=True):
    """Store every value as an integer of a few bits, times a scale that a block of values shares.

    Let ``lo, hi`` be the smallest and largest value of a block, zero included, and ``steps = 2**bits - 1``.

    ============ ====================================== ================================== ==============================
    mapping      scale                                  codes                              decoded
    ============ ====================================== ================================== ==============================
    symmetric    ``max(-lo, hi) / (steps / 2)``         ``clamp(round(x * (1 / scale)))``  ``codes * scale``
    asymmetric   ``(hi - lo) / steps``                  ``clamp(round(x * (1 / scale))``   ``(codes - zero_point) * scale``
                                                        ``+ zero_point)``
    1-bit symm.  ``2 * mean(|x|)``                      ``-1 if x < 0 else 0``             ``(codes + 1 / 2) * scale``
    ============ ====================================== ================================== ==============================

    Rounding is to nearest, ties to even. Symmetric codes are int8 in ``-2**(bits-1) .. 2**(bits-1) - 1``; asymmetric
    codes and ``zero_point = round(-lo / scale)`` are uint8 in ``0 .. steps``. Exact zeros decode to zero, except with
    ``bits=1``, where only blocks of zeros do.

    These are the codes of torchao's ``quantize_`` with ``Int8WeightOnlyConfig`` and with
    ``IntxWeightOnlyConfig(..., scale_dtype=torch.float32)`` for ``PerTensor``, ``PerRow`` (``PerAxis(0)`` of a matrix) and
    ``PerGroup``; torchao writes asymmetric codes and zero points lower by ``2**(bits-1)``. As there, the scale of a
    half-precision plane is computed in the dtype of the plane and stored as float32. Three things differ on purpose:

    * torchao's symmetric ``int1`` rounds every value to zero. Here it is the sign times the mean magnitude, which is the
      best such approximation (Rastegari et al. 2016, "XNOR-Net").
    * The smallest scale is the smallest normal number of the dtype (2**-23 for float16), the lower one of the two floors
      that torchao's configs have; ``Int8WeightOnlyConfig`` never goes below 2**-23.
    * The last group of a row may be shorter than the others, where torchao refuses the tensor.

    Parameters
    ----------
    bits : int
        1 to 8.
    symmetric : bool
        Whether the range is centred on zero, which needs no zero point.
    granularity : {"tensor", "row", "group"}
        What shares a scale: everything, a row along the last axis, or ``group_size`` values of a row.
    group_size : int, optional
        For ``granularity="group"`` only.

    Raises
    ------
    ValueError
        If ``group_size`` is missing for groups, or given without them.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.75, -0.5], [3.0, 0.1, 0.2]])
    >>> planes = Int(bits=4).encode(x)
    >>> planes["codes"], planes["scale"]
    (tensor([[ 0,  7, -5],
            [ 7,  0,  0]], dtype=torch.int8), tensor([[0.1000],
            [0.4000]]))
    >>> Int(bits=4).decode(planes, PlaneSpec.of(x))
    tensor([[ 0.0000,  0.7000, -0.5000],
            [ 2.8000,  0.0000,  0.0000]])
    """

    name: ClassVar[str] = "int"
    version: ClassVar[int] = 1
    side: ClassVar[frozenset[str]] = frozenset({"scale", "zero_point"})

    bits: Annotated[int, msgspec.Meta(ge=1, le=8, description="bits per code")] = 8
    symmetric: Annotated[bool, msgspec.Meta(description="range centred on zero; false adds a zero point per scale")] = (
        True
    )
    granularity: Annotated[
        Literal["tensor", "row", "group"],
        msgspec.Meta(
            description="what shares a scale: the tensor, a row along the last axis, or group_size values of it"
        ),
    ] = "row"
    group_size: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="values per scale, for granularity: group only"),
    ] = None

    def __post_init__(self) -> None:
        if self.granularity == "group" and self.group_size is None:
            raise ValueError("granularity: group needs group_size, such as 32")
        if self.granularity != "group" and self.group_size is not None:
            raise ValueError(f"group_size is for granularity: group, not for granularity: {self.granularity}")

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``codes``, ``scale`` and, if asymmetric, ``zero_point``.

        Raises
        ------
        SpecError
            If the plane is not real.
        """
        if not spec.is_real:
            raise SpecError(f"int takes real planes (float16, bfloat16, float32, float64), this one is {spec}")
        shape = self._blocks(spec.shape).scale_shape
        lo, hi = self._range
        planes = {
            "codes": PlaneSpec(spec.shape, "int8" if self.symmetric else "uint8", lo, hi),
            "scale": PlaneSpec(shape, "float64" if spec.dtype == "float64" else "float32"),
        }
        if not self.symmetric:
            planes["zero_point"] = PlaneSpec(shape, "uint8", lo, hi)
        return planes

    def encode(self, x: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Quantise; row weights change nothing, since every row, or the whole tensor, must fit its range.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or values so large that a scale overflows.
        """
        require_finite(x)
        x = x.detach()
        blocks = self._blocks(x.shape)
        cut = _cut(x, blocks)
        if self._is_sign:
            scale = _sign_scale(cut, blocks)
            codes = (x < 0).to(torch.int8).neg()
            return {"codes": codes, "scale": _checked(scale, x)}
        lo, hi = self._range
        scale, zero_point = _affine(cut, self.bits, self.symmetric)
        scale = _checked(scale, x)
        # in place from here on: embeddings are large
        integers = (cut * (1.0 / scale)[..., None]).round_()
        if not self.symmetric:
            integers += zero_point[..., None]
        codes = _join(integers.clamp_(lo, hi), blocks).reshape(x.shape)
        if self.symmetric:
            return {"codes": codes.to(torch.int8), "scale": scale}
        return {"codes": codes.to(torch.uint8), "scale": scale, "zero_point": zero_point.to(torch.uint8)}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Scale the codes, in the dtype of the scale, then round to the dtype of the spec."""
        blocks = self._blocks(spec.shape)
        scale = planes["scale"]
        values = planes["codes"].reshape(*blocks.lead, blocks.width).to(scale.dtype)
        if self._is_sign:
            values = values + 0.5
        elif not self.symmetric:
            values = values - _spread(planes["zero_point"].to(scale.dtype), blocks)
        values = values * _spread(scale, blocks)
        return limited(values.reshape(spec.shape), spec.dtype)

    def error_bound(self, x: Tensor) -> float:
        """Half a step for every value, or what clipping cuts off if that is more, plus rounding in decode."""
        x = x.detach()
        blocks = self._blocks(x.shape)
        cut = _cut(x, blocks)
        wide = cut.to(torch.float64)
        if self._is_sign:
            scale = _sign_scale(cut, blocks).to(torch.float64)
            error = float(torch.linalg.vector_norm(_join(wide.abs() - scale[..., None] / 2, blocks)))
        else:
            scale, zero_point = _affine(cut, self.bits, self.symmetric)
            scale, zero_point = scale.to(torch.float64), zero_point.to(torch.float64)
            lo, hi = self._range
            over = wide.amax(-1) - (hi - zero_point) * scale
            under = (lo - zero_point) * scale - wide.amin(-1)
            worst = torch.maximum(scale / 2, torch.maximum(over, under))
            # a quotient is off by 2^-15 steps at most, which can move a value to the wrong side of a tie
            error = float(torch.linalg.vector_norm(_spread(worst, blocks).expand(*blocks.lead, blocks.width))) * (
                1 + 2**-13
            )
        stored = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32)
        shown = torch.finfo(x.dtype)
        decoded = float(torch.linalg.vector_norm(wide)) + error
        subnormal = shown.smallest_normal * shown.eps * math.sqrt(x.numel())
        return error + (stored.eps + shown.eps / 2) * decoded * (1 + 2**-10) + subnormal

    def carry(self, weights: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows of ``codes`` are rows of the input, and so are those of the scales unless one scale is for all."""
        carried = {"codes": weights}
        if planes["codes"].ndim > 1 and self.granularity != "tensor":
            carried.update({plane: weights for plane in ("scale", "zero_point") if plane in planes})
        return carried

    @property
    def _range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.symmetric:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def _is_sign(self) -> bool:
        return self.bits == 1 and self.symmetric

    def _blocks(self, shape: tuple[int, ...]) -> Blocks:
        *rows, width = shape or (1,)
        if self.granularity == "tensor":
            numel = math.prod(shape)
            return Blocks((1,) * len(rows), numel, 1, max(numel, 1))
        size = max(min(self.group_size or width, width), 1)
        return Blocks(tuple(rows), width, max(-(-width // size), 1), size)


def _cut(x: Tensor, blocks: Blocks) -> Tensor:
    """Values by block, shape ``(*scale_shape, size)``, padded with zeros, which no range or mean magnitude notices."""
    rows = x.reshape(*blocks.lead, blocks.width)
    missing = blocks.groups * blocks.size - blocks.width
    if missing:
        rows = torch.cat([rows, rows.new_zeros(*blocks.lead, missing)], dim=-1)
    return rows.reshape(*blocks.scale_shape, blocks.size)


def _join(cut: Tensor, blocks: Blocks) -> Tensor:
    """Inverse of `_cut`, shape ``(*lead, width)``."""
    return cut.reshape(*blocks.lead, blocks.groups * blocks.size)[..., : blocks.width]


def _spread(per_block: Tensor, blocks: Blocks) -> Tensor:
    """One number per block, repeated so that it broadcasts against ``(*lead, width)``."""
    if blocks.groups == 1:
        return per_block
    return per_block.repeat_interleave(blocks.size, dim=-1)[..., : blocks.width]


def _affine(cut: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale (float32, or float64 of float64) and zero point (the same dtype) of every block, as torchao computes them.

    Source: ``_choose_qparams_affine`` in ``torchao/quantization/quant_primitives.py``.
    """
    steps = float((1 << bits) - 1)
    floor = min(torch.finfo(cut.dtype).smallest_normal, torch.finfo(torch.float32).eps)
    stored = torch.float64 if cut.dtype == torch.float64 else torch.float32
    least, most = torch.aminmax(cut, dim=-1)
    least, most = least.clamp(max=0), most.clamp(min=0)
    if symmetric:
        scale = (torch.maximum(-least, most) / (steps / 2)).clamp(min=floor)
        return scale.to(stored), torch.zeros_like(scale, dtype=stored)
    scale = (most - least) / steps
    scale = torch.where(scale.isfinite(), scale, most / steps - least / steps).clamp(min=floor)
    zero_point = torch.clamp(-torch.round(least / scale), 0, steps)
    return scale.to(stored), zero_point.to(stored)


@one_thread_per_operation()
def _sign_scale(cut: Tensor, blocks: Blocks) -> Tensor:
    """Twice the mean magnitude of every block; the last block may be shorter."""
    sizes = torch.full((blocks.groups,), float(blocks.size), dtype=torch.float64, device=cut.device)
    sizes[-1] -= blocks.groups * blocks.size - blocks.width
    total = cut.abs().sum(-1, dtype=torch.float64)
    return (2 * total / sizes.clamp(min=1)).to(torch.float64 if cut.dtype == torch.float64 else torch.float32)


def _checked(scale: Tensor, x: Tensor) -> Tensor:
    if not bool(scale.isfinite().all()):
        raise TensorError(
            f"values up to {float(x.abs().max()):g} are too large for a scale in {PlaneSpec.of(x).dtype}; use more bits"
        )
    return scale


int8 = Preset(Int, {"bits": 8})
