"""Models that need no transformers: files of weights, and modules."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict with an embedding, matrices, vectors, half precision, integers and an empty tensor: 6.4 kB."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.randn(3, 16, generator=draw)
    return {
        "embeddings.weight": torch.randn(40, 3, generator=draw) @ basis + 0.1 * torch.randn(40, 16, generator=draw),
        "layer.weight": torch.randn(24, 16, generator=draw),
        "layer.bias": torch.randn(24, generator=draw),
        "half.weight": torch.randn(16, 8, generator=draw).half(),
        "norm.weight": torch.ones(16),
        "positions": torch.arange(40).reshape(1, 40),
        "scalar": torch.tensor(0.5),
        "nothing": torch.zeros(0, 4),
    }


def weights_file(path: Path, seed: int = 0, **changed: torch.Tensor) -> Path:
    """The same as a .safetensors file; keyword arguments replace tensors, ``__`` standing for the dot."""
    state = weights(seed) | {name.replace("__", "."): x for name, x in changed.items()}
    save_file(state, path)
    return path


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's."""

    def __init__(self, rows: int = 20, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width)
        self.layer = nn.Linear(width, width)
        self.register_buffer("steps", torch.tensor(3))
        self.output = nn.Linear(width, rows, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of every row for every id."""
        scores: torch.Tensor = self.output(torch.tanh(self.layer(self.embedding(ids))))
        return scores


def tied(seed: int = 0) -> Tied:
    """`Tied` with weights from a seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tied().eval()
