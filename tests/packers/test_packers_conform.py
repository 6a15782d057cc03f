"""Every packer passes the public battery."""

from __future__ import annotations

import pytest

from stackc.core.registry import find
from stackc.testing import packer_checks
from tests.packers.write_fixtures import float_fixture_planes

CHECKS = [
    pytest.param(check, id=f"{name}-{check}")
    for name in ("raw", "zstd", "ans", "context")
    for check in packer_checks(find(name).stage())
]
CHECKS += [
    pytest.param(check, id=f"floats-{check}")
    for check in packer_checks(find("floats").stage(), planes=float_fixture_planes())
]


@pytest.mark.parametrize("check", CHECKS)
def test_packer_conforms(check):
    check()
