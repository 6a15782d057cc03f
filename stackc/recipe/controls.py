"""The keys ``controls`` and ``seeds`` of a recipe: what a result is compared with, and how often it is repeated."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

#: What a result is compared with: the same recipe on random weights, a linear model, the same recipe without healing.
ControlName = Literal["random-init", "linear", "no-heal"]

CONTROL_NAMES: tuple[ControlName, ...] = get_args(ControlName)

#: Under how many seeds a recipe is run.
SeedCount = Annotated[int, Meta(ge=1)]
