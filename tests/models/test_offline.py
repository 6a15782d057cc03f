"""Nothing in a config makes a build ask the network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

from stackc.models.building import build_transformers
from stackc.models.offline import offline, wanted_network
from stackc.models.transformers_folder import read_config
from stackc.util.errors import ModelError


@pytest.fixture(autouse=True)
def no_socket(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the network; every request fails the test."""
    asked: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        asked.append(repr(arguments))
        pytest.fail(f"asked the network for {arguments}")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


@pytest.mark.parametrize("architecture", ["UperNetForSemanticSegmentation", "DetrModel", "MaskFormerModel"])
@pytest.mark.parametrize("timm", [False, True])
def test_backbones_are_not_downloaded(no_socket: list[str], architecture: str, timm: bool) -> None:
    config = {
        "architectures": [architecture],
        "backbone": "somebody/backbone",
        "use_pretrained_backbone": True,
        "use_timm_backbone": timm,
        "backbone_config": None,
    }
    with pytest.raises(ModelError) as caught:
        build_transformers(config, {"x": torch.zeros(1)})
    assert "\n" not in str(caught.value)
    assert not no_socket
    if not timm:
        assert "names another model, and nothing is downloaded to build one" in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"_name_or_path": "somebody/model"},
        {"auto_map": {"AutoModel": "somebody/model--modeling.Model"}},
        {"custom_pipelines": {"task": {"impl": "somebody/model--pipeline.Pipeline", "pt": ["AutoModel"]}}},
        {"_attn_implementation": "somebody/kernel"},
        {"transformers_weights": "somebody/weights.safetensors"},
        {"use_pretrained_backbone": True, "backbone": "somebody/backbone"},
        {"base_model_name_or_path": "somebody/model", "peft_type": "LORA"},
    ],
    ids=lambda entry: next(iter(entry)),
)
def test_a_model_builds_from_what_is_there(classifier: Path, no_socket: list[str], entry: dict[str, Any]) -> None:
    config, state = read_config(classifier), load_file(classifier / "model.safetensors")
    model = build_transformers({**config, **entry}, state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not no_socket


def test_the_switch_is_back_when_the_last_block_ends() -> None:
    with offline():
        with offline():
            assert constants.HF_HUB_OFFLINE
        assert constants.HF_HUB_OFFLINE
        with pytest.raises(Exception, match="offline") as caught:
            HfApi().model_info("somebody/model")
        assert wanted_network(caught.value)
    assert not constants.HF_HUB_OFFLINE
    assert not wanted_network(ValueError())
