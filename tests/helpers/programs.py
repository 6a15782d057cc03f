"""Programs of a few tensors that no model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor

from stackc.planning.program import Session
from stackc.tasks.none import NoTask


def session_of(
    tensors: Mapping[str, Tensor] | Callable[[str], Tensor], weights: Sequence[Tensor | None] = ()
) -> Session:
    """A session that has these tensors, by name, and row weights for each stage."""
    load = tensors.__getitem__ if isinstance(tensors, Mapping) else tensors
    session = Session(cast(Any, SimpleNamespace(tensor=load)), NoTask())
    session.weights = weights
    return session
