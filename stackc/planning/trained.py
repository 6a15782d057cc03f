"""What stages that train leave of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from stackc.core.transform import Transform

if TYPE_CHECKING:
    from torch import Tensor


class Hardened(NamedTuple):
    """What training left of one tensor.

    ``transforms`` are those that training changed, by the path that they split; ``planes`` are those at the leaves;
    ``inputs`` is what was trained and what simulated stages were given of it, by path, for a later stage that heals again.
    """

    transforms: dict[str, Transform]
    planes: dict[str, Tensor]
    inputs: dict[str, Tensor]


#: By stage and tensor.
HardenedStages = Mapping[int, Mapping[str, Hardened]]
