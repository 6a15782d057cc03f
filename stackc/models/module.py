"""A torch module in memory as a reference."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stackc.core.planes import byte_view
from stackc.core.spec import ITEM_BYTES, PlaneSpec
from stackc.models.building import build_with_dtype
from stackc.models.companions import GENERATION
from stackc.models.reference import Kind, Reference, distinct, require_known
from stackc.models.safetensors_file import unsupported
from stackc.models.sharing import restore_ties, ties_of
from stackc.util.errors import ModelError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ModuleReference(Reference):
    """A module given directly or made by a factory. It is not copied: leave it as it is while the reference is in use.

    Examples
    --------
    >>> from torch import nn
    >>> reference = ModuleReference.of(nn.Linear(3, 2))
    >>> {name: str(spec) for name, spec in reference.specs.items()}
    {'weight': 'float32 2x3', 'bias': 'float32 2'}
    >>> reference.build().training
    False
    """

    kind: ClassVar[Kind] = "module"

    module: nn.Module
    state: Mapping[str, Tensor] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, module: nn.Module, source: str | None = None) -> ModuleReference:
        """Look at the state dict of a module.

        Parameters
        ----------
        module : torch.nn.Module
            The model. Where it is a model of transformers that its own config rebuilds, `config` is set.
        source : str, optional
            How the user named it; the class without it.

        Raises
        ------
        ModelError
            If a tensor of the state dict is of a kind or dtype that stackc does not support.
        """
        source = source or f"{type(module).__module__}.{type(module).__qualname__}"
        state = module.state_dict()
        for name, value in state.items():
            _require_plain(name, value, source)
        ties = ties_of(state)
        owned = {name: value for name, value in state.items() if name not in ties}
        config = _config(module, owned)
        return cls(
            source=source,
            specs={name: PlaneSpec.of(value) for name, value in owned.items()},
            ties=ties,
            config=config,
            companions=_generation(module) if config is not None else {},
            module=module,
            state=owned,
        )

    def tensor(self, name: str) -> Tensor:
        """Copy one tensor; see `Reference.tensor`."""
        require_known(name, self)
        return self.state[name].detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def chunks(self, name: str) -> Iterator[memoryview]:
        """Bytes of one tensor; see `Reference.chunks`."""
        require_known(name, self)
        data = byte_view(self.state[name].detach().cpu()).data
        for start in range(0, len(data), _CHUNK_BYTES):
            yield data[start : start + _CHUNK_BYTES]

    def build(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Copy the module, ties included, and load these weights; see `Reference.build`.

        What is not in the state dict, such as non-persistent buffers, stays as it is.
        """
        try:
            module = copy.deepcopy(self.module)
        except (RuntimeError, TypeError) as error:
            raise ModelError(f"{self.source} cannot be copied: {error}") from error
        if state is not None:
            full = restore_ties(distinct(state, self), self.ties)
            try:
                module.load_state_dict(full, strict=True)
            except (RuntimeError, TypeError) as error:
                raise ModelError(
                    f"{self.source} does not load these weights: {' '.join(str(error).split())}"
                ) from error
        return module.eval()

    def tokenizer(self) -> Any | None:
        """None: a module has no tokenizer."""
        return None


def _require_plain(name: str, value: object, source: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise ModelError(
            f"{name!r} in the state dict of {source} is a {type(value).__name__}: stackc stores tensors only, so keep this "
            "outside get_extra_state"
        )
    if type(value) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        raise ModelError(
            f"{name!r} in the state dict of {source} is a {type(value).__name__}: start from a model with plain tensors, "
            "not from one that is quantised, distributed or not yet initialised"
        )
    if str(value.dtype).removeprefix("torch.") not in ITEM_BYTES:
        raise ModelError(unsupported(name, source, value.dtype))
    if value.layout != torch.strided or value.is_meta:
        held = "no values (it is on the meta device)" if value.is_meta else f"a {value.layout} layout"
        raise ModelError(f"{name!r} in the state dict of {source} has {held}: stackc reads dense tensors in memory")


def _config(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The config of a transformers model, if the model can be rebuilt from it: one that was changed by hand cannot."""
    if not type(module).__module__.startswith("transformers."):
        return None
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_json_string"):
        return None
    content: dict[str, Any] = json.loads(config.to_json_string())
    content["architectures"] = [type(module).__name__]
    try:
        rebuilt, dtype = build_with_dtype(content, state)
    except ModelError:
        return None
    content["torch_dtype" if "torch_dtype" in content else "dtype"] = str(dtype).removeprefix("torch.")
    same = {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in module.state_dict().items()
    }
    return content if same else None


def _generation(module: Any) -> dict[str, Path | bytes]:
    """How the model writes texts, where that is not what its config says anyway."""
    generation: Any = getattr(module, "generation_config", None)
    if not hasattr(generation, "to_json_string") or not module.can_generate():
        return {}
    if generation == type(generation).from_model_config(module.config):
        return {}
    return {GENERATION: generation.to_json_string().encode()}
