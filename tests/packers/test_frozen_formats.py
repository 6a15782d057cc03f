"""Files that version 1 of each packer wrote decode to the planes that they were made of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from stackc.planes import from_bytes
from stackc.testing import check_frozen
from stackc.testing.frozen import Fixture
from stackc.testing.planes import same_bits
from tests.packers import packer_decoder
from tests.packers.write_fixtures import FOLDER, fixture_planes

FIXTURES = sorted(path.parent for path in FOLDER.glob("*/*/fixture.json"))
PLANES = fixture_planes()


def fixture_of(folder: Path) -> Fixture:
    return msgspec.json.decode((folder / "fixture.json").read_bytes(), type=Fixture)


def test_every_packer_has_fixtures():
    counts = {name: sum(folder.parent.name == name for folder in FIXTURES) for name in ("raw-1", "zstd-1", "ans-1")}
    assert counts == {"raw-1": 17, "zstd-1": 17, "ans-1": 11}


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
        for name in ("zstd-1", "ans-1")
    }
    assert first_bytes["zstd-1"] == {b"", b"\x00", b"\x01", b"\x02", b"\x03"}
    kinds = {first[0] for first in first_bytes["ans-1"] if first}
    assert {0x20, 0x40} < kinds
    assert {kind & 0x18 for kind in kinds if kind < 0x20} >= {0x00, 0x10}
