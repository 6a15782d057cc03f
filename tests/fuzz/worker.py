"""One piece of a run, in a process of its own: what ends the process is a finding about the mutant that it was at."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import struct
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.fuzz.minimise import minimised
from tests.fuzz.mutate import mutant
from tests.fuzz.oracle import judge

#: A worker may take so many bytes of address space beyond what it starts with.
ADDRESS_SPACE = 4 << 30

#: Every so many mutants one is read twice.
THOROUGH = 8


class Found(msgspec.Struct):
    """A mutant that broke the rules, and the smallest file that still does."""

    number: int
    kind: str
    finding: str
    data: bytes


class Piece(msgspec.Struct):
    """What a piece of a run gave; ``reached`` counts ``kind: how far`` of every mutant."""

    start: int
    count: int
    distinct: int
    seconds: float
    reached: dict[str, int]
    found: list[Found]


class Place:
    """Where a worker is, and whether it shall stop: shared with the process that watches it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 16)

    @property
    def number(self) -> int:
        """The mutant that the worker is at."""
        return int(struct.unpack_from("<q", self._shared, 0)[0])

    @number.setter
    def number(self, number: int) -> None:
        struct.pack_into("<q", self._shared, 0, number)

    @property
    def stopped(self) -> bool:
        """Whether the worker shall end after this mutant."""
        return self._shared[8] != 0

    def stop(self) -> None:
        """Ask the worker to end after this mutant."""
        self._shared[8] = 1


def signature(finding: str) -> str:
    """What a finding begins with, without its numbers: the same fault, whichever mutant shows it."""
    return "".join(letter for letter in finding.partition(":")[0] if not letter.isdigit())


def run_piece(seeds: Sequence[bytes], seed: int, start: int, count: int, place: Place) -> Piece:
    """Judge the mutants ``start`` to ``start + count``, or fewer if asked to stop."""
    reached: Counter[str] = Counter()
    digests: set[int] = set()
    found: dict[str, Found] = {}
    before, done = time.process_time(), 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = Path(folder) / "mutant.stackc"
        for number in range(start, start + count):
            if place.stopped:
                break
            place.number = number
            kind, data = mutant(seeds, seed, number)
            path.write_bytes(data)
            verdict = judge(path, number % THOROUGH == 0)
            reached[f"{kind}: {verdict.reached}"] += 1
            digests.add(hash(data))
            done += 1
            if verdict.finding is not None and signature(verdict.finding) not in found:
                small = _small(data, verdict.finding, path)
                found[signature(verdict.finding)] = Found(number, kind, verdict.finding, small)
    return Piece(start, done, len(digests), time.process_time() - before, dict(reached), list(found.values()))


def _small(data: bytes, finding: str, path: Path) -> bytes:
    def same(candidate: bytes) -> bool:
        path.write_bytes(candidate)
        again = judge(path, True).finding
        return again is not None and signature(again) == signature(finding)

    return minimised(data, same)


def limit_memory() -> None:
    """Let the process grow so far and no further, where the system can."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_SPACE, resource.RLIM_INFINITY))


def child(seeds: Sequence[bytes], seed: int, start: int, count: int, place: Place, result: Path) -> None:
    """What a forked process does; never returns."""
    status = 1
    try:
        warnings.simplefilter("ignore")
        limit_memory()
        piece = run_piece(seeds, seed, start, count, place)
        result.write_bytes(msgspec.msgpack.encode(piece))
        status = 0
    except BaseException:  # noqa: BLE001 -- a fault of the harness itself; the process that watches reports it
        traceback.print_exc()
    finally:
        os._exit(status)


def digest(folder: Path) -> str:
    """Eight digits that say which harness and which seeds made a run's mutants."""
    state = hashlib.sha256()
    for file in sorted([*Path(__file__).parent.glob("*.py"), *folder.glob("*.stackc")]):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()[:8]
