"""Plugins that are at odds with each other, with stackc, or with what a stage must be."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stackc.cli import app
from stackc.core import registry
from stackc.core.spec import PlaneSpec
from stackc.recipe.schema import recipe_schema, task_types
from stackc.util.errors import DependencyError

#: A transform that leaves its plane as it is, under any name.
STAGE = """\
from typing import ClassVar

from stackc.core.registry import Preset
from stackc.core.transform import NOTHING, Transform


class Same(Transform, frozen=True):
    \"\"\"Leave a plane as it is.\"\"\"

    name: ClassVar[str] = "{name}"
    version: ClassVar[int] = {version}
    lossless: ClassVar[bool] = True

    def plan(self, spec):
        return {{"same": spec}}

    def encode(self, x, known=NOTHING):
        return {{"same": x}}

    def decode(self, planes, spec):
        return planes["same"]


"""

Install = Callable[..., Path]


def _forget() -> None:
    registry._points.cache_clear()
    registry.find.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with one module and entry points on the path, as pip would; undone after the test."""

    def add(package: str, entries: dict[str, str], source: str) -> Path:
        site = tmp_path / package
        module = f"plugin_{package.replace('-', '_')}_{tmp_path.name.replace('-', '_')}"
        info = site / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[stackc.transforms]", *lines, ""]))
        (site / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(site)
        _forget()
        return site

    yield add
    monkeypatch.undo()
    _forget()


def _list() -> list[str]:
    result = CliRunner().invoke(app, ["list", "stages"], env={"COLUMNS": "600"})
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_a_name_of_two_packages_stands_for_neither(install: Install) -> None:
    install("stackc-one", {"wavelet": "Same"}, STAGE.format(name="wavelet", version=1))
    install("stackc-two", {"wavelet": "Same"}, STAGE.format(name="wavelet", version=2))
    with pytest.raises(DependencyError, match="'wavelet' is provided by the packages stackc-one and stackc-two: unin"):
        registry.find("wavelet")
    row = next(line for line in _list() if line.startswith("wavelet"))
    assert "not usable: stage 'wavelet' is provided by the packages stackc-one and stackc-two" in row
    uses = [
        stage["properties"]["use"]["const"] for stage in recipe_schema()["properties"]["stages"]["items"]["oneOf"][1:]
    ]
    assert "wavelet" not in uses
    assert "int" in uses


def test_files_of_either_of_two_packages_decode_as_long_as_the_versions_differ(install: Install) -> None:
    install("stackc-one", {"wavelet": "Same"}, STAGE.format(name="wavelet", version=1))
    install("stackc-two", {"wavelet": "Same"}, STAGE.format(name="wavelet", version=2))
    one, two = registry.find_format("wavelet", 1), registry.find_format("wavelet", 2)
    assert (one.version, two.version) == (1, 2)
    assert "stackc_one" in one.__module__
    assert "stackc_two" in two.__module__
    with pytest.raises(DependencyError, match="needs wavelet@3, but versions 1 and 2 are installed"):
        registry.find_format("wavelet", 3)


def test_one_format_of_two_packages_is_refused(install: Install) -> None:
    install("stackc-one", {"wavelet": "Same"}, STAGE.format(name="wavelet", version=1))
    install("stackc-two", {"wavelet": "Same"}, STAGE.format(name="wavelet", version=1))
    with pytest.raises(
        DependencyError, match=r"the format wavelet@1, .* packages stackc-one and stackc-two: uninstall"
    ):
        registry.find_format("wavelet", 1)


def test_a_built_in_keeps_its_name_and_its_files(install: Install) -> None:
    before = registry.find("int").stage
    install("a-first", {"int": "Same"}, STAGE.format(name="int", version=7))
    assert registry.find("int").stage is registry.find_format("int", before.version) is before
    assert "a_first" in registry.find_format("int", 7).__module__
    assert registry.shadowed() == [registry.Shadowed("int", "a-first")]
    lines = _list()
    assert "note: the stage 'int' of package a-first is shadowed by the built-in 'int'" in lines
    assert "integer 1 to 16" in next(line for line in lines if line.startswith("int "))


def test_a_plugin_cannot_take_over_the_format_of_a_built_in(install: Install) -> None:
    before = registry.find("int").stage
    install(
        "a-first", {"int": "Same", f"int@{before.version}": "Same"}, STAGE.format(name="int", version=before.version)
    )
    assert registry.find_format("int", before.version) is before


def test_without_plugins_there_is_no_note() -> None:
    assert registry.shadowed() == []
    assert not [line for line in _list() if line.startswith("note")]


COMPLETE = STAGE.format(name="wavelet", version=1)


@pytest.mark.parametrize(
    ("target", "source", "problem"),
    [
        ("thing", "thing = 3\n", ":thing is not a Transform or Packer class, nor a Preset of one"),
        ("Thing", "class Thing:\n    name = 'wavelet'\n    version = 1\n", "is not a Transform or Packer class"),
        ("value", COMPLETE + "value = Same()\n", "is not a Transform or Packer class"),
        ("preset", COMPLETE + "preset = Preset(dict, {})\n", "the stage of the preset .*:preset is not a Transform"),
        ("preset", COMPLETE + "preset = Preset(Same, {'rank': 2, 'axis': 1})\n", "Same has no field axis, rank"),
        ("preset", COMPLETE + "preset = Preset(Same, 3)\n", "the fields of the preset .*:preset are not a mapping"),
        ("Same", re.sub(r"    def (encode|decode).*\n.*\n", "", COMPLETE), "Same does not define decode, encode"),
        ("Same", re.sub("    name:.*", "", COMPLETE), r"Same has no 'name: ClassVar\[str\]' with a value"),
        ("Same", COMPLETE.replace("name: ClassVar[str]", "name: str"), r"Same has no 'name: ClassVar\[str\]'"),
        ("Same", re.sub("    version:.*", "", COMPLETE), r"Same has no 'version: ClassVar\[int\]' with a value"),
        ("Same", COMPLETE.replace('"wavelet"', '"haar"'), "Same is haar@1, and its entry point must be called 'haar'"),
        ("Same", "raise ValueError('no\\n  luck')\n", "does not import: no luck"),
        ("Same", "1 +\n", "does not import: invalid syntax"),
    ],
)
def test_what_is_no_stage_is_refused_by_name_and_harms_nobody_else(
    install: Install, target: str, source: str, problem: str
) -> None:
    install("stackc-broken", {"wavelet": target}, source)
    with pytest.raises(DependencyError, match=f"stage 'wavelet' of package stackc-broken .*{problem}"):
        registry.find("wavelet")
    with pytest.raises(DependencyError, match="package stackc-broken"):
        registry.find_format("wavelet", 1)
    lines = _list()
    (row,) = [line for line in lines if line.startswith("wavelet")]
    assert re.search(f"not usable: stage 'wavelet' of package stackc-broken .*{problem}", row)
    assert [line for line in lines if line.startswith("seed ")]
    stages = recipe_schema()["properties"]["stages"]["items"]["oneOf"]
    assert "int8" in stages[0]["enum"]
    assert "wavelet" not in [stage["properties"]["use"]["const"] for stage in stages[1:]]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (COMPLETE.replace("    lossless", "    size: object()\n    lossless"), "the fields of Same cannot be written"),
        (COMPLETE.replace('return {"same": spec}', "return spec.rank"), "wavelet fails on a plane .*AttributeError"),
    ],
)
def test_a_stage_that_cannot_be_described_is_one_row(install: Install, source: str, problem: str) -> None:
    install("stackc-broken", {"wavelet": "Same"}, source)
    lines = _list()
    (row,) = [line for line in lines if line.startswith("wavelet")]
    assert re.search(f"not usable: {problem}", row)
    assert [line for line in lines if line.startswith("seed ")]
    assert recipe_schema()["properties"]["stages"]


def test_an_older_format_must_have_the_version_of_its_entry_point(install: Install) -> None:
    install("stackc-old", {"wavelet@1": "Same", "wavelet@2": "Same"}, COMPLETE)
    assert registry.find_format("wavelet", 1).version == 1
    with pytest.raises(DependencyError, match=r"'wavelet@2' of package stackc-old .*Same is wavelet@1"):
        registry.find("wavelet@2")


@pytest.mark.parametrize(
    "target", ["stackc.core.spec:PlaneSpec", "stackc.core.spec:NoSuchTask", "stackc.tasks.task:Task"]
)
def test_what_is_no_task_is_left_out(install: Install, target: str) -> None:
    site = install("stackc-judge", {"wavelet": "Same"}, COMPLETE)
    (next(site.glob("*.dist-info")) / "entry_points.txt").write_text(f"[stackc.tasks]\njudge = {target}\n")
    assert "judge" not in task_types()
    assert "text-classification" in task_types()
    assert recipe_schema()["properties"]["task"]["oneOf"][0]["enum"] == ["none"]


def test_one_package_with_a_name_twice(install: Install) -> None:
    site = install("stackc-twice", {"wavelet": "Same"}, COMPLETE)
    points = next(site.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(points.read_text() + "[stackc.packers]\nwavelet = stackc.transforms.raw:Raw\n")
    _forget()
    with pytest.raises(DependencyError, match="'wavelet' is provided twice by the package stackc-twice, as "):
        registry.find("wavelet")


def test_a_plugin_that_keeps_the_rules_is_found(install: Install) -> None:
    install("stackc-good", {"wavelet": "Same", "haar": "haar"}, COMPLETE + "haar = Preset(Same, {})\n")
    stage = registry.find("wavelet").stage
    assert registry.find("haar").stage is registry.find_format("wavelet", 1) is stage
    assert stage().plan(PlaneSpec((2,), "float32")) == {"same": PlaneSpec((2,), "float32")}


def test_the_checks_import_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from stackc.core import registry; from stackc.cli import catalogue; "
        "catalogue.stages(); catalogue.notes(); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
