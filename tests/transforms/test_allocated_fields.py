"""``auto`` in seed and prune: what it plans, what it offers, what it refuses."""

from __future__ import annotations

import pytest
import torch

from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.transforms.prune import Prune
from stackc.transforms.seed import Seed
from stackc.util.errors import TensorError

_X = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
_AUTO = [Seed(rank="auto"), Prune(rows="auto"), Prune(columns="auto"), Prune(sparsity="auto")]


@pytest.mark.parametrize("auto", _AUTO, ids=repr)
def test_auto_is_open_until_it_is_allocated(auto):
    assert not auto.allocated
    assert not auto.settled
    for refused in (lambda: auto.encode(_X), lambda: auto.settle({"x": Weighted(_X)})):
        with pytest.raises(TensorError, match=r"rate allocation|settle\(\) it first"):
            refused()


@pytest.mark.parametrize("auto", _AUTO, ids=repr)
def test_options_are_settled_and_within_the_planned_bound(auto):
    spec = PlaneSpec.of(_X)
    bound = auto.plan(spec)
    sizes = []
    for option in auto.options(_X):
        assert option.allocated
        assert option.settled
        planned = option.plan(spec)
        assert list(planned) == list(bound)
        assert all(planned[plane].numel <= bound[plane].numel for plane in bound)
        sizes.append(sum(plane.nbytes for plane in planned.values()))
    assert len(sizes) >= 5
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("auto", _AUTO, ids=repr)
def test_a_value_that_is_given_is_the_only_option(auto):
    given = auto.options(_X)[1]
    assert given.options(_X) == (given,)


@pytest.mark.parametrize("weights", [None, torch.arange(40.0)], ids=["equal", "weighted"])
def test_ranks_that_share_their_components_are_those_of_single_calls(weights):
    options = Seed(rank="auto").options(_X)
    for option, planes in zip(options, options[0].encode_each(_X, options, Known(weights)), strict=True):
        alone = option.encode(_X, Known(weights))
        assert list(planes) == list(alone)
        for plane in planes:
            torch.testing.assert_close(planes[plane], alone[plane])


def test_one_threshold_for_all_goes_with_a_given_share():
    with pytest.raises(ValueError, match="sparsity: auto chooses a share for each tensor; remove scope: global"):
        Prune(sparsity="auto", scope="global")


def test_a_narrow_matrix_has_every_rank_once():
    ranks = [option.rank for option in Seed(rank="auto").options(torch.randn(5, 3))]
    assert ranks == [1, 2, 3]
