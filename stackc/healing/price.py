"""The price of a bit during training: as given, or steered so that the file comes out at a size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.core.rate import CodeBits
from stackc.core.stack import join
from stackc.healing.latents import TrainedTensor
from stackc.healing.settings import Heal
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Steps after which the distribution of the codes is looked at again.
REFRESH = 25

#: Share of the steps over which a given price grows to its full height.
_RAMP = 0.3

#: Share of the steps over which the size that is aimed at falls to the target, more slowly towards the end, since codes
#: that have become zero do not come back; and after which the price stays as it is: the learning rate is too small then
#: for codes to follow.
_FALL, _SETTLED = 0.55, 0.95

#: How the price answers to a size that is off by a factor of e: at once, and per share of the steps.
_AT_ONCE, _OVER_TIME = 6.0, 30.0

#: Nothing is made of more than this: large models start far from the size, and may be far behind for long.
_TOO_SMALL, _TOO_LARGE = -0.3, 0.6

#: Codes move in proportion to the learning rate, so the price answers in inverse proportion; but no more than if it were
#: this share of its peak.
_SLOWEST = 0.1

#: The size aimed at, in parts of the target: what evaluations measure scatters, and may not exceed the target.
_GOAL = 0.985

#: A file smaller than so much of the goal pays nothing: codes of a random start would die before they have learnt.
_FREE = 0.9

#: A price of so many units of loss for the whole target begins near where most trainings end.
_FIRST = 0.05


class Size(NamedTuple):
    """Measured by packing: bytes of the whole file, and of the planes that have a price, by tensor and path."""

    file: int
    priced: Mapping[str, int]


class Pricing:
    """What bits cost, and how many there are.

    Parameters
    ----------
    settings : Heal
        With ``rate``, ``bytes``, or neither.
    trained : mapping
        Trained tensors by name.
    steps : int
        Of the whole training.
    """

    def __init__(self, settings: Heal, trained: Mapping[str, TrainedTensor], steps: int) -> None:
        self._settings = settings
        self._trained = trained
        self._steps = steps
        self._estimates: dict[str, CodeBits] = {}
        self._rest = 0.0
        self._factor = 1.0
        self._begin: float | None = None
        self._integral = 0.0
        self._last = 0.0
        self.price = 0.0

    @property
    def active(self) -> bool:
        """Whether bits have a price at all."""
        return bool(self._settings.rate) or self._settings.target_bytes is not None

    def refresh(self) -> None:
        """Look at the codes as they are now; every `REFRESH` steps."""
        self._estimates.clear()

    def bits(self) -> Tensor:
        """Estimated bits of all codes that have a price, as they would be packed; 0-d, differentiable."""
        found = []
        for name, tensor in self._trained.items():
            bits = tensor.bits(lambda path, codes, name=name: self._of(join(name, path), codes))  # type: ignore[misc]
            if bits is not None:
                found.append(bits)
        return torch.stack(found).sum() * self._factor if found else torch.zeros((), dtype=torch.float32)

    def _of(self, plane: str, codes: Tensor) -> Tensor:
        if plane not in self._estimates:
            self._estimates[plane] = CodeBits.like(codes)
        return self._estimates[plane](codes)

    def measured(self, size: Size) -> float:
        """Set the estimate right by what was packed; returns the file's estimated bytes before that."""
        with torch.no_grad():
            bits = float(self.bits())
        before = bits / 8 + self._rest
        priced = sum(size.priced.values())
        if bits > 0 and priced:
            self._factor *= priced / (bits / 8)
        self._rest = size.file - priced
        return before

    def update(self, step: int, bits: float, pace: float) -> float:
        """The price for a step at which so many bits are estimated, at such a share of the peak learning rate."""
        done = step / self._steps
        target = self._settings.target_bytes
        if target is None:
            self.price = self._settings.rate * min(1.0, done / _RAMP)
            return self.price
        # Bits that no price can lower are taken off both.
        size, goal = max(bits / 8, 1.0), max(_GOAL * target - self._rest, 1.0)
        if self._begin is None:
            self._begin = max(size, goal)
        left = 1 - min(1.0, done / _FALL)
        aim = math.log(goal) + (math.log(self._begin) - math.log(goal)) * left**2
        if done < _SETTLED:
            error = min(max(math.log(size) - aim, _TOO_SMALL), _TOO_LARGE) / max(pace, _SLOWEST)
            self._integral += (done - self._last) * _OVER_TIME * error
            self._last = done
            first = _FIRST / (8 * goal)
            self.price = first * math.exp(min(max(self._integral + _AT_ONCE * error, -8.0), 8.0))
        return self.price if size >= _FREE * goal else 0.0

    def state(self) -> dict[str, Any]:
        """For checkpoints."""
        return {
            "rest": self._rest,
            "factor": self._factor,
            "begin": self._begin,
            "integral": self._integral,
            "last": self._last,
            "price": self.price,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self._rest, self._factor, self._begin = state["rest"], state["factor"], state["begin"]
        self._integral, self._last, self.price = state["integral"], state["last"], state["price"]
        self.refresh()
