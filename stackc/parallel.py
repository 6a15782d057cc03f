"""Work on tensors in parallel, with results that do not depend on the number of cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from stackc.lazy import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Run every torch operation on one thread: sums come out the same on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Apply a function in worker threads and yield the results in the order of the items.

    At most one item more than there are workers is begun ahead of the reader, so memory stays bounded. The first error
    is raised where its result would have come.

    Examples
    --------
    >>> list(map_ordered(lambda x: x * x, range(4)))
    [0, 1, 4, 9]
    """
    count = workers or os.cpu_count() or 1
    pending: deque[Future[Result]] = deque()
    with one_thread_per_operation():
        pool = ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
