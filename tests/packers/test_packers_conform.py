"""Every packer passes the public battery."""

from __future__ import annotations

import pytest

from stackc.registry import find
from stackc.testing import packer_checks

PACKERS = {
    "raw": find("raw").stage(),
    "zstd": find("zstd").stage(),
    "zstd-1": find("zstd").stage(level=1),
    "ans": find("ans").stage(),
}


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=f"{name}-{check}") for name, packer in PACKERS.items() for check in packer_checks(packer)],
)
def test_packer_conforms(check):
    check()
