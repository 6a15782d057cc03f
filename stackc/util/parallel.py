"""Work on tensors in parallel, with results that do not depend on the number of cores."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from stackc.util.isolation import isolated
from stackc.util.lazy import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items that are done together have no more bytes than this, nor are there more of them: enough that handing them to a
#: worker costs nothing beside them, and few enough that all of them take no memory, and no more than a tenth of a second.
BATCH_BYTES = 1 << 14
BATCH_ITEMS = 64

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
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    size: Callable[[Item], int] | None = None,
) -> Iterator[Result]:
    """Apply a function in worker threads and yield the results in the order of the items.

    Where the process may start no more threads, those that it has do the work, or the reader itself.
    At most one item more than there are workers is begun ahead of the reader, so memory stays bounded. The first error
    is raised where its result would have come. The workers are isolated from the state of the process, as in
    `stackc.util.isolation.isolated`, and run each torch operation on one thread.

    Parameters
    ----------
    function : callable
        What is done with each item.
    items : iterable
        Taken from when a worker is free.
    workers : int, optional
        Threads; as many as there are cores by default.
    size : callable, optional
        Bytes of an item. Small ones that follow each other are then done together, as if they were one item, and only one
        worker at a time does such: what they take is the interpreter's, and threads would wait for each other at each
        operation.

    Examples
    --------
    >>> list(map_ordered(lambda x: x * x, range(4)))
    [0, 1, 4, 9]
    >>> list(map_ordered(len, ["a", "bb", "ccc"], size=len))
    [1, 2, 3]
    """
    count = workers or os.cpu_count() or 1
    pending: deque[_Job[_Done[Result]]] = deque()
    alone, stopped = threading.Lock(), threading.Event()

    def work(batch: Sequence[Item]) -> _Done[Result]:
        results: list[Result] = []
        with isolated(), alone if len(batch) > 1 else nullcontext():
            for item in batch:
                if stopped.is_set():
                    break
                try:
                    results.append(function(item))
                except Exception as error:  # noqa: BLE001 -- it is raised where its result would have come
                    return _Done(results, error)
        return _Done(results, None)

    pool = ThreadPoolExecutor(count, initializer=_use_threads, initargs=(1,))
    try:
        for batch in _batches(items, size):
            job = _Job(partial(work, batch))
            pending.append(job)
            job.begin(pool)
            if len(pending) > count:
                yield from pending.popleft().result().each()
        while pending:
            yield from pending.popleft().result().each()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(items: Iterable[Item], size: Callable[[Item], int] | None) -> Iterator[Sequence[Item]]:
    """Neighbours that are small together, all others one by one."""
    if size is None:
        yield from ([item] for item in items)
        return
    batch: list[Item] = []
    held = 0
    for item in items:
        more = size(item)
        if batch and (held + more > BATCH_BYTES or len(batch) == BATCH_ITEMS):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += more
    if batch:
        yield batch


class _Done(NamedTuple, Generic[Result]):
    """The results of a batch up to the first error."""

    results: list[Result]
    error: Exception | None

    def each(self) -> Iterator[Result]:
        """The results, then the error."""
        yield from self.results
        if self.error is not None:
            raise self.error


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
