"""Results that many ask for: made once, kept up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class KeptPlanes:
    """Tensors by number, the least recently used of them dropped when there are too many bytes.

    While one thread makes a tensor, others that want it wait, and then share it. Making one may ask for others, as long
    as these have larger numbers: so no two threads wait for each other.

    Parameters
    ----------
    limit : int
        Bytes that are kept.

    Examples
    --------
    >>> import torch
    >>> memo = KeptPlanes(100)
    >>> memo.get(0, lambda: torch.zeros(3)) is memo.get(0, lambda: torch.ones(3))
    True
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._making: dict[int, threading.Lock] = {}

    def get(self, number: int, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a number, made if it is not there."""
        with self._lock:
            making = self._making.setdefault(number, threading.Lock())
        with making:
            found = self._found(number)
            if found is None:
                found = make()
                self._keep(number, found)
        return found

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _found(self, number: int) -> Tensor | None:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
            return self._kept.get(number)

    def _keep(self, number: int, tensor: Tensor) -> None:
        size = _held(tensor)
        if size > self.limit:
            return
        with self._lock:
            self._kept[number] = tensor
            self._bytes += size
            while self._bytes > self.limit:
                self._bytes -= _held(self._kept.popitem(last=False)[1])


def _held(tensor: Tensor) -> int:
    """Bytes of memory that keeping a tensor takes: it may be a part of a larger one."""
    return tensor.untyped_storage().nbytes()
