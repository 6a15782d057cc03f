"""A config that is out of all proportion to its weights is refused, without the model being built first."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stackc.models.building import build_transformers
from stackc.models.proportion import built_in_proportion, require_proportion
from stackc.models.transformers_folder import read_config
from stackc.util.errors import ModelError


def test_counts_are_held_against_the_weights() -> None:
    state = {"x": torch.zeros(2, 70_000)}
    for key in (
        "num_hidden_layers",
        "n_layer",
        "num_local_experts",
        "num_heads",
        "num_labels",
        "depths",
        "encoder_layers",
    ):
        require_proportion({key: 70_000}, state)
        with pytest.raises(ModelError, match=f"the config says {key}: 70001, and there are 1 tensors"):
            require_proportion({key: 70_001}, state)
    with pytest.raises(ModelError, match=r"vision_config\.depths: 70001"):
        require_proportion({"vision_config": {"depths": [2, 70_001, 2]}}, state)
    # what is not repeated may be any number
    require_proportion({"rope_theta": 10**9, "max_length": 10**12, "layer_norm_eps": 1e-12, "num_labels": None}, state)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 3000},
        {"vocab_size": 10**8},
        {"max_position_embeddings": 10**9},
        {"intermediate_size": 10**9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_models_are_not_built_when_their_weights_are_not_there(classifier: Path, change: dict[str, Any]) -> None:
    config, state = read_config(classifier), load_file(classifier / "model.safetensors")
    assert build_transformers(config, state) is not None
    with pytest.raises(ModelError, match="the weights do not fit the config: it describes a model of more than"):
        build_transformers({**config, **change}, state)


def test_buffers_count() -> None:
    module = nn.Module()
    with built_in_proportion({}), pytest.raises(ModelError, match="bytes of buffers"):
        module.register_buffer("mask", torch.empty(1 << 15, 1 << 15, device="meta"))
    module.register_buffer("mask", torch.empty(1 << 15, 1 << 15, device="meta"))  # the limit ends with the block


def test_other_threads_build_what_they_like() -> None:
    built = []
    with built_in_proportion({}):
        other = threading.Thread(target=lambda: built.append(nn.Linear(1 << 15, 1 << 15, device="meta")))
        other.start()
        other.join()
        with pytest.raises(ModelError):
            nn.Linear(1 << 15, 1 << 15, device="meta")
    assert len(built) == 1
