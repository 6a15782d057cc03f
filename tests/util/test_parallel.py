"""Work in threads: order, errors, and how far ahead of the reader it runs."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch

from stackc.util.parallel import BATCH_BYTES, BATCH_ITEMS, map_ordered, one_thread_per_operation


@pytest.mark.parametrize("workers", [1, 2, 5, None])
def test_results_come_in_the_order_of_the_items(workers: int | None) -> None:
    def late_first(item: int) -> int:
        time.sleep(0.002 * (10 - item))
        return item * item

    assert list(map_ordered(late_first, range(10), workers)) == [item * item for item in range(10)]


def test_no_items() -> None:
    assert list(map_ordered(str, [])) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_where_its_result_would_have(workers: int) -> None:
    def fails_at_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = map_ordered(fails_at_three, range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_work_runs_a_bounded_number_of_items_ahead(workers: int) -> None:
    taken = []

    def items():
        for item in range(30):
            taken.append(item)
            yield item

    for done, _ in enumerate(map_ordered(lambda item: item, items(), workers), start=1):
        assert len(taken) <= done + workers


def test_a_reader_that_stops_early_ends_the_work() -> None:
    begun = []
    before = threading.active_count()
    results = map_ordered(begun.append, range(1000), 2)
    next(results)
    results.close()
    assert len(begun) <= 4
    assert threading.active_count() == before


def test_several_threads_work_at_once() -> None:
    barrier = threading.Barrier(2, timeout=20)
    assert list(map_ordered(lambda _: barrier.wait() >= 0, range(2), 2)) == [True, True]


def test_operations_run_on_one_thread_and_the_number_comes_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert set(map_ordered(lambda _: torch.get_num_threads(), range(4), 2)) == {1}
        assert torch.get_num_threads() == 3
        with one_thread_per_operation():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), one_thread_per_operation():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_a_process_that_may_start_no_more_threads_does_the_work_all_the_same(
    monkeypatch: pytest.MonkeyPatch, threads: int, fails: bool
) -> None:
    start = threading.Thread.start
    left = [threads]

    def limited(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    def work(item: int) -> int:
        time.sleep(0.001)
        done.append(item)
        if fails and item == 7:
            raise ZeroDivisionError
        return item * item

    done: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", limited)
    results = map_ordered(work, range(12), 4)
    assert [next(results) for _ in range(7)] == [item * item for item in range(7)]
    if fails:
        with pytest.raises(ZeroDivisionError):
            next(results)
    else:
        assert list(results) == [item * item for item in range(7, 12)]
        assert sorted(done) == list(range(12))  # each once
    assert torch.get_num_threads() >= 1


def test_other_errors_of_the_pool_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(thread: threading.Thread) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(threading.Thread, "start", broken)
    with pytest.raises(RuntimeError, match="something else"):
        list(map_ordered(str, range(3), 2))


@pytest.mark.parametrize("workers", [1, 2, None])
def test_small_items_are_done_together_in_order(workers: int | None) -> None:
    threads = list(map_ordered(lambda item: (item, threading.get_ident()), range(200), workers, size=lambda _: 1))
    assert [item for item, _ in threads] == list(range(200))
    changes = sum(before != after for (_, before), (_, after) in itertools.pairwise(threads))
    assert changes <= 200 // BATCH_ITEMS


def test_small_items_are_never_done_by_two_threads_at_once() -> None:
    inside, most = [], []

    def work(item: int) -> None:
        inside.append(item)
        most.append(len(inside))
        time.sleep(0.0005)
        inside.pop()

    list(map_ordered(work, range(3 * BATCH_ITEMS), 3, size=lambda _: 1))
    assert max(most) == 1


def test_large_items_are_done_one_by_one_beside_small_ones() -> None:
    barrier = threading.Barrier(2, timeout=20)
    sizes = [BATCH_BYTES, BATCH_BYTES + 1]
    assert list(map_ordered(lambda _: barrier.wait() >= 0, sizes, 2, size=lambda size: size)) == [True, True]


def test_an_error_among_small_items_comes_where_its_result_would_have() -> None:
    done = []

    def work(item: int) -> int:
        done.append(item)
        return 1 // (3 - item)

    results = map_ordered(work, range(1000), 2, size=lambda _: 1)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(done) < 1000


def test_a_reader_of_small_items_that_stops_early_ends_the_work() -> None:
    before = threading.active_count()
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.001)

    results = map_ordered(work, range(100_000), 2, size=lambda _: 1)
    next(results)
    results.close()
    assert len(begun) <= 4 * BATCH_ITEMS
    assert threading.active_count() == before
