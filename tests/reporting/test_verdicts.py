"""Healing, controls and seeds of a report, as sentences, a table and a curve."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stackc.healing.summary import CurvePoint, HealingSummary
from stackc.reporting.report import (
    ControlRow,
    Report,
    SeedRow,
    SeedSummary,
    Spread,
    read_report,
)
from stackc.reporting.table import LossCurves, control_table, summary_lines
from stackc.reporting.verdicts import sparkline
from tests.cli.test_table import REPORT, score

HEALING = HealingSummary(
    stage=3,
    latent="planes",
    teacher="models/large",
    stronger_teacher=True,
    rows=206_100,
    held_out=1000,
    dropped=12,
    sources=["sst2/train.tsv", "demo/imdb-sentences"],
    steps=9660,
    best_step=9200,
    seconds=812.4,
    estimated_bytes=49_000,
    packed_bytes=50_000,
    price=4e-7,
    curve=[CurvePoint(step=n, loss=1 / (n + 1), divergence=0.8 / (n + 1), bits=4e5) for n in range(9)],
)
CONTROLS = [
    ControlRow(
        control="random-init",
        description="the same recipe on random weights",
        bytes=250_000,
        score=score(0.77, verdict="worse"),
        difference=0.031,
        difference_low=0.012,
        difference_high=0.05,
        mcnemar_p=0.001,
        verdict="beats its random-init control by 3.1 points (95 %: 1.2 to 5.0)",
    ),
    ControlRow(control="linear", description="a linear model", bytes=249_990, score=None, verdict="not compared"),
]
FULL = msgspec.structs.replace(
    REPORT,
    healing=[HEALING],
    controls=CONTROLS,
    seeds=SeedSummary(
        runs=[SeedRow(seed=n, bytes=250_000 + n, score=REPORT.final.score) for n in range(3)],
        bytes=Spread(mean=250_001.0, deviation=1.0),
        value=Spread(mean=0.801, deviation=0.0021),
        retention=Spread(mean=0.964, deviation=0.003),
    ),
)


def printed(value: object, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, newline="\n") as file:
        Console(file=file, width=200, color_system=None).print(value)
        file.flush()
        return raw.getvalue().decode(encoding)


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(FULL.to_json(), encoding="utf-8")
    assert read_report(tmp_path / "report.json") == FULL


def test_reports_from_before_are_read(tmp_path: Path) -> None:
    old = {k: v for k, v in msgspec.to_builtins(REPORT).items() if k not in ("healing", "controls", "seeds")}
    (tmp_path / "report.json").write_bytes(msgspec.json.encode(old))
    assert read_report(tmp_path / "report.json") == REPORT


def test_a_heal_stage_is_one_sentence() -> None:
    (line,) = [line for line in summary_lines(FULL) if line.startswith("stages[3]")]
    assert line == (
        "stages[3] trained planes on 206,100 rows from sst2/train.tsv, demo/imdb-sentences in 9,660 steps (812 s) "
        "towards the answers of models/large, which is another model than the reference; "
        "kept step 9,200, the best on 1,000 held-out rows; 12 rows were dropped, being evaluated or held out; "
        "its planes were estimated at 49,000 bytes, packed 50,000 (-2.0 %), at a price of 4e-07 per bit"
    )


def test_what_was_not_is_not_said() -> None:
    plain = msgspec.structs.replace(HEALING, stronger_teacher=False, dropped=0, estimated_bytes=None, sources=[])
    (line,) = [
        line for line in summary_lines(msgspec.structs.replace(REPORT, healing=[plain])) if line.startswith("stages[3]")
    ]
    assert "stronger" not in line
    assert "dropped" not in line
    assert "estimated" not in line
    assert line.count(" from ") == 0


def test_controls_stand_beside_the_result() -> None:
    text = printed(control_table(FULL))
    assert "the result" in text
    assert "3.1 [1.2, 5.0]" in text
    assert "77.0 [72.0, 82.0]" in text
    lines = summary_lines(FULL)
    assert "beats its random-init control by 3.1 points (95 %: 1.2 to 5.0)" in lines
    # A control of another size says so.
    assert "not compared; 249,990 bytes against 250,000" in lines


def test_seeds_are_summed_up() -> None:
    assert (
        "mean of 3 seeds (0, 1, 2): bytes 250,001 (standard deviation 1), accuracy 80.1 % (standard deviation 0.2), "
        "retention 96.4 % (standard deviation 0.3); the file is that of the first"
    ) in summary_lines(FULL)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_curves_are_shown_where_there_are_some(encoding: str) -> None:
    text = printed(LossCurves(FULL), encoding)
    assert "0.800 to 0.0889, kept 0.0889 nats" in text
    assert ("█" in text) == (encoding == "utf-8")
    assert not LossCurves(REPORT)


def test_a_report_without_any_of_it_says_nothing_of_it() -> None:
    assert isinstance(REPORT, Report)
    assert not any(word in line for line in summary_lines(REPORT) for word in ("trained", "control", "seeds"))


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(2, 60))
def test_a_sparkline_keeps_ends_and_order(values: list[float], width: int) -> None:
    drawn = sparkline(values, width=width, ascii_only=True)
    assert len(drawn) == min(len(values), width)
    heights = ["_.-:=+*#".index(sign) for sign in drawn]
    if values and len(values) <= width:
        order = sorted(range(len(values)), key=values.__getitem__)
        assert [heights[i] for i in order] == sorted(heights)


def test_a_sparkline_shows_what_is_not_finite() -> None:
    assert sparkline([1.0, float("nan"), 0.0, float("inf")]) == "█?▁?"


def test_what_retention_hides_is_said() -> None:
    row = msgspec.structs.replace(
        REPORT.final, score=score(0.8, skill_retention=0.909, agreement=0.943, kl=0.0321, verdict="keeps")
    )
    lines = summary_lines(msgspec.structs.replace(REPORT, stages=[*REPORT.stages[:-1], row]))
    assert (
        "90.9 % of the reference's advantage over the majority is kept, both agree on 94.3 % of the rows, "
        "divergence (KL) 0.0321 nats per row"
    ) in lines
    bare = msgspec.structs.replace(row, score=score(0.8, verdict="keeps"))
    assert not any("agree" in line for line in summary_lines(msgspec.structs.replace(REPORT, stages=[bare])))
