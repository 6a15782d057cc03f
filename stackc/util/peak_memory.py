"""Resident memory while a piece of work runs, sampled from a background thread."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stackc.util.parallel import can_start_thread

#: Pieces of work shorter than this are not sampled one by one: to read the memory takes as long as some of them, and lets
#: other threads in the way of this one.
_INTERVAL_SECONDS = 0.01


def resident_bytes() -> int:
    """Memory that the process holds now; where the system does not say, the most that it has held so far."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            import resource

            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


class MemoryMeter:
    """Peak resident memory per label; labels may be open in several threads at once.

    Examples
    --------
    >>> with MemoryMeter() as meter:
    ...     with meter.during("work"):
    ...         block = bytearray(1 << 20)
    >>> meter.peaks["work"] > 1 << 20
    True
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._sampled = -math.inf
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._sample()

    def _sample(self) -> None:
        now = resident_bytes()
        with self._lock:
            self._sampled = time.monotonic()
            for label, count in self._open.items():
                if count:
                    self.peaks[label] = max(self.peaks.get(label, 0), now)

    @contextmanager
    def during(self, label: str) -> Iterator[None]:
        """Count memory towards a label until the block ends."""
        with self._lock:
            self._open[label] = self._open.get(label, 0) + 1
        begin = time.monotonic()
        if label not in self.peaks or begin - self._sampled >= _INTERVAL_SECONDS:
            self._sample()
        try:
            yield
        finally:
            if time.monotonic() - begin >= _INTERVAL_SECONDS:
                self._sample()
            with self._lock:
                self._open[label] -= 1

    def __enter__(self) -> MemoryMeter:
        # Without it, samples are taken where labels begin and end.
        if can_start_thread():
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
