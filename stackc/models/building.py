"""Build a transformers model from a config and a state dict, exactly as from_pretrained would, or not at all."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.models.companions import GENERATION
from stackc.models.offline import offline, wanted_network
from stackc.models.proportion import built_in_proportion, require_proportion
from stackc.models.reference import listing
from stackc.util.errors import ModelError, StackcError
from stackc.util.isolation import isolated
from stackc.util.lazy import torch
from stackc.util.silence import silence

if TYPE_CHECKING:
    from torch import Tensor, nn

# Buffers that older releases stored and newer ones compute, or the other way round: no learnt value is in them.
_COMPUTED_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|num_batches_tracked|masked_bias|attn\.bias)$"
)

# A config may name attention and expert kernels, which transformers would download and run.
_IMPLEMENTATION_KEYS = frozenset({"attn_implementation", "experts_implementation"})
# With it, some architectures download weights for a part of theirs, whatever the state holds.
_PRETRAINED_BACKBONE = "use_pretrained_backbone"
_ALIGNMENT = 64
_BUILT_IN = frozenset({"eager", "sdpa"})

#: Held while transformers makes a model: meanwhile the default dtype of the process is that of the model, and torch's functions
#: of initialisation are exchanged.
building = threading.RLock()


def build_transformers(
    config: Mapping[str, Any], state: Mapping[str, Tensor], generation: bytes | None = None
) -> nn.Module:
    """The architecture that a Hugging Face config names, with these weights, in evaluation mode.

    The names are those of the weight file: transformers applies its key renames (``gamma`` to ``weight`` and the like)
    and restores the ties of the config. Only classes of the transformers package itself are built; no code of a model
    folder runs and nothing is downloaded.

    Parameters
    ----------
    config : mapping
        Content of ``config.json``; ``architectures[0]`` names the class.
    state : mapping of str to Tensor
        The weights. The model may share their memory.
    generation : bytes, optional
        Content of ``generation_config.json``: how a model that writes texts goes about it.

    Returns
    -------
    torch.nn.Module
        A `transformers.PreTrainedModel` in the dtype of the weights. Where their dtypes differ, every tensor has its own if
        the architecture mixes them in the same way (T5 in float16 keeps some layers in float32), else all have the
        narrowest one that holds all of them exactly.

    Raises
    ------
    ModelError
        If the architecture is unknown, the config does not build it or names other models to download, the model would be
        out of proportion to the weights, or weights are missing, left over or of another shape: transformers would fill
        such a layer with random numbers.
    """
    return build_with_dtype(config, state, generation)[0]


def build_with_dtype(
    config: Mapping[str, Any], state: Mapping[str, Tensor], generation: bytes | None = None
) -> tuple[nn.Module, torch.dtype]:
    """What `build_transformers` builds, and the dtype that transformers was asked for.

    Raises
    ------
    ModelError
        See `build_transformers`.
    """
    require_proportion(config, state)
    with isolated(), building, quiet_transformers(), offline():
        state = {name: _aligned(tensor.detach()) for name, tensor in state.items()}
        common = common_dtype(state)
        narrower = {tensor.dtype for tensor in state.values() if tensor.dtype in (torch.float16, torch.bfloat16)} - {
            common
        }
        architecture = _architecture(config)
        for dtype in (*sorted(narrower, key=str), common):
            model = _loaded(architecture, config, state, dtype)
            if dtype == common or _same_dtypes(model, state):
                break
        if generation is not None and model.can_generate():
            model.generation_config = _generation_config(generation)
    return model.eval(), dtype


def _loaded(architecture: Any, config: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    try:
        with built_in_proportion(state):
            model, info = architecture.from_pretrained(
                None,
                config=architecture.config_class.from_dict(_self_contained(config)),
                state_dict=dict(state),
                torch_dtype=dtype,  # the spelling that every supported release accepts
                ignore_mismatched_sizes=True,  # they come back in info, with their names
                output_loading_info=True,
                local_files_only=True,
            )
    except Exception as error:
        if isinstance(error, StackcError):
            raise
        raise _unbuildable(architecture.__name__, "this config and these weights", error) from error
    _require_complete(architecture.__name__, info)
    return model


def _same_dtypes(model: Any, state: Mapping[str, Tensor]) -> bool:
    built = model.state_dict()
    return all(name in built and built[name].dtype == tensor.dtype for name, tensor in state.items())


def tied_names(config: Mapping[str, Any]) -> list[list[str]]:
    """Names of the architecture that stand for one parameter: groups of them, that of the source first.

    Nothing is allocated.

    Raises
    ------
    ModelError
        If the architecture is unknown or the config does not build it.
    """
    with isolated(), torch.device("meta"):
        model = fresh_transformers(config)
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _generation_config(content: bytes) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_dict(msgspec.json.decode(content, type=dict[str, Any]))
    except Exception as error:
        if isinstance(error, (MemoryError, StackcError)):
            raise
        # Its fields are checked by transformers, in as many ways as there are fields.
        raise ModelError(
            f"transformers cannot read {GENERATION} of the model: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _unbuildable(architecture: str, what: str, error: Exception) -> ModelError:
    """A config can fail in as many ways as there are architectures."""
    if wanted_network(error):
        return ModelError(
            f"the config of this {architecture} names another model, and nothing is downloaded to build one: write that "
            "model's settings into the config, as save_pretrained does"
        )
    message = (
        "it does not fit in memory"
        if isinstance(error, MemoryError)
        else f"{type(error).__name__}: {' '.join(str(error).split())}"
    )
    return ModelError(f"transformers cannot build {architecture} from {what}: {message}")


def fresh_transformers(config: Mapping[str, Any]) -> nn.Module:
    """The architecture that a Hugging Face config names, initialised by its own rules from torch's generator.

    Raises
    ------
    ModelError
        If the architecture is unknown or the config does not build it.
    """
    with isolated(), building, quiet_transformers(), offline():
        architecture = _architecture(config)
        try:
            model = architecture(architecture.config_class.from_dict(_self_contained(config)))
        except Exception as error:
            if isinstance(error, StackcError):
                raise
            raise _unbuildable(architecture.__name__, "this config", error) from error
    return model.eval()  # type: ignore[no-any-return]


def _require_complete(architecture: str, info: Mapping[str, Any]) -> None:
    missing = _learnt(info["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights do not fit {architecture}: {listing(missing)} of the architecture has no weights and would be "
            "random; give the model that the config belongs to"
        )
    unexpected = _learnt(info["unexpected_keys"])
    if unexpected:
        raise ModelError(
            f"the weights do not fit {architecture}: it does not use {listing(unexpected)}; drop them by opening the model "
            f"with transformers.{architecture}.from_pretrained and writing it with save_pretrained"
        )
    if info["mismatched_keys"]:
        name, given, expected = min(info["mismatched_keys"])
        raise ModelError(
            f"the weights do not fit {architecture}: {name} has shape {tuple(given)}, the config needs {tuple(expected)}"
        )
    if info["error_msgs"]:
        raise ModelError(f"the weights do not fit {architecture}: {'; '.join(info['error_msgs'])}")


def _learnt(names: set[str]) -> list[str]:
    return sorted(name for name in names if not _COMPUTED_BUFFERS.search(name))


def refuse_quantised(config: Mapping[str, Any], source: str) -> None:
    """Refuse a model that is quantised already.

    Raises
    ------
    ModelError
        With the method that the config names.
    """
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "?") if isinstance(quantisation, dict) else quantisation
        raise ModelError(f"{source} is quantised already ({method}): start from the uncompressed model")


def _architecture(config: Mapping[str, Any]) -> Any:
    import transformers

    refuse_quantised(config, "the model")
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError('the config names no architecture: add one, as in "architectures": ["BertForMaskedLM"]')
    architecture: Any = getattr(transformers, names[0], None)
    if not _is_model_class(architecture):
        raise ModelError(
            f"the architecture {names[0]!r} is not part of transformers {transformers.__version__}, and stackc runs no code "
            "of a model folder: update transformers, or give a factory as package.module:function"
        )
    if architecture.config_class is None:
        raise ModelError(f"{names[0]} is a base class without a config: name the architecture of the model itself")
    return architecture


def _is_model_class(value: object) -> bool:
    from transformers import PreTrainedModel

    return isinstance(value, type) and issubclass(value, PreTrainedModel)


def _aligned(tensor: Tensor) -> Tensor:
    # CPU kernels sum in another order where memory is not aligned as torch allocates it (a mapped file, a numpy array): a
    # lossless copy of a model must give the very numbers of the model. What was made in inference mode could not be trained.
    return (
        tensor
        if tensor.data_ptr() % _ALIGNMENT == 0 and tensor.is_contiguous() and not tensor.is_inference()
        else tensor.clone(memory_format=torch.contiguous_format)
    )


def common_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """The narrowest dtype that holds every real tensor of a state dict exactly; float32 where there is none.

    Examples
    --------
    >>> import torch
    >>> common_dtype({"a": torch.zeros(1).half(), "b": torch.zeros(1).bfloat16(), "ids": torch.tensor(3)})
    torch.float32
    """
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return functools.reduce(torch.promote_types, dtypes) if dtypes else torch.float32


def _self_contained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without kernels from elsewhere, and without weights from elsewhere: these are given."""
    return {
        key: _self_contained(value) if isinstance(value, dict) else (False if key == _PRETRAINED_BACKBONE else value)
        for key, value in config.items()
        if str(key).lstrip("_").removesuffix("_internal") not in _IMPLEMENTATION_KEYS or value in _BUILT_IN
    }


class _Bars:
    """The progress bars of transformers: off for the whole process while any thread builds a model."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._put_back: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Off until the last block ends, and then as they were before the first one."""
        with self._lock:
            if not self._blocks:
                self._switch_off()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                while not self._blocks and self._put_back:
                    self._put_back.pop()()

    def _switch_off(self) -> None:
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
        from transformers.utils import logging

        # Last in, first out: transformers switches the bars of huggingface_hub on with its own.
        if are_progress_bars_disabled():
            self._put_back.append(disable_progress_bars)
        if logging.is_progress_bar_enabled():
            self._put_back.append(logging.enable_progress_bar)
        logging.disable_progress_bar()


_bars = _Bars()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the progress bars, warnings and log lines of transformers from the user while the block runs.

    What matters in them is raised as an error instead. Other threads warn and log as before.
    """
    with silence():
        _import_transformers()
        with silence(), _bars.off():  # once more, for the handlers that came with it
            yield


def _import_transformers() -> None:
    """Import what models are built with, which logs, and leave the filters of warnings as they were: they are the program's."""
    if "transformers.modeling_utils" not in sys.modules:
        with building, warnings.catch_warnings():
            import transformers.modeling_utils
    import transformers.utils.logging

    transformers.utils.logging.get_logger()  # brings its handler
