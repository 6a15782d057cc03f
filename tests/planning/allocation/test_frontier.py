"""Hulls and ladders."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.core.registry import find
from stackc.planning.allocation.frontier import Point, best, hull, slope, total
from stackc.planning.allocation.ladder import Ladder, between

points = st.lists(
    st.builds(Point, st.integers(0, 200), st.floats(0, 50, allow_nan=False).map(lambda loss: round(loss, 3))),
    min_size=1,
    max_size=12,
)
prices = st.floats(1e-4, 100)


@given(points, prices)
def test_the_hull_holds_a_best_point_for_every_price(found, price):
    chain = hull(found)
    cheapest = min(point.loss + price * point.size for point in found)
    chosen = chain[best(chain, price)]
    assert chosen.loss + price * chosen.size == pytest.approx(cheapest)


@given(points)
def test_slopes_of_a_hull_fall(found):
    chain = hull(found)
    slopes = [slope(first, second) for first, second in itertools.pairwise(chain)]
    assert all(one > other > 0 for one, other in itertools.pairwise([*slopes, 1e-9]))
    assert chain[0].size == min(point.size for point in found)
    assert chain[-1].loss == min(point.loss for point in found)


@given(st.lists(points, min_size=1, max_size=3), prices)
def test_sums_of_hulls_are_best_among_all_sums(parts, price):
    base = Point(7, 2.5)
    chain = total([hull(part) for part in parts], base)
    cheapest = min(
        base.loss
        + sum(point.loss - base.loss for point in chosen)
        + price * (base.size + sum(point.size for point in chosen))
        for chosen in itertools.product(*parts)
    )
    chosen = chain[best(chain, price)]
    assert chosen.loss + price * chosen.size == pytest.approx(cheapest)


def test_ladders_interpolate_numbers_geometrically():
    int_, seed, prune = (find(name).stage for name in ("int", "seed", "prune"))
    steps = Ladder([int_(step=0.8), int_(step=0.2)])
    assert steps.at(0.5).step == pytest.approx(0.4)
    assert Ladder([seed(rank=4), seed(rank=64)]).at(0.5).rank == 16
    assert Ladder([prune(rows=0.4), prune(rows=0.0)]).at(0.5).rows == pytest.approx(0.2)


def test_what_is_no_number_is_not_interpolated():
    cast = find("cast").stage
    assert between(cast(to="float16"), cast(to="bfloat16"), 0.5) is None
    assert Ladder([cast(to="float16"), cast(to="bfloat16")]).at(0.5).to == "float16"


@pytest.mark.parametrize("length", [1, 2, 5, 10, 14])
def test_a_search_begins_with_both_ends(length):
    ladder = Ladder([find("int").stage(step=2.0**-index) for index in range(length)])
    assert ladder.coarse[0] == 0
    assert ladder.coarse[-1] == length - 1
    assert len(ladder.coarse) <= 4
