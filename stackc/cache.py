"""Where results that are expensive to compute and can be computed again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "STACKC_CACHE"


def cache_folder() -> Path:
    """``$STACKC_CACHE``, else ``$XDG_CACHE_HOME/stackc``, else ``~/.cache/stackc``; it need not exist.

    Examples
    --------
    >>> import os
    >>> os.environ["STACKC_CACHE"] = "/tmp/kept"
    >>> cache_folder()
    PosixPath('/tmp/kept')
    >>> del os.environ["STACKC_CACHE"]
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "stackc"
