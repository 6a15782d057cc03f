"""Tables and sentences of a report for the terminal. Everything here is rendered from a `Report`; nothing is computed anew.

A stage table has more columns than a narrow terminal: the least important ones are left out, and a line says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from stackc.planning.allocation.summary import AllocationSummary
from stackc.reporting.report import ByteRow, ControlRow, Report, StageRow
from stackc.reporting.verdicts import control_lines, healing_lines, seed_lines, sparkline
from stackc.tasks import Score
from stackc.util.humanise import (
    fold_names,
    metric_difference,
    metric_is_share,
    metric_text,
    name_pieces,
    percent_text,
    plural,
    printable,
    seconds_text,
    size_text,
    three_digits,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

#: What a cell shows where a number is not defined.
MISSING = "-"

_CONTAINER = "manifest"
_BUNDLE = "tokenizer"

#: Columns up to this ``expendable`` are what everybody asks for: names of stages fold before one of them is left out.
_ASKED_FOR = 3

#: To which width names of stages fold.
_FOLDED_NAME = 12

#: Below this width a column of names is hard to read, so others give way first.
_READABLE = 10


class Names:
    """A cell of names: it folds at their joints (see `stackc.util.humanise.fold_names`), not in the middle of a word.

    Parameters
    ----------
    text : str
        May have several lines; control characters are shown, not obeyed.
    style : str
        Of rich.
    """

    def __init__(self, text: str, style: str = "") -> None:
        self._lines = [printable(line) for line in text.splitlines()]
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        folded = fold_names("\n".join(self._lines), options.max_width)
        # Rich folds what is still too wide: characters that take two cells.
        yield Text("\n".join(folded), style=self._style, overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        pieces = (len(piece) for line in self._lines for word in line.split() for piece in name_pieces(word))
        longest = max((cell_len(line) for line in self._lines), default=0)
        return Measurement(min(longest, max(pieces, default=0), _READABLE), longest).with_maximum(options.max_width)


class _Column(NamedTuple):
    """One column of the stage table; those with the highest ``expendable`` are the first to be left out, 0 never is."""

    header: str
    expendable: int
    cells: list[str]
    left: bool = False


class _FittingTable:
    """A table that leaves out columns until it fits the width that it is rendered for."""

    def __init__(self, columns: Sequence[_Column], footnotes: Sequence[str]) -> None:
        self._columns = list(columns)
        self._footnotes = list(footnotes)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        unlimited = options.update(width=10_000)
        columns = [column for column in self._columns if not column.expendable]
        for added in sorted(self._columns, key=lambda column: column.expendable):
            wider = [column for column in self._columns if column in columns or column is added]
            table = _render(wider, _FOLDED_NAME if added.expendable <= _ASKED_FOR else None)
            if Measurement.get(console, unlimited, table).maximum <= options.max_width:
                columns = wider
        left_out = [column for column in self._columns if column not in columns]
        yield _render(columns)
        notes = list(self._footnotes)
        if left_out:
            names = ", ".join(_one_line(column.header) for column in left_out)
            notes.append(f"too narrow for: {names}")
        for note in notes:
            yield Text(note, style="dim")


def stage_table(report: Report) -> RenderableType:
    """The reference and every stage, one row each: what it saved and what it cost.

    Parameters
    ----------
    report : Report
        Of a finished run.

    Returns
    -------
    renderable
        Chooses its columns when it is rendered; print it with a `rich.console.Console`.
    """
    rows = report.stages
    model = report.model
    scores = [report.reference_score, *(row.score for row in rows)]

    def cells(first: str, value: Callable[[StageRow], str]) -> list[str]:
        return [first, *(value(row) for row in rows)]

    reference_bits = 8 * model.bytes / max(model.parameters, 1)
    columns = [
        _Column("stage", 0, ["reference", *_stage_names(rows)], left=True),
        _Column(
            "bytes if\nstopped\nhere", 0, cells(size_text(model.bytes), lambda r: size_text(r.bytes_if_stopped_here))
        ),
        _Column("saved", 9, cells(MISSING, lambda r: size_text(r.saved_bytes))),
        _Column("stage\nratio", 6, cells(MISSING, lambda r: three_digits(r.stage_ratio))),
        _Column("ratio", 0, cells("1", lambda r: three_digits(r.ratio))),
        _Column("bits/\nparam", 8, cells(three_digits(reference_bits), lambda r: three_digits(r.bits_per_parameter))),
        _Column("weight\nerror", 2, cells("0", lambda r: three_digits(r.weight_error))),
    ]
    encode = _Column("encode\ntime s", 3, cells(MISSING, lambda r: seconds_text(r.encode_seconds)))
    if any(score is not None for score in scores):
        metric = next(score.metric for score in scores if score is not None)
        heading = f"{metric} %" if metric_is_share(metric) else metric
        columns += [
            _Column(f"{heading}\n[95 % interval]", 1, [_value_cell(score) for score in scores]),
            encode,
            _Column("retention %\n[95 % interval]", 4, ["100.0", *(retention_text(score) for score in scores[1:])]),
            _Column("agree-\nment %", 5, ["100.0", *(_agreement_cell(score) for score in scores[1:])]),
        ]
    else:
        columns.append(encode)
    columns += [
        _Column("decode\ntime s", 7, cells(MISSING, lambda r: seconds_text(r.decode_seconds))),
        _Column("peak\nmemory", 10, cells(MISSING, lambda r: size_text(r.peak_memory_bytes))),
    ]
    skips = ", ".join(f"{row.use} {plural(row.skipped, 'plane')}" for row in rows if row.skipped)
    return _FittingTable(columns, [f"left as they are: {skips}; 'stackc check' says why"] if skips else [])


def control_table(report: Report) -> Table:
    """The result and its controls, one row each, with what the result is ahead by.

    Parameters
    ----------
    report : Report
        With at least one control.
    """
    scores = [report.final.score, *(row.score for row in report.controls)]
    metric = next((score.metric for score in scores if score is not None), "accuracy")
    share = metric_is_share(metric)
    table = plain_table()
    table.add_column("control")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column(f"{metric}{' %' if share else ''}\n[95 % interval]", justify="right", no_wrap=True)
    table.add_column(f"result ahead by{' points' if share else ''}\n[95 % interval]", justify="right", no_wrap=True)
    table.add_row("the result", f"{report.file.bytes:,}", _value_cell(report.final.score), MISSING, style="dim")
    for row in report.controls:
        table.add_row(
            row.control,
            f"{row.bytes:,}" if row.bytes else MISSING,
            _value_cell(row.score),
            _difference_cell(row, metric),
        )
    return table


class LossCurves:
    """How the divergence on the held-out rows went while each heal stage trained, in one line for each.

    Parameters
    ----------
    report : Report
        Of a finished run.
    """

    def __init__(self, report: Report) -> None:
        self._healing = [stage for stage in report.healing if len(stage.curve) > 1]

    def __bool__(self) -> bool:
        return bool(self._healing)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for stage in self._healing:
            values = [point.divergence for point in stage.curve]
            drawn = sparkline(values, ascii_only=options.ascii_only)
            kept = next((point.divergence for point in stage.curve if point.step == stage.best_step), values[-1])
            ends = f"{three_digits(values[0])} to {three_digits(values[-1])}, kept {three_digits(kept)}"
            yield Text(f"stages[{stage.stage}] divergence on held-out rows {drawn} {ends} nats")


def plain_table(**options: Any) -> Table:
    """An empty table in the style of all others: a line below the headings, no frame."""
    return Table(box=box.SIMPLE, pad_edge=False, show_edge=False, **options)


def byte_table(report: Report) -> Table:
    """Where the bytes of the file went: one row for each kind, and a total that is the file's size."""
    return byte_rows_table(report.bytes)


def byte_rows_table(rows: Sequence[ByteRow]) -> Table:
    """Byte rows with their shares and, where it is known, the entropy beside the bytes."""
    total = sum(row.bytes for row in rows)
    with_entropy = any(row.entropy_bytes is not None for row in rows)
    table = plain_table(show_footer=True, footer_style="bold")
    table.add_column("what", footer="total")
    table.add_column("plane")
    table.add_column("packer")
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", footer=f"{total:,}", no_wrap=True)
    table.add_column("share %", justify="right", footer="100.0", no_wrap=True)
    if with_entropy:
        table.add_column("entropy\nin bytes", justify="right", no_wrap=True)
        table.add_column("above\nentropy %", justify="right", no_wrap=True)
    for row in rows:
        share = percent_text(row.bytes / total) if total else MISSING
        cells = [row.role, _plane_label(row), row.packer, f"{row.count:,}", f"{row.bytes:,}", share]
        if with_entropy:
            cells += [MISSING if row.entropy_bytes is None else f"{row.entropy_bytes:,.0f}", _slack(row)]
        table.add_row(*map(Names, cells[:3]), *map(Text, cells[3:]))
    return table


def summary_lines(report: Report) -> list[str]:
    """What the run comes to, in sentences: the file, its ratios, what is inside, the verdict, and the notes of the run."""
    file, model = report.file, report.model
    lines = [
        f"{file.name}: {file.bytes:,} bytes ({size_text(file.bytes)}), {_times(file.ratio)} than {printable(model.source)} "
        f"({model.bytes:,} bytes)",
        f"ratio {three_digits(file.ratio)}; against the reference in fp16 {three_digits(file.ratio_to_fp16)}, "
        f"against its lossless file {three_digits(file.ratio_to_lossless)}",
    ]
    if file.bases and file.ratio_with_bases is not None:
        bases = " and ".join(
            f"{printable(base.source)} (sha256:{base.sha256[:16]}..., {base.bytes:,} bytes)" for base in file.bases
        )
        lines.append(
            f"decoding needs {bases}; counted with the file, the ratio is {three_digits(file.ratio_with_bases)}"
        )
    if file.self_contained_bytes is not None:
        lines.append(_tokenizer_line(report))
    if report.allocation is not None:
        lines.append(_allocation_line(report.allocation))
    lines += healing_lines(report)
    lines.append(_verdict_line(report))
    lines += _closeness_lines(report.final.score)
    lines += control_lines(report)
    lines += seed_lines(report)
    notes = [*(row.caution for row in report.stages if row.caution), *report.notes]
    return [*lines, *(f"note: {printable(note)}" for note in notes)]


def score_sentence(score: Score) -> str:
    """The metric with its interval, in words."""
    percent = metric_is_share(score.metric)
    low, high = (metric_text(score.metric, bound).removesuffix(" %") for bound in (score.low, score.high))
    rows = plural(score.rows, "row")
    value = metric_text(score.metric, score.value)
    return f"{score.metric} {value} (95 % interval {low} to {high}{' %' if percent else ''}, {rows})"


def retention_text(score: Score | None) -> str:
    """Retention in per cent with its interval; an upper bound that is missing is infinite."""
    if score is None or score.retention is None:
        return MISSING
    value = percent_text(score.retention)
    if score.retention_low is None:
        return value
    high = "inf" if score.retention_high is None else percent_text(score.retention_high)
    return f"{value} [{percent_text(score.retention_low)}, {high}]"


def _render(columns: Sequence[_Column], name_width: int | None = None) -> Table:
    table = plain_table()
    for column in columns:
        style = "bold" if column.header == "ratio" else None
        table.add_column(
            column.header,
            justify="left" if column.left else "right",
            style=style,
            no_wrap=not column.left,
            min_width=min(_FOLDED_NAME, max(len(cell) for cell in column.cells)) if column.left else None,
            max_width=name_width if column.left else None,
        )
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(
            *(Names(cell) if column.left else Text(printable(cell)) for column, cell in zip(columns, row, strict=True)),
            style=None if number else "dim",
        )
    return table


def _one_line(header: str) -> str:
    return header.replace("-\n", "").replace("/\n", "/").replace("\n", " ")


def _stage_names(rows: Sequence[StageRow]) -> list[str]:
    """Names as typed, numbered where one stands twice."""
    names = [row.use for row in rows]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _value_cell(score: Score | None) -> str:
    if score is None:
        return MISSING
    value, low, high = (metric_text(score.metric, v).removesuffix(" %") for v in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


def _difference_cell(row: ControlRow, metric: str) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return MISSING
    value, low, high = (
        metric_difference(metric, number) for number in (row.difference, row.difference_low, row.difference_high)
    )
    return f"{value} [{low}, {high}]"


def _agreement_cell(score: Score | None) -> str:
    return MISSING if score is None or score.agreement is None else percent_text(score.agreement)


def _plane_label(row: ByteRow) -> str:
    if row.role == "container":
        return row.plane or _CONTAINER
    if row.role == "bundle":
        return _BUNDLE
    # A tensor without a transform is its own plane; tables are summed over planes.
    return row.plane or (MISSING if row.role == "tables" else "whole tensors")


def _slack(row: ByteRow) -> str:
    if not row.entropy_bytes:
        return MISSING
    return f"{100 * (row.bytes / row.entropy_bytes - 1):+.1f}"


def _times(ratio: float) -> str:
    if ratio >= 1:
        return f"{three_digits(ratio)} times smaller"
    return f"{three_digits(1 / ratio)} times larger"


def _tokenizer_line(report: Report) -> str:
    file = report.file
    whole = file.self_contained_bytes or 0
    if file.bytes == file.self_contained_bytes:
        ratio = three_digits(report.model.bytes / file.weights_bytes)
        return f"the tokenizer is inside; without it the file would take {file.weights_bytes:,} bytes (ratio {ratio})"
    ratio = three_digits(report.model.bytes / whole)
    return (
        f"the reader needs the tokenizer; with it inside ('bundle: [tokenizer]') the file would take {whole:,} bytes "
        f"(ratio {ratio})"
    )


def _allocation_line(allocation: AllocationSummary) -> str:
    chosen = sum(len(planes) for planes in allocation.choices.values())
    room = allocation.target_bytes - allocation.bytes
    return (
        f"allocated to {plural(chosen, 'plane')} by {allocation.sensitivity}, {room:,} bytes below the target of "
        f"{allocation.target_bytes:,}; estimated loss {allocation.estimated_loss:.3g} {allocation.unit}"
    )


def _verdict_line(report: Report) -> str:
    score, reference = report.final.score, report.reference_score
    if score is None or reference is None:
        return f"not evaluated on a task; relative weight error {three_digits(report.final.weight_error)}"
    was = metric_text(reference.metric, reference.value)
    return f"{score_sentence(score)}, reference {was}: {score.verdict}"


def _closeness_lines(score: Score | None) -> list[str]:
    """How close the model is to its reference in what one number of retention hides; nothing where nothing is defined."""
    if score is None:
        return []
    parts = []
    if score.skill_retention is not None:
        parts.append(f"{percent_text(score.skill_retention)} % of the reference's advantage over the majority is kept")
    if score.agreement is not None:
        parts.append(f"both agree on {percent_text(score.agreement)} % of the rows")
    if score.kl is not None:
        parts.append(f"divergence (KL) {three_digits(score.kl)} nats per row")
    return [", ".join(parts)] if parts else []
