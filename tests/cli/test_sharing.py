"""Commands on files whose tensors share planes, or lie in another model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import stackc as library
from stackc.core.stack import Ref
from stackc.util.errors import BaseNeededError
from tests.cli.conftest import Invoke
from tests.helpers.sharing import BASIS, Outside, base_model, base_of, example, write_sharing


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    """A file of one tensor that is one of a base model, ``base.safetensors`` beside it."""
    model = base_model()
    save_file({"weight": model.weight.detach()}, tmp_path / "base.safetensors")
    save_file({"weight": model.weight.detach() + 1}, tmp_path / "other.safetensors")
    shared = {"@w": (BASIS, Outside(base_of(model, "base"), "weight"), [])}
    return write_sharing(tmp_path / "delta.stackc", {"w": (BASIS, Ref("@w"), [])}, shared)


def test_inspect_shows_what_is_shared(stackc: Invoke, tmp_path: Path) -> None:
    path = example(tmp_path / "a.stackc")
    text = stackc("inspect", path).stdout
    assert "@0, shared by 4 users" in text
    assert "basis = @0" in text
    assert "whole = @0" in text
    found = json.loads(stackc("inspect", path, "--json").stdout)
    assert [(plane["name"], plane["users"], plane["bytes"]) for plane in found["shared"]] == [
        ("@0", 4, 0),
        ("@1", 1, 24),
    ]
    assert {tensor["name"]: tensor["shared_bytes"] for tensor in found["tensors"]} == {
        **dict.fromkeys(("a", "b", "c", "whole"), 6),
        "alone": 0,
    }
    stored = sum(row["bytes"] for row in found["bytes"] if row["role"] != "container")
    assert sum(tensor["bytes"] for tensor in found["tensors"]) == stored


def test_inspect_draws_the_graph(stackc: Invoke, tmp_path: Path) -> None:
    path = example(tmp_path / "a.stackc")
    text = stackc("inspect", path, "--graph").stdout
    assert text.startswith("flowchart LR\n")
    assert '-->|"basis"|' in text
    assert stackc("inspect", path, "--graph", "-o", tmp_path / "a.mmd").exit_code == 0
    assert (tmp_path / "a.mmd").read_text(encoding="utf-8") == text
    assert stackc("inspect", path, "--graph", "-o", tmp_path / "a.svg").exit_code == 0
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<svg ")
    for wrong in (["--graph", "-o", "a.png"], ["-o", "a.svg"]):
        assert ".svg or .mmd" in stackc("inspect", path, *wrong).output


@pytest.mark.parametrize("command", ["decode", "verify"])
def test_a_base_model_is_given_by_name(stackc: Invoke, delta: Path, command: str) -> None:
    output = ["-o", delta.with_name("out.safetensors")] if command == "decode" else []
    refused = stackc(command, delta, *output)
    assert refused.exit_code == 1
    assert "needs the base model sha256:" in refused.output
    other = stackc(command, delta, *output, "--base", delta.with_name("other.safetensors"))
    assert other.exit_code == 1
    assert "is another one" in other.output
    done = stackc(command, delta, *output, "--base", delta.with_name("base.safetensors"))
    assert done.exit_code == 0, done.output
    if output:
        assert torch.equal(load_file(output[1])["w"], base_model().weight)
    assert "needs the base model sha256:" in stackc("inspect", delta).stdout


def test_a_base_model_is_given_in_python(delta: Path) -> None:
    with library.open(delta, base=delta.with_name("base.safetensors")) as artifact:
        assert torch.equal(artifact["w"], base_model().weight)
    with library.open(delta, base=[base_model()]) as artifact:
        assert torch.equal(artifact["w"], base_model().weight)
    with library.open(delta) as artifact, pytest.raises(BaseNeededError, match="base="):
        artifact["w"]
