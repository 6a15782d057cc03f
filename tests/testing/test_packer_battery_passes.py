"""The battery passes a correct packer."""

from __future__ import annotations

import pytest
from sample_packers import Counted

from stackc.testing import packer_checks


@pytest.mark.parametrize("check", packer_checks(Counted()), ids=str)
def test_packer_conforms(check):
    check()
