"""``python -m tests.fuzz``: mutants of good files against the decoder; ``make fuzz`` runs it for a minute.

Ends with 1 if there were findings. Each is saved in ``tests/fuzz/corpus``, where a test opens it from then on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.mutate import mutant
from tests.fuzz.oracle import REACHED
from tests.fuzz.run import CORPUS, Line, read_log, run, seeds


def main(arguments: list[str] | None = None) -> int:
    """Run, or show what a log holds, or rebuild one mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="time by the clock")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--count", type=int, help="end after so many mutants even if there is time left")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--seed", type=int, default=1, help="which sequence of mutants")
    parser.add_argument("--log", type=Path, help="JSON lines to go on from and to add to")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder for the files of findings")
    parser.add_argument("--report", action="store_true", help="only show what the log holds")
    parser.add_argument("--mutant", type=int, metavar="NUMBER", help="only write this mutant to standard output")
    options = parser.parse_args(arguments)
    if options.mutant is not None:
        sys.stdout.buffer.write(mutant(seeds(), options.seed, options.mutant).data)
        return 0
    if options.report:
        sys.stdout.write(table(read_log(options.log)))
        return 0
    lines = run(
        seconds=60 * options.minutes if options.minutes else options.seconds,
        count=options.count,
        workers=options.workers,
        seed=options.seed,
        log=options.log,
        corpus=options.corpus,
        say=lambda text: print(text, file=sys.stderr, flush=True),  # noqa: T201 - a script
    )
    sys.stdout.write(table(lines))
    return 1 if any(line.findings for line in lines) else 0


def table(lines: Iterable[Line]) -> str:
    """Mutants by kind and by how far they got, and the findings, in Markdown."""
    lines = list(lines)
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        for key, count in line.reached.items():
            kind, _, reached = key.partition(": ")
            counts[kind, reached] += count
    out = [f"| kind | mutants | {' | '.join(REACHED)} |", "|---|" + "---|" * (1 + len(REACHED))]
    for kind in [*sorted({kind for kind, _ in counts}), "all"]:
        row = [sum(n for (k, r), n in counts.items() if kind in (k, "all") and r == reached) for reached in REACHED]
        total = sum(n for (k, _), n in counts.items() if kind in (k, "all"))
        out.append(f"| {kind} | {total:,} | {' | '.join(f'{n:,}' for n in row)} |")
    seconds, distinct = sum(line.seconds for line in lines), sum(line.distinct for line in lines)
    findings = {
        finding["file"] or finding["finding"]: finding["finding"] for line in lines for finding in line.findings
    }
    out += [
        "",
        f"{sum(line.count for line in lines):,} mutants in {len(lines)} pieces, {distinct:,} of them distinct within "
        f"their piece, {seconds:,.0f} seconds of processor time, {len(findings)} kinds of findings.",
        *(f"* `{name}`: {text}" for name, text in findings.items()),
    ]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.exit(main())
