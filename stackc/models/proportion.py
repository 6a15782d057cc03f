"""Hold what a config asks for against the weights that are there, before a model is built and while it is.

A config may come from anywhere, and a few of its digits stand for any number of layers. Weights that fit a model are in
proportion to it, so what is out of all proportion to them need not be built to be refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from stackc.util.errors import ModelError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What is repeated as often as the number says, in lists of Python too, before a module is made.
_COUNTS = re.compile(r"(^|_)(layers?|blocks?|experts?|heads?|labels?|stages?|depths?)$")
_FREE_COUNT = 1 << 16

#: Modules of a model, which has one or two for each tensor, and more around them.
_FREE_MODULES = 2000
_MODULES_PER_TENSOR = 16

#: Numbers in a model. Tied ones are made several times before they are tied, and filled in after that.
_FREE_NUMBERS = 1 << 20
_NUMBERS_PER_NUMBER = 16

#: Bytes of buffers, such as masks and tables of positions: no weight file need hold them.
_FREE_BUFFER_BYTES = 256 << 20
_BUFFER_BYTES_PER_NUMBER = 16


def require_proportion(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse a config that repeats something more often than the weights allow, without building anything.

    Raises
    ------
    ModelError
        With the entry of the config.

    Examples
    --------
    >>> require_proportion({"text_config": {"num_hidden_layers": 10**9}}, {})
    Traceback (most recent call last):
        ...
    stackc.util.errors.ModelError: the config says text_config.num_hidden_layers: 1000000000, and there are 0 tensors; give the config that belongs to the weights
    """
    longest = max((length for tensor in state.values() for length in tensor.shape), default=0)
    most = max(_FREE_COUNT, len(state), longest)
    for path, value in _counts(config):
        if value > most:
            raise ModelError(
                f"the config says {path}: {value}, and there are {len(state)} tensors; give the config that belongs to the "
                "weights"
            )


def _counts(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        where = f"{path}{key}"
        if isinstance(value, dict):
            yield from _counts(value, f"{where}.")
        elif _COUNTS.search(str(key)):
            values = value if isinstance(value, list) else [value]
            yield from ((where, number) for number in values if isinstance(number, int))


@contextmanager
def built_in_proportion(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop the construction of a model that has become too large for its weights; only in the thread that asks for it.

    Raises
    ------
    ModelError
        From within, as soon as a module, parameter or buffer is one too many.
    """
    from torch.nn.modules import module as registration

    numbers = sum(tensor.numel() for tensor in state.values())
    modules = _Count("modules", _FREE_MODULES + _MODULES_PER_TENSOR * len(state), len(state))
    parameters = _Count("numbers", _FREE_NUMBERS + _NUMBERS_PER_NUMBER * numbers, len(state))
    buffers = _Count("bytes of buffers", _FREE_BUFFER_BYTES + _BUFFER_BYTES_PER_NUMBER * numbers, len(state))
    with ExitStack() as hooks:
        for register, count, size in (
            (registration.register_module_module_registration_hook, modules, lambda module: 1),
            (registration.register_module_parameter_registration_hook, parameters, torch.numel),
            (registration.register_module_buffer_registration_hook, buffers, lambda buffer: buffer.nbytes),
        ):
            hooks.callback(register(_hook(count, size)).remove)
        yield


class _Count:
    """A number that may not grow beyond another one."""

    def __init__(self, what: str, most: int, tensors: int) -> None:
        self._what, self._most, self._tensors = what, most, tensors
        self._thread = threading.get_ident()
        self._count = 0

    def add(self, amount: int) -> None:
        if threading.get_ident() != self._thread:
            return
        self._count += amount
        if self._count > self._most:
            raise ModelError(
                f"the weights do not fit the config: it describes a model of more than {self._most} {self._what}, and there "
                f"are {self._tensors} tensors; give the config that belongs to the weights"
            )


def _hook(count: _Count, size: Callable[[Any], int]) -> Callable[[nn.Module, str, Any], None]:
    def registered(module: nn.Module, name: str, value: Any) -> None:
        if value is not None:
            count.add(size(value))

    return registered
