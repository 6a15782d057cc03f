"""Commands on hostile files end with one sentence, and tensors are decoded without the model that a config asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.artifact.hostile_files import HOSTILE_FILES
from tests.cli.conftest import Invoke

CONTENT = {file.name: file.content for file in HOSTILE_FILES}


@pytest.mark.parametrize("command", ["verify", "inspect", "decode"])
@pytest.mark.parametrize(
    "name", ["a-config-of-maps-below-the-limits", "tensors-without-bytes", "a-stack-of-empty-maps", "zeros"]
)
def test_one_sentence(stackc: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{name}.stackc"
    path.write_bytes(CONTENT[name]())
    result = stackc(command, path)
    if command == "verify" and name.startswith("a-config"):
        assert result.exit_code == 0  # its tensors are whole, and nobody asked for the config
        return
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "unexpected" not in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["a-billion-layers", "a-billion-labels", "a-backbone-from-elsewhere"])
def test_tensors_need_no_model(stackc: Invoke, tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.stackc"
    path.write_bytes(CONTENT[name]())
    result = stackc("decode", path, "--output", tmp_path / "decoded")
    assert result.exit_code == 0, result.output
    assert {key: value.tolist() for key, value in load_file(tmp_path / "decoded/model.safetensors").items()} == {
        "a": [0],
        "b": [0],
    }
