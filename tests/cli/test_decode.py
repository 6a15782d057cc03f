"""``stackc decode`` writes what other libraries open, and never half of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import stackc as library
from stackc.models.building import quiet_transformers
from tests.cli.conftest import Invoke
from tests.helpers.crafted import write_artifact


def test_from_pretrained_opens_the_folder(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "decoded"
    result = stackc("decode", artifact, "--output", folder)
    assert result.exit_code == 0, result.output
    with quiet_transformers():
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = library.load(artifact)
    inputs = tokenizer(["the film is very charming ."], return_tensors="pt")
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        # Not bit for bit: kernels differ with the alignment of the weights in memory.
        torch.testing.assert_close(model.eval()(**inputs).logits, expected(**inputs).logits)


def test_a_safetensors_file_holds_the_decoded_tensors(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    result = stackc("decode", artifact, "--output", path)  # the suffix says enough
    assert result.exit_code == 0, result.output
    with library.open(artifact) as opened:
        written = load_file(path)
        assert set(written) == set(opened)
        assert all(torch.equal(written[name], opened[name]) for name in opened)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_file_without_architecture_becomes_safetensors(
    stackc: Invoke, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("stages: [zstd]\n")
    bare = classifier / "model.safetensors"
    assert stackc("run", "r.yaml", "--model", bare, "--output", "out", "--quiet").exit_code == 0
    result = stackc("decode", "out/model.stackc")
    assert result.exit_code == 0, result.output
    original, written = load_file(bare), load_file(tmp_path / "model.safetensors")
    assert set(original) == set(written)
    assert all(torch.equal(original[name], written[name]) for name in original)


def test_ties_are_restored(stackc: Invoke, tied: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("stages: [zstd]\n")
    out = tmp_path / "out"
    assert stackc("run", tmp_path / "r.yaml", "--model", tied, "--output", out, "--quiet").exit_code == 0
    assert stackc("decode", out / "model.stackc", "--output", tmp_path / "decoded").exit_code == 0
    with quiet_transformers():
        from transformers import BartForSequenceClassification

        model = BartForSequenceClassification.from_pretrained(tmp_path / "decoded").model
    assert model.shared.weight is model.encoder.embed_tokens.weight


def test_the_tokenizer_can_come_from_a_folder(stackc: Invoke, artifact: Path, classifier: Path, tmp_path: Path) -> None:
    result = stackc("decode", artifact, "--output", tmp_path / "decoded", "--tokenizer", classifier)
    assert result.exit_code == 0, result.output
    name = "tokenizer.json"
    assert (tmp_path / "decoded" / name).read_bytes() == (classifier / name).read_bytes()
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = stackc("decode", artifact, "--output", tmp_path / "other", "--tokenizer", empty)
    assert refused.exit_code == 1
    assert "holds no tokenizer files" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_nothing_is_replaced_unasked(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "decoded"
    assert stackc("decode", artifact, "--output", folder).exit_code == 0
    refused = stackc("decode", artifact, "--output", folder)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert stackc("decode", artifact, "--output", folder, "--overwrite").exit_code == 0


def test_foreign_files_are_never_lost(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    result = stackc("decode", artifact, "--output", folder, "--overwrite")
    assert result.exit_code == 1
    assert "chapter.tex" in result.stderr
    assert (folder / "chapter.tex").read_text() == "years of work"


def test_a_damaged_file_leaves_nothing_behind(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    data = bytearray(artifact.read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged.stackc").write_bytes(data)
    result = stackc("decode", tmp_path / "damaged.stackc", "--output", tmp_path / "decoded")
    assert result.exit_code == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["damaged.stackc"]


def test_weights_are_as_readable_as_any_file(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    stackc("decode", artifact, "--output", tmp_path / "decoded", "--quiet")
    stackc("decode", artifact, "--output", tmp_path / "bare.safetensors", "--quiet")
    expected = (tmp_path / "any").stat().st_mode
    assert (tmp_path / "decoded" / "model.safetensors").stat().st_mode == expected
    assert (tmp_path / "bare.safetensors").stat().st_mode == expected


def test_an_unknown_form_is_a_usage_error(stackc: Invoke, artifact: Path) -> None:
    result = stackc("decode", artifact, "--to", "foldr")
    assert result.exit_code == 2
    assert "did you mean 'folder'?" in result.stderr


@pytest.mark.parametrize("name", ["decoded", "bare.safetensors"])
def test_a_full_disk_is_named_with_the_output(
    stackc: Invoke, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    result = stackc("decode", artifact, "--output", tmp_path / name)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: {tmp_path / name} cannot be written: the disk is full; free some space or choose another --output"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_stands_for_its_file(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    result = stackc("decode", artifact.parent, "--output", tmp_path / "weights.safetensors")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "weights.safetensors").is_file()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "modeling_x.py", "pytorch_model.bin"])
def test_a_file_that_would_replace_what_it_decodes_to_is_refused(stackc: Invoke, tmp_path: Path, name: str) -> None:
    hostile = write_artifact(
        tmp_path / "hostile.stackc",
        {"weight": (torch.zeros(2), ["raw"])},
        bundle={name: b'{"auto_map": {"AutoModel": "modeling_x.X"}}'},
        config={"architectures": ["BertModel"]},
    )
    for command in (["verify"], ["inspect"], ["decode", "--output", tmp_path / "decoded"]):
        result = stackc(command[0], hostile, *command[1:])
        assert result.exit_code == 1
        assert f"hostile.stackc is damaged: it bundles '{name}', which is not the name of" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["hostile.stackc"]


def test_bundled_references_to_code_are_not_written(stackc: Invoke, tmp_path: Path) -> None:
    settings = {"auto_map": {"AutoTokenizer": ["evil/repo--tokenization.Evil", None]}, "model_max_length": 5}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "os.system"}]
    for name, content in {"tokenizer_config.json": settings, "modules.json": modules}.items():
        bundle = {name: json.dumps(content).encode()}
        write_artifact(tmp_path / f"{name}.stackc", {"weight": (torch.zeros(2), ["raw"])}, bundle=bundle)
    target = tmp_path / "decoded"
    result = stackc("decode", tmp_path / "tokenizer_config.json.stackc", "--output", target, "--to", "folder")
    assert result.exit_code == 0, result.output
    assert json.loads((target / "tokenizer_config.json").read_text()) == {"model_max_length": 5}
    result = stackc("decode", tmp_path / "modules.json.stackc", "--output", tmp_path / "other", "--to", "folder")
    assert result.exit_code == 1
    assert "asks for the class 'os.system'" in result.stderr
    assert not (tmp_path / "other").exists()
