"""Healing, controls and seeds of a report in words: on what was trained, and whether the result means anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stackc.healing.summary import HealingSummary
from stackc.reporting.report import Report, Spread
from stackc.util.humanise import (
    metric_is_share,
    metric_text,
    percent_text,
    plural,
    printable,
    seconds_text,
    three_digits,
)

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-:=+*#"


def healing_lines(report: Report) -> list[str]:
    """One sentence for each heal stage: rows, steps, teacher, checkpoint, time, and the estimate beside the bytes."""
    return [_healing_line(stage) for stage in report.healing]


def control_lines(report: Report) -> list[str]:
    """One sentence for each control; sizes are named where they differ."""
    lines = []
    for row in report.controls:
        sizes = "" if row.bytes in (0, report.file.bytes) else f"; {row.bytes:,} bytes against {report.file.bytes:,}"
        lines.append(f"{row.verdict}{sizes}")
    return lines


def seed_lines(report: Report) -> list[str]:
    """What the recipe came to under several seeds: mean and standard deviation; none without them."""
    if report.seeds is None:
        return []
    seeds = report.seeds
    parts = [f"bytes {seeds.bytes.mean:,.0f} (standard deviation {seeds.bytes.deviation:,.0f})"]
    score = seeds.runs[0].score
    if seeds.value is not None and score is not None:
        parts.append(f"{score.metric} {_spread(score.metric, seeds.value)}")
    if seeds.retention is not None:
        mean, deviation = percent_text(seeds.retention.mean), percent_text(seeds.retention.deviation)
        parts.append(f"retention {mean} % (standard deviation {deviation})")
    numbers = ", ".join(str(run.seed) for run in seeds.runs)
    return [f"mean of {plural(len(seeds.runs), 'seed')} ({numbers}): {', '.join(parts)}; the file is that of the first"]


def sparkline(values: Sequence[float], *, ascii_only: bool = False, width: int = 40) -> str:
    """A curve as one line of text; higher values are taller signs, and what is not finite is a question mark.

    Parameters
    ----------
    values : sequence of float
        In order.
    ascii_only : bool
        Whether the terminal shows nothing but ASCII.
    width : int
        Most signs; of a longer curve, values at even distances are drawn, the first and the last among them.

    Examples
    --------
    >>> sparkline([8, 4, 2, 1, 1]), sparkline([8, 4, 2, 1, 1], ascii_only=True)
    ('█▄▂▁▁', '#:.__')
    >>> sparkline(range(100), width=4)
    '▁▃▆█'
    """
    signs = _ASCII if ascii_only else _BLOCKS
    if len(values) > width:
        values = [values[round(index * (len(values) - 1) / (width - 1))] for index in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0
    return "".join(signs[round((value - low) * scale)] if math.isfinite(value) else "?" for value in values)


def _healing_line(stage: HealingSummary) -> str:
    teacher = f"answers of {printable(stage.teacher)}"
    if stage.stronger_teacher:
        teacher += ", which is another model than the reference"
    sources = f" from {', '.join(map(printable, stage.sources))}" if stage.sources else ""
    parts = [
        f"stages[{stage.stage}] trained {stage.latent} on {plural(stage.rows, 'row')}{sources} in "
        f"{plural(stage.steps, 'step')} ({seconds_text(stage.seconds)} s) towards the {teacher}",
        f"kept step {stage.best_step:,}, the best on {plural(stage.held_out, 'held-out row')}",
    ]
    if stage.dropped:
        verb = "was" if stage.dropped == 1 else "were"
        parts.append(f"{plural(stage.dropped, 'row')} {verb} dropped, being evaluated or held out")
    if stage.estimated_bytes is not None:
        packed = ""
        if stage.packed_bytes:
            off = 100 * (stage.estimated_bytes / stage.packed_bytes - 1)
            packed = f", packed {stage.packed_bytes:,} ({off:+.1f} %)"
        parts.append(
            f"its planes were estimated at {stage.estimated_bytes:,.0f} bytes{packed}, at a price of "
            f"{stage.price:.2g} per bit"
        )
    return "; ".join(parts)


def _spread(metric: str, spread: Spread) -> str:
    if metric_is_share(metric):
        return f"{metric_text(metric, spread.mean)} (standard deviation {percent_text(spread.deviation)})"
    return f"{metric_text(metric, spread.mean)} (standard deviation {three_digits(spread.deviation)})"
