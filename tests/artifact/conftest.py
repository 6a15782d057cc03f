"""A small artifact with every kind of thing in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.crafted import write_artifact

TIES = {"embeddings.weight": ["decoder.weight"]}
BUNDLE = {"tokenizer.json": b'{"model": {"type": "WordPiece"}}' * 4, "vocab.txt": b""}
CONFIG = {"architectures": ["BertModel"], "hidden_size": 4, "dropout": 0.1, "id2label": {"0": "negative"}, "none": None}


@pytest.fixture(scope="session")
def tensors() -> dict[str, torch.Tensor]:
    """Tensors of every rank and most dtypes, by name."""
    draw = torch.Generator().manual_seed(0)
    return {
        "embeddings.weight": torch.randn(12, 4, generator=draw),
        "layer.weight": torch.randn(4, 4, generator=draw),
        "layer.bias": torch.tensor([1.0, float("nan"), float("inf"), -0.0]),
        "half": torch.randn(3, 2, 2, generator=draw).half(),
        "brain": torch.randn(3, generator=draw).bfloat16(),
        "ids": torch.arange(6).reshape(1, 6),
        "mask": torch.tensor([True, False, True]),
        "step": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture(scope="session")
def stages() -> dict[str, list[object]]:
    """The stages of each tensor."""
    return {
        "embeddings.weight": [
            {"use": "prune", "rows": 0.5},
            {"use": "seed", "on": "*/values", "rank": 2},
            {"use": "int", "on": "*/scores", "bits": 4},
            {"use": "ans", "on": "*/codes"},
            "raw",
        ],
        "layer.weight": ["int8", {"use": "ans", "on": "*/codes"}, "zstd"],
        "layer.bias": ["zstd"],
        "half": ["zstd"],
        "brain": ["raw"],
        "ids": ["zstd"],
        "mask": ["ans"],
        "step": ["raw"],
        "empty": ["zstd"],
    }


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, tensors, stages) -> Path:
    """The artifact; tests read it and leave it as it is."""
    path = tmp_path_factory.mktemp("artifact") / "small.stackc"
    pairs = {name: (x, stages[name]) for name, x in tensors.items()}
    return write_artifact(path, pairs, ties=TIES, bundle=BUNDLE, config=CONFIG)
