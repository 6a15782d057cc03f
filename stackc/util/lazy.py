"""Heavy imports on first use, so that ``stackc list`` and ``stackc check`` answer at once.

torch takes seconds to import and planning a recipe needs none of it. Modules that compute write
``from stackc.util.lazy import torch`` and use it as usual; nothing is loaded until an attribute is read.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _LazyModule(ModuleType):
    """A module that imports itself when the first attribute is read."""

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), attribute)
        if attribute != "__path__":
            self.__dict__[attribute] = value  # the next read skips this function
        return value


if TYPE_CHECKING:
    import numpy as numpy
    import torch as torch
else:
    torch = _LazyModule("torch")
    numpy = _LazyModule("numpy")
