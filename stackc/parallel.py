"""Work on tensors in parallel, with results that do not depend on the number of cores."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from stackc.lazy import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

#: What Python says when the operating system lets a process start no more threads.
NO_THREAD = "can't start new thread"


def can_start_thread() -> bool:
    """Whether the operating system lets this process start one more thread now.

    Examples
    --------
    >>> can_start_thread()
    True
    """
    thread = threading.Thread(target=lambda: None)
    try:
        thread.start()
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        return False
    thread.join()
    return True


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

    Where the process may start no more threads, those that it has do the work, or the reader itself.
    At most one item more than there are workers is begun ahead of the reader, so memory stays bounded. The first error
    is raised where its result would have come.

    Examples
    --------
    >>> list(map_ordered(lambda x: x * x, range(4)))
    [0, 1, 4, 9]
    """
    count = workers or os.cpu_count() or 1
    pending: deque[_Job[Result]] = deque()
    with one_thread_per_operation():
        pool = ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))
        try:
            for item in items:
                job = _Job(partial(function, item))
                pending.append(job)
                job.begin(pool)
                if len(pending) > count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Job(Generic[Result]):
    """A call that a thread of a pool makes, or the reader if all threads are busy and the process may start no more."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._future: Future[Result] | None = None
        self._deciding = threading.Lock()

    def begin(self, pool: ThreadPoolExecutor) -> None:
        """Hand the call to a pool."""
        with self._deciding:
            try:
                self._future = pool.submit(self._run)
            except RuntimeError as error:
                if NO_THREAD not in str(error):
                    raise

    def _run(self) -> Result:
        # A pool that cannot start a thread says so, and keeps the call for its other threads all the same.
        with self._deciding:
            mine = self._future is not None
        if not mine:
            raise CancelledError
        return self._call()

    def result(self) -> Result:
        """What the call returns or raises."""
        return self._call() if self._future is None else self._future.result()
