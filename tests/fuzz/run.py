"""A run: pieces of mutants in worker processes, until the time or the number is used up."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.fuzz.mutate import mutant
from tests.fuzz.oracle import judge
from tests.fuzz.worker import Found, Piece, Place, child, digest, signature

GOLDEN = Path(__file__).parents[1] / "golden" / "files"
CORPUS = Path(__file__).parent / "corpus"

#: Mutants that one process takes before it makes room for a new one.
PIECE = 100_000

#: A mutant that takes longer than this by the clock hangs.
_HANG_SECONDS = 300.0


class Line(msgspec.Struct):
    """A line of the log: one piece."""

    date: str
    harness: str
    machine: str
    seed: int
    start: int
    count: int
    distinct: int
    seconds: float
    reached: dict[str, int]
    findings: list[dict[str, Any]]


class _Running(NamedTuple):
    start: int
    count: int
    place: Place
    result: Path
    watch: list[float]


def seeds() -> list[bytes]:
    """The good files that mutants begin with: the golden ones."""
    return [path.read_bytes() for path in sorted(GOLDEN.glob("*.stackc"))]


def read_log(log: Path) -> list[Line]:
    """The pieces that a log holds."""
    if not log.exists():
        return []
    return [msgspec.json.decode(line, type=Line) for line in log.read_bytes().splitlines() if line.strip()]


def run(
    *,
    seconds: float,
    count: int | None = None,
    workers: int = 1,
    seed: int = 1,
    log: Path | None = None,
    corpus: Path | None = CORPUS,
    say: Callable[[str], None] = lambda text: None,
) -> list[Line]:
    """Judge mutants and return what each piece gave.

    Parameters
    ----------
    seconds : float
        Time by the clock.
    count : int, optional
        End after so many mutants even if there is time left.
    workers : int
        Processes at a time.
    seed : int
        Which sequence of mutants; the same one gives the same mutants.
    log : Path, optional
        A file of JSON lines, one a piece. The run goes on behind the last mutant that it holds of this seed, and adds to it.
    corpus : Path, optional
        Where the smallest file of each new finding is saved.
    say : callable
        Takes a line on the progress.
    """
    files = seeds()
    _warm_up(files)
    first = max((line.start + line.count for line in (read_log(log) if log else []) if line.seed == seed), default=0)
    last = None if count is None else first + count
    lines: list[Line] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for piece in _pieces(files, seed, first, last, workers, began + seconds, Path(folder)):
            line = _line(seed, piece, corpus)
            lines.append(line)
            if log:
                with log.open("ab") as file:
                    file.write(msgspec.json.encode(line) + b"\n")
            done, past = sum(each.count for each in lines), time.monotonic() - began
            found = sum(len(each.findings) for each in lines)
            say(f"{done:,} mutants, {done / past:,.0f} a second, {found} findings")
    return lines


def _pieces(
    files: Sequence[bytes], seed: int, first: int, last: int | None, workers: int, end: float, folder: Path
) -> Iterator[Piece]:
    running: dict[int, _Running] = {}
    waiting: list[tuple[int, int]] = []
    following = first
    try:
        while True:
            stop = time.monotonic() > end
            while not stop and len(running) < workers:
                if waiting:
                    start, count = waiting.pop()
                elif last is None or following < last:
                    start, count = following, PIECE if last is None else min(PIECE, last - following)
                    following += count
                else:
                    break
                place = Place()
                place.number = start
                result = folder / f"{start}"
                with warnings.catch_warnings():
                    # newer Pythons warn of threads that the other process will not have; it needs none
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process = os.fork()
                if not process:
                    child(files, seed, start, count, place, result)
                running[process] = _Running(start, count, place, result, [start, time.monotonic()])
            if not running:
                return
            for process, work in list(running.items()):
                if stop:
                    work.place.stop()
                if work.place.number != work.watch[0]:
                    work.watch[:] = [work.place.number, time.monotonic()]
                hung = time.monotonic() - work.watch[1] > _HANG_SECONDS
                if hung:
                    os.kill(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if hung else os.WNOHANG)
                if not ended:
                    continue
                del running[process]
                if os.waitstatus_to_exitcode(status) == 0 and work.result.exists():
                    yield msgspec.msgpack.decode(work.result.read_bytes(), type=Piece)
                    continue
                number = work.place.number
                code = os.waitstatus_to_exitcode(status)
                what = f"hung for {_HANG_SECONDS:.0f} seconds" if hung else f"ended the process with code {code}"
                kind, data = mutant(files, seed, number)
                done = number + 1 - work.start
                yield Piece(work.start, done, 0, 0.0, {"unknown": done}, [Found(number, kind, what, data)])
                if work.count > done:
                    waiting.append((number + 1, work.count - done))
            time.sleep(0.05)
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _warm_up(files: Sequence[bytes]) -> None:
    """Decode every seed, so that kernels are compiled and modules loaded before processes fork."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.stackc"
        for data in files:
            path.write_bytes(data)
            judge(path, True)  # where kernels are compiled, which takes its time
            verdict = judge(path, True)
            if verdict.finding is not None or verdict.reached != "decoded":
                raise AssertionError(f"a golden file is not decoded: {verdict}")


def _line(seed: int, piece: Piece, corpus: Path | None) -> Line:
    findings = []
    for found in piece.found:
        name = save(found, seed, corpus) if corpus else None
        findings.append({"number": found.number, "kind": found.kind, "finding": found.finding, "file": name})
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    return Line(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        harness=digest(GOLDEN),
        machine=machine,
        seed=seed,
        start=piece.start,
        count=piece.count,
        distinct=piece.distinct,
        seconds=round(piece.seconds, 1),
        reached=piece.reached,
        findings=findings,
    )


def save(found: Found, seed: int, corpus: Path) -> str:
    """Keep the file of a finding beside its reason, unless one of its kind is there; returns its name."""
    slug = re.sub(r"[^a-z]+", "-", signature(found.finding).lower()).strip("-")[:60]
    name = f"{slug}-{hashlib.sha256(signature(found.finding).encode()).hexdigest()[:6]}"
    corpus.mkdir(exist_ok=True)
    if not (corpus / f"{name}.stackc").exists():
        (corpus / f"{name}.stackc").write_bytes(found.data)
        reason = {"finding": found.finding, "kind": found.kind, "seed": seed, "number": found.number}
        (corpus / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(reason)) + b"\n")
    return name
