"""``docs/write-a-transform.md`` is true: its package installs as a plugin, passes its own tests, and is what the page shows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from stackc.registry import find, names
from tests.docs.conftest import HADAMARD

PAGE = (Path(__file__).parents[2] / "docs/write-a-transform.md").read_text(encoding="utf-8")


def _load(name):
    spec = importlib.util.spec_from_file_location(name, HADAMARD / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_load("stackc_hadamard")
_tests = _load("test_stackc_hadamard")
test_conforms = _tests.test_conforms
test_known_values = _tests.test_known_values
test_other_sizes_are_refused = _tests.test_other_sizes_are_refused
test_outliers_cost_less_behind_the_rotation = _tests.test_outliers_cost_less_behind_the_rotation

pytestmark = pytest.mark.usefixtures("hadamard_installed")


def test_all_tests_of_the_package_are_run_here():
    assert {name for name in vars(_tests) if name.startswith("test_")} <= set(globals())


def test_the_entry_point_of_the_page_names_the_transform():
    assert "hadamard" in names()
    assert find("hadamard").stage.__name__ == "Hadamard"
