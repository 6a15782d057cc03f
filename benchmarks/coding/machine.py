"""The machine in words, for the head of a table."""

from __future__ import annotations

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version


def describe_machine(*packages: str) -> str:
    """Date, processor, Python and versions of packages.

    Examples
    --------
    >>> "Python" in describe_machine("numpy")
    True
    """
    versions = []
    for package in packages or ("nncodec", "zstandard", "brotli", "constriction", "numba", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = f"{os.cpu_count()} cores, of which one is used"
    return f"{date.today()}, {platform.machine()}, {cores}, {platform.system()}, Python {platform.python_version()}, {', '.join(versions)}, no GPU."
