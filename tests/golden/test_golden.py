"""Whole files of every format decode to the bits that they decoded to when they were written, by both decoders."""

from __future__ import annotations

import hashlib
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest
import torch

from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.core.registry import Preset
from stackc.core.training import TrainingStage
from tests.docs.second_decoder import SecondDecoder
from tests.golden import write_golden
from tests.golden.write_golden import FOLDER, Golden

NAMES = sorted(path.stem for path in FOLDER.glob("*.stackc"))

#: Ways in which a packer stores a plane, by the first bytes: every one must be in a golden file.
FORMS = {
    "zstd": {0: "stored", 1: "packed", 2: "elements", 3: "shuffled"},
    "ans": {0x20: "raw", 0x40: "one symbol", 0x00: "levels", 0x08: "differences", 0x10: "gaps"},
    "floats": {0: "raw", 1: "zstd", 2: "split"},
}


def golden(name: str) -> Golden:
    return msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Golden)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_decodes_to_the_same_bits_for_ever(name: str) -> None:
    expected = golden(name)
    with Artifact(FOLDER / f"{name}.stackc") as artifact:
        assert list(artifact.specs) == list(expected.tensors)
        assert artifact.ties == expected.ties
        for tensor, stored in expected.tensors.items():
            decoded = artifact[tensor]
            assert (str(decoded.dtype), tuple(decoded.shape)) == (f"torch.{stored.dtype}", stored.shape)
            assert to_bytes(decoded).hex() == stored.data
            assert hashlib.sha256(bytes.fromhex(stored.data)).hexdigest() == stored.sha256
        bundle = {file: hashlib.sha256(artifact.bundled_file(file)).hexdigest() for file in artifact.bundled}
        assert bundle == expected.bundle


@pytest.mark.parametrize("name", NAMES)
def test_the_second_decoder_gives_the_same_bits(name: str) -> None:
    expected = golden(name)
    second = SecondDecoder(FOLDER / f"{name}.stackc")
    assert set(second.names) == {*expected.tensors, *expected.ties}
    for tensor in second.names:
        stored = expected.tensors[expected.ties.get(tensor, tensor)]
        decoded = torch.from_numpy(second.tensor(tensor).copy())
        if stored.dtype == "bfloat16":
            decoded = decoded.bfloat16()
        assert tuple(decoded.shape) == stored.shape
        assert to_bytes(decoded).hex() == stored.data
    assert {file: hashlib.sha256(second.bundled(file)).hexdigest() for file in second.bundle} == expected.bundle


def test_every_format_has_a_golden_file() -> None:
    """That a stage of stackc is added, or gets a new version, without a golden file shows here."""
    seen = {each for name in NAMES for each in golden(name).formats}
    points = [point for group in ("transforms", "packers") for point in entry_points(group=f"stackc.{group}")]
    stages = [point.load() for point in points]
    classes = {stage.stage if isinstance(stage, Preset) else stage for stage in stages}
    wanted = {
        f"{stage.name}@{stage.version}"
        for stage in classes
        if stage.__module__.startswith("stackc.") and not issubclass(stage, TrainingStage) and stage.name != "auto"
    }
    assert len(wanted) > 10
    presets = {point.name for point, stage in zip(points, stages, strict=True) if isinstance(stage, Preset)}
    assert presets <= set(NAMES)
    assert wanted <= seen, f"run python -m tests.golden.write_golden with a case for {sorted(wanted - seen)}"


def test_every_way_of_a_packer_is_in_a_golden_file() -> None:
    seen = set()
    for name in NAMES:
        with Artifact(FOLDER / f"{name}.stackc") as artifact:
            for tensor in artifact.specs:
                for plane in artifact.planes(tensor):
                    packer, data = plane.planned.packer.name, artifact.plane_bytes(plane)
                    if packer in FORMS and data:
                        seen.add((packer, data[0] & 0x78 if packer == "ans" else data[0]))
                    elif packer == "context":
                        seen.add((packer, _context_form(data)))
    assert seen >= {(packer, form) for packer, forms in FORMS.items() for form in forms}
    assert seen >= {("context", form) for form in ("raw", "short", "plain", "masks", "trellis")}


def _context_form(data: bytes) -> str:
    if data[0] & 1:
        return "raw" if data[0] == 1 else "short"
    return "trellis" if data[1] >> 6 else "masks" if data[0] & 0x18 else "plain"


def test_golden_files_are_never_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer adds what is missing and leaves everything else as it is, right or wrong."""
    for path in FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "raw.stackc").write_bytes(b"as it was")
    for suffix in ("stackc", "json"):
        (tmp_path / f"whole-model.{suffix}").unlink()
    monkeypatch.setattr(write_golden, "FOLDER", tmp_path)
    write_golden.main()
    assert (tmp_path / "raw.stackc").read_bytes() == b"as it was"
    written = msgspec.json.decode((tmp_path / "whole-model.json").read_bytes(), type=Golden)
    assert written.tensors.keys() == golden("whole-model").tensors.keys()


def test_golden_files_are_small_and_complete() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000
