"""An older format of a stage, as a package that still reads it would provide it."""

from __future__ import annotations

from typing import ClassVar

from stackc.transforms.int import Int


class OldInt(Int, frozen=True):
    """``int@0``."""

    version: ClassVar[int] = 0
