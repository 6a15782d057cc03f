"""Where results that are expensive to compute and can be computed again are kept between runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "STACKC_CACHE"


def cache_folder() -> Path | None:
    """``$STACKC_CACHE``, else ``$XDG_CACHE_HOME/stackc``, else ``~/.cache/stackc``; it need not exist.

    Returns
    -------
    Path or None
        None for a user without a home, as in many containers: nothing is kept then, and all is computed again.

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
        return _expanded(own)
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # the XDG specification says to ignore a relative path
        return shared / "stackc"
    home = _expanded("~")
    # A home such as "~" or "" would become a folder of that name wherever the program is run.
    return home / ".cache" / "stackc" if home is not None and home.is_absolute() else None


def _expanded(path: str) -> Path | None:
    """A path without its ``~``; None if nobody knows the home that it stands for."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return None


def require_download_folder() -> None:
    """Refuse to download for a user without a home: huggingface_hub would make a folder called ``~`` here.

    Raises
    ------
    OSError
        That says what to set.
    """
    from huggingface_hub import constants

    if constants.HF_HOME.startswith("~"):
        raise OSError("there is no home folder to keep downloads in, so set HF_HOME to a folder that can be written to")


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if it is not there.

    Examples
    --------
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     is_writable(Path(file.name)), is_writable(Path(file.name).parent)
    (False, True)
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
