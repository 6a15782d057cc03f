"""Where compiled kernels are imported: on first use, since numba takes a second, and under one name."""

from __future__ import annotations

import functools
import importlib
from typing import Any


@functools.cache
def kernel(name: str) -> Any:
    """The module of a kernel, such as ``tcq._trellis_kernel``, by the name that it has when installed.

    numba keeps compiled code by the name of its module. In a checkout the same file can also be imported as
    ``transforms...``, as doctests do; code that was kept so fails to load anywhere else.
    """
    return importlib.import_module(f"stackc.transforms.{name}")
