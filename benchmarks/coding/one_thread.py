"""Import first: everything that is timed runs in one thread, on one core."""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # read when torch and numba are imported


def pin() -> None:
    """Keep torch to one thread, and this process to one core where the system allows it."""
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
