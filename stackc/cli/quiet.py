"""Keep what other libraries print off the user's terminal. Only the console script does this, never the library."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from stackc.cli.guard import DEBUG_VARIABLE

#: Read by the libraries when they are imported, which is after this; what the user has set stays.
_SETTINGS = {
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def silence_libraries() -> None:
    """Switch off warnings, log lines and progress bars of other libraries, unless ``STACKC_DEBUG=1``."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    if os.environ.get(DEBUG_VARIABLE) == "1":
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore")
    # Some libraries put handlers of their own on their loggers, so nothing less than all of it is quiet.
    logging.disable(logging.CRITICAL)
