"""No network while a model is built: a config may name other models, which transformers would download."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_before: list[bool] = []  # what the switch said before the first of the blocks that run now, in whatever threads


@contextmanager
def offline() -> Iterator[None]:
    """Let huggingface_hub refuse every request while the block runs, as ``HF_HUB_OFFLINE=1`` does for a whole process.

    The switch is one for all threads: what another thread asks of the hub meanwhile is refused as well.

    Examples
    --------
    >>> from huggingface_hub import constants
    >>> with offline():
    ...     constants.HF_HUB_OFFLINE
    True
    """
    from huggingface_hub import constants

    with _lock:
        _before.append(_before[0] if _before else constants.HF_HUB_OFFLINE)
        _switch(constants, on=True)
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                _switch(constants, on=before)


def _switch(constants: Any, *, on: bool) -> None:
    import huggingface_hub.utils

    constants.HF_HUB_OFFLINE = on
    # Releases before 1.0 look at the switch when a session begins.
    reset = getattr(huggingface_hub.utils, "reset_sessions", None)
    if reset is not None:
        reset()


def wanted_network(error: BaseException) -> bool:
    """Whether an error, or what led to it, is a refused request."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OfflineModeIsEnabled):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
