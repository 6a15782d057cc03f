"""Controls: runs that must lose for a result to mean anything, and repetitions under other seeds."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

#: What a result is compared with: the same recipe on random weights, a linear model, the same recipe without healing.
ControlName = Literal["random-init", "linear", "no-heal"]

CONTROL_NAMES: tuple[ControlName, ...] = get_args(ControlName)

#: Under how many seeds a recipe is run.
SeedCount = Annotated[int, Meta(ge=1)]
