"""A written folder opens with from_pretrained; a tie is stored once where the config restores it."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from stackc.models import load_tokenizer, open_reference, save_folder, tokenizer_from_files
from stackc.models.building import quiet_transformers
from stackc.models.tokenizers import tokenizer_files
from stackc.util.errors import ModelError, OutputError


@pytest.mark.parametrize("model", ["classifier", "tied", "masked"])
def test_folder_round_trip(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    reference = open_reference(request.getfixturevalue(model))
    state = {name: reference.tensor(name) for name in reference.specs}
    target = tmp_path / "written"
    assert save_folder(target, reference.config, state, reference.tokenizer_files) == target
    again = open_reference(target)
    assert again.fingerprint() == reference.fingerprint()
    assert again.config == reference.config
    assert set(again.tokenizer_files) == set(reference.tokenizer_files)
    assert (again.tokenizer() is None) == (reference.tokenizer() is None)
    with safe_open(target / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    with quiet_transformers():
        import transformers

        assert reference.config is not None
        architecture = getattr(transformers, reference.config["architectures"][0])
        loaded, info = architecture.from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = reference.build().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_tie_of_the_config_is_stored_once(masked: Path, tmp_path: Path) -> None:
    model = open_reference(masked).build()
    written = save_folder(tmp_path / "once", open_reference(masked).config, model.state_dict())
    assert set(load_file(written / "model.safetensors")) == set(open_reference(masked).specs)
    built: Any = open_reference(written).build()
    assert built.cls.predictions.decoder.weight is built.bert.embeddings.word_embeddings.weight


def test_a_tie_that_the_config_does_not_restore_is_stored_twice(masked: Path, tmp_path: Path) -> None:
    config = {**(open_reference(masked).config or {}), "tie_word_embeddings": False}
    state = open_reference(masked).build().state_dict()
    written = save_folder(tmp_path / "twice", config, state)
    assert set(load_file(written / "model.safetensors")) == set(state)
    assert all(
        torch.equal(tensor, state[name]) for name, tensor in open_reference(written).build().state_dict().items()
    )


def test_weights_without_a_config(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {
        "a": base[:6].reshape(2, 3),
        "tied": base[:6].reshape(2, 3),
        "overlap": base[3:9],
        "t": base.reshape(3, 4).T,
    }
    state["steps"] = torch.tensor(3)
    written = save_folder(tmp_path / "bare", None, state)
    assert [path.name for path in written.iterdir()] == ["model.safetensors"]
    stored = load_file(written / "model.safetensors")
    assert set(stored) == set(state)
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("taken", "dangling"):
        with pytest.raises(OutputError, match=f"{name} exists already"):
            save_folder(tmp_path / name, None, {"a": torch.zeros(1)})
    assert not list((tmp_path / "taken").iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        save_folder(tmp_path / "new", None, {"a": torch.zeros(1)}, {"vocab.txt": tmp_path / "missing"})
    with pytest.raises(OutputError, match="is not the name of a file in the model"):
        save_folder(tmp_path / "new", None, {"a": torch.zeros(1)}, {"../vocab.txt": b""})
    with pytest.raises(OutputError, match="cannot be written"):
        save_folder(tmp_path / "no" / "such" / "parent", None, {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_a_written_folder_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    written = save_folder(tmp_path / "written", None, {"a": torch.zeros(1)})
    assert os.stat(written).st_mode == os.stat(tmp_path / "plain").st_mode


def test_written_weights_have_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    written = save_folder(tmp_path / "written", None, {"a": torch.zeros(1)})
    assert (written / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_the_system_refuses_safetensors_is_said_in_words(tmp_path: Path) -> None:
    """A limit on the size of files makes the library below fail for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError) as caught:
            save_folder(tmp_path / "large", None, {"a": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(f"{tmp_path / 'large'} cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="new cannot be written: the disk is full; free some space"):
        save_folder(tmp_path / "new", None, {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_from_bytes(classifier: Path) -> None:
    files = {name: path.read_bytes() for name, path in tokenizer_files(classifier).items()}
    text = "The acting is dull, but the ending is lovely!"
    expected = load_tokenizer(classifier)(text)
    assert tokenizer_from_files(files)(text)["input_ids"] == expected["input_ids"]
    assert tokenizer_from_files({}) is None


def test_a_vocabulary_is_enough_with_the_config(classifier: Path) -> None:
    config = open_reference(classifier).config
    vocabulary = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "##s"]).encode()
    tokenizer = tokenizer_from_files({"vocab.txt": vocabulary}, config)
    assert tokenizer is not None
    assert tokenizer("films")["input_ids"] == [2, 5, 6, 3]


def test_what_was_decoded_is_never_written_over(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(OutputError, match=f"'{name}' stands for a file of the decoded model"):
            save_folder(tmp_path / "new", {"a": 1}, {"a": torch.zeros(1)}, {name: b"{}"})
    assert list(tmp_path.iterdir()) == []


def test_a_companion_may_be_one_folder_down(tmp_path: Path) -> None:
    save_folder(tmp_path / "new", None, {"a": torch.zeros(1)}, {"1_Pooling/config.json": b"{}", "vocab.txt": b""})
    assert (tmp_path / "new" / "1_Pooling" / "config.json").read_bytes() == b"{}"
    for name in ("a/b/c.json", "/c.json", "../c.json", "a/../c.json", "a//c.json", ""):
        with pytest.raises(OutputError, match="is not the name of a file in the model's folder"):
            save_folder(tmp_path / "other", None, {"a": torch.zeros(1)}, {name: b"{}"})


def test_files_that_make_no_tokenizer() -> None:
    with pytest.raises(ModelError, match=r"cannot make a tokenizer of tokenizer.json"):
        tokenizer_from_files({"tokenizer.json": b"{}"})
    with pytest.raises(ModelError, match="is not the name of a tokenizer file"):
        tokenizer_from_files({"../tokenizer.json": b"{}"})


def test_only_needed_tokenizer_files_are_listed(tmp_path: Path) -> None:
    for name in (
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "README.md",
    ):
        (tmp_path / name).write_text("")
    assert list(tokenizer_files(tmp_path)) == [
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ]
    (tmp_path / "tokenizer.json").write_text("")
    assert list(tokenizer_files(tmp_path)) == ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
