"""Work in threads: order, errors, and how far ahead of the reader it runs."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from stackc.parallel import map_ordered, one_thread_per_operation


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
