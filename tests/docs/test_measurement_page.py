"""``docs/measurement.md`` explains every field of the report, names none that is not there, and its arithmetic is right."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from stackc.healing.summary import CurvePoint, HealingSummary
from stackc.planning.allocation.summary import AllocationSummary
from stackc.recipe.controls import CONTROL_NAMES
from stackc.reporting.accounting import _ROLES
from stackc.reporting.report import (
    ByteRow,
    ControlRow,
    FileSummary,
    ModelSummary,
    Report,
    SeedRow,
    SeedSummary,
    Spread,
    StageRow,
    ZeroedRow,
)
from stackc.tasks import Score
from stackc.util import statistics

PAGE = (Path(__file__).parents[2] / "docs/measurement.md").read_text(encoding="utf-8")
NAMES = set(re.findall(r"`(?:file\.|model\.)?(\w+)`", PAGE))
TRAINED = (HealingSummary, CurvePoint, ControlRow, SeedSummary, SeedRow, Spread)


def fields(*kinds: type[msgspec.Struct]) -> set[str]:
    return {field.name for kind in kinds for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize("kind", [StageRow, ZeroedRow, Score, Report, *TRAINED])
def test_every_field_is_explained(kind):
    assert fields(kind) - NAMES <= {"stages", "bytes", "reference_score", "file"} & fields(kind)


def test_sizes_and_ratios_are_explained():
    assert fields(FileSummary) - NAMES <= {"name", "sha256"}
    assert {"bytes", "fp16_bytes", "lossless_bytes"} <= NAMES & fields(ModelSummary)
    assert {"count", "entropy_bytes"} <= NAMES & fields(ByteRow)
    assert set(_ROLES) <= NAMES


def test_no_field_is_invented():
    tables = re.findall(r"^\|[^|]*\| ((?:`[\w.]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    named = {name.rpartition(".")[2] for cell in tables for name in re.findall(r"`([\w.]+)`", cell)}
    assert named <= fields(StageRow, Score, Report, FileSummary, ModelSummary, ByteRow, AllocationSummary, *TRAINED)
    assert len(named) > 10


def test_the_arithmetic_of_the_page():
    low, high = statistics.wilson_interval(1200, 1500)
    assert 0.018 < 0.8 - low < 0.022
    assert 0.018 < high - 0.8 < 0.022
    assert pytest.approx(77.6) == 97 * 80 / 100
    assert statistics.skill_retention(0.776, 0.8, 0.5) == pytest.approx(0.92)


def test_the_controls_of_the_page():
    from stackc.util.statistics import Interval, control_sentence

    assert f'"{control_sentence("random-init", "accuracy", 0.031, Interval(0.012, 0.05))}"' in PAGE
    for control in CONTROL_NAMES:
        assert f"| `{control}` |" in PAGE


def test_the_verdicts_of_the_page():
    from stackc.util.statistics import Interval, verdict

    for said in (
        verdict(Interval(0.9, 0.95), 0.01),
        verdict(Interval(1.05, 1.1), 0.01),
        verdict(Interval(0.9, 0.95), 0.06),
    ):
        assert f'"{said}"' in PAGE
