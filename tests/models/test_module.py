"""A module as a reference: ties, buffers, odd memory layouts and dtypes survive the round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stackc.models import ModuleReference, build_transformers, open_reference, restore_ties, ties_of
from stackc.models.building import quiet_transformers
from stackc.util.errors import ModelError


class Shared(nn.Module):
    """One Linear under two names, a parameter tied to its transposed view, and every odd tensor that a state dict may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.block = nn.Linear(3, 3)
        self.again = self.block
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(3)
        self.strided = nn.Parameter(torch.arange(12.0).reshape(3, 4).T)
        self.brain = nn.Parameter(torch.tensor([1.5, float("nan")], dtype=torch.bfloat16))
        self.register_buffer("ids", torch.tensor([[2**40, -1]]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer("scratch", torch.tensor([4.0]), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.again(self.block(self.embedding(ids)))))


TIES = {"again.weight": "block.weight", "again.bias": "block.bias", "head.weight": "embedding.weight"}


def doubled(reference: ModuleReference) -> dict[str, torch.Tensor]:
    return {
        name: reference.tensor(name) * 2 if spec.is_real else reference.tensor(name)
        for name, spec in reference.specs.items()
    }


@pytest.mark.parametrize("tied", [False, True])
def test_a_name_that_safetensors_keeps_for_itself_is_refused(tied: bool) -> None:
    module = nn.Linear(2, 2)
    module.register_parameter("__metadata__", module.weight if tied else nn.Parameter(torch.ones(2)))
    with pytest.raises(
        ModelError, match=r"a tensor of .*Linear is called __metadata__, which no safetensors .* rename it"
    ):
        ModuleReference.of(module)
    inside = nn.Module()
    inside.register_module("block", module)
    assert len(ModuleReference.of(inside).specs) == (2 if tied else 3)  # with a prefix the name is free


def test_specs_hold_each_tensor_once() -> None:
    reference = ModuleReference.of(Shared())
    assert reference.kind == "module"
    assert reference.source.endswith("test_module.Shared")
    assert reference.ties == TIES
    assert not set(TIES) & set(reference.specs)
    assert "scratch" not in reference.specs
    assert str(reference.specs["norm.num_batches_tracked"]) == "int64 0-d"
    assert str(reference.specs["mask"]) == "bool 2 in 0..1"
    distinct = sum(v.numel() * v.element_size() for n, v in Shared().state_dict().items() if n not in TIES)
    assert reference.nbytes == distinct


def test_tensor_is_a_contiguous_copy() -> None:
    module = Shared()
    reference = ModuleReference.of(module)
    read = reference.tensor("strided")
    assert read.is_contiguous()
    assert not module.strided.is_contiguous()
    assert torch.equal(read, module.strided)
    assert not read.requires_grad
    for name, spec in reference.specs.items():
        assert spec.mismatch(reference.tensor(name)) is None
        assert len(b"".join(reference.chunks(name))) == spec.nbytes
    read.zero_()
    assert module.strided.abs().sum() > 0
    with pytest.raises(ModelError, match="no tensor 'stride', did you mean 'strided'"):
        reference.tensor("stride")


def test_own_build_is_an_equal_copy() -> None:
    module = Shared().train()
    built: Any = ModuleReference.of(module).build()
    assert module.training
    assert not built.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(built.state_dict()[name].nan_to_num(9), tensor.nan_to_num(9))
    built.block.weight.data.zero_()
    assert module.block.weight.abs().sum() > 0


@pytest.mark.parametrize("full", [False, True])
def test_build_loads_the_state_and_keeps_the_ties(full: bool) -> None:
    module = Shared()
    reference = ModuleReference.of(module)
    state = doubled(reference)
    built: Any = reference.build(restore_ties(state, reference.ties) if full else state)
    assert built.again is built.block
    assert built.head.weight is built.embedding.weight
    assert ties_of(built.state_dict()) == TIES
    assert torch.equal(built.block.weight, module.block.weight * 2)
    assert torch.equal(built.scratch, module.scratch)
    assert torch.equal(built.ids, module.ids)
    with torch.no_grad():
        built.block.weight.zero_()
    assert state["block.weight"].abs().sum() > 0


def test_build_names_wrong_states() -> None:
    reference = ModuleReference.of(nn.Linear(3, 2))
    with pytest.raises(ModelError, match="lack 'bias'"):
        reference.build({"weight": torch.zeros(2, 3)})
    with pytest.raises(ModelError, match=r"weight of .* has shape \(2, 3\), but \(6,\) was given"):
        reference.build({"weight": torch.zeros(6), "bias": torch.zeros(2)})
    with pytest.raises(ModelError, match="no tensor 'wieght'"):
        reference.build({"wieght": torch.zeros(2, 3), "weight": torch.zeros(2, 3), "bias": torch.zeros(2)})


class Holder(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


class Extra(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"step": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("module", "words"),
    [
        pytest.param(
            Holder(torch.zeros(2, dtype=torch.complex64)), "'value' .* torch.complex64.*float32", id="complex"
        ),
        pytest.param(Holder(torch.zeros(2).to(torch.float8_e4m3fn)), "'value' .* torch.float8_e4m3fn", id="float8"),
        pytest.param(Holder(torch.zeros(2, device="meta")), "meta device", id="meta"),
        pytest.param(Holder(torch.eye(2).to_sparse()), "sparse", id="sparse"),
        pytest.param(
            Holder(torch.zeros(2).as_subclass(Subclass)), "'value' .* is a Subclass: start from", id="subclass"
        ),
        pytest.param(Extra(), "'_extra_state' .* is a dict", id="extra state"),
        pytest.param(nn.LazyLinear(3), "is a Uninitialized", id="not initialised"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_unsupported_tensors_are_named(module: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ModuleReference.of(module)


@pytest.mark.filterwarnings("ignore")
def test_a_torch_quantised_tensor_is_named() -> None:
    with pytest.raises(ModelError, match=r"'value' .* dtype torch.qint8"):
        ModuleReference.of(Holder(torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)))


def test_a_module_that_cannot_be_copied() -> None:
    module = nn.Linear(2, 2)
    module.cache = module.weight * 2  # not a leaf
    with pytest.raises(ModelError, match="cannot be copied"):
        ModuleReference.of(module).build()


def test_ties_are_equal_views_only() -> None:
    base = torch.arange(12.0)
    state = {
        "a": base[:6],
        "same": base[:6].view(6),
        "later": base[6:],
        "overlap": base[3:9],
        "shape": base[:6].view(2, 3),
        "bits": base[:6].view(torch.int32),
        "copy": base[:6].clone(),
        "empty": torch.zeros(0),
        "empty too": torch.zeros(0),
    }
    assert ties_of(state) == {"same": "a"}


def test_fingerprint_sees_ties_and_bits() -> None:
    def fingerprint(module: nn.Module) -> str:
        return ModuleReference.of(module).fingerprint()

    module = Shared()
    assert fingerprint(module) == fingerprint(module)
    before = fingerprint(module)
    module.head.weight = nn.Parameter(module.head.weight.detach().clone())
    assert fingerprint(module) != before
    positive, negative = Holder(torch.tensor([0.0])), Holder(torch.tensor([-0.0]))
    assert fingerprint(positive) != fingerprint(negative)


def masked_model(**changes: Any) -> Any:
    with quiet_transformers():
        from transformers import BertConfig, BertForMaskedLM

        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        return BertForMaskedLM(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes, **changes)).eval()


def test_a_transformers_model_can_be_rebuilt_from_its_config() -> None:
    model = masked_model()
    reference = ModuleReference.of(model)
    assert reference.config is not None
    assert reference.config["architectures"] == ["BertForMaskedLM"]
    assert "cls.predictions.decoder.weight" in reference.ties
    rebuilt: Any = build_transformers(reference.config, {name: reference.tensor(name) for name in reference.specs})
    assert rebuilt.cls.predictions.decoder.weight is rebuilt.bert.embeddings.word_embeddings.weight
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in rebuilt.state_dict().items())
    copy: Any = reference.build()
    assert copy.cls.predictions.decoder.weight is copy.bert.embeddings.word_embeddings.weight


def test_a_transformers_model_in_half_precision_stays_there() -> None:
    model = masked_model().to(torch.float16)
    reference = ModuleReference.of(model)
    assert reference.config is not None
    assert reference.config["dtype"] == "float16"
    assert {p.dtype for p in reference.build().parameters()} == {torch.float16}


def test_a_transformers_model_that_was_changed_has_no_config() -> None:
    model = masked_model()
    model.bert.encoder.layer[0].intermediate.dense = nn.Linear(8, 16, bias=False)
    reference = ModuleReference.of(model)
    assert reference.config is None
    assert reference.build().state_dict().keys() == model.state_dict().keys()
    untied = masked_model(tie_word_embeddings=False)
    untied.cls.predictions.decoder.weight = (
        untied.bert.embeddings.word_embeddings.weight
    )  # the config knows nothing of it
    assert ModuleReference.of(untied).config is None


def test_a_module_of_another_package_has_no_config(classifier: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = masked_model()
            self.config = self.inner.config

    reference = open_reference(Wrapped())
    assert reference.config is None
    assert "inner.cls.predictions.decoder.weight" in reference.ties


def test_dtypes_that_an_architecture_mixes_come_back(tmp_path: Path) -> None:
    with quiet_transformers():
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
        T5ForConditionalGeneration(config).half().save_pretrained(tmp_path / "t5")
        model = T5ForConditionalGeneration.from_pretrained(tmp_path / "t5", torch_dtype=torch.float16)
    state = model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.float32}
    reference = ModuleReference.of(model)
    assert reference.config is not None
    rebuilt = build_transformers(reference.config, reference.state).state_dict()
    assert {name: tensor.dtype for name, tensor in rebuilt.items()} == {name: x.dtype for name, x in state.items()}
    assert all(torch.equal(rebuilt[name], tensor) for name, tensor in state.items())
