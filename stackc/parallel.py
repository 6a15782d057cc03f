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

from stackc.isolation import isolated
from stackc.lazy import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Held while the number of threads is changed, which takes two steps.
_changing = threading.Lock()

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
    """Run every torch operation of this thread on one thread: sums come out the same on any number of cores.

    Other threads keep their numbers, those included that begin in the meantime.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    _use_threads(1)
    try:
        yield
    finally:
        _use_threads(before)


def _use_threads(count: int) -> None:
    """Set the number of threads of torch operations in this thread alone.

    torch also begins with that number in every thread that comes later, of whatever part of the program. So a thread that
    came before the change sets this back; what it sets for itself ends with it.
    """
    torch.get_num_threads()  # what a thread begins with is set when it first asks, and would undo the change
    begun, changed = threading.Event(), threading.Event()

    def keep() -> None:
        default = torch.get_num_threads()
        begun.set()
        changed.wait()
        torch.set_num_threads(default)

    with _changing:
        keeper = threading.Thread(target=keep, daemon=True)
        try:
            keeper.start()
        except RuntimeError as error:
            if NO_THREAD not in str(error):
                raise
            torch.set_num_threads(count)  # also for threads that come later, of which there can be none now
            return
        begun.wait()
        try:
            torch.set_num_threads(count)
        finally:
            changed.set()
            keeper.join()


def map_ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Apply a function in worker threads and yield the results in the order of the items.

    Where the process may start no more threads, those that it has do the work, or the reader itself.
    At most one item more than there are workers is begun ahead of the reader, so memory stays bounded. The first error
    is raised where its result would have come. The workers are isolated from the state of the process, as in
    `stackc.isolation.isolated`, and run each torch operation on one thread.

    Examples
    --------
    >>> list(map_ordered(lambda x: x * x, range(4)))
    [0, 1, 4, 9]
    """
    count = workers or os.cpu_count() or 1
    pending: deque[_Job[Result]] = deque()

    def work(item: Item) -> Result:
        with isolated():
            return function(item)

    pool = ThreadPoolExecutor(count, initializer=_use_threads, initargs=(1,))
    try:
        for item in items:
            job = _Job(partial(work, item))
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
