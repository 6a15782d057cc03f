"""``stackc verify`` passes whole files and fails every damaged one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackc.artifact.reader import Artifact
from tests.cli.conftest import Invoke


def test_a_whole_file_passes(stackc: Invoke, artifact: Path) -> None:
    result = stackc("verify", artifact)
    assert result.exit_code == 0, result.output
    data = artifact.read_bytes()
    assert f"{len(data):,} bytes" in result.stdout
    assert "41 tensors" in result.stdout
    assert "2 bundled files" in result.stdout
    assert hashlib.sha256(data).hexdigest() in result.stdout
    with Artifact(artifact) as opened:
        assert f"{opened.checksum()} of the decoded tensors" in result.stdout
    assert result.stderr == ""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_fails(stackc: Invoke, artifact: Path, tmp_path: Path, place: float, bit: int) -> None:
    data = bytearray(artifact.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (tmp_path / "damaged.stackc").write_bytes(data)
    result = stackc("verify", tmp_path / "damaged.stackc")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: damaged.stackc ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_file_fails(stackc: Invoke, artifact: Path, tmp_path: Path, kept: float) -> None:
    data = artifact.read_bytes()
    (tmp_path / "short.stackc").write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    result = stackc("verify", tmp_path / "short.stackc")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: short.stackc ")


def test_other_files_are_refused(stackc: Invoke, recipe: Path, tmp_path: Path) -> None:
    assert "not a stackc artifact" in stackc("verify", recipe).stderr
    missing = stackc("verify", tmp_path / "none.stackc")
    assert missing.exit_code == 1
    assert "cannot be opened" in missing.stderr


def test_the_folder_of_a_run_stands_for_its_file(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    result = stackc("verify", artifact.parent)
    assert result.exit_code == 0, result.output
    assert result.stdout == stackc("verify", artifact).stdout
    other = stackc("verify", tmp_path)
    assert other.exit_code == 1
    assert f"{tmp_path} holds no model.stackc; is it the folder of a run?" in other.stderr
