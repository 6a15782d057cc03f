"""``stackc repack`` writes the same model in fewer bytes, and nothing if there is nothing to gain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import stackc as package
from stackc.core.packer import Packer
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec
from stackc.testing.planes import same_bits
from stackc.util.errors import ArtifactError, OutputError, StackcError
from tests.cli.conftest import Invoke


def test_a_file_becomes_smaller_and_stays_the_same(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.stackc"
    result = stackc("repack", artifact, "-o", new)
    assert result.exit_code == 0, result.output
    before, after = artifact.stat().st_size, new.stat().st_size
    assert f"{new}: {after:,} bytes, {before - after:,} fewer" in result.stdout
    assert after < before
    with package.open(artifact) as old, package.open(new) as repacked:
        assert list(old) == list(repacked)
        assert old.ties == repacked.ties
        assert (old.kind, old.config) == (repacked.kind, repacked.config)
        assert all(same_bits(old[name], repacked[name]) for name in old)
        assert all(old.bundled_file(name) == repacked.bundled_file(name) for name in old.bundled)
        assert list(old.bundled) == list(repacked.bundled)
        for name in old.specs:
            for plane, was in zip(repacked.planes(name), old.planes(name), strict=True):
                assert (plane.planned.path, plane.planned.spec) == (was.planned.path, was.planned.spec)
                assert plane.length < was.length or repacked.plane_bytes(plane) == old.plane_bytes(was)
    assert stackc("verify", new).exit_code == 0


def test_ties_stay(tmp_path: Path) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40), torch.nn.Linear(40, 40))
    layers[2].weight = layers[0].weight
    package.compress(layers, {"stages": [{"use": "int", "bits": 4}, "raw"]}, tmp_path / "old.stackc")
    result = package.repack(tmp_path / "old.stackc", tmp_path / "new.stackc")
    assert result.after == (tmp_path / "new.stackc").stat().st_size < result.before
    with package.open(tmp_path / "old.stackc") as old, package.open(tmp_path / "new.stackc") as new:
        assert old.ties == {"2.weight": "0.weight"}
        assert old.ties == new.ties
        assert all(same_bits(old[name], new[name]) for name in old)


def test_twice_is_nothing_to_gain(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    new, newer = tmp_path / "new.stackc", tmp_path / "newer.stackc"
    stackc("repack", artifact, "-o", new)
    result = stackc("repack", new, "-o", newer)
    assert result.exit_code == 0
    assert "packs smaller; nothing was written" in result.stdout
    assert list(tmp_path.iterdir()) == [new]


def test_the_name_follows_from_that_of_the_file(
    stackc: Invoke, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stackc("repack", artifact, "-q").output == ""
    assert [path.name for path in tmp_path.iterdir()] == [f"{artifact.stem}-repacked.stackc"]


def test_results_are_not_lost(stackc: Invoke, artifact: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.stackc"
    there.write_text("precious")
    refused = stackc("repack", artifact, "-o", there)
    assert refused.exit_code == 1
    assert "exists already" in refused.stderr
    assert there.read_text() == "precious"
    assert stackc("repack", artifact, "-o", there, "--overwrite").exit_code == 0
    assert there.stat().st_size > 100
    data = artifact.read_bytes()
    for target, message in ((artifact, "is the file that is read"), (tmp_path, "is a folder")):
        with pytest.raises(OutputError, match=message):
            package.repack(artifact, target, overwrite=True)
    assert artifact.read_bytes() == data


def test_damage_is_refused_and_leaves_nothing(artifact: Path, tmp_path: Path) -> None:
    data = bytearray(artifact.read_bytes())
    data[-len(data) // 2] ^= 4
    (tmp_path / "damaged.stackc").write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        package.repack(tmp_path / "damaged.stackc", tmp_path / "new.stackc")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.stackc"]


def test_a_plane_that_no_packer_can_have_written_is_named(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise ArtifactError("of no use")

    monkeypatch.setattr(type(find_packer("ans")), "unpack", refuse)
    with pytest.raises(ArtifactError, match=r"plane '.*codes' of tensor 'bert.*' does not decode: of no use"):
        package.repack(artifact, tmp_path / "new.stackc")
    assert not list(tmp_path.iterdir())


def test_a_packer_that_loses_something_writes_nothing(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(_: Packer, data: bytes, spec: PlaneSpec) -> torch.Tensor:
        return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))

    monkeypatch.setattr(type(find_packer("context")), "unpack", forget)
    with pytest.raises(StackcError, match="context does not give back plane"):
        package.repack(artifact, tmp_path / "new.stackc")
    assert not list(tmp_path.iterdir())
