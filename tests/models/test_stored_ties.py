"""A tie that a folder stores under several names is one tensor; names that are tied and differ are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import stackc
from stackc.core.spec import PlaneSpec
from stackc.models import open_reference
from stackc.models.building import quiet_transformers
from stackc.models.stored_ties import _suspects, stored_ties

WTE, HEAD = "transformer.wte.weight", "lm_head.weight"


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16))


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


def _bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )


def stored(folder: Path, make: Callable[[], Any] = _gpt2, *, full: bool = True) -> Path:
    """A folder that holds every name of the state dict, tied or not."""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        model.save_pretrained(folder)
    if full:
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_gpt2, {HEAD: WTE}),
        (_t5, dict.fromkeys([HEAD, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"], "shared.weight")),
        (
            _bert,
            {
                "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
                "cls.predictions.decoder.bias": "cls.predictions.bias",
            },
        ),
    ],
)
def test_equal_bytes_under_tied_names_are_one_tensor(tmp_path: Path, make, expected) -> None:
    once = open_reference(stored(tmp_path / "once", make, full=False))
    twice = open_reference(stored(tmp_path / "twice", make))
    assert twice.ties == expected
    assert twice.specs == once.specs
    assert (twice.nbytes, twice.parameters) == (once.nbytes, once.parameters)
    assert twice.notes == ()


@pytest.mark.parametrize("name", [WTE, HEAD])
def test_a_stage_on_either_name_changes_both(tmp_path: Path, name: str) -> None:
    recipe = {"stages": [{"use": "int", "bits": 4, "on": name}, "zstd"]}
    artifact, _ = stackc.compress(str(stored(tmp_path / "twice")), recipe, evaluate=False)
    assert artifact.ties == {HEAD: WTE}
    assert torch.equal(artifact[HEAD], artifact[WTE])
    built = artifact.build()
    assert built.lm_head.weight is built.transformer.wte.weight


def test_names_that_differ_are_kept_and_told(tmp_path: Path) -> None:
    folder = stored(tmp_path / "twice")
    state = load_file(folder / "model.safetensors")
    state[HEAD] += 1
    save_file(state, folder / "model.safetensors")
    reference = open_reference(folder)
    assert reference.ties == {}
    assert set(reference.specs) == set(state)
    (note,) = reference.notes
    assert note.startswith(f"{HEAD} and {WTE} are one tensor by the config, but differ in the file")
    artifact, report = stackc.compress(str(folder), {"stages": ["zstd"]}, evaluate=False)
    assert all(torch.equal(artifact[name], tensor) for name, tensor in state.items())
    assert note in report.notes
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False})
    )
    assert open_reference(folder).notes == ()


def test_equal_bytes_alone_are_no_tie(tmp_path: Path) -> None:
    folder = stored(tmp_path / "twice")
    state = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    assert open_reference(folder).ties == {HEAD: WTE}


def test_modules_that_transformers_has_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stackc.models.building.tied_names", lambda config: [["model.language_model.embed_tokens.weight", HEAD]]
    )
    spec = PlaneSpec((2, 1), "uint8")
    content = {"language_model.model.embed_tokens.weight": b"ab", "language_model.lm_head.weight": b"ab", "a.b": b"ab"}
    ties, apart = stored_ties(dict.fromkeys(content, spec), {}, lambda name: iter([content[name]]))
    assert ties == {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}
    assert apart == []


def test_names_that_transformers_ties_are_looked_at() -> None:
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    declared: set[str] = set()
    for path in Path(spec.origin).parent.glob("models/*/modeling_*.py"):
        for block in re.findall(r"_tied_weights_keys = \{(.*?)\}", path.read_text(encoding="utf-8"), re.DOTALL):
            for pair in re.findall(r'"([\w.]+(?:weight|bias))": *"([\w.]+)"', block):
                declared |= set(pair)
    overlooked = declared - set(_suspects(declared, untied=False))
    # Small tensors, which nobody stores twice.
    assert {name for name in overlooked if "relative_attention_bias" not in name and "norm" not in name} == set()


def test_transformers_is_asked_only_where_a_tie_may_be(tmp_path: Path) -> None:
    script = (
        "import sys; from stackc.models import open_reference; open_reference(sys.argv[1]);"
        "print('transformers' in sys.modules)"
    )
    for make, full, asked in ((_gpt2, False, False), (_gpt2, True, True), (_bert, False, False)):
        folder = stored(tmp_path / f"{make.__name__}{full}", make, full=full)
        run = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == str(asked)


def test_names_of_two_dtypes_are_told(tmp_path: Path) -> None:
    folder = stored(tmp_path / "twice")
    state = load_file(folder / "model.safetensors")
    save_file(state | {HEAD: state[HEAD].half()}, folder / "model.safetensors")
    reference = open_reference(folder)
    assert reference.ties == {}
    assert len(reference.notes) == 1
