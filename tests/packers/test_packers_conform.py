"""Every packer passes the public battery."""

from __future__ import annotations

import pytest

from stackc.registry import find
from stackc.testing import packer_checks

CHECKS = [
    pytest.param(check, id=f"{name}-{check}")
    for name in ("raw", "zstd", "ans")
    for check in packer_checks(find(name).stage())
]


@pytest.mark.parametrize("check", CHECKS)
def test_packer_conforms(check):
    check()
