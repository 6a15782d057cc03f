"""Installs the stages of this folder as a plugin: a distribution with entry points, found as any other would be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stackc import registry

ENTRY_POINTS = """\
[stackc.transforms]
sample-negate = sample_transforms:Negate
sample-absmax = sample_transforms:Absmax
sample-keep-rows = sample_transforms:KeepRows

[stackc.packers]
sample-counted = sample_packers:Counted
"""


@pytest.fixture(scope="session", autouse=True)
def sample_plugin(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    metadata = site / "sample_stages-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample-stages\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    added = [str(site), str(Path(__file__).parent)]
    sys.path[:0] = added
    _forget()
    yield
    for path in added:
        sys.path.remove(path)
    _forget()


def _forget() -> None:
    registry._points.cache_clear()
    registry.find.cache_clear()
