"""Batches hold every row once per epoch, waste little on padding, and are the same whatever was asked for before."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.healing.batches import WINDOW, Batches
from stackc.util.errors import DataError

IDS = st.lists(st.lists(st.integers(1, 30521), min_size=1, max_size=9), min_size=1, max_size=40)
SIZES = st.integers(1, 12)
SEEDS = st.integers(-1, 2**70)


@given(IDS, SIZES, SEEDS, st.integers(0, 3))
def test_an_epoch_holds_every_row_once(ids, size, seed, epoch):
    batches = Batches(ids, size, 0, seed)
    found = [batches.at(step).rows for step in range(epoch * len(batches), (epoch + 1) * len(batches))]
    assert torch.cat(found).sort().values.tolist() == list(range(len(ids)))
    assert all(len(rows) == size for rows in found[:-1])


@given(IDS, SIZES, SEEDS, st.lists(st.integers(0, 60), max_size=5), st.integers(0, 60))
def test_a_batch_does_not_depend_on_what_was_asked_for_before(ids, size, seed, history, step):
    used, fresh = Batches(ids, size, 0, seed), Batches(ids, size, 0, seed)
    for earlier in history:
        used.at(earlier)
    assert torch.equal(used.at(step).rows, fresh.at(step).rows)


@given(IDS, SIZES, st.integers(0, 5))
def test_inputs_are_the_rows_filled_up_to_the_longest(ids, size, step):
    pad = -7
    rows, inputs = Batches(ids, size, pad, 0).at(step)
    longest = max(len(ids[row]) for row in rows)
    for row, tokens, mask in zip(
        rows.tolist(), inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True
    ):
        filler = longest - len(ids[row])
        assert tokens == ids[row] + [pad] * filler
        assert mask == [1] * len(ids[row]) + [0] * filler
    assert {value.dtype for value in (rows, *inputs.values())} == {torch.int64}


@given(IDS, SIZES)
def test_in_order_gives_every_row_once_longest_first(ids, size):
    found = torch.cat([batch.rows for batch in Batches(ids, size, 0, 0).in_order()]).tolist()
    assert sorted(found) == list(range(len(ids)))
    lengths = [len(ids[row]) for row in found]
    assert lengths == sorted(lengths, reverse=True)


def _many(rows: int) -> list[list[int]]:
    lengths = numpy.random.default_rng(0).integers(3, 60, rows)
    return [[1] * int(length) for length in lengths]


def test_little_is_spent_on_padding():
    ids, size = _many(8000), 32
    batches = Batches(ids, size, 0, 0)
    cells = sum(batches.at(step).inputs["input_ids"].numel() for step in range(len(batches)))
    assert cells < 1.05 * sum(map(len, ids))


def test_batches_come_in_random_order_and_rows_in_new_company():
    ids, size = _many(4000), 8
    batches = Batches(ids, size, 0, 0)
    first = [batches.at(step).rows for step in range(len(batches))]
    widths = numpy.array([len(ids[int(rows[0])]) for rows in first[: WINDOW * 4]], float)
    # Sorted windows in their order would make the width of a batch tell that of the next.
    assert abs(numpy.corrcoef(widths[:-1], widths[1:])[0, 1]) < 0.2
    second = [batches.at(step).rows for step in range(len(batches), 2 * len(batches))]
    company = {frozenset(rows.tolist()) for rows in first}
    assert not company & {frozenset(rows.tolist()) for rows in second}


def test_seeds_and_epochs_give_orders_of_their_own():
    orders = {
        tuple(Batches(_many(50), 50, 0, seed).at(epoch).rows.tolist())
        for seed in (0, 1, 2**64 - 1)
        for epoch in range(3)
    }
    # One batch holds all rows, sorted by length: what differs is the order among equals.
    assert len(orders) == 9


def test_the_order_is_the_same_on_every_machine_and_release():
    batches = Batches([[1] * (1 + row % 3) for row in range(10)], 3, 0, 42)
    assert [batches.at(step).rows.tolist() for step in range(5)] == [[0, 7, 1], [4, 5, 2], [6, 3, 9], [8], [9, 3, 0]]


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="there are no rows of token ids: give at least one text"):
        Batches([], 2, 0, 0)
    with pytest.raises(DataError, match="row 2 has no tokens: leave out that text"):
        Batches([[1], []], 2, 0, 0)
    with pytest.raises(ValueError, match="at least one row, not 0"):
        Batches([[1]], 0, 0, 0)
    with pytest.raises(IndexError, match="steps count from 0"):
        Batches([[1]], 1, 0, 0).at(-1)
