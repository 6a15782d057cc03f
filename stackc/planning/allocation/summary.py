"""What the report says of an allocation."""

from __future__ import annotations

from typing import Any

import msgspec


class AllocationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the rate allocation aimed at, reached and chose.

    Parameters
    ----------
    target_bytes, bytes : int
        Most bytes that the file may have, and those that it has.
    sensitivity, unit : str
        What losses were estimated by, and their unit.
    estimated_loss : float
        Estimate for the whole model.
    slope : float
        What one more byte would have saved of it, in any tensor.
    choices : dict
        ``{stage: {plane: fields}}``: what was chosen where the recipe says ``auto``.
    """

    target_bytes: int
    bytes: int
    sensitivity: str
    unit: str
    estimated_loss: float
    slope: float
    choices: dict[str, dict[str, dict[str, Any]]]
