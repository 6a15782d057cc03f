"""What the tests of the documents share."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from stackc.core import registry

HADAMARD = Path(__file__).parents[2] / "examples/hadamard"


@pytest.fixture(scope="session")
def hadamard_metadata(tmp_path_factory):
    """The metadata that pip writes for examples/hadamard, without pip: a folder to put on the path beside the package."""
    project = tomllib.loads((HADAMARD / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = tmp_path_factory.mktemp("site-packages")
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def hadamard_installed(hadamard_metadata, monkeypatch):
    """As if ``pip install examples/hadamard`` had been run; undone after the test."""
    monkeypatch.syspath_prepend(HADAMARD)
    monkeypatch.syspath_prepend(hadamard_metadata)
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    registry._points.cache_clear()
    registry.find.cache_clear()
