"""Stages in a module that imports torch, which makes planning slow."""

from __future__ import annotations

import torch

from tests.testing.sample_packers import Counted
from tests.testing.sample_transforms import Negate

NEGATIVE_ONE = torch.tensor(-1.0)


class HeavyNegate(Negate, frozen=True):
    pass


class HeavyCounted(Counted, frozen=True):
    pass
