"""The battery passes a correct packer."""

from __future__ import annotations

import pytest

from stackc.testing import packer_checks
from tests.testing.sample_packers import Counted


@pytest.mark.parametrize("check", packer_checks(Counted()), ids=str)
def test_packer_conforms(check):
    check()
