"""Tcq: trellis-coded quantisation with one step for the whole plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec

from stackc.core.abilities import Allocated, Trainable
from stackc.core.planes import limited
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Weighted, require_finite
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import numpy, torch
from stackc.util.parallel import one_thread_per_operation

from ..shared.steps import MOST_STRETCH, largest_magnitude, stretch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Most bits of a code, those of int16.
_MOST_BITS = 16

#: The ladder of `Tcq.options`: steps from this multiple of the root mean square down, by this ratio, so many of them.
_COARSEST, _RATIO, _RUNGS = 4.0, 2**-0.5, 19

#: Values whose error is bounded at a time, in float64.
_CHUNK = 1 << 20


class Tcq(Trainable, Allocated, frozen=True):
    """Quantise with two interleaved grids, and let the codes so far say which one comes next.

    Quantiser 0 has the even multiples of ``step``, quantiser 1 the odd ones and zero. A state machine, which the
    parities of the codes drive, chooses the quantiser. So every code costs as much as one of a grid with twice the
    step, but a search over all sequences of codes (Viterbi) finds points as close as if the grid were nearly as fine as
    ``step``: at equal error this saves about 0.1 bit per weight. Marcellin and Fischer 1990, "Trellis coded
    quantization"; with the rate in the search Fischer and Wang 1992; in this form, called dependent quantisation, in
    VVC (ITU-T H.266) and in the neural network coding standard (ISO/IEC 15938-17).

    ========== ======== ==============================================================
    plane      shape    holds
    ========== ======== ==============================================================
    ``codes``  of input ``k``, int8 if ``bits <= 8``, else int16
    ``scale``  ``()``   ``step``, stretched, as float32, or float64 of a float64 plane
    ========== ======== ==============================================================

    Codes are read in C order, and the state goes on from one row to the next. It begins as 0. With
    ``_trellis.NEXT_STATE`` and ``_trellis.QUANTISER``::

        quantiser = QUANTISER[states][state]
        value = scale * (2 * k - sign(k) * quantiser)
        state = NEXT_STATE[states][state][k & 1]

    The search minimises the sum of ``(error / step)**2 + rdo * bits``. The rate term moves codes towards zero; so that
    the plane does not shrink, which costs a network more than noise does, the scale is then stretched a little (see
    `stackc.transforms.shared.steps.stretch`). Without ``rdo`` no value is off by more than
    two steps. With ``bits`` left out, it is settled so that all values are in range; values out of range become the
    largest ones that fit.

    Parameters
    ----------
    step : float or "auto", optional
        Distance of the two grids, in the units of the plane. At the same error it is about 0.6 of
        the step of a uniform quantiser. Not stored here but in ``scale``, hence None in a file. ``"auto"`` leaves it to
        the rate allocation.
    states : {4, 8}
        8 states save 0.02 to 0.04 bit per weight more than 4, and decode as fast.
    rdo : float
        Multiplier of the rate. 0.2 to 0.3 gives the smallest file at equal error for 1 to 4 bits per weight.
    bits : int, optional
        Bits that hold a code. Written by `settle`, rarely by people.

    Raises
    ------
    ValueError
        If neither ``step`` nor ``bits`` is given.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.9, -2.1, 0.2], [3.1, -0.4, 1.4]])
    >>> tcq = Tcq(step=0.5, rdo=0.0, bits=4)
    >>> planes = tcq.encode(x)
    >>> planes["codes"], planes["scale"]
    (tensor([[ 1, -2,  0],
            [ 4, -1,  1]], dtype=torch.int8), tensor(0.5000))
    >>> tcq.decode(planes, PlaneSpec.of(x))
    tensor([[ 1.0000, -2.0000,  0.0000],
            [ 3.5000, -0.5000,  1.0000]])
    """

    name: ClassVar[str] = "tcq"
    version: ClassVar[int] = 1
    side: ClassVar[frozenset[str]] = frozenset({"scale"})
    factors: ClassVar[frozenset[str]] = frozenset({"scale"})
    encode_only: ClassVar[frozenset[str]] = frozenset({"step", "rdo"})

    step: Annotated[
        Annotated[float, msgspec.Meta(ge=2.0**-126, le=2.0**127)] | Literal["auto"] | None,
        msgspec.Meta(description="distance of the two grids, in units of the weights; auto: chosen by the allocation"),
    ] = None
    states: Annotated[Literal[4, 8], msgspec.Meta(description="states of the trellis")] = 8
    rdo: Annotated[
        float, msgspec.Meta(ge=0, le=1000, description="weight of the bits against the squared error in steps")
    ] = 0.25
    bits: Annotated[
        Annotated[int, msgspec.Meta(ge=2, le=_MOST_BITS)] | None,
        msgspec.Meta(description="bits that hold a code; left out, as many as the largest value needs"),
    ] = None

    def __post_init__(self) -> None:
        if self.step is None and self.bits is None:
            raise ValueError("tcq needs a step, in units of the weights, such as 0.02, or step: auto")

    @property
    def allocated(self) -> bool:
        """Whether the step is a number, or stored already."""
        return self.step != "auto"

    @property
    def settled(self) -> bool:
        """Whether step and bits are known."""
        return self.allocated and self.bits is not None

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        """Planes ``codes`` and ``scale``.

        Raises
        ------
        SpecError
            If the plane is not real.
        """
        if not spec.is_real:
            raise SpecError(f"tcq takes real planes (float16, bfloat16, float32, float64), this one is {spec}")
        bits = self.bits or _MOST_BITS
        codes = PlaneSpec(spec.shape, "int8" if bits <= 8 else "int16", -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        return {"codes": codes, "scale": PlaneSpec((), "float64" if spec.dtype == "float64" else "float32")}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        """Search the codes; row weights, relative to their mean, scale the squared errors of their rows.

        Raises
        ------
        TensorError
            If ``x`` holds NaN or infinity, or step and bits are not both known.
        """
        planes = {
            "codes": self._searched(x, known.weights),
            "scale": torch.tensor(self.step, dtype=_wide(x), device=x.device),
        }
        if self.rdo:
            planes["scale"] *= stretch(x, self.decode(planes, PlaneSpec.of(x)), known.weights)
        return planes

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Search the codes again, for the scale that is there; gradients pass the search unchanged."""
        scale = planes["scale"].detach()
        there = msgspec.structs.replace(self, step=max(float(scale), 2.0**-126))
        return {"codes": there._searched(x, None), "scale": scale}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        """Reconstruct in whole steps, then scale, in the dtype of the scale; then round to the dtype of the spec."""
        codes, scale = planes["codes"].reshape(-1), planes["scale"]
        # twice the code may need one bit more than the code
        steps = codes.to(torch.int16 if codes.dtype == torch.int8 else torch.int32).mul_(2)
        steps -= codes.sign().mul_(quantisers(codes, self.states).to(codes.dtype))
        return limited((steps.to(scale.dtype) * scale).reshape(spec.shape), spec.dtype)

    @one_thread_per_operation()
    def error_bound(self, x: Tensor) -> float:
        """Two steps for every value, or what makes a zero cheaper, or what is out of range, plus rounding.

        Every class of codes has one within two steps, and only a zero can win against it, by its bits.
        """
        if not isinstance(self.step, float):
            return math.inf
        from ._trellis_search import MOST_BITS

        step = float(torch.tensor(self.step, dtype=_wide(x)))
        most = math.inf if self.bits is None else 2.0 * self._largest_code - 1
        farthest = math.sqrt(4 + self.rdo * MOST_BITS)
        squares = size = 0.0
        for part in torch.split(x.detach().reshape(-1), _CHUNK):
            steps = part.to(torch.float64).abs() / step
            inside = steps.clamp(max=most)
            worst = inside.clamp(2.0, farthest) + (steps - inside) + steps * 2**-21
            squares += float(worst.square().sum())
            size += float(steps.square().sum())
        error = math.sqrt(squares) * step
        if self.rdo:
            error = MOST_STRETCH * error + (MOST_STRETCH - 1) * math.sqrt(size) * step
        shown = torch.finfo(x.dtype)
        decoded = math.sqrt(size) * step + error
        subnormal = shown.smallest_normal * shown.eps * math.sqrt(x.numel())
        return error + (torch.finfo(_wide(x)).eps + shown.eps / 2) * decoded * (1 + 2**-10) + subnormal

    def options(self, x: Tensor) -> Sequence[Self]:
        """Nineteen steps from four times the root mean square of ``x`` down to a 128th of it, by ``sqrt(1 / 2)``.

        Without those that would need codes of more than 16 bits. One step of 1 if there is nothing but zeros.
        """
        if self.allocated:
            return (self,)
        require_finite(x)
        wide = x.detach().to(torch.float64)
        largest = float(wide.abs().max()) if x.numel() else 0.0
        unit = largest or 1.0  # squares of tiny numbers vanish, those of huge ones overflow
        size = float(torch.linalg.vector_norm(wide / unit)) * unit / math.sqrt(max(x.numel(), 1))
        steps = [size * _COARSEST * _RATIO**rung for rung in range(_RUNGS)] if size else [1.0]
        fine = max(largest / (2.0 * _most_code(_MOST_BITS) - 2), 2.0**-126)
        fitting = [min(step, 2.0**127) for step in steps if step >= fine] or [min(fine * (1 + 2**-10), 2.0**127)]
        return tuple(
            msgspec.structs.replace(self, step=float(torch.tensor(step, dtype=torch.float32))) for step in fitting
        )

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        """Find the bits that hold the codes of each plane, from its largest magnitude.

        Raises
        ------
        TensorError
            If a plane holds NaN or infinity, needs codes of more than 16 bits, or the step is left to the allocation.
        """
        if self.settled:
            return dict.fromkeys(planes, self)
        return {name: self._settled_on(planes[name].plane) for name in planes}

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        """Rows of ``codes`` are rows of the input."""
        return {"codes": Known(known.weights)}

    def _searched(self, x: Tensor, weights: Tensor | None) -> Tensor:
        from ._trellis_search import search

        require_finite(x)
        if not isinstance(self.step, float) or self.bits is None:
            raise TensorError(
                "tcq encodes with a step and the bits that settle() finds; give it a step and settle() it"
            )
        values = x.detach().to(torch.float32).contiguous().reshape(-1)
        factors = _factors(weights, x)
        codes = search(values.cpu().numpy(), self.step, self.states, self.rdo, self._largest_code, factors)
        dtype = torch.int8 if self.bits <= 8 else torch.int16
        return torch.from_numpy(codes).to(dtype).reshape(x.shape).to(x.device)

    @property
    def _largest_code(self) -> int:
        return _most_code(self.bits or _MOST_BITS)

    def _settled_on(self, x: Tensor) -> Self:
        from ._trellis_search import largest_code

        if not isinstance(self.step, float):
            raise TensorError("step: auto is for a rate allocation, and this run has none; give a step such as 0.02")
        if self.bits is not None:
            return self
        require_finite(x)
        largest = largest_magnitude(x)
        # float32 may round a quotient up
        code = largest_code(largest / self.step * (1 + 2**-21))
        bits = max(code.bit_length() + 1, 2)
        if bits > _MOST_BITS:
            raise TensorError(
                f"values up to {largest:g} need codes of {bits} bits at step {self.step:g}, and {_MOST_BITS} fit; "
                f"a step of {largest / 65000:.2g} or more would do"
            )
        return msgspec.structs.replace(self, bits=bits)


def quantisers(codes: Tensor, states: int) -> Tensor:
    """Quantiser of each code, 0 or 1, from the parities of the codes before it.

    The machine is linear over GF(2). With 4 states ``q[t] = q[t-2] ^ p[t-1]``. With 8 states
    ``q[t] = q[t-1] ^ q[t-3] ^ p[t-2]``, and since ``(1 + D + D^3) (1 + D + D^2 + D^4) = 1 + D^7``, also
    ``q[t] = q[t-7] ^ p[t-2] ^ p[t-3] ^ p[t-4] ^ p[t-6]``. Both are running sums with a stride.

    Parameters
    ----------
    codes : Tensor
        Integers in order, shape ``(n,)``.
    states : int
        4 or 8.

    Returns
    -------
    Tensor
        uint8, shape ``(n,)``.

    Examples
    --------
    >>> import torch
    >>> quantisers(torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 8).tolist()
    [0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 1]
    >>> quantisers(torch.tensor([1, 0, 0, 1, 0, 0]), 4).tolist()
    [0, 1, 0, 1, 1, 1]
    """
    period, delays = {4: (2, (1,)), 8: (7, (2, 3, 4, 6))}[states]
    count = codes.numel()
    rows = -(-count // period)
    parities = torch.zeros(max(delays) + rows * period, dtype=torch.uint8, device=codes.device)
    parities[max(delays) : max(delays) + count] = codes & 1
    driven = torch.zeros(rows * period, dtype=torch.uint8, device=codes.device)
    for delay in delays:
        begin = max(delays) - delay
        driven ^= parities[begin : begin + rows * period]
    # wraps around at 256, which leaves the last bit as it is
    summed: Tensor = driven.reshape(rows, period).cumsum(0, dtype=torch.uint8).reshape(-1)[:count] & 1
    return summed


def _most_code(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _wide(x: Tensor) -> torch.dtype:
    """Dtype of the scale."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _factors(weights: Tensor | None, x: Tensor) -> np.ndarray | None:
    """Factor of the squared error of each value, with mean 1; None if they are all the same or all zero."""
    if weights is None or not x.numel():
        return None
    wide = weights.detach().to(torch.float64).cpu().numpy()
    mean = float(wide.mean())
    if not 0 < mean < math.inf or (wide == wide[0]).all():
        return None
    factors: np.ndarray = (wide / mean).astype(numpy.float32).repeat(x.numel() // x.shape[0])
    return factors
