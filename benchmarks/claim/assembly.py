"""Seed assembly: what it stores of a model, and the weights that its decoder begins to train from.

Stored are principal components (the recipe ``claim/assembly``) and two numbers for each tensor, its mean and its
standard deviation. The decoder rebuilds the matrices, moves each to the stored mean and standard deviation, and trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import stackc
from stackc.models import Reference

#: The claim's arm and the ablation that it announced: what of the stored part the decoder begins with.
ARMS = ("PCA and statistics", "PCA only", "statistics only", "neither")


def store(model: str, recipe: str, path: Path) -> dict[str, Tensor]:
    """Write a model as a file with a recipe, and read its weights back from that file."""
    artifact, _ = stackc.compress(model, recipe, path, overwrite=True, evaluate=False)
    artifact.close()
    with stackc.open(path) as artifact:
        return artifact.state_dict()


class Statistics(nn.Module):
    """Mean and standard deviation of every tensor, in the order of the state dict.

    Examples
    --------
    >>> Statistics({"a": torch.tensor([1.0, 3.0])}).state_dict()
    OrderedDict({'mean': tensor([2.]), 'deviation': tensor([1.])})
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.stack([tensor.double().mean().float() for tensor in state.values()]))
        self.register_buffer("deviation", torch.stack([_deviation(tensor) for tensor in state.values()]))


def store_statistics(state: Mapping[str, Tensor], path: Path) -> dict[str, tuple[float, float]]:
    """Write the statistics of a model as a file, and read them back: mean and standard deviation by name."""
    stackc.compress(Statistics(state), {"stages": ["raw"]}, path, overwrite=True)[0].close()
    with stackc.open(path) as artifact:
        pairs = zip(artifact["mean"].tolist(), artifact["deviation"].tolist(), strict=True)
        return dict(zip(state, pairs, strict=True))


def initial_weights(
    arm: str,
    components: Mapping[str, Tensor],
    statistics: Mapping[str, tuple[float, float]],
    reference: Reference,
    seed: int,
) -> dict[str, Tensor]:
    """The weights that the decoder begins with.

    Parameters
    ----------
    arm : str
        One of `ARMS`.
    components : mapping
        The weights decoded from the file of principal components.
    statistics : mapping
        Mean and standard deviation of every tensor.
    reference : Reference
        Says what the architecture is; its weights are not used.
    seed : int
        Of the numbers that are drawn.
    """
    if arm == "PCA only":
        return {name: tensor.clone() for name, tensor in components.items()}
    if arm == "PCA and statistics":
        return {name: _restored(tensor, *statistics[name]) for name, tensor in components.items()}
    if arm == "statistics only":
        generator = torch.Generator().manual_seed(seed)
        return {
            name: mean + deviation * torch.randn(reference.specs[name].shape, generator=generator)
            for name, (mean, deviation) in statistics.items()
        }
    if arm == "neither":
        model = reference.build()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(model)(model.config)  # the architecture's own initialisation
        return {name: tensor for name, tensor in fresh.state_dict().items() if name in reference.specs}
    raise ValueError(f"there is no arm {arm!r}; there are {', '.join(ARMS)}")


def with_untrained_head(reference: Reference, seed: int) -> nn.Module:
    """The reference with a new classifier: normal weights of the config's width, as in transformers."""
    model = reference.build()
    generator = torch.Generator().manual_seed(seed)
    head = model.get_submodule("classifier")
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * model.config.initializer_range)
        head.bias.zero_()
    return model


def _deviation(tensor: Tensor) -> Tensor:
    return tensor.double().std(correction=0).float()


def _restored(tensor: Tensor, mean: float, deviation: float) -> Tensor:
    """The tensor with another mean and standard deviation; a constant one has only a mean to restore."""
    found = float(_deviation(tensor))
    centred = tensor - tensor.double().mean().float()
    return mean + (centred * (deviation / found) if found > 0 else centred)
