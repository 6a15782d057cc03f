"""``stackc inspect`` accounts for every byte of a file."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


def test_byte_rows_add_up_to_the_file(stackc: Invoke, artifact: Path) -> None:
    result = stackc("inspect", artifact, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    size = artifact.stat().st_size
    assert found["file_bytes"] == size
    assert sum(row["bytes"] for row in found["bytes"]) == size
    assert {row["role"] for row in found["bytes"]} == {"payload", "side", "tables", "container", "bundle"}
    planes = [plane for tensor in found["tensors"] for plane in tensor["planes"]]
    inside = sum(row["bytes"] for row in found["bytes"] if row["role"] in ("payload", "side", "tables"))
    assert sum(plane["bytes"] for plane in planes) == inside


def test_bits_per_element_are_the_bytes_over_the_elements(stackc: Invoke, artifact: Path) -> None:
    found = json.loads(stackc("inspect", artifact, "--json").stdout)
    tensor = next(t for t in found["tensors"] if t["name"] == "classifier.weight")
    (codes,) = [plane for plane in tensor["planes"] if plane["path"] == "codes"]
    assert tensor["spec"] == "float32 2x16"
    assert codes["bits_per_element"] == 8 * codes["bytes"] / 32
    assert codes["packer"] == "ans"


def test_the_text_has_a_total_line_with_the_files_size(stackc: Invoke, artifact: Path) -> None:
    lines = stackc("inspect", artifact).stdout.splitlines()
    total = next(line for line in lines if line.startswith("total"))
    assert total.split()[1] == f"{artifact.stat().st_size:,}"
    assert "BertForSequenceClassification" in lines[0]
    assert any("prune(mask: zstd, values: seed(" in line for line in lines)
    assert "bundled: tokenizer.json, tokenizer_config.json" in lines


def test_a_glob_chooses_tensors(stackc: Invoke, artifact: Path) -> None:
    found = json.loads(stackc("inspect", artifact, "--tensor", "classifier.*", "--json").stdout)
    assert [tensor["name"] for tensor in found["tensors"]] == ["classifier.bias", "classifier.weight"]
    missed = stackc("inspect", artifact, "--tensor", "clasifier.weight")
    assert missed.exit_code == 1
    assert "did you mean 'classifier.weight'?" in missed.stderr


def test_names_cannot_steer_the_terminal(stackc: Invoke, tmp_path: Path) -> None:
    """A file from elsewhere may name a tensor with an escape sequence."""
    import torch
    from safetensors.torch import save_file

    save_file({"evil\x1b[2J": torch.zeros(3)}, tmp_path / "evil.safetensors")
    (tmp_path / "r.yaml").write_text("stages: [raw]\n")
    out = tmp_path / "out"
    ran = stackc("run", tmp_path / "r.yaml", "--model", tmp_path / "evil.safetensors", "--output", out)
    assert ran.exit_code == 0, ran.output
    shown = stackc("inspect", out / "model.stackc")
    assert "\x1b" not in shown.output
    assert "evil\\x1b[2J" in shown.output
    for arguments in (("check", tmp_path / "r.yaml", "--model", tmp_path / "evil.safetensors", "--verbose"),):
        assert "\x1b" not in stackc(*arguments).output


def test_the_folder_of_a_run_stands_for_its_file(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    result = stackc("inspect", artifact.parent, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout == stackc("inspect", artifact, "--json").stdout
    other = stackc("inspect", tmp_path)
    assert other.exit_code == 1
    assert "holds no model.stackc" in other.stderr


@pytest.mark.parametrize("width", [60, 80, 100])
def test_names_fold_at_joints_and_numbers_stay_whole(stackc: Invoke, artifact: Path, width: int) -> None:
    found = json.loads(stackc("inspect", artifact, "--json").stdout)
    lines = stackc("inspect", artifact, columns=width).stdout.splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("──")]
    table = lines[rules[-1] + 1 : -1]
    assert max(map(len, table)) <= width
    words = {word for line in table for word in line.split()}
    for tensor in found["tensors"]:
        assert f"{tensor['bytes']:,}" in words
    joined = "".join(line.split()[0] for line in table if line.strip() and not line.startswith(" "))
    assert all(tensor["name"] in joined for tensor in found["tensors"])
    # What goes on in the next line was cut behind a joint.
    cut = [line.split()[0] for line, after in pairwise(table) if after[:1].islower() and line[:1].islower()]
    assert all(word.endswith((".", "_")) for word in cut)
    assert cut or width == 100
