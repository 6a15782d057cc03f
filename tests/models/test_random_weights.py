"""A random reference is the same architecture with weights that nobody trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stackc.core.planes import to_bytes
from stackc.models import ModuleReference, open_reference, random_reference
from stackc.models.building import quiet_transformers
from stackc.util.errors import ModelError
from tests.helpers.tiny import tiny_classifier


@pytest.fixture(params=[False, True], ids=["bert", "bart"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with quiet_transformers():
        return tiny_classifier(tmp_path / "model", tied=request.param)


def test_everything_but_the_weights_is_the_originals(folder: Path) -> None:
    reference = open_reference(folder)
    fresh = random_reference(reference, seed=1)
    for name in ("kind", "source", "specs", "ties", "config", "tokenizer_files"):
        assert getattr(fresh, name) == getattr(reference, name)
    assert fresh.fingerprint() != reference.fingerprint()
    assert fresh.fingerprint() == random_reference(reference, seed=1).fingerprint()
    assert fresh.fingerprint() != random_reference(reference, seed=2).fingerprint()
    for name, spec in fresh.specs.items():
        assert spec == type(spec).of(fresh.tensor(name))
        assert b"".join(fresh.chunks(name)) == to_bytes(fresh.tensor(name))


def test_the_architecture_initialises_itself(tmp_path: Path) -> None:
    with quiet_transformers():
        folder = tiny_classifier(tmp_path / "model")
    reference = open_reference(folder)
    assert reference.config is not None
    fresh = random_reference(reference, seed=0)
    # The initialiser's range of the config, and the neutral norm that BERT begins with.
    spread = float(fresh.tensor("bert.embeddings.word_embeddings.weight").std())
    assert spread == pytest.approx(reference.config["initializer_range"], rel=0.1)
    assert bool((fresh.tensor("bert.embeddings.LayerNorm.weight") == 1).all())


def test_it_builds_with_its_own_and_with_other_weights(folder: Path) -> None:
    reference = open_reference(folder)
    fresh = random_reference(reference, seed=0)
    inputs = {"input_ids": torch.tensor([[2, 5, 7, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    with torch.inference_mode():
        own, original = fresh.build()(**inputs).logits, reference.build()(**inputs).logits
        given = fresh.build({name: reference.tensor(name) for name in reference.specs})(**inputs).logits
    assert torch.equal(given, original)
    assert not torch.equal(own, original)
    assert not fresh.build().training


def test_torchs_generator_is_left_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    random_reference(open_reference(folder), seed=0)
    assert torch.equal(torch.rand(2), expected)


def test_modules_are_reset_layer_by_layer() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[3].weight = nn.Parameter(torch.full((2, 4), 7.0))
    reference = ModuleReference.of(module)
    fresh = random_reference(reference, seed=0)
    assert float(fresh.tensor("3.weight").abs().max()) <= 0.5
    assert torch.equal(module[3].weight, torch.full((2, 4), 7.0))
    assert fresh.build()[0].weight.shape == (4, 4)


def test_ties_of_a_module_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    fresh = random_reference(ModuleReference.of(Tied()), seed=0)
    assert fresh.ties == {"second.weight": "first.weight"}
    model = fresh.build()
    assert model.second.weight is model.first.weight


def test_a_file_of_weights_has_no_architecture(folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot be initialised anew: a bare weights file has no architecture"):
        random_reference(open_reference(folder / "model.safetensors"), seed=0)
