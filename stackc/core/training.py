"""`TrainingStage`: a stage of a recipe that changes the values of planes by training, and adds no plane."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from stackc.core.transform import StageMeta


class TrainingStage(msgspec.Struct, metaclass=StageMeta, frozen=True, forbid_unknown_fields=True):
    """Base class of stages that train: a frozen value whose fields are its whole configuration.

    Such a stage leaves every stack as it is, apart from configurations that follow from the data, such as the bits that
    codes need. The file does not know that it was there.
    """

    name: ClassVar[str]
    version: ClassVar[int]
