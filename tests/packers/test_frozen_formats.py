"""Files that version 1 of each packer wrote decode to the planes that they were made of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from stackc.core.planes import from_bytes, to_bytes
from stackc.testing import check_frozen
from stackc.testing.frozen import Fixture
from stackc.testing.planes import same_bits
from tests.docs import second_decoder
from tests.packers import packer_decoder
from tests.packers.write_fixtures import FOLDER, context_fixture_planes, fixture_planes, float_fixture_planes

FIXTURES = sorted(path.parent for path in FOLDER.glob("*/*/fixture.json"))
PLANES = fixture_planes() | float_fixture_planes() | context_fixture_planes()


def fixture_of(folder: Path) -> Fixture:
    return msgspec.json.decode((folder / "fixture.json").read_bytes(), type=Fixture)


def test_every_packer_has_fixtures():
    names = ("raw-1", "zstd-1", "ans-1", "floats-1", "context-1")
    counts = {name: sum(folder.parent.name == name for folder in FIXTURES) for name in names}
    assert counts == {"raw-1": 17, "zstd-1": 17, "ans-1": 11, "floats-1": 12, "context-1": 33}


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_todays_packer_decodes_the_frozen_file(folder):
    check_frozen(folder)
    spec, x = PLANES[folder.name]
    fixture = fixture_of(folder)
    assert fixture.spec == spec
    assert f"{fixture.name}-{fixture.version}" == folder.parent.name
    assert same_bits(from_bytes((folder / "decoded.bin").read_bytes(), spec), x)


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_packer_decoder_reads_the_frozen_file(folder):
    fixture = fixture_of(folder)
    spec, data = fixture.spec, (folder / "packed.bin").read_bytes()
    if fixture.name in ("floats", "context"):
        as_described = second_decoder.Spec(spec.shape, spec.dtype, spec.lo, spec.hi)
        decoded = second_decoder.PACKERS[fixture.name, 1](data, as_described)
        x = torch.from_numpy(decoded.copy()).to(getattr(torch, spec.dtype))  # bfloat16 is held as float32
        assert to_bytes(x) == (folder / "decoded.bin").read_bytes()
        return
    if spec.lo is None:
        content = (
            packer_decoder.zstd_content(data, spec.nbytes, spec.item_bytes, spec.numel)[1]
            if fixture.name == "zstd"
            else data
        )
        assert content == (folder / "decoded.bin").read_bytes()
        return
    decode = getattr(packer_decoder, f"{fixture.name}_integers")
    assert decode(data, spec.numel, spec.lo, spec.hi) == PLANES[folder.name].x.reshape(-1).long().tolist()


def test_the_fixtures_take_every_path_through_the_formats():
    first_bytes = {
        name: {(folder / "packed.bin").read_bytes()[:1] for folder in FIXTURES if folder.parent.name == name}
        for name in ("zstd-1", "ans-1", "floats-1", "context-1")
    }
    assert first_bytes["zstd-1"] == {b"", b"\x00", b"\x01", b"\x02", b"\x03"}
    kinds = {first[0] for first in first_bytes["ans-1"] if first}
    assert {0x20, 0x40} < kinds
    assert {kind & 0x18 for kind in kinds if kind < 0x20} >= {0x00, 0x10}
    assert first_bytes["floats-1"] == {b"", b"\x00", b"\x01", b"\x02"}
    split = [(folder / "packed.bin").read_bytes() for folder in FIXTURES if folder.parent.name == "floats-1"]
    flags = {data[1] for data in split if data[:1] == b"\x02"}
    assert {bit for bit in (1, 2, 4, 8) if any(flag & bit for flag in flags)} == {1, 2, 4, 8}
    assert 3 in flags
    assert first_bytes["context-1"] >= {b"", b"\x01"}
    coded = [(folder / "packed.bin").read_bytes() for folder in FIXTURES if folder.parent.name == "context-1"]
    coded = [data for data in coded if data and data[0] != 1]
    assert {bit for bit in (2, 4, 8, 16, 32, 64, 128) if any(data[0] & bit for data in coded)} == {
        2,
        4,
        8,
        16,
        32,
        64,
        128,
    }
    parts = [{data[1] >> place & 3 for data in coded} for place in (0, 2, 4, 6)]
    assert [len(part) >= 3 for part in parts] == [True] * 4
