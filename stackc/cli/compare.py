"""``stackc compare``: two results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from stackc.cli.options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from stackc.tasks import Score

_ROLES = ("payload", "side", "tables", "container", "bundle")
_NOTHING = "-"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one result; a bare file has no measurements."""

    source: str
    recipe: str | None
    model: str | None
    file_bytes: int
    reference_bytes: int
    ratio: float
    ratio_to_fp16: float | None = None
    ratio_to_lossless: float | None = None
    ratio_with_bases: float | None = None
    bases: list[str] = []
    weight_error: float | None = None
    score: Score | None = None
    data: str | None = None
    bytes_by_role: dict[str, int]


Result = Annotated[Path, typer.Argument(help="A report.json, the folder of a run, or a .stackc file.")]


def compare(a: Result, b: Result, as_json: JsonOption = False) -> None:
    """Show two reports, run folders or .stackc files side by side."""
    from stackc.cli.terminal import output, say, write_json

    first, second = _side(a), _side(b)
    if as_json:
        write_json({"a": first, "b": second})
        return
    console = output()
    console.print(_table(first, second))
    for caution in _cautions(first, second):
        say(console, f"note: {caution}")


def _side(path: Path) -> Side:
    from stackc.runs.runner import ARTIFACT_NAME, REPORT_NAME
    from stackc.util.errors import StackcError
    from stackc.util.paths import user_path

    path = user_path(path)
    if path.is_dir():
        for name, read in ((REPORT_NAME, _from_report), (ARTIFACT_NAME, _from_artifact)):
            if (path / name).is_file():
                return read(path / name, str(path))
        raise StackcError(f"{path} holds neither {REPORT_NAME} nor {ARTIFACT_NAME}; is it the folder of a run?")
    if path.suffix == ".json":
        return _from_report(path, str(path))
    return _from_artifact(path, str(path))


def _from_report(path: Path, source: str) -> Side:
    from stackc.reporting.report import read_report

    report = read_report(path)
    return Side(
        source=source,
        recipe=report.recipe,
        model=report.model.source,
        file_bytes=report.file.bytes,
        reference_bytes=report.model.bytes,
        ratio=report.file.ratio,
        ratio_to_fp16=report.file.ratio_to_fp16,
        ratio_to_lossless=report.file.ratio_to_lossless,
        ratio_with_bases=report.file.ratio_with_bases,
        bases=[base.sha256 for base in report.file.bases],
        weight_error=report.final.weight_error,
        score=report.final.score,
        data=report.task.get("sha256"),
        bytes_by_role=_by_role(report.bytes),
    )


def _from_artifact(path: Path, source: str) -> Side:
    from stackc.artifact.reader import Artifact
    from stackc.reporting.accounting import byte_rows

    with Artifact(path) as artifact:
        return Side(
            source=source,
            recipe=None,
            model=None,
            file_bytes=artifact.file_bytes,
            reference_bytes=artifact.nbytes,
            ratio=artifact.nbytes / artifact.file_bytes,
            bases=[base.sha256 for base in artifact.bases],
            bytes_by_role=_by_role(byte_rows(artifact)),
        )


def _by_role(rows: Any) -> dict[str, int]:
    totals = dict.fromkeys(_ROLES, 0)
    for row in rows:
        totals[row.role] = totals.get(row.role, 0) + row.bytes
    return totals


def _cautions(a: Side, b: Side) -> list[str]:
    cautions = []
    if a.reference_bytes != b.reference_bytes:
        cautions.append("the references differ in size, so the ratios do not have the same baseline")
    if a.data is not None and b.data is not None and a.data != b.data:
        cautions.append("the two were evaluated on different data, so the metrics cannot be compared")
    if set(a.bases) != set(b.bases):
        needs = [
            f"{name} needs {', '.join(f'sha256:{base[:16]}...' for base in side.bases) or 'none'}"
            for name, side in (("A", a), ("B", b))
        ]
        cautions.append(f"a base model that a file needs is not counted in its bytes: {', '.join(needs)}")
    return cautions


def _table(a: Side, b: Side) -> Table:
    from rich.text import Text

    from stackc.reporting.table import plain_table
    from stackc.util.humanise import printable

    table = plain_table()
    table.add_column("")
    for side in (a, b):
        table.add_column(Text(printable(side.source)), justify="right", overflow="fold")
    table.add_column("B to A", justify="right", no_wrap=True)
    for cells in _rows(a, b):
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _rows(a: Side, b: Side) -> list[tuple[str, str, str, str]]:
    """The lines of the table: what, A, B, and how B differs."""
    from stackc.util.humanise import percent_text, three_digits

    rows: list[tuple[str, str, str, str]] = []

    def add(label: str, values: tuple[Any, Any], text: Any, change: str | None = None) -> None:
        if values == (None, None):
            return
        cells = [_NOTHING if value is None else text(value) for value in values]
        if change is None:
            change = _quotient(*values)
        rows.append((label, cells[0], cells[1], change))

    def count(value: int) -> str:
        return f"{value:,}"

    add("recipe", (a.recipe, b.recipe), str, "")
    add("reference", (a.model, b.model), str, "")
    add("file, bytes", (a.file_bytes, b.file_bytes), count)
    add("ratio", (a.ratio, b.ratio), three_digits)
    add("ratio to fp16", (a.ratio_to_fp16, b.ratio_to_fp16), three_digits)
    add("ratio to lossless", (a.ratio_to_lossless, b.ratio_to_lossless), three_digits)
    add("ratio with the base", (a.ratio_with_bases, b.ratio_with_bases), three_digits)
    add("weight error", (a.weight_error, b.weight_error), three_digits)
    known = a.score or b.score
    if known is not None:
        add(f"{known.metric} [95 % interval]", (a.score, b.score), _metric, _difference(a.score, b.score))
        add("retention [95 % interval], %", (a.score, b.score), _retention, "")
        agreements = tuple(None if score is None else score.agreement for score in (a.score, b.score))
        add("agreement with the reference, %", (agreements[0], agreements[1]), percent_text, "")
    for role in dict.fromkeys([*a.bytes_by_role, *b.bytes_by_role]):
        pair = (a.bytes_by_role.get(role, 0), b.bytes_by_role.get(role, 0))
        if any(pair):
            add(f"{role}, bytes", pair, count)
    return rows


def _quotient(a: float | None, b: float | None) -> str:
    from stackc.util.humanise import three_digits

    return _NOTHING if a is None or b is None or not a else f"x {three_digits(b / a)}"


def _difference(a: Score | None, b: Score | None) -> str:
    from stackc.util.humanise import metric_text

    if a is None or b is None or a.metric != b.metric:
        return _NOTHING
    text = metric_text(a.metric, b.value - a.value)
    return f"{'+' if b.value >= a.value else ''}{text.replace('%', 'points')}"


def _metric(score: Score) -> str:
    from stackc.util.humanise import metric_text

    low, high = (metric_text(score.metric, bound).removesuffix(" %") for bound in (score.low, score.high))
    return f"{metric_text(score.metric, score.value)} [{low}, {high}]"


def _retention(score: Score) -> str:
    from stackc.reporting.table import retention_text

    return retention_text(score)
