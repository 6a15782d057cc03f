"""``docs/write-a-transform.md`` is true: its package installs as a plugin, passes its own tests, and is what the page shows."""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import stackc
from stackc.core import registry
from stackc.core.registry import find, names
from stackc.testing import check_frozen, standard_planes, transform_checks, write_frozen
from stackc.util.errors import StackcError
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


def _normalised(code):
    """Lines without docstrings, blank lines and ``...``, so that the page can show methods without their documentation."""
    code = re.sub(r'^ *"""(?:[^"]|"(?!""))*"""\n', "", code, flags=re.MULTILINE)
    return [line for line in code.splitlines() if line.strip()]


def _is_part_of(part, whole):
    """Whether the lines of ``part`` stand in ``whole`` in this order, methods and class variables possibly left out."""
    lines = iter(whole)
    return all(any(line == candidate for candidate in lines) for line in part)


@pytest.mark.parametrize("file", ["stackc_hadamard.py", "test_stackc_hadamard.py", "pyproject.toml"])
def test_the_code_of_the_page_is_the_code_of_the_package(file):
    language = "toml" if file.endswith(".toml") else "python"
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    whole = _normalised((HADAMARD / file).read_text(encoding="utf-8"))
    wanted = [
        block for block in blocks if ("def test_" in block) == file.startswith("test_") and "write_frozen" not in block
    ]
    assert wanted
    for block in wanted:
        block = block[block.find("    name: ClassVar") :] if "class Hadamard(Transform" in block else block
        assert _is_part_of(_normalised(block), whole), block


def _first_transform():
    (block,) = re.findall(r"```python\n((?:(?!```).)*class Hadamard\(Transform.*?)```", PAGE, re.DOTALL)
    return block


@pytest.mark.parametrize("name", ["plan", "round trip", "layout", "gradient", "straight through", "edge planes"])
def test_the_first_transform_of_the_page_conforms_as_it_stands(name):
    module = types.ModuleType("first_transform")
    exec(compile(_first_transform(), "first_transform", "exec"), vars(module))
    checks = {check.name: check for check in transform_checks(module.Hadamard(size=8))}
    assert not {"hold", "settle", "options", "narrowed"} & set(checks)
    checks[name]()


def test_the_first_transform_of_the_page_ends_at_decode_and_is_short():
    block = _first_transform()
    assert re.findall(r"^    def (\w+)", block, re.MULTILINE) == ["plan", "encode", "decode"]
    assert len(block.splitlines()) <= 50


def test_a_file_without_the_package_names_what_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "model.stackc"
    stages = [{"use": "hadamard", "size": 8, "on": "weight"}]
    stackc.compress(torch.nn.Linear(16, 4), {"stages": stages}, path)[0].close()
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if entry != str(HADAMARD) and "site-packages0" not in entry]
    )
    registry._points.cache_clear()
    registry.find.cache_clear()
    with stackc.open(path) as artifact, pytest.raises(StackcError, match="hadamard@1"):
        artifact["weight"]


def test_the_frozen_fixture_of_the_page(tmp_path):
    stage = find("hadamard").stage(size=8)
    write_frozen(stage, standard_planes()["matrix"], tmp_path / "hadamard-8")
    check_frozen(tmp_path / "hadamard-8")


def test_the_example_of_the_docstring():
    result = doctest.testmod(sys.modules["stackc_hadamard"])
    assert result.attempted
    assert not result.failed
