"""The same architecture with fresh weights: what a result is compared with to see whether the stored model matters."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from stackc.core.planes import to_bytes
from stackc.models.building import building, fresh_transformers
from stackc.models.module import ModuleReference
from stackc.models.reference import Kind, Reference, listing, require_known
from stackc.util.errors import ModelError
from stackc.util.isolation import isolated
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class _RandomReference(Reference):
    base: Reference
    weights: Mapping[str, Tensor] = dataclasses.field(repr=False)

    def tensor(self, name: str) -> Tensor:
        """Copy one tensor; see `Reference.tensor`."""
        require_known(name, self)
        return self.weights[name].clone()

    def chunks(self, name: str) -> Iterator[memoryview]:
        """Bytes of one tensor; see `Reference.chunks`."""
        data = memoryview(to_bytes(self.tensor(name)))
        for start in range(0, len(data), _CHUNK_BYTES):
            yield data[start : start + _CHUNK_BYTES]

    def build(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The architecture with these weights, or the random ones; see `Reference.build`."""
        return self.base.build(self.weights if state is None else state)

    def tokenizer(self) -> Any | None:
        """The tokenizer of the original."""
        return self.base.tokenizer()


class _RandomTransformers(_RandomReference):
    kind: ClassVar[Kind] = "transformers"


class _RandomModule(_RandomReference):
    kind: ClassVar[Kind] = "module"


def random_reference(reference: Reference, seed: int) -> Reference:
    """A reference with the same tensors, ties, config, tokenizer and source whose weights are freshly initialised.

    Architectures of transformers are initialised by their own rules, modules by the ``reset_parameters`` of each of
    their layers. Tensors of integers and computed buffers, which nobody learnt, stay.

    Parameters
    ----------
    reference : Reference
        The model; it stays as it is.
    seed : int
        Of torch's generator, whose state is put back.

    Raises
    ------
    ModelError
        If there is no architecture, a layer does not say how it is initialised, or a tensor is not found in the fresh
        model.

    Examples
    --------
    >>> from torch import nn
    >>> reference = ModuleReference.of(nn.Linear(3, 2))
    >>> fresh = random_reference(reference, seed=0)
    >>> fresh.specs == reference.specs, fresh.fingerprint() == reference.fingerprint()
    (True, False)
    >>> fresh.fingerprint() == random_reference(reference, seed=0).fingerprint()
    True
    """
    require_architecture(reference)
    with isolated(), building, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of other devices too, for good
        if reference.config is not None:
            fresh = fresh_transformers(reference.config)
        else:
            assert isinstance(reference, ModuleReference)
            fresh = _reset(reference)
    kind = _RandomTransformers if reference.kind == "transformers" else _RandomModule
    return kind(
        source=reference.source,
        specs=reference.specs,
        ties=reference.ties,
        config=reference.config,
        tokenizer_files=reference.tokenizer_files,
        companions=reference.companions,
        left_behind=reference.left_behind,
        base=reference,
        weights=_weights(reference, fresh),
    )


def require_architecture(reference: Reference) -> None:
    """Refuse a reference that cannot be initialised anew; no weight is read.

    Raises
    ------
    ModelError
        With the layer that stands in the way.
    """
    if reference.config is not None:
        return
    if not isinstance(reference, ModuleReference):
        raise ModelError(
            f"{reference.source} cannot be initialised anew: a bare weights file has no architecture; give the model's folder"
        )
    for name, layer in reference.module.named_modules():
        own = next(layer.parameters(recurse=False), None)
        if own is not None and not callable(getattr(layer, "reset_parameters", None)):
            where = f"its layer {name!r}" if name else "it"
            raise ModelError(
                f"{reference.source} cannot be initialised anew: {where} is a {type(layer).__name__}, which has parameters "
                "and no method reset_parameters; add one"
            )


def _reset(reference: ModuleReference) -> nn.Module:
    try:
        module = copy.deepcopy(reference.module)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"{reference.source} cannot be copied: {error}") from error
    for layer in module.modules():
        reset: Any = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
    return module


def _weights(reference: Reference, fresh: nn.Module) -> dict[str, Tensor]:
    """The fresh tensor for every name of the reference.

    transformers calls some tensors of old files by another name: these are found in the built reference by their values.
    """
    state = fresh.state_dict()
    built: Mapping[str, Tensor] | None = None
    weights: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, spec in reference.specs.items():
        dtype = getattr(torch, spec.dtype)
        key: str | None = name if name in state and tuple(state[name].shape) == spec.shape else None
        if not spec.is_real:
            weights[name] = reference.tensor(name)
            continue
        if key is None:
            built = reference.build().state_dict() if built is None else built
            original = reference.tensor(name)
            same = [
                other
                for other, value in built.items()
                if other not in reference.specs
                and value.shape == original.shape
                and torch.equal(value.to(dtype), original)
            ]
            key = same[0] if len(same) == 1 and same[0] in state else None
        if key is None:
            missing.append(name)
            continue
        weights[name] = state[key].detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
    if missing:
        raise ModelError(
            f"{reference.source} cannot be initialised anew: {listing(missing)} is not found in a fresh model; write the "
            "model again with save_pretrained of this release of transformers"
        )
    return weights
