"""Companion files through a whole run: kept, charged, in effect after loading and decoding, or named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import stackc
from stackc.cli import app
from stackc.models.building import quiet_transformers
from stackc.reporting.accounting import byte_rows
from stackc.util.errors import ModelError
from tests.helpers.crafted import write_artifact
from tests.helpers.tiny import tiny_classifier

KEPT = ["1_Pooling/config.json", "generation_config.json", "modules.json", "preprocessor_config.json"]
MISSED = ["2_Dense/model.safetensors", "adapter_model.safetensors", "modeling_x.py"]


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=1)
    )
    model.generation_config.max_new_tokens = 5
    model.generation_config.suppress_tokens = [3, 4]
    return model


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with a tokenizer and everything that may lie beside it."""
    folder = tmp_path_factory.mktemp("chat")
    with quiet_transformers():
        gpt2().save_pretrained(folder)
        tokenizer = tiny_classifier(folder / "other") / "tokenizer.json"
    shutil.copy(tokenizer, folder)
    shutil.rmtree(folder / "other")
    contents = {
        "1_Pooling/config.json": '{"pooling_mode_cls_token": true}',
        "modules.json": '[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]',
        "preprocessor_config.json": '{"auto_map": {"AutoProcessor": "x.X"}, "size": 3}',
        "README.md": "# Read me",
        **dict.fromkeys(MISSED, "secret"),
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}))
    return folder


@pytest.fixture(scope="module")
def compressed(chat: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, stackc.Report]:
    """The file and the report of a run with the tokenizer."""
    path = tmp_path_factory.mktemp("file") / "chat.stackc"
    artifact, report = stackc.compress(str(chat), {"stages": ["zstd"], "bundle": ["tokenizer"]}, path)
    artifact.close()
    return path, report


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    return result


def test_what_is_kept_is_charged_to_the_byte(chat: Path, compressed: tuple[Path, stackc.Report]) -> None:
    path, report = compressed
    with stackc.open(path) as artifact:
        assert sorted(artifact.bundled) == sorted([*KEPT, "left_behind.json", "tokenizer.json"])
        assert artifact.left_behind == MISSED
        rows = {(row.role, row.plane): row for row in byte_rows(artifact)}
        assert sum(row.bytes for row in rows.values()) == artifact.file_bytes == report.file.bytes
        row = rows["container", "companions"]
        assert (row.count, row.bytes) == (5, sum(artifact.bundled.values()) - artifact.bundled["tokenizer.json"])
        for name in ("generation_config.json", "1_Pooling/config.json", "modules.json"):
            assert artifact.bundled_file(name) == (chat / name).read_bytes()
    assert report.file.bytes == report.file.self_contained_bytes
    plain, without = stackc.compress(str(chat), {"stages": ["zstd"]})
    assert plain.file_bytes == without.file.weights_bytes == report.file.weights_bytes
    assert without.file.self_contained_bytes == report.file.bytes
    assert plain.tokenizer() is None
    assert sorted(plain.bundled) == sorted([*KEPT, "left_behind.json"])


def test_how_texts_are_written_takes_effect(chat: Path, compressed: tuple[Path, stackc.Report]) -> None:
    with quiet_transformers():
        from transformers import GPT2LMHeadModel

        expected = GPT2LMHeadModel.from_pretrained(chat, adapter_kwargs=None).generation_config
        model = stackc.load(compressed[0])
        assert model.generation_config == expected
        assert model.generation_config.suppress_tokens == [3, 4]
        artifact, _ = stackc.compress(gpt2(), {"stages": ["zstd"]})  # in memory there is no folder to take it from
        assert artifact.build().generation_config.max_new_tokens == 5


def test_a_module_with_the_settings_of_its_config_keeps_none() -> None:
    with quiet_transformers():
        model = gpt2()
        model.generation_config = type(model.generation_config).from_model_config(model.config)
        artifact, _ = stackc.compress(model, {"stages": ["zstd"]})
    assert list(artifact.bundled) == []


def test_a_damaged_generation_config_is_a_sentence(tmp_path: Path) -> None:
    artifact, _ = stackc.compress(gpt2(), {"stages": ["zstd"]}, tmp_path / "a.stackc")
    state, config = artifact.state_dict(), artifact.config
    tensors = {name: (tensor, ["raw"]) for name, tensor in state.items()}
    for content in (b"[", b"[]", b"[" * 100_000):
        path = write_artifact(tmp_path / "b.stackc", tensors, config=config, bundle={"generation_config.json": content})
        with pytest.raises(ModelError, match=r"transformers cannot read generation_config\.json of the model"):
            stackc.load(path)


def test_decode_writes_what_is_kept_and_names_the_rest(
    chat: Path, compressed: tuple[Path, stackc.Report], tmp_path: Path
) -> None:
    target = tmp_path / "decoded"
    said = call("decode", compressed[0], "--output", target).stdout
    assert "left behind: 2_Dense/model.safetensors, modeling_x.py; copy them from the original folder with" in said
    assert "left behind: an adapter that was not merged" in said
    assert "config.json names code (auto_map)" in said
    assert "no tokenizer" not in said
    written = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert written == sorted([*KEPT, "config.json", "model.safetensors", "tokenizer.json"])
    assert json.loads((target / "preprocessor_config.json").read_text()) == {"size": 3}
    assert (target / "generation_config.json").read_bytes() == (chat / "generation_config.json").read_bytes()
    call("decode", compressed[0], "--output", target, "--overwrite")
    (target / "1_Pooling" / "notes.txt").write_text("years of work")
    refused = CliRunner().invoke(app, ["decode", str(compressed[0]), "--output", str(target), "--overwrite"])
    assert refused.exit_code == 1
    assert "1_Pooling/notes.txt" in refused.stderr


def test_what_stayed_behind_can_be_copied(chat: Path, compressed: tuple[Path, stackc.Report], tmp_path: Path) -> None:
    target = tmp_path / "decoded"
    said = call("decode", compressed[0], "--output", target, "--companions", chat).stdout
    assert "copy them" not in said
    for name in ("modeling_x.py", "2_Dense/model.safetensors", "README.md", "preprocessor_config.json"):
        assert (target / name).read_bytes() == (chat / name).read_bytes()
    assert not (target / "adapter_model.safetensors").exists()
    assert (target / "config.json").read_bytes() != (chat / "config.json").read_bytes()


def test_check_and_run_say_what_is_missing(chat: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("stages: [zstd]\n")
    checked = call("check", tmp_path / "r.yaml", "--model", chat).stdout
    run = call("run", tmp_path / "r.yaml", "--model", chat, "--output", tmp_path / "out").stdout
    for said in (checked, run):
        assert "note: config.json asks for code of the model's folder (modeling_x.py): transformers needs" in said
        assert "note: an adapter lies beside the weights (adapter_model.safetensors) and is not merged" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["file"]["left_behind"] == ["2_Dense/model.safetensors", "README.md", *MISSED[1:]]
    assert json.loads(call("check", tmp_path / "r.yaml", "--model", chat, "--json").stdout)["notes"] == report["notes"]


def test_a_list_of_names_that_is_none(compressed: tuple[Path, stackc.Report], tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "a.stackc", {}, bundle={"left_behind.json": b'{"a": 1}'})
    with stackc.open(path) as artifact, pytest.raises(stackc.util.errors.ArtifactError, match=r"left_behind\.json"):
        _ = artifact.left_behind
