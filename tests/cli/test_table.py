"""Tables fit the terminal, add up, and show what the report holds."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stackc.reporting.report import ByteRow, FileSummary, ModelSummary, Report, StageRow
from stackc.reporting.table import byte_table, stage_table, summary_lines
from stackc.tasks import Score
from stackc.util.humanise import fold_names, name_pieces, printable, size_text, three_digits


def score(value: float, **fields: Any) -> Score:
    return Score(metric="accuracy", value=value, low=value - 0.05, high=value + 0.05, rows=872, **fields)


def stage(use: str, size: int, before: int, **fields: Any) -> StageRow:
    values: dict[str, Any] = {
        "use": use,
        "description": f"{use}()",
        "planes": 4,
        "skipped": 0,
        "skipped_reasons": [],
        "bytes_if_stopped_here": size,
        "saved_bytes": before - size,
        "stage_ratio": before / size,
        "ratio": 17_548_312 / size,
        "bits_per_parameter": 8 * size / 4_387_078,
        "weight_error": 0.0456,
        "score": score(
            0.80,
            retention=0.9639,
            retention_low=0.9512,
            retention_high=0.9801,
            agreement=0.943,
            verdict="keeps 96.4 % of the reference's accuracy",
        ),
        "encode_seconds": 12.34,
        "decode_seconds": 0.567,
        "peak_memory_bytes": 464_000_000,
    }
    return StageRow(**values | fields)


REPORT = Report(
    recipe="demo",
    model=ModelSummary(
        source="demo/bert-tiny-reviews",
        kind="transformers",
        parameters=4_387_078,
        tensors=41,
        bytes=17_548_312,
        fp16_bytes=8_774_156,
        lossless_bytes=15_000_000,
        fingerprint="0" * 64,
    ),
    task={"task": "text-classification"},
    reference_score=score(0.83, verdict="the reference itself"),
    stages=[
        stage("prune", 9_000_000, 17_548_312),
        stage("seed", 1_000_000, 9_000_000, skipped=3, skipped_reasons=["3 x too small"]),
        stage("int8", 300_000, 1_000_000),
        stage("zstd", 250_000, 300_000),
    ],
    bytes=[
        ByteRow(role="payload", plane="codes", packer="zstd", count=10, bytes=200_000, entropy_bytes=190_000.0),
        ByteRow(role="side", plane="scale", packer="raw", count=10, bytes=49_000),
        ByteRow(role="container", plane="", packer="", count=1, bytes=1_000),
    ],
    file=FileSummary(
        name="model.stackc",
        bytes=250_000,
        sha256="0" * 64,
        weights_bytes=250_000,
        self_contained_bytes=300_000,
        ratio=17_548_312 / 250_000,
        ratio_to_fp16=8_774_156 / 250_000,
        ratio_to_lossless=60.0,
    ),
    seconds={},
    versions={},
    notes=["the lock was written with torch 1.0"],
)

ALWAYS = ("stage", "stopped", "here", "ratio", "accuracy")
ASKED_FOR = (*ALWAYS, "error", "time s")
WIDE = (*ALWAYS, "saved", "retention", "error", "agree", "encode", "decode", "memory", "param")


def render(renderable: Any, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None).print(renderable)
    return file.getvalue()


@given(width=st.integers(56, 240))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = render(stage_table(REPORT), width)
    assert max(map(len, text.splitlines())) <= width
    head = text.partition("──")[0]
    assert all(word in head for word in ALWAYS)
    # One line per row: nothing was folded.
    rows = [line.split()[0] for line in text.splitlines() if line.strip()]
    start = rows.index("reference")
    assert rows[start : start + 5] == ["reference", "prune", "seed", "int8", "zstd"]


def test_wide_terminals_show_everything() -> None:
    head = render(stage_table(REPORT), 160).partition("──")[0]
    assert all(word in head for word in WIDE)


def test_a_narrow_terminal_says_what_is_missing() -> None:
    assert "too narrow for" in render(stage_table(REPORT), 80)
    assert "too narrow for" not in render(stage_table(REPORT), 160)
    at_100 = render(stage_table(REPORT), 100).partition("──")[0]
    assert all(word in at_100 for word in (*ASKED_FOR, "retention", "agree"))


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_size_ratio_error_accuracy_and_time_are_always_there(width: int) -> None:
    text = render(stage_table(REPORT), width)
    head, _, rows = text.partition("──")
    assert all(word in head for word in ASKED_FOR)
    seed = next(line for line in rows.splitlines() if line.startswith("seed"))
    assert all(number in seed for number in ("1.00 MB", "17.5", "0.0456", "80.0 [75.0, 85.0]", "12.3"))


def test_a_long_name_of_a_stage_folds_before_a_number_is_left_out() -> None:
    name = "somebodys_package.transforms:ProductQuantiser"
    stages = [stage(name, 9_000_000, 17_548_312), *REPORT.stages[1:]]
    text = render(stage_table(msgspec.structs.replace(REPORT, stages=stages)), 80)
    assert max(map(len, text.splitlines())) <= 80
    head = text.partition("──")[0]
    assert all(word in head for word in ASKED_FOR)
    assert "9.00 MB" in text
    assert "0.0456" in text
    assert "somebodys_" in text
    wide = render(stage_table(msgspec.structs.replace(REPORT, stages=stages)), 400)
    assert name in wide


def test_time_is_shown_without_a_task() -> None:
    stages = [msgspec.structs.replace(row, score=None) for row in REPORT.stages]
    bare = msgspec.structs.replace(REPORT, stages=stages, reference_score=None)
    assert "encode" in render(stage_table(bare), 80).partition("──")[0]


def test_cells_hold_the_numbers_of_the_report() -> None:
    lines = render(stage_table(REPORT), 200).splitlines()
    reference = next(line for line in lines if line.startswith("reference"))
    assert reference.split()[1:3] == ["17.5", "MB"]
    assert "83.0 [78.0, 88.0]" in reference
    seed = next(line for line in lines if line.startswith("seed")).split()
    assert seed[1:9] == ["1.00", "MB", "8.00", "MB", "9.00", "17.5", "1.82", "0.0456"]
    assert "96.4 [95.1, 98.0]" in " ".join(seed)
    assert "left as they are: seed 3 planes" in "\n".join(lines)


def test_without_a_task_there_are_no_metrics() -> None:
    stages = [msgspec.structs.replace(row, score=None) for row in REPORT.stages]
    bare = msgspec.structs.replace(REPORT, stages=stages, reference_score=None)
    text = render(stage_table(bare), 200)
    assert "accuracy" not in text
    assert "retention" not in text
    assert "not evaluated" in "\n".join(summary_lines(bare))


def test_undefined_numbers_are_not_zero() -> None:
    undefined = score(0.0, verdict="not comparable: the reference is right on no row")
    stages = [*REPORT.stages[:-1], stage("zstd", 250_000, 300_000, score=undefined)]
    lines = render(stage_table(msgspec.structs.replace(REPORT, stages=stages)), 200).splitlines()
    row = next(line for line in lines if line.startswith("zstd"))
    assert "0.0 [-5.0, 5.0]" in row
    assert row.split("]")[1].split()[:3] == ["12.3", "-", "-"]


def test_equal_stages_are_told_apart() -> None:
    stages = [stage("int", 300_000, 900_000), stage("int", 200_000, 300_000)]
    text = render(stage_table(msgspec.structs.replace(REPORT, stages=stages)), 200)
    assert "int (1)" in text
    assert "int (2)" in text


@pytest.mark.parametrize("width", [80, 100, 200])
def test_bytes_add_up_on_the_screen(width: int) -> None:
    lines = [line.split() for line in render(byte_table(REPORT), width).splitlines() if line.strip()]
    numbers = [int(line[4].replace(",", "")) for line in lines if line[0] in ("payload", "side")]
    numbers += [int(line[3].replace(",", "")) for line in lines if line[0] == "container"]
    total = next(line for line in lines if line[0] == "total")
    assert int(total[1].replace(",", "")) == sum(numbers) == REPORT.file.bytes
    assert max(map(len, render(byte_table(REPORT), width).splitlines())) <= width
    payload = next(line for line in lines if line[0] == "payload")
    assert payload[6:] == ["190,000", "+5.3"]


def test_summary_in_words() -> None:
    first, second, tokenizer, verdict, closeness, note = summary_lines(REPORT)
    assert first == (
        "model.stackc: 250,000 bytes (250 kB), 70.2 times smaller than demo/bert-tiny-reviews (17,548,312 bytes)"
    )
    assert "70.2; against the reference in fp16 35.1, against its lossless file 60.0" in second
    assert "300,000 bytes (ratio 58.5)" in tokenizer
    assert verdict.startswith(
        "accuracy 80.0 % (95 % interval 75.0 to 85.0 %, 872 rows), reference 83.0 %: keeps 96.4 %"
    )
    assert closeness == "both agree on 94.3 % of the rows"
    assert note == "note: the lock was written with torch 1.0"


def test_a_file_that_grew_is_called_larger() -> None:
    file = msgspec.structs.replace(REPORT.file, bytes=35_096_624, ratio=0.5)
    assert "2.00 times larger than" in summary_lines(msgspec.structs.replace(REPORT, file=file))[0]


@given(st.floats(1e-6, 1e12))
def test_three_digits_are_within_half_a_unit(value: float) -> None:
    shown = float(three_digits(value).replace(",", ""))
    assert abs(shown - value) <= 0.5000001e-2 * value
    assert len(three_digits(value).replace(",", "").replace(".", "").strip("0")) <= 3


@given(st.integers(0, 10**16))
def test_sizes_are_within_half_a_unit(count: int) -> None:
    number, unit = size_text(count).split()
    power = ("B", "kB", "MB", "GB", "TB", "PB").index(unit)
    assert abs(float(number.replace(",", "")) * 1000**power - count) <= 0.5000001e-2 * count


@given(st.text())
def test_printable_text_stays_and_control_characters_go(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


NAMES = st.lists(
    st.from_regex(r"[a-z]{1,8}(\.[0-9]{1,2})?([._/][a-z]{1,8}){0,4}", fullmatch=True), min_size=1, max_size=5
)


@given(NAMES, st.integers(8, 60), st.integers(0, 3))
def test_names_fold_at_their_joints_only(names: list[str], width: int, indent: int) -> None:
    text = " " * indent + " ".join(names)
    # Wide enough for every piece: nothing is shortened, and every line ends where a name may.
    width = max(width, indent + max(len(piece) for name in names for piece in name_pieces(name)))
    lines = fold_names(text, width)
    assert max(map(len, lines)) <= width
    assert "".join(line[indent:] for line in lines).replace(" ", "") == "".join(names)
    pieces = [piece for name in names for piece in name_pieces(name)]
    for line in lines:
        assert line.startswith(" " * indent)
        rest = line.strip()
        while rest:
            piece = pieces.pop(0)
            assert rest.startswith(piece)
            rest = rest[len(piece) :].lstrip()
    assert not pieces


@given(st.text("0123456789x,.-", min_size=1, max_size=40).filter(lambda text: any(map(str.isdigit, text))))
def test_no_digit_is_ever_lost(number: str) -> None:
    for width in range(1, 30):
        lines = fold_names(number, width)
        assert [character for line in lines for character in line if character.isdigit()] == [
            character for character in number if character.isdigit()
        ]
        assert max(map(len, lines)) <= width


def test_a_word_that_is_wider_than_a_line_keeps_both_ends() -> None:
    assert fold_names("encoder.extraordinarily.weight", 10) == ["encoder.", "extr...ly.", "weight"]
    assert fold_names("  30522x1024", 8) == ["  30522x", "  1024"]
