"""Frozen fixtures: written once, compared exactly, failing when the format drifts."""

from __future__ import annotations

import pytest
import torch

from stackc.core.spec import PlaneSpec
from stackc.testing import check_frozen, standard_planes, write_frozen
from stackc.util.errors import DependencyError, OutputError
from tests.testing.sample_packers import Counted
from tests.testing.sample_transforms import Absmax, KeepRows

MATRIX = standard_planes()["matrix"]


@pytest.mark.parametrize("stage", [Absmax(bits=4), KeepRows(), Counted()], ids=lambda stage: stage.name)
def test_a_fixture_decodes_as_it_was_written(stage, tmp_path):
    write_frozen(stage, MATRIX, tmp_path / "fixture")
    check_frozen(tmp_path / "fixture")


def test_a_fixture_keeps_the_bounds_it_was_packed_with(tmp_path):
    spec = PlaneSpec((5,), "int8", -2, 2)
    write_frozen(Counted(), torch.arange(-2, 3, dtype=torch.int8), tmp_path, spec)
    assert len((tmp_path / "packed.bin").read_bytes()) == 4 + 2
    check_frozen(tmp_path)


def test_a_fixture_is_not_overwritten(tmp_path):
    write_frozen(Counted(), MATRIX, tmp_path)
    with pytest.raises(OutputError, match="raise the version"):
        write_frozen(Counted(), MATRIX, tmp_path)


@pytest.mark.parametrize("position", [4, 100, -1])
def test_a_packer_that_decodes_otherwise_is_found(position, tmp_path):
    write_frozen(Counted(), MATRIX, tmp_path)
    packed = bytearray((tmp_path / "packed.bin").read_bytes())
    packed[position] ^= 1
    (tmp_path / "packed.bin").write_bytes(packed)
    with pytest.raises(AssertionError, match="another plane"):
        check_frozen(tmp_path)
    with pytest.raises(AssertionError, match="another plane"):
        check_frozen(tmp_path, tolerance=1.0)


def test_a_packer_that_no_longer_decodes_is_found(tmp_path):
    write_frozen(Counted(), MATRIX, tmp_path)
    (tmp_path / "packed.bin").write_bytes(b"\0\0\0\0\0")
    with pytest.raises(AssertionError, match="does not decode any more"):
        check_frozen(tmp_path)


def test_a_transform_that_decodes_otherwise_is_found_unless_within_tolerance(tmp_path, monkeypatch):
    write_frozen(Absmax(), MATRIX, tmp_path)
    exact = Absmax.decode
    monkeypatch.setattr(Absmax, "decode", lambda self, planes, spec: exact(self, planes, spec) * (1 + 2.0**-20))
    check_frozen(tmp_path, tolerance=2.0**-19)
    for tolerance in (0.0, 2.0**-22):
        with pytest.raises(AssertionError, match="decodes to"):
            check_frozen(tmp_path, tolerance=tolerance)


def test_a_transform_that_plans_otherwise_is_found(tmp_path, monkeypatch):
    write_frozen(Absmax(), MATRIX, tmp_path)
    planned = Absmax.plan
    monkeypatch.setattr(
        Absmax, "plan", lambda self, spec: {**planned(self, spec), "scale": PlaneSpec((48, 1), "float16")}
    )
    with pytest.raises(AssertionError, match="planned otherwise"):
        check_frozen(tmp_path)


def test_a_fixture_of_a_version_that_is_not_installed_says_so(tmp_path):
    write_frozen(Counted(), MATRIX, tmp_path)
    path = tmp_path / "fixture.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 7'))
    with pytest.raises(DependencyError, match="sample-counted@7"):
        check_frozen(tmp_path)
