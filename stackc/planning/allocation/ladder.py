"""The values that one open choice may take, from few bytes to many, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from stackc.core.transform import Transform

#: Positions of a ladder on which the middle is enough to begin with.
_SHORT = 9

Value = TypeVar("Value", bound=Transform)


class Ladder(Generic[Value]):
    """Options of a transform, at the positions 0, 1, 2 ... and, where they are numbers, at any position between.

    Parameters
    ----------
    options : sequence of Transform
        What `stackc.core.abilities.Allocated.options` gives; at least one.

    Examples
    --------
    >>> from stackc.core.registry import find
    >>> int_ = find("int").stage
    >>> ladder = Ladder([int_(step=0.4), int_(step=0.1)])
    >>> ladder.top, round(ladder.at(0.5).step, 9)
    (1, 0.2)
    """

    def __init__(self, options: Sequence[Value]) -> None:
        self.options = tuple(options)

    @property
    def top(self) -> int:
        """Position of the last option."""
        return len(self.options) - 1

    @property
    def coarse(self) -> tuple[float, ...]:
        """Both ends and one or two positions between, where a search begins."""
        parts = 2 if self.top <= _SHORT else 3
        return tuple(sorted({float(round(self.top * part / parts)) for part in range(parts + 1)}))

    def at(self, position: float) -> Value:
        """The value at a position; between two options that cannot be mixed it is the lower one."""
        lower = min(max(math.floor(position), 0), self.top)
        if lower == position or lower == self.top:
            return self.options[lower]
        return between(self.options[lower], self.options[lower + 1], position - lower) or self.options[lower]


def between(first: Value, second: Value, share: float) -> Value | None:
    """A value between two of a transform: numbers that differ are interpolated, geometrically if both are positive.

    None if something that is no number differs, or the transform refuses the result.
    """
    changed: dict[str, float] = {}
    for name in first.__struct_fields__:
        one, other = getattr(first, name), getattr(second, name)
        if one == other:
            continue
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)):
            return None
        mixed = one ** (1 - share) * other**share if min(one, other) > 0 else one + (other - one) * share
        changed[name] = round(mixed) if isinstance(one, int) and isinstance(other, int) else mixed
    try:
        return msgspec.structs.replace(first, **changed)
    except (TypeError, ValueError):
        return None
