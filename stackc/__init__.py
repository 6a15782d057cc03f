"""Composable compression-stacking for neural networks.

`compress` runs a recipe on a model, `load` gives the model of a ``.stackc`` file, `open` gives its tensors one by one, and
`repack` writes the same file in fewer bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stackc.api import compress as compress
    from stackc.api import load as load
    from stackc.api import open as open  # noqa: A004 - the name zarr, gzip and PIL use
    from stackc.artifact.reader import Artifact as Artifact
    from stackc.artifact.repacking import repack as repack
    from stackc.reporting.report import Report as Report
    from stackc.runs.runner import run as run

__all__ = ["Artifact", "Report", "compress", "load", "open", "repack", "run"]

#: No module of the package may be called like one of these: importing it would put it in the place of the name.
_HOMES = {
    "Artifact": "stackc.artifact.reader",
    "Report": "stackc.reporting.report",
    "compress": "stackc.api",
    "load": "stackc.api",
    "open": "stackc.api",
    "repack": "stackc.artifact.repacking",
    "run": "stackc.runs.runner",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stackc' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
