"""A Hugging Face folder gives the model that from_pretrained gives, or a ModelError, and nothing on the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stackc.models import TransformersReference, build_transformers
from stackc.models.building import quiet_transformers
from stackc.util.errors import ModelError

Model = Any  # a transformers model


def opened(folder: Path) -> TransformersReference:
    return TransformersReference.open(folder, folder.name)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def copied(
    folder: Path, target: Path, *, config: dict[str, Any] | None = None, state: dict[str, Any] | None = None
) -> Path:
    shutil.copytree(folder, target)
    if config is not None:
        (target / "config.json").write_text(json.dumps(config))
    if state is not None:
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def logits(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(
            input_ids=torch.tensor([[2, 7, 9, 11, 3]]), attention_mask=torch.ones(1, 5, dtype=torch.int64)
        ).logits


def from_pretrained(name: str, folder: Path, **options: Any) -> Model:
    with quiet_transformers():
        import transformers

        return getattr(transformers, name).from_pretrained(folder, **options)


def test_specs_are_those_of_the_weight_file(classifier: Path) -> None:
    reference = opened(classifier)
    state = state_of(classifier)
    assert {name: spec.shape for name, spec in reference.specs.items()} == {n: tuple(t.shape) for n, t in state.items()}
    assert reference.ties == {}
    assert reference.config == config_of(classifier)
    assert reference.nbytes == 4 * reference.parameters == sum(4 * tensor.numel() for tensor in state.values())
    assert repr(reference).startswith("<transformers reference classifier: ")


@pytest.mark.parametrize(
    ("model", "architecture"),
    [
        ("classifier", "BertForSequenceClassification"),
        ("tied", "BartForSequenceClassification"),
        ("masked", "BertForMaskedLM"),
    ],
)
def test_build_equals_from_pretrained(model: str, architecture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    reference = opened(folder)
    expected = from_pretrained(architecture, folder)
    for built in (reference.build(), reference.build({name: reference.tensor(name) for name in reference.specs})):
        assert type(built).__name__ == architecture
        assert not built.training
        assert list(built.state_dict()) == list(expected.state_dict())
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in built.state_dict().items())
        torch.testing.assert_close(logits(built), logits(expected))  # which reads unaligned memory: other rounding


def test_ties_of_the_config_are_restored(masked: Path, tied: Path) -> None:
    model: Model = opened(masked).build()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    model = opened(tied).build()
    assert model.model.shared.weight is model.model.encoder.embed_tokens.weight
    assert model.model.shared.weight is model.model.decoder.embed_tokens.weight


def test_build_uses_the_given_weights_and_leaves_them_alone(classifier: Path) -> None:
    reference = opened(classifier)
    state = {name: reference.tensor(name).mul_(2) for name in reference.specs}
    before = {name: tensor.clone() for name, tensor in state.items()}
    model: Model = reference.build(state)
    assert torch.equal(model.classifier.weight, before["classifier.weight"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_outputs_do_not_depend_on_where_the_weights_lie(classifier: Path) -> None:
    reference = opened(classifier)
    expected = logits(reference.build())
    for offset in (1, 3, 8):
        shifted = {}
        for name in reference.specs:
            tensor = reference.tensor(name)
            memory = torch.zeros(tensor.numel() + offset)
            memory[offset:] = tensor.reshape(-1)
            shifted[name] = memory[offset:].view(tensor.shape)
        assert torch.equal(logits(build_transformers(config_of(classifier), shifted)), expected)


def test_build_names_wrong_states(classifier: Path) -> None:
    reference = opened(classifier)
    state = {name: reference.tensor(name) for name in reference.specs}
    with pytest.raises(ModelError, match=r"no tensor 'classifier.wieght', did you mean 'classifier.weight'"):
        reference.build({**state, "classifier.wieght": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"has shape \(2,\), but \(3,\) was given"):
        reference.build({**state, "classifier.bias": torch.zeros(3)})
    del state["classifier.bias"]
    with pytest.raises(ModelError, match=r"lack 'classifier.bias'"):
        reference.build(state)


def test_a_missing_layer_is_never_random(classifier: Path) -> None:
    state = state_of(classifier)
    del state["classifier.weight"], state["classifier.bias"]
    with pytest.raises(ModelError, match=r"'classifier.bias', 'classifier.weight' of the architecture has no weights"):
        build_transformers(config_of(classifier), state)


def test_left_over_weights_are_refused(classifier: Path) -> None:
    state = {**state_of(classifier), "decoder.weight": torch.zeros(2)}
    with pytest.raises(ModelError, match=r"BertForSequenceClassification: it does not use 'decoder.weight'"):
        build_transformers(config_of(classifier), state)


def test_weights_of_another_size_are_refused(classifier: Path) -> None:
    with pytest.raises(ModelError, match=r"classifier.bias has shape \(2,\), the config needs \(3,\)"):
        build_transformers({**config_of(classifier), "id2label": {0: "a", 1: "b", 2: "c"}}, state_of(classifier))


def test_buffers_of_old_files_are_harmless(classifier: Path, tmp_path: Path) -> None:
    state = {**state_of(classifier), "bert.embeddings.position_ids": torch.arange(64).unsqueeze(0)}
    reference = opened(copied(classifier, tmp_path / "old", state=state))
    assert str(reference.specs["bert.embeddings.position_ids"]) == "int64 1x64"
    assert torch.equal(logits(reference.build()), logits(opened(classifier).build()))


def test_old_layer_norm_names(classifier: Path, tmp_path: Path) -> None:
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state_of(classifier).items()
    }
    reference = opened(copied(classifier, tmp_path / "old", state=state))
    assert "bert.embeddings.LayerNorm.gamma" in reference.specs
    assert torch.equal(logits(reference.build()), logits(opened(classifier).build()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_of_the_weights_is_kept(classifier: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in state_of(classifier).items()}
    model = build_transformers(config_of(classifier), state)  # whose dtype entry says float32
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32


def test_mixed_dtypes_widen_without_loss(classifier: Path) -> None:
    state = {name: t.half() if t.ndim == 2 else t.bfloat16() for name, t in state_of(classifier).items()}
    model = build_transformers(config_of(classifier), state)
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in model.state_dict().items())


def test_integer_and_0d_buffers(tmp_path: Path) -> None:
    with quiet_transformers():
        from transformers import ResNetConfig, ResNetForImageClassification

        config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2)
        original = ResNetForImageClassification(config).half().eval()
        with torch.no_grad():
            for name, buffer in original.named_buffers():
                buffer.fill_(3 if name.endswith("num_batches_tracked") else 0.5)
        original.save_pretrained(tmp_path / "resnet")
    reference = opened(tmp_path / "resnet")
    assert "int64 0-d" in {str(spec) for spec in reference.specs.values()}
    built = reference.build().state_dict()
    for name, tensor in original.state_dict().items():
        assert built[name].dtype == tensor.dtype
        assert torch.equal(built[name], tensor)


def test_sharded_folders(classifier: Path, tmp_path: Path) -> None:
    model = from_pretrained("BertForSequenceClassification", classifier)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    reference = opened(tmp_path / "sharded")
    assert set(reference.specs) == set(opened(classifier).specs)
    torch.testing.assert_close(logits(reference.build()), logits(model))


def sharded(folder: Path, weight_map: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"a": torch.zeros(1)}, folder / "one.safetensors")
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, folder / "two.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        pytest.param(
            {"a": "../one.safetensors"}, "not the name of a safetensors file in that folder", id="other folder"
        ),
        pytest.param({"a": "pytorch_model.bin"}, "not the name of a safetensors file", id="pickle"),
        pytest.param({"a": "three.safetensors"}, "three.safetensors cannot be read", id="missing shard"),
        pytest.param({"a": "one.safetensors", "b": "two.safetensors"}, "'a' is in two files", id="twice"),
        pytest.param({"c": "one.safetensors"}, "'c' is not where it says", id="missing tensor"),
        pytest.param(["a"], "is damaged", id="a list"),
    ],
)
def test_damaged_indexes(tmp_path: Path, weight_map: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        opened(sharded(tmp_path / "sharded", weight_map))


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config.json: give a folder that save_pretrained\(\) wrote"):
        opened(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"give the file .*model.safetensors itself"):
        opened(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for content in ("[]", "{", "\udcff", "[" * 100_000):
        (tmp_path / "config.json").write_text(content, errors="surrogateescape")
        with pytest.raises(ModelError, match=r"config.json is not a JSON object"):
            opened(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"neither model.safetensors nor"):
        opened(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(ModelError, match="safe_serialization=True"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"architectures": None}, "names no architecture", id="none"),
        pytest.param(
            {"architectures": ["BertForMaskedML"]}, "not part of transformers .* stackc runs no code", id="unknown"
        ),
        pytest.param({"architectures": ["AutoModel"]}, "not part of transformers", id="not a model class"),
        pytest.param({"architectures": ["PreTrainedModel"]}, "base class", id="base class"),
        pytest.param({"quantization_config": {"quant_method": "gptq"}}, r"quantised already \(gptq\)", id="quantised"),
        pytest.param(
            {"hidden_size": "wide"}, "transformers cannot build BertForSequenceClassification", id="wrong type"
        ),
        pytest.param(
            {"num_attention_heads": 7}, "transformers cannot build BertForSequenceClassification", id="wrong value"
        ),
    ],
)
def test_configs_that_build_nothing(classifier: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_transformers({**config_of(classifier), **change}, state_of(classifier))


def test_a_quantised_model_is_refused_before_any_weight_is_read(classifier: Path, tmp_path: Path) -> None:
    config = {**config_of(classifier), "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(ModelError, match=r"q is quantised already \(awq\): start from the uncompressed model"):
        opened(copied(classifier, tmp_path / "q", config=config))


def test_a_config_cannot_bring_kernels_or_code(classifier: Path) -> None:
    config = {**config_of(classifier), "auto_map": {"AutoModel": "evil.Evil"}, "trust_remote_code": True}
    config |= {"attn_implementation": "org/kernel", "_attn_implementation_internal": "org/kernel"}
    model: Model = build_transformers(config, state_of(classifier))
    assert model.config._attn_implementation in {"eager", "sdpa"}
    eager: Model = build_transformers({**config, "attn_implementation": "eager"}, state_of(classifier))
    assert eager.config._attn_implementation == "eager"


def test_nothing_reaches_the_terminal_and_switches_are_restored(
    classifier: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    opened(classifier).build()
    with pytest.raises(ModelError):
        build_transformers(config_of(classifier), {"bert.pooler.dense.bias": torch.zeros(3)})
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    logging.get_logger("transformers.check").error("seen again")
    logging.get_logger("transformers.check").warning("and this")
    assert "and this" in capfd.readouterr().err + caplog.text


def test_tokenizer(classifier: Path, masked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = opened(classifier).tokenizer()
    assert tokenizer is not None
    assert tokenizer.tokenize("The film is very charming.") == ["the", "film", "is", "very", "charming", "."]
    assert tokenizer.name_or_path == ""
    assert opened(masked).tokenizer() is None
    assert capfd.readouterr() == ("", "")


def test_fingerprint_tells_weights_and_names_apart(classifier: Path, tmp_path: Path) -> None:
    state = state_of(classifier)
    fingerprint = opened(classifier).fingerprint()
    assert opened(copied(classifier, tmp_path / "same", state=state)).fingerprint() == fingerprint
    state["classifier.bias"][1] += 1e-6
    assert opened(copied(classifier, tmp_path / "changed", state=state)).fingerprint() != fingerprint
    renamed = {
        name.replace("classifier.bias", "classifier.shift"): tensor for name, tensor in state_of(classifier).items()
    }
    assert opened(copied(classifier, tmp_path / "renamed", state=renamed)).fingerprint() != fingerprint


def test_opening_reads_no_weights(classifier: Path, tmp_path: Path) -> None:
    folder = copied(classifier, tmp_path / "large")
    (folder / "model.safetensors").unlink()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:  # sparse: 4 GB that take no disk
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 32))
    assert opened(folder).nbytes == 1 << 32
