"""Tied tensors: names of a state dict that stand for one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def ties_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names whose tensor is the same view of the same storage as an earlier one, each with the first name.

    Views that merely overlap are different tensors. Empty tensors and tensors on the meta device own no memory, so they
    are never tied.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(2, 3)
    >>> ties_of({"a": weight, "b": weight.T, "c": weight[:]})
    {'c': 'a'}
    """
    first: dict[tuple[object, ...], str] = {}
    ties: dict[str, str] = {}
    for name, tensor in state.items():
        if not tensor.numel() or tensor.is_meta:
            continue
        view = (
            str(tensor.device),
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
        )
        earlier = first.setdefault(view, name)
        if earlier != name:
            ties[name] = earlier
    return ties


def restore_ties(state: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, Tensor]:
    """The state with every tied name filled in: it shares the tensor of its first name.

    Examples
    --------
    >>> import torch
    >>> list(restore_ties({"a": torch.ones(2)}, {"b": "a"}))
    ['a', 'b']
    """
    return {**state, **{other: state[first] for other, first in ties.items()}}
