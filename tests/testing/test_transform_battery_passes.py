"""The battery passes correct transforms."""

from __future__ import annotations

import pytest

from stackc.testing import transform_checks
from tests.testing.sample_transforms import Absmax, KeepRows, Negate, OneScale


def in_process(checks):
    """Leave out the checks that start a process: they look at the code of `child`, which one transform exercises."""
    return [check for check in checks if check.name not in ("planning", "other process")]


@pytest.mark.parametrize("check", in_process(transform_checks(Negate())), ids=str)
def test_lossless_transform_conforms(check):
    check()


@pytest.mark.parametrize("check", transform_checks(Absmax(bits=4), seed=3), ids=str)
def test_lossy_transform_conforms(check):
    check()


@pytest.mark.parametrize("check", in_process(transform_checks(KeepRows())), ids=str)
def test_unsettled_transform_conforms(check):
    check()


@pytest.mark.parametrize("check", in_process(transform_checks(OneScale())), ids=str)
def test_sharing_transform_conforms(check):
    check()
