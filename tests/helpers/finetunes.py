"""Models that differ a little from others."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def finetune(base: Path, folder: Path, *, change: float = 1e-3, seed: int = 1) -> Path:
    """Write a Hugging Face folder with the weights of another one, each moved by a random number of about this size."""
    shutil.copytree(base, folder)
    weights, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(seed)
    moved = {
        name: x + change * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in weights.items()
    }
    save_file(moved, folder / "model.safetensors", {"format": "pt"})
    return folder
