"""Every script in ``examples/`` runs, on small models, and prints what it promises."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import stackc
from tests.helpers.tiny import tiny_classifier

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script of the folder as a user would, and return what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run_script(name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


@pytest.fixture
def artifact(tmp_path):
    import torch

    path = tmp_path / "model.stackc"
    stages = [{"use": "seed", "on": "*weight", "rank": 2}, {"use": "int", "bits": 4}, "ans", "zstd"]
    stackc.compress(torch.nn.Linear(20, 10), {"stages": stages}, path)[0].close()
    return path


def test_compress_module(run):
    out = run("compress_module.py")
    last = out.strip().splitlines()[-1]
    size, before, same = re.match(r"([\d,]+) of ([\d,]+) bytes; ([\d.]+)% of the tags are the same", last).groups()
    assert 4 * int(size.replace(",", "")) < int(before.replace(",", ""))
    assert float(same) > 50
    for stage in ("prune", "int", "ans", "zstd", "container"):
        assert stage in out


def test_compare_stacks(run, tmp_path):
    folder = tiny_classifier(tmp_path / "model")
    out = run("compare_stacks.py", folder)
    stacks = runpy.run_path(str(EXAMPLES / "compare_stacks.py"))["STACKS"]
    rows = {
        name: re.search(rf"{re.escape(name)} +│ +([\d,]+) +│ +([\d.]+) +│ +[\d.]+ +│ +([\d.]+)", out) for name in stacks
    }
    assert all(rows.values())
    assert float(rows["lossless"][3]) == 0
    assert float(rows["int8"][3]) < float(rows["int4 in groups"][3]) < 1
    sizes = {name: int(row[1].replace(",", "")) for name, row in rows.items()}
    assert sizes["int8"] < sizes["half precision"] < sizes["lossless"]


def test_read_one_tensor(run, artifact):
    assert run("read_one_tensor.py", artifact).splitlines() == ["weight: float32 10x20", "bias: float32 10"]
    out = run("read_one_tensor.py", artifact, "weight")
    assert out.startswith("weight: seed(mean: int(codes: ans, scale: zstd)")
    read = re.search(r"^([\d,]+) of ([\d,]+) bytes hold this tensor", out, re.MULTILINE)
    with stackc.open(artifact) as opened:
        assert int(read[1]) == sum(plane.length for plane in opened.planes("weight"))
        assert int(read[2].replace(",", "")) == opened.file_bytes
        assert f"its norm is {opened['weight'].norm():.4f}" in out


def test_every_example_is_listed_and_tested():
    listed = set(re.findall(r"^\| \[([\w./]+)\]", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    there = {path.name for path in EXAMPLES.glob("*.py")} | {"hadamard/"}
    assert listed == there
    tested = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{path.name}"' in tested for path in EXAMPLES.glob("*.py"))
