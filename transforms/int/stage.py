"""Int: uniform quantisation to a few bits with torchao's codes, or with a step of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec

from stackc.core.abilities import Allocated, Calibrated, Trainable
from stackc.core.planes import limited
from stackc.core.rate import code_bits, rounded, stepped
from stackc.core.registry import Preset
from stackc.core.spec import PlaneSpec, as_matrix
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch

from ..shared.affine import (
    Blocks,
    affine,
    blocks_of_rows,
    checked,
    cut,
    join,
    one_block,
    sign_scale,
    spread,
    wide_dtype,
)
from ..shared.steps import MOST_BITS, MOST_STRETCH, bits_that_hold, step_ladder, stretch

if TYPE_CHECKING:
    from torch import Tensor

_DEFAULT_BITS = 8

#: Largest magnitude of a code with a step.
_MOST_CODE = (1 << (MOST_BITS - 1)) - 1


class Int(Trainable, Allocated, Calibrated, frozen=True):
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
    ``PerGroup``; torchao writes asymmetric codes and zero points lower by ``2**(bits-1)``. Four things differ on purpose:

    * torchao's symmetric ``int1`` rounds every value to zero. Here it is the sign times the mean magnitude, which is the
      best such approximation (Rastegari et al. 2016, "XNOR-Net").
    * The scale of a half-precision plane is computed as float32, in which it is stored; the codes are those that torchao
      gives for the plane as float32. In float16 the scale of small weights would vanish.
    * The smallest scale is the smallest normal number of the dtype of the scale, the lower one of the two floors that
      torchao's configs have; ``Int8WeightOnlyConfig`` never goes below 2**-23.
    * The last group of a row may be shorter than the others, where torchao refuses the tensor.

    With ``step`` that number is the scale of the whole tensor, and codes may be as large as they need to be: `settle`
    finds the bits that hold them, so that nothing is clipped. Behind an entropy coder this beats narrow ranges at equal
    bytes (Gish and Pierce 1968: uniform steps are near-optimal once codes are entropy-coded).

    ``rdo`` and ``calibrated`` choose other codes than the nearest; files do not tell, and decoding is the same.

    * ``rdo`` minimises ``(error / scale)**2 + rdo * bits``, the bits being those of the packer ``context``: rare codes
      give way to their neighbour towards zero, or to zero. The scale is then stretched a little, so that the plane as a
      whole does not shrink, which costs a network more than noise does; see `stackc.transforms.shared.steps.stretch`.
    * ``calibrated`` minimises the error of what the matrix is multiplied with, as GPTQ does, from the second moments of
      the inputs of its layer, or of gradients for an embedding; see `stackc.transforms.shared.calibrated.calibrated_codes`.
      Planes without moments, such as biases, are rounded as without it.

    Parameters
    ----------
    bits : int, optional
        1 to 8, by default 8. With ``step`` 2 to 16, by default as many as the codes need; values beyond are an error.
    symmetric : bool
        Whether the range is centred on zero, which needs no zero point.
    granularity : {"tensor", "row", "group"}, optional
        What shares a scale: everything, a row, or ``group_size`` consecutive values of a row. By default a row, with
        ``step`` everything. A row of a tensor with three or more axes, such as the weight of a convolution, is all that
        belongs to one place of the first axis; see `stackc.core.spec.as_matrix`. A vector is one row.
    group_size : int, optional
        For ``granularity="group"`` only.
    step : float or "auto", optional
        The scale, in units of the weights; ``auto`` leaves it to the rate allocation.
    rdo : float
        Price of a bit, in squared scales. 0.1 is near the optimum at high rates.
    calibrated : bool
        Whether to use the second moments of the layer's inputs.

    Raises
    ------
    ValueError
        If ``group_size`` is missing for groups, or given without them; if ``step`` comes with rows, groups or a zero
        point, ``rdo`` with a zero point or one bit, or more than 8 bits with anything but one scale for the tensor.

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
    >>> by_step = Int(step=0.25).settle({"x": Weighted(x)})["x"]
    >>> by_step.bits, by_step.encode(x)["codes"]
    (5, tensor([[ 0,  3, -2],
            [12,  0,  1]], dtype=torch.int8))
    """

    name: ClassVar[str] = "int"
    version: ClassVar[int] = 2
    side: ClassVar[frozenset[str]] = frozenset({"scale", "zero_point"})
    factors: ClassVar[frozenset[str]] = frozenset({"scale"})
    lighter: ClassVar[str] = (
        "granularity: row or tensor, or a larger group_size, shares a scale among more values; leave tensors of very short "
        "rows out with 'on'"
    )

    encode_only: ClassVar[frozenset[str]] = frozenset({"step", "rdo", "calibrated"})

    bits: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=16)] | None,
        msgspec.Meta(
            description="bits per code, 1 to 8 (by default 8); with step 2 to 16 (by default what codes need)"
        ),
    ] = None
    symmetric: Annotated[bool, msgspec.Meta(description="range centred on zero; false adds a zero point per scale")] = (
        True
    )
    granularity: Annotated[
        Literal["tensor", "row", "group"] | None,
        msgspec.Meta(
            description="what shares a scale: the tensor, a row (the default; of three or more axes, all but the first "
            "are one), or group_size values of it; with step the tensor"
        ),
    ] = None
    group_size: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="values per scale, for granularity: group only"),
    ] = None
    step: Annotated[
        Annotated[float, msgspec.Meta(gt=0)] | Literal["auto"] | None,
        msgspec.Meta(description="scale of the tensor, with as many bits as its codes need; auto: by rate allocation"),
    ] = None
    rdo: Annotated[
        float, msgspec.Meta(ge=0, description="price of a bit in squared scales; 0 rounds to nearest, 0.1 is typical")
    ] = 0.0
    calibrated: Annotated[
        bool,
        msgspec.Meta(description="round for the error of the layer's outputs (GPTQ), with inputs from training rows"),
    ] = False

    def __post_init__(self) -> None:
        if self.granularity is None:
            msgspec.structs.force_setattr(self, "granularity", "row" if self.step is None else "tensor")
        if self.bits is None and self.step is None:
            msgspec.structs.force_setattr(self, "bits", _DEFAULT_BITS)
        if self.granularity == "group" and self.group_size is None and self.step is None:
            raise ValueError("granularity: group needs group_size, such as 32")
        if self.granularity != "group" and self.group_size is not None:
            raise ValueError(f"group_size is for granularity: group, not for granularity: {self.granularity}")
        whole = self.granularity == "tensor" and self.symmetric
        if self.step is not None:
            if not whole:
                given = "symmetric: false" if self.granularity == "tensor" else f"granularity: {self.granularity}"
                raise ValueError(f"step is one scale for the whole tensor, without a zero point; remove {given}")
            if self.bits == 1:
                raise ValueError("with step, codes take 2 to 16 bits; remove bits to have as many as they need")
            if self.step != "auto" and not math.isfinite(self.step):
                raise ValueError(f"step is a finite number, not {self.step}")
        elif self.bits is not None and self.bits > _DEFAULT_BITS and not whole:
            raise ValueError(
                f"bits: {self.bits} goes with one scale for the tensor (granularity: tensor, symmetric); else 1 to 8 fit"
            )
        if self.rdo and (not self.symmetric or self._is_sign):
            given = "one bit" if self.symmetric else "symmetric: false"
            raise ValueError(f"rdo moves codes towards zero, which has no code of its own with {given}")

    @property
    def settled(self) -> bool:
        """Whether the number of bits is known, and the step is."""
        return self.bits is not None and self.allocated

    @property
    def allocated(self) -> bool:
        """Whether the step is chosen."""
        return self.step != "auto"

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``codes``, ``scale`` and, if asymmetric, ``zero_point``; 16 bits as long as these are not settled.

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
            "codes": PlaneSpec(spec.shape, self._code_dtype, lo, hi),
            "scale": PlaneSpec(shape, "float64" if spec.dtype == "float64" else "float32"),
        }
        if not self.symmetric:
            planes["zero_point"] = PlaneSpec(shape, "uint8", lo, hi)
        return planes

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Quantise, with ``calibrated`` for the smallest error in what rows of ``x`` are multiplied with, if that is known.

        The scales are the same with and without, since every row, or the whole tensor, must fit its range. Row weights enter
        the rate term of calibrated codes only.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or values so large that a scale overflows or ``step`` needs more bits; if the
            bits are not settled yet; if the moments are not finite or belong to rows of another length.
        """
        if self.calibrated and known.moments is not None and x.ndim > 1 and x.numel():
            planes = self._calibrated(x, known.moments, known.weights)
            if planes is not None:
                return planes
        x, blocks, parts = self._prepared(x)
        scale, zero_point = self._grid(parts, blocks)
        scale = checked(scale, x)
        if self._is_sign:
            return {"codes": (x < 0).to(torch.int8).neg(), "scale": scale}
        lo, hi = self._range
        # torchao multiplies; a step is divided by, since codes may be large. In place from here on: embeddings are large.
        wide = scale.unsqueeze(-1)
        places = parts * wide.reciprocal() if self.step is None else parts.to(scale.dtype) / wide
        if self.rdo:
            from ._rate_aware import rate_aware

            codes = rate_aware(join(places, blocks).reshape(x.shape), self.rdo, hi)
            planes = {"codes": codes.to(getattr(torch, self._code_dtype)), "scale": scale}
            return {**planes, "scale": scale * stretch(x, self.decode(planes, PlaneSpec.of(x)))}
        integers = places.round_()
        if not self.symmetric:
            integers += zero_point[..., None]
        codes = join(integers.clamp_(lo, hi), blocks).reshape(x.shape).to(getattr(torch, self._code_dtype))
        planes = {"codes": codes, "scale": scale}
        return planes if self.symmetric else {**planes, "zero_point": zero_point.to(torch.uint8)}

    def _calibrated(self, x: Tensor, moments: Tensor, weights: Tensor | None) -> dict[str, Tensor] | None:
        """Planes with rounding errors handed on from column to column; None if the moments say nothing."""
        from ..shared.calibrated import Grid, calibrated_codes

        x, blocks, parts = self._prepared(x)
        scale, zero_point = self._grid(parts, blocks)
        scale = checked(scale, x)
        lo, hi = (bound - zero_point for bound in self._range)
        rows = x.flatten(1)
        flat = (-1, blocks.groups)
        grid = Grid(
            scale.reshape(flat),
            lo.reshape(flat),
            hi.reshape(flat),
            min(blocks.size, rows.shape[1]),
            0.5 if self._is_sign else 0.0,
        )
        codes = calibrated_codes(rows, grid, moments, rdo=self.rdo, weights=weights)
        if codes is None:
            return None
        codes = codes.reshape(*blocks.lead, -1)
        if not self.symmetric:
            codes = codes + spread(zero_point.to(torch.int32), blocks)
        planes = {"codes": codes.reshape(x.shape).to(getattr(torch, self._code_dtype)), "scale": scale}
        return planes if self.symmetric else {**planes, "zero_point": zero_point.to(torch.uint8)}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Scale the codes, in the dtype of the scale, then round to the dtype of the spec."""
        blocks = self._blocks(spec.shape)
        scale = planes["scale"]
        values = planes["codes"].reshape(*blocks.lead, blocks.width).to(scale.dtype)
        if self._is_sign:
            values = values + 0.5
        elif not self.symmetric:
            values = values - spread(planes["zero_point"].to(scale.dtype), blocks)
        values = values * spread(scale, blocks)
        return limited(values.reshape(spec.shape), spec.dtype)

    def error_bound(self, x: Tensor) -> float:
        """Half a step for every value, or what clipping cuts off if that is more, plus rounding in decode.

        With ``rdo`` a value may become zero. With ``calibrated`` codes may be any that the bits hold.
        """
        x = x.detach()
        blocks = self._blocks(x.shape)
        parts = cut(x, blocks)
        wide = parts.to(torch.float64)
        scale, zero_point = (part.to(torch.float64) for part in self._grid(parts, blocks))
        lo, hi = self._range
        if self._is_sign and not self.calibrated:
            error = float(torch.linalg.vector_norm(join(wide.abs() - scale[..., None] / 2, blocks)))
        else:
            over = wide.amax(-1) - (hi - zero_point) * scale
            under = (lo - zero_point) * scale - wide.amin(-1)
            worst = torch.maximum(scale / 2, torch.maximum(over, under))[..., None].expand(wide.shape)
            if self.rdo:
                worst = torch.maximum(worst, wide.abs())
            if self.calibrated:
                furthest = torch.maximum(hi - zero_point, zero_point - lo) * scale
                worst = torch.maximum(worst, wide.abs() + furthest[..., None])
            # a quotient is off by 2^-23 of itself, which can move a value to the wrong side of a tie
            error = float(torch.linalg.vector_norm(join(worst, blocks))) * (1 + 2.0 ** (self._width - 21))
        size = float(torch.linalg.vector_norm(wide))
        if self.rdo:
            error = MOST_STRETCH * error + (MOST_STRETCH - 1) * size
        stored = torch.finfo(wide_dtype(x.dtype))
        shown = torch.finfo(x.dtype)
        decoded = size + error
        subnormal = shown.smallest_normal * shown.eps * math.sqrt(x.numel())
        return error + (stored.eps + shown.eps / 2) * decoded * (1 + 2**-10) + subnormal

    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Codes as real numbers, rounded, with straight-through gradients, for the scales that are there.

        The gradient of a scale is that of Esser et al. 2020, "Learned step size quantization". With ``step`` no code is
        out of range, else a value beyond the range has no gradient.
        """
        blocks = self._blocks(tuple(x.shape))
        scale = planes["scale"]
        if self.step is not None:
            return {**planes, "codes": stepped(x.to(scale.dtype), scale, _MOST_CODE)}
        parts = cut(x, blocks).to(scale.dtype)
        if self._is_sign:
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)  # of nothing but zeros
        # Numbers as in `encode`. The quotient is 1; its gradient, unlike that of a reciprocal, is finite where all are zero.
        places = parts * (1.0 / scale.detach() * (scale.detach() / scale))[..., None]
        if self._is_sign:
            soft = places.clamp(-1, 1)
            codes = soft + ((places < 0).to(soft.dtype).neg() - soft).detach()
            return {**planes, "codes": join(codes, blocks).reshape(x.shape)}
        lo, hi = self._range
        if self.symmetric:
            codes = rounded(places.clamp(lo, hi))
        else:  # rounded first: adding an odd zero point to a tie would change which neighbour is even
            codes = (rounded(places) + planes["zero_point"].to(scale.dtype)[..., None]).clamp(lo, hi)
        return {**planes, "codes": join(codes, blocks).reshape(x.shape)}

    def rate(self, planes: Mapping[str, Tensor], bits: Callable[[str, Tensor], Tensor] | None = None) -> Tensor | None:
        """Bits of relaxed symmetric codes."""
        if not planes["codes"].is_floating_point() or not self.symmetric:
            return None
        return code_bits(planes["codes"]) if bits is None else bits("codes", planes["codes"])

    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        """The codes of `relax` as integers; with ``step`` in as many bits as they need now."""
        relaxed = self.relax(x.detach(), {name: plane.detach() for name, plane in planes.items()})
        assert relaxed is not None
        settled = self
        if self.step is not None:
            largest = int(relaxed["codes"].abs().max()) if x.numel() else 0
            settled = msgspec.structs.replace(self, bits=max(2, 1 + largest.bit_length()))
        codes = relaxed["codes"].to(getattr(torch, settled._code_dtype))
        return settled, {**relaxed, "codes": codes}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        """Rows of ``codes`` are rows of the plane; scales are for all rows, or for each."""
        own = None if self.granularity == "tensor" or planes["codes"].ndim < 2 else index
        scales = {"scale": own} if self.symmetric else {"scale": own, "zero_point": own}
        return {"codes": index, **scales}

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Find the bits that the codes of every plane need at this step, from its largest magnitude.

        Raises
        ------
        TensorError
            If that is more than 16, or the step is still to be allocated.
        """
        if self.settled:
            return dict.fromkeys(planes, self)
        if self.step is None or self.step == "auto":
            raise TensorError("step: auto is chosen by the rate allocation; add an 'allocate' stage, or give the step")
        # error feedback adds to what is rounded
        slack = 1.25 if self.calibrated else 1.0
        return {
            name: msgspec.structs.replace(self, bits=bits_that_hold(planes[name].plane, self.step, slack))
            for name in planes
        }

    def options(self, x: Tensor) -> Sequence[Self]:
        """The same with steps from coarse to fine, each ``sqrt(2)`` times finer than the one before."""
        if self.allocated:
            return (self,)
        require_finite(x)
        return tuple(msgspec.structs.replace(self, step=step) for step in step_ladder(x))

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of ``codes`` are rows of the input, and so are those of the scales unless one scale is for all."""
        row = Known(known.weights)
        carried = {"codes": row}
        if planes["codes"].ndim > 1 and self.granularity != "tensor":
            carried.update({plane: row for plane in ("scale", "zero_point") if plane in planes})
        return carried

    @property
    def _width(self) -> int:
        """Bits per code, at most."""
        return MOST_BITS if self.bits is None else self.bits

    @property
    def _code_dtype(self) -> str:
        if not self.symmetric:
            return "uint8"
        return "int8" if self._width <= _DEFAULT_BITS else "int16"

    @property
    def _range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self.symmetric:
            return -(1 << (self._width - 1)), (1 << (self._width - 1)) - 1
        return 0, (1 << self._width) - 1

    @property
    def _is_sign(self) -> bool:
        return self.bits == 1 and self.symmetric

    def _blocks(self, shape: tuple[int, ...]) -> Blocks:
        seen = self._rows_in(shape)
        return one_block(seen) if self.granularity == "tensor" else blocks_of_rows(seen, self.group_size)

    def _rows_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which a plane has rows along its last axis."""
        return as_matrix(shape)

    def _prepared(self, x: Tensor) -> tuple[Tensor, Blocks, Tensor]:
        """The plane without its graph, how its values share scales, and its values by block."""
        require_finite(x)
        if self.step is not None:
            if not self.settled or self.step == "auto":
                raise TensorError("int with step finds the bits that codes need from the data: settle() it first")
            needed = bits_that_hold(x, self.step)
            if needed > self._width:
                raise TensorError(
                    f"codes need {needed} bits at a step of {self.step:g}, not {self.bits}; settle again, or leave bits out"
                )
        x = x.detach()
        blocks = self._blocks(x.shape)
        return x, blocks, cut(x, blocks)

    def _grid(self, parts: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every block."""
        if self.step is not None and self.step != "auto":
            scale = torch.full(blocks.scale_shape, self.step, dtype=wide_dtype(parts.dtype), device=parts.device)
        elif self._is_sign:
            scale = sign_scale(parts, blocks)
        else:
            return affine(parts, self._width, self.symmetric)
        return scale, torch.zeros_like(scale)


class Int1(Int, frozen=True):
    """The format of old files: rows of every tensor lie along its last axis."""

    version: ClassVar[int] = 1

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Second moments are those of rows as they are today."""
        return super().encode(x, known._replace(moments=None) if x.ndim > 2 else known)

    def _rows_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


int8 = Preset(Int, {"bits": 8})
