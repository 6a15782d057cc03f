"""The same floating-point sums on every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stackc.lazy import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block.

    How torch and BLAS split a sum between threads decides how it rounds, and an eigenvector of close eigenvalues
    amplifies that: without this, the bytes of an artifact would depend on the number of cores.

    Examples
    --------
    >>> import torch
    >>> before = torch.get_num_threads()
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
