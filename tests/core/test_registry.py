"""Stages by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from stackc.core import registry
from stackc.core.packer import Packer
from stackc.core.training import TrainingStage
from stackc.core.transform import Transform
from stackc.util.errors import DependencyError, RecipeError


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Make entry points known for the length of a test."""

    def add(**targets: str) -> None:
        points = {
            name.replace("__", "@"): EntryPoint(name.replace("__", "@"), target, "stackc.transforms")
            for name, target in targets.items()
        }
        points = {**registry._points(), **points}
        monkeypatch.setattr(registry, "_points", lambda: points)
        registry.find.cache_clear()

    yield add
    registry.find.cache_clear()


@pytest.mark.parametrize("name", registry.names())
def test_every_installed_stage_loads(name: str) -> None:
    stage, fields = registry.find(name)
    assert issubclass(stage, Transform | Packer | TrainingStage)
    assert set(fields) <= set(stage.__struct_fields__)
    if not fields:
        assert stage.name == name
    if issubclass(stage, TrainingStage):  # which leaves nothing in a file
        with pytest.raises(DependencyError):
            registry.find_format(stage.name, stage.version)
    else:
        assert registry.find_format(stage.name, stage.version) is stage


def test_the_stages_of_stackc_are_installed() -> None:
    assert {"prune", "seed", "int", "int8", "cast", "fp16", "bf16", "raw", "zstd", "ans"} <= set(registry.names())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("zstdd", ", did you mean 'zstd'"), ("prun", ", did you mean 'prune'"), ("qqqq", "; 'stackc list'")],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown stage '{name}'{hint}"):
        registry.find(name)


def test_a_format_that_is_not_installed() -> None:
    with pytest.raises(DependencyError, match="needs the stage wavelet@1, which is not installed"):
        registry.find_format("wavelet", 1)
    with pytest.raises(DependencyError, match="needs int@99, but versions 1 and 2 are installed"):
        registry.find_format("int", 99)


def test_presets_are_no_formats() -> None:
    with pytest.raises(DependencyError, match="needs the stage int8@1, which is not installed"):
        registry.find_format("int8", 1)


def test_an_older_format_is_found_under_its_version(install) -> None:
    install(int__0="tests.helpers.old_int:OldInt")
    assert registry.find_format("int", 0).__name__ == "OldInt"
    assert registry.find_format("int", 1).__name__ == "Int1"
    assert registry.find_format("int", 2).__name__ == "Int"
    assert "int@0" not in registry.names()


@pytest.mark.parametrize("target", ["no_such_package:Wavelet", "stackc.core.spec:NoSuchName"])
def test_a_plugin_that_does_not_import(install, target: str) -> None:
    install(wavelet=target)
    with pytest.raises(DependencyError, match=rf"stage 'wavelet' of package {target} does not import"):
        registry.find("wavelet")


def test_a_known_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KNOWN_PROVIDERS", {"wavelet": "stackc-wavelet"})
    with pytest.raises(DependencyError, match="pip install stackc-wavelet"):
        registry.find("wavelet")
    with pytest.raises(DependencyError, match="install stackc-wavelet"):
        registry.find_format("wavelet", 1)
