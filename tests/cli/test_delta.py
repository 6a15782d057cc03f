"""Commands on recipes that name another model, and on the files that these make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stackc.models import open_reference
from stackc.testing.planes import same_bits
from tests.cli.conftest import Invoke
from tests.helpers.finetunes import finetune


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(tiny_model, tmp_path_factory.mktemp("tuned") / "tuned")


def recipe(name: str, base: Path, model: Path) -> list[str]:
    """The arguments that fit a shipped recipe to a small model."""
    rank = ["--set", "stages[1].rank=2"] if name == "delta" else []
    return [name, "--model", str(model), "--set", f"stages[0].base={base}", *rank]


def test_check_says_what_decoding_takes(stackc: Invoke, tiny_model: Path, tuned: Path) -> None:
    text = stackc("check", *recipe("delta", tiny_model, tuned)).stdout
    assert "decoding the file will take" in text
    assert "delta(base: ^0.classifier.bias" in stackc("check", "-v", *recipe("delta", tiny_model, tuned)).stdout
    found = json.loads(stackc("check", *recipe("delta", tiny_model, tuned), "--json").stdout)
    assert found["bases"] == [str(tiny_model)]
    missing = stackc("check", *recipe("delta", tuned / "no-such", tuned))
    assert missing.exit_code == 1
    assert "stages[0] (delta): base:" in missing.output


def test_check_and_run_refuse_code(stackc: Invoke, tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("stages: [{use: delta, base: 'os:getcwd'}]")
    for command in ("check", "run"):
        refused = stackc(command, path, "--model", tiny_model)
        assert refused.exit_code == 1
        assert "allow it with --allow-code" in refused.output
    assert "os:getcwd' returned a str" in stackc("check", path, "--model", tiny_model, "--allow-code").output
    by_name = ["check", path, "--model", tiny_model, "--set", "stages[0].base=os:getcwd"]
    assert "returned a str" in stackc(*by_name).output  # whoever types the name means it


def test_from_a_run_to_a_decoded_model(stackc: Invoke, tiny_model: Path, tuned: Path, tmp_path: Path) -> None:
    run = stackc("run", *recipe("delta-exact", tiny_model, tuned), "-o", tmp_path / "run")
    assert run.exit_code == 0, run.output
    words = " ".join(run.stdout.split())
    fingerprint = open_reference(str(tiny_model)).fingerprint()[:16]
    assert f"(sha256:{fingerprint}..., 27,336 bytes); counted with the file, the ratio is 0." in words
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["file"]["ratio"] > 1.5 > 1 > report["file"]["ratio_with_bases"]
    file = tmp_path / "run/model.stackc"
    text = " ".join(stackc("inspect", file).stdout.split())
    assert f"needs the base model sha256:{fingerprint}... (it was classifier) to decode" in text
    assert "of the base model" in text
    assert "shared by" not in text
    decoded = stackc("decode", file, "-o", tmp_path / "out", "--base", tiny_model)
    assert decoded.exit_code == 0, decoded.output
    expected = load_file(tuned / "model.safetensors")
    for name, x in load_file(tmp_path / "out/model.safetensors").items():
        assert same_bits(x, expected[name])


def test_commands_without_the_base_say_which_one(
    stackc: Invoke, tiny_model: Path, tuned: Path, tiny_task: dict[str, object], tmp_path: Path
) -> None:
    assert stackc("run", *recipe("delta", tiny_model, tuned), "-o", tmp_path / "run", "-q").exit_code == 0
    file, data = tmp_path / "run/model.stackc", str(tiny_task["data"])
    for command in (["verify", file], ["decode", file, "-o", tmp_path / "out"], ["eval", file, "--task", data]):
        without = stackc(*command, *(["--tokenizer", tiny_model] if command[0] == "eval" else []))
        assert without.exit_code == 1
        assert "needs the base model sha256:" in without.output
        assert "(it was classifier); give it with base=... or --base" in " ".join(without.output.split())
    other = stackc("eval", file, "--task", data, "--tokenizer", tiny_model, "--base", tuned)
    assert "is another one, sha256:" in " ".join(other.output.split())
    both = stackc("eval", file, "--reference", file, "--task", data, "--tokenizer", tiny_model, "--base", tiny_model)
    assert both.exit_code == 0, both.output
    assert "both predict the same on 100.0 %" in both.stdout


def test_compare_says_that_a_base_is_not_counted(stackc: Invoke, tiny_model: Path, tuned: Path, tmp_path: Path) -> None:
    for name, arguments in (("delta", recipe("delta", tiny_model, tuned)), ("int8", ["int8", "--model", str(tuned)])):
        task = ["--task", "none"] if name == "int8" else []
        assert stackc("run", *arguments, *task, "-o", tmp_path / name, "-q").exit_code == 0
    text = " ".join(stackc("compare", tmp_path / "delta", tmp_path / "int8").stdout.split())
    assert "ratio with the base" in text
    assert "a base model that a file needs is not counted in its bytes: A needs sha256:" in text
    assert "B needs none" in text
    files = [tmp_path / name / "model.stackc" for name in ("delta", "delta")]
    assert "not counted" not in stackc("compare", *files).stdout
