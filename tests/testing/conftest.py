"""Installs the stages of this folder as a plugin: a distribution with entry points, found as any other would be."""

from __future__ import annotations

import sys

import pytest

from stackc.core import registry

ENTRY_POINTS = """\
[stackc.transforms]
sample-negate = tests.testing.sample_transforms:Negate
sample-absmax = tests.testing.sample_transforms:Absmax
sample-keep-rows = tests.testing.sample_transforms:KeepRows
sample-one-scale = tests.testing.sample_transforms:OneScale

[stackc.packers]
sample-counted = tests.testing.sample_packers:Counted
"""


@pytest.fixture(scope="package", autouse=True)
def sample_plugin(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    metadata = site / "sample_stages-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample-stages\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path.insert(0, str(site))
    _forget()
    yield
    sys.path.remove(str(site))
    _forget()


def _forget() -> None:
    registry._points.cache_clear()
    registry.find.cache_clear()
