"""A damaged file gives a named error: never a wrong tensor, another exception, or a large allocation."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.artifact.container import BLOCK_BYTES, HEADER_BYTES, MAGIC
from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.util.errors import ArtifactError
from tests.helpers.crafted import write_artifact


def read_everything(path: Path) -> dict[str, bytes]:
    """Every tensor and every bundled file, and the config at least looked at."""
    with Artifact(path) as artifact:
        assert artifact.config is None or artifact.config == dict(artifact.config)
        content = {name: to_bytes(artifact[name]) for name in artifact}
        return content | {f"bundle {name}": artifact.bundled_file(name) for name in artifact.bundled}


def refused(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        read_everything(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


def test_every_flipped_bit_of_the_header_is_noticed(small: Path, tmp_path) -> None:
    data = small.read_bytes()
    for bit in range(8 * HEADER_BYTES):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed), tmp_path / "a.stackc")


def test_every_changed_byte_is_noticed(small: Path, tmp_path) -> None:
    data = small.read_bytes()
    assert len(data) < 3000
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        refused(bytes(changed), tmp_path / "a.stackc")


def test_every_truncation_is_noticed(small: Path, tmp_path) -> None:
    data = small.read_bytes()
    for length in range(len(data)):
        refused(data[:length], tmp_path / "a.stackc")


def test_truncations_say_so(small: Path, tmp_path) -> None:
    data = small.read_bytes()
    with Artifact(small) as artifact:
        payload = artifact.container_bytes
    path = tmp_path / "a.stackc"
    assert "is not a stackc artifact" in refused(b"", path)
    assert "is truncated: it ends inside the header, after 5 bytes" in refused(data[:5], path)
    assert "is truncated: it ends inside the header" in refused(data[: HEADER_BYTES - 1], path)
    assert "is truncated or damaged: its manifest needs" in refused(data[: HEADER_BYTES + 3], path)
    assert "is truncated: it has" in refused(data[:payload], path)
    assert "is truncated: it has" in refused(data[:-1], path)
    assert "is damaged: it has" in refused(data + b"\0", path)
    assert "is damaged: it has" in refused(data + data, path)


def test_a_newer_format_is_named(small: Path, tmp_path) -> None:
    data = bytearray(small.read_bytes())
    data[len(MAGIC)] = 3
    message = refused(bytes(data), tmp_path / "a.stackc")
    assert "has format version 3, this release reads versions 1 to 2; it is damaged or needs a newer stackc" in message


@pytest.mark.parametrize(
    "content",
    [b"\0" * 100, b"PK\x03\x04" + b"\0" * 100, b'{"a": 1}', b"stages: [raw]", MAGIC[:3], MAGIC[1:] + b"\1" * 40],
)
def test_other_files_are_no_artifacts(tmp_path, content: bytes) -> None:
    message = refused(content, tmp_path / "a.stackc")
    assert "is not a stackc artifact" in message or "is truncated" in message


def test_paths_that_are_no_files(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="cannot be opened: No such file"):
        Artifact(tmp_path / "none.stackc")
    with pytest.raises(ArtifactError, match="cannot be opened: Is a directory"):
        Artifact(tmp_path)


@given(data=st.data())
def test_mixed_damage_is_noticed(small: Path, tmp_path_factory, data: st.DataObject) -> None:
    """Bytes replaced, inserted, removed, swapped."""
    original = small.read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        piece = data.draw(st.binary(max_size=6))
        length = data.draw(st.integers(0, 6))
        changed[at : at + length] = piece
    path = tmp_path_factory.getbasetemp() / "mixed.stackc"
    path.write_bytes(bytes(changed))
    if bytes(changed) == original:
        read_everything(path)
    else:
        with pytest.raises(ArtifactError):
            read_everything(path)


@given(st.binary(max_size=200))
def test_garbage_behind_the_magic_is_refused(tmp_path_factory, garbage: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.stackc"
    for content in (garbage, MAGIC + garbage, MAGIC + b"\1" + garbage):
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            Artifact(path)


def test_a_lying_header_allocates_nothing(small: Path, tmp_path) -> None:
    data = bytearray(small.read_bytes())
    for field in (8, 12):
        for value in (1 << 31, (64 << 20) + 1, 64 << 20, 0):
            changed = bytearray(data)
            changed[field : field + 4] = value.to_bytes(4, "little")
            tracemalloc.start()
            refused(bytes(changed), tmp_path / "a.stackc")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1 << 20


def test_damage_in_a_block_is_located(tmp_path) -> None:
    x = torch.arange(3 * BLOCK_BYTES).to(torch.uint8)
    path = write_artifact(tmp_path / "a.stackc", {"x": (x, ["raw"])})
    with Artifact(path) as artifact:
        payload = artifact.container_bytes
    data = bytearray(path.read_bytes())
    data[payload + 2 * BLOCK_BYTES - 1] ^= 4
    low, high = payload + BLOCK_BYTES, payload + 2 * BLOCK_BYTES
    assert f"is damaged between bytes {low} and {high}" in refused(bytes(data), path)
