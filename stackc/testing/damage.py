"""Damaged bytes, and a guard around the code that reads them."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator

from stackc.testing.check import require, require_sentence, said
from stackc.testing.planes import random_words
from stackc.util.errors import ArtifactError

_MEBIBYTE = 1 << 20


def damaged(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damaged versions of ``data`` with a description each.

    Truncations (all lengths up to 64 bytes, some beyond), extensions, every bit of the first 64 and last 8 bytes flipped,
    single and several bits flipped anywhere, the first 16 bytes set to 0 and 255, and random bytes of several lengths.

    Examples
    --------
    >>> versions = dict(damaged(b"abc", 0))
    >>> versions["cut to 2 bytes"], versions["bit 0 of byte 1 flipped"]
    (b'ab', b'acc')
    """
    return ((description, version) for description, version in _versions(data, seed) if version != data)


def _versions(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    size = len(data)
    words = iter(random_words(1200, seed, f"damage {size}").tolist())
    for length in sorted({*range(min(size, 64)), *(next(words) % size for _ in range(16) if size)}):
        yield f"cut to {length} bytes", data[:length]
    for extra in (b"\0", b"\xff", b"\0\0\0\0", data[:8], data):
        if extra:
            yield f"followed by {len(extra)} bytes {extra[:4].hex()}...", data + extra
    for position in sorted({*range(min(size, 64)), *range(max(size - 8, 0), size)}):
        for bit in range(8):
            yield f"bit {bit} of byte {position} flipped", _flipped(data, [8 * position + bit])
    for position in range(min(size, 16)):
        for value in (0, 255):
            yield f"byte {position} set to {value}", data[:position] + bytes([value]) + data[position + 1 :]
    for count in (1,) * 48 + (2, 3, 5, 8, 13) * 8:
        bits = [next(words) % (8 * size) for _ in range(count) if size]
        if bits:
            yield f"{count} random bits flipped", _flipped(data, bits)
    for length in (1, 2, 3, 5, 9, 17, 33, 200, size, size):
        noise = b"".join((next(words)).to_bytes(8, "little") for _ in range(min(length // 8 + 1, 30)))
        yield f"replaced by {length} random bytes", (noise * (length // len(noise) + 1))[:length]


def _flipped(data: bytes, bits: list[int]) -> bytes:
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


class Guard:
    """Runs a reader over damaged bytes and holds it to the rules: the right exception, bounded time and memory.

    Parameters
    ----------
    allowance : int
        Bytes that one call may allocate through Python and numpy at a time, besides four times its input.
    seconds : float
        Time that all calls together may take.
    """

    def __init__(self, allowance: int, seconds: float) -> None:
        self.allowance = allowance
        self.seconds = seconds

    def run(self, read: Callable[[bytes], str | None], versions: Iterator[tuple[str, bytes]], origin: str) -> None:
        """Call ``read``, which returns None or a complaint, on every version.

        Raises
        ------
        AssertionError
            If a call raises anything but `ArtifactError`, complains, takes too much memory, or the calls do not end.
        """
        failures: list[str] = []
        now = ["nothing yet"]
        thread = threading.Thread(target=self._read_all, args=(read, versions, now, failures), daemon=True)
        thread.start()  # a thread, because a reader that never returns could not be stopped any other way
        thread.join(self.seconds)
        require(not thread.is_alive(), f"unpack of {origin}, {now[0]}, has not returned after {self.seconds:g} s")
        require(not failures, f"unpack of {origin}, {failures[0] if failures else ''}")

    def _read_all(
        self,
        read: Callable[[bytes], str | None],
        versions: Iterator[tuple[str, bytes]],
        now: list[str],
        failures: list[str],
    ) -> None:
        started = not tracemalloc.is_tracing()
        if started:
            tracemalloc.start(1)
        try:
            for description, data in versions:
                now[0] = description
                complaint = self._read_one(read, data)
                if complaint is not None:
                    failures.append(f"{description}, {complaint}")
                    return
        finally:
            if started:
                tracemalloc.stop()

    def _read_one(self, read: Callable[[bytes], str | None], data: bytes) -> str | None:
        allowance = self.allowance + 4 * len(data)
        resident = peak_memory()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            complaint = read(data)
        except ArtifactError as error:
            try:
                require_sentence(str(error), "the ArtifactError")
            except AssertionError as vague:
                return str(vague)
            complaint = None
        except BaseException as error:  # noqa: BLE001 -- a panic of a Rust library is not an Exception
            return f"raises {said(error)} instead of ArtifactError"
        grown = tracemalloc.get_traced_memory()[1] - before
        if grown > allowance:
            return f"allocates {grown:,} bytes where {allowance:,} would do"
        if resident and peak_memory() - resident > allowance + 64 * _MEBIBYTE:
            return f"makes the process grow by {peak_memory() - resident:,} bytes where {allowance:,} would do"
        return complaint
