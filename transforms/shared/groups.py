"""Which planes have something in common: the field ``group`` of stages that share planes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from stackc.util.patterns import matches

_Grouping = Literal["all", "alike"] | tuple[str, ...]
_MEANING = msgspec.Meta(
    description="planes that have this in common: all, alike (the same names but for numbers), or a list of patterns "
    "with a group for each"
)

#: ``all`` planes of a stage, those whose names are ``alike`` but for numbers, or those that each pattern matches.
Grouping = Annotated[_Grouping, _MEANING]

#: The same, or None where every plane stands for itself.
Group = Annotated[_Grouping | None, _MEANING]


def grouped(names: Sequence[str], group: _Grouping | None) -> dict[str, list[str]]:
    """Addresses of planes by group; what no group takes has nothing in common with others.

    Examples
    --------
    >>> names = ["layer.0.key", "layer.1.key", "layer.0.value"]
    >>> grouped(names, "alike")
    {'layer.N.key': ['layer.0.key', 'layer.1.key'], 'layer.N.value': ['layer.0.value']}
    >>> grouped(names, ("*.key",))
    {'1': ['layer.0.key', 'layer.1.key']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        of = _group_of(name, group)
        if of is not None:
            found.setdefault(of, []).append(name)
    return found


def _group_of(name: str, group: _Grouping | None) -> str | None:
    if group == "alike":
        return re.sub(r"\d+", "N", name).replace("/", ".")
    if isinstance(group, str) or group is None:
        return group
    tensor, _, path = name.partition("/")
    return next((str(number) for number, one in enumerate(group, 1) if matches([one], [tensor], path)), None)
