"""Files whose checksums all match and whose manifests lie: each is refused by name, before anything large is allocated.

This is what an attacker, or a writer with a bug, would make. What such a file says consistently cannot be told from the
truth (a matrix with its axes exchanged has as many bytes), so these tests are about contradictions.
"""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.artifact import container
from stackc.artifact.container import frame_manifest
from stackc.artifact.reader import Artifact
from stackc.core.spec import PlaneSpec
from stackc.reporting.accounting import byte_rows
from stackc.util.errors import ArtifactError, DependencyError
from stackc.util.peak_memory import resident_bytes
from tests.artifact.test_damage import read_everything
from tests.helpers.crafted import parts, rebuild, rewritten, write_artifact

KIND, CONFIG, STACKS, NAMES, TENSORS, TIES, BUNDLE, CHECKSUMS = range(8)
RAW = ["raw", 1, {}]

Change = Callable[[list[Any]], Any]


def put(*path: Any) -> Change:
    """Set the item at ``path[:-1]`` to ``path[-1]``."""

    def change(manifest: list[Any]) -> None:
        target: Any = manifest
        for part in path[:-2]:
            target = target[part]
        target[path[-2]] = path[-1]

    return change


def add(*path: Any) -> Change:
    """Append to the list at ``path[:-1]``."""

    def change(manifest: list[Any]) -> None:
        target: Any = manifest
        for part in path[:-1]:
            target = target[part]
        target.append(path[-1])

    return change


def number_of(name: str) -> int:
    names = ["embeddings.weight", "layer.weight", "layer.bias", "half", "brain", "ids", "mask", "step", "empty"]
    return names.index(name)


EMBEDDINGS, BIAS, BRAIN, IDS, MASK, STEP = map(
    number_of, ["embeddings.weight", "layer.bias", "brain", "ids", "mask", "step"]
)


def nested(depth: int) -> Any:
    wire: Any = RAW
    for _ in range(depth):
        wire = ["cast", 1, {"to": "float16"}, [wire]]
    return wire


FORM: dict[str, Change] = {
    "no list": lambda manifest: {"kind": 1},
    "nothing": lambda manifest: None if manifest.clear() else [],
    "item missing": lambda manifest: manifest[:-1],
    "item too many": lambda manifest: [*manifest, 1],
    "kind unknown": put(KIND, 3),
    "kind negative": put(KIND, -1),
    "kind no number": put(KIND, "module"),
    "config no map": put(CONFIG, [1]),
    "config with other keys": put(CONFIG, {1: 2}),
    "name missing": lambda manifest: manifest[NAMES].pop() and None,
    "name too many": add(NAMES, "more"),
    "name twice": put(NAMES, 1, "embeddings.weight"),
    "name no text": put(NAMES, 0, 5),
    "name of the metadata": put(NAMES, 0, "__metadata__"),
    "tie of the metadata": put(TIES, "__metadata__", 0),
    "name also tied": put(TIES, "step", 0),
    "tie to nothing": put(TIES, "decoder.weight", 99),
    "tie negative": put(TIES, "decoder.weight", -1),
    "tie no number": put(TIES, "decoder.weight", "step"),
    "tensor missing": lambda manifest: manifest[TENSORS].pop() and None,
    "tensor no list": put(TENSORS, 0, 5),
    "tensor item missing": lambda manifest: manifest[TENSORS][0].pop() and None,
    "tensor item too many": add(TENSORS, 0, 1),
    "stack unknown": put(TENSORS, 0, 0, 99),
    "stack negative": put(TENSORS, 0, 0, -1),
    "dtype unknown": put(TENSORS, 0, 1, 10),
    "dtype negative": put(TENSORS, 0, 1, -1),
    "shape negative": put(TENSORS, BRAIN, 2, [-3]),
    "shape negative twice": put(TENSORS, BRAIN, 2, [-3, -1]),
    "shape real": put(TENSORS, BRAIN, 2, [3.0]),
    "shape no list": put(TENSORS, BRAIN, 2, 3),
    "length negative": put(TENSORS, BRAIN, 3, [-6]),
    "lengths that cancel out": lambda manifest: [
        put(TENSORS, BRAIN, 3, [7])(manifest),
        put(TENSORS, STEP, 3, [7])(manifest),
    ][0],
    "length too large": put(TENSORS, BRAIN, 3, [7]),
    "length too small": put(TENSORS, BRAIN, 3, [5]),
    "length huge": put(TENSORS, BRAIN, 3, [1 << 63]),
    "length missing": put(TENSORS, BRAIN, 3, []),
    "bundle negative": put(BUNDLE, "vocab.txt", [9, -1]),
    "bundle length": put(BUNDLE, "vocab.txt", [10, 0]),
    "bundle size": put(BUNDLE, "vocab.txt", [9, 1]),
    "bundle huge": put(BUNDLE, "vocab.txt", [9, 1 << 62]),
    "bundle no pair": put(BUNDLE, "vocab.txt", [9]),
    "bundle path": put(BUNDLE, "../evil", [0, 0]),
    "bundle absolute": put(BUNDLE, "/etc/passwd", [0, 0]),
    "bundle parent": put(BUNDLE, "..", [0, 0]),
    "bundle backslash": put(BUNDLE, "a\\b", [0, 0]),
    "bundle nameless": put(BUNDLE, "", [0, 0]),
    "bundle config": put(BUNDLE, "config.json", [0, 0]),
    "bundle weights": put(BUNDLE, "model.safetensors", [0, 0]),
    "bundle pickle": put(BUNDLE, "pytorch_model.bin", [0, 0]),
    "bundle code": put(BUNDLE, "modeling_x.py", [0, 0]),
}

CONTENT: dict[str, Change] = {
    "shape grown": put(TENSORS, BRAIN, 2, [4]),
    "shape shrunk": put(TENSORS, BRAIN, 2, [2]),
    "shape empty": put(TENSORS, BRAIN, 2, [0]),
    "shape without axes": put(TENSORS, BRAIN, 2, []),
    "shape of many axes": put(TENSORS, BRAIN, 2, [3] + [1] * 64),
    "shape of many axes, and huge": put(TENSORS, BRAIN, 2, [1 << 20] * 1000),
    "shape empty and huge": put(TENSORS, number_of("empty"), 2, [0, (1 << 63) - 1, 5]),
    "shape empty and more than huge": put(TENSORS, number_of("empty"), 2, [0, (1 << 64) - 1]),
    "rows grown": put(TENSORS, EMBEDDINGS, 2, [13, 4]),
    "rows shrunk": put(TENSORS, EMBEDDINGS, 2, [11, 4]),
    "columns grown": put(TENSORS, EMBEDDINGS, 2, [12, 5]),
    "columns shrunk": put(TENSORS, EMBEDDINGS, 2, [12, 3]),
    "axis too few": put(TENSORS, EMBEDDINGS, 2, [48]),
    "dtype wider": put(TENSORS, BRAIN, 1, 0),
    "dtype an integer": put(TENSORS, EMBEDDINGS, 1, 4),
    "dtype bool": put(TENSORS, STEP, 1, 9),
    "dtype of bounded": put(TENSORS, MASK, 1, 8),
    "packer that refuses": lambda manifest: put(STACKS, manifest[TENSORS][BRAIN][0], ["ans", 1, {}])(manifest),
    "packer another": lambda manifest: put(STACKS, manifest[TENSORS][BIAS][0], ["raw", 1, {}])(manifest),
    "stack of another tensor": lambda manifest: put(TENSORS, BRAIN, 0, manifest[TENSORS][0][0])(manifest),
    "stack nothing": lambda manifest: put(STACKS, manifest[TENSORS][BRAIN][0], None)(manifest),
    "stack unknown field": lambda manifest: put(STACKS, manifest[TENSORS][BRAIN][0], ["raw", 1, {"a": 1}])(manifest),
    "stack too deep": lambda manifest: put(STACKS, manifest[TENSORS][BRAIN][0], nested(40))(manifest),
    "transform twice": lambda manifest: put(STACKS, manifest[TENSORS][BRAIN][0], nested(2))(manifest),
    "plane without stack": lambda manifest: put(STACKS, manifest[TENSORS][EMBEDDINGS][0], 3, 0, None)(manifest),
    "planes exchanged": lambda manifest: manifest[STACKS][manifest[TENSORS][EMBEDDINGS][0]][3].insert(
        0, manifest[STACKS][manifest[TENSORS][EMBEDDINGS][0]][3].pop(1)
    ),
    "rank": lambda manifest: put(STACKS, manifest[TENSORS][EMBEDDINGS][0], 3, 1, 2, "rank", 3)(manifest),
    "rank huge": lambda manifest: put(STACKS, manifest[TENSORS][EMBEDDINGS][0], 3, 1, 2, "rank", 1 << 40)(manifest),
    "rows kept": lambda manifest: put(STACKS, manifest[TENSORS][EMBEDDINGS][0], 2, "rows", 0.25)(manifest),
    "bits": lambda manifest: put(STACKS, manifest[TENSORS][EMBEDDINGS][0], 3, 1, 3, 2, 2, "bits", 9)(manifest),
    "lengths exchanged": lambda manifest: manifest[TENSORS][EMBEDDINGS][3].reverse(),
    "plane missing": lambda manifest: manifest[TENSORS][EMBEDDINGS][3].append(
        manifest[TENSORS][EMBEDDINGS][3].pop() - 1
    ),
    "plane too many": add(TENSORS, EMBEDDINGS, 3, 0),
}


def refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        read_everything(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", FORM)
def test_manifests_of_another_form(small: Path, tmp_path, case: str) -> None:
    data = rewritten(small.read_bytes(), tmp_path, FORM[case])
    assert data != small.read_bytes()
    refused(data, tmp_path / "a.stackc")


@pytest.mark.parametrize("case", CONTENT)
def test_manifests_that_contradict_the_planes(small: Path, tmp_path, case: str) -> None:
    data = rewritten(small.read_bytes(), tmp_path, CONTENT[case])
    assert data != small.read_bytes()
    refused(data, tmp_path / "a.stackc")


@pytest.mark.parametrize(
    "stack",
    [["wavelet", 1, {}], ["raw", 2, {}], ["int8", 1, {}, [RAW, RAW]], ["seed", 0, {"rank": 1}, [RAW, RAW, RAW]]],
)
def test_stages_that_are_not_installed_are_named(small: Path, tmp_path, stack: list[Any]) -> None:
    path = tmp_path / "a.stackc"

    def change(manifest: list[Any]) -> None:
        manifest[TENSORS][BRAIN][0] = len(manifest[STACKS])
        manifest[STACKS].append(stack)

    path.write_bytes(rewritten(small.read_bytes(), tmp_path, change))
    with Artifact(path) as artifact:
        assert artifact["step"] == 7
        with pytest.raises(DependencyError, match=f"the file needs .*{stack[0]}@{stack[1]}"):
            artifact["brain"]
        with pytest.raises(DependencyError):
            byte_rows(artifact)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 32, 1 << 32], [(1 << 64) - 1] * 64])
def test_huge_shapes_are_refused_at_once(small: Path, tmp_path, shape: list[int]) -> None:
    path = tmp_path / "a.stackc"
    path.write_bytes(rewritten(small.read_bytes(), tmp_path, put(TENSORS, BRAIN, 2, shape)))
    before = resident_bytes()
    with pytest.raises(ArtifactError, match=r"would decode to [0-9]+ bytes, more than the limit of"):
        Artifact(path)
    assert resident_bytes() - before < 64 << 20


def test_the_limit_of_what_a_file_decodes_to(tmp_path) -> None:
    path = write_artifact(tmp_path / "a.stackc", {"x": (torch.zeros(1000), ["raw"])})
    with pytest.raises(
        ArtifactError, match="would decode to 4000 bytes, more than the limit of 3999; if you trust it, open it"
    ):
        Artifact(path, max_bytes=3999)
    with Artifact(path, max_bytes=4000) as artifact:
        assert artifact["x"].numel() == 1000


@pytest.mark.parametrize("stages", [["zstd"], ["raw"], ["int8", {"use": "ans", "on": "*/codes"}, "zstd"]])
def test_shapes_below_the_limit_allocate_no_more_than_they_say(tmp_path, stages: list[Any]) -> None:
    """A tensor that announces 40 MB and holds none is refused with at most some tens of MB."""
    path = write_artifact(tmp_path / "a.stackc", {"x": (torch.zeros(1000, 10), stages)})
    data = rewritten(path.read_bytes(), tmp_path, put(TENSORS, 0, 2, [1_000_000, 10]))
    before = resident_bytes()
    tracemalloc.start()
    refused(data, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 160 << 20
    assert resident_bytes() - before < 160 << 20


def frame(content: bytes, **parameters: Any) -> bytes:
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, **parameters)
    ).compress(content)


@pytest.mark.parametrize("stated", [False, True])
def test_a_manifest_that_is_a_bomb(tmp_path, monkeypatch: pytest.MonkeyPatch, stated: bool) -> None:
    """256 MB of zeros in a few kB, behind a header that announces 1,000 bytes."""
    bomb = frame(b"\0" * (256 << 20), write_content_size=stated)
    start = container.MAGIC + b"\1" + len(bomb).to_bytes(4, "little") + (1000).to_bytes(4, "little")
    crc = container.zlib.crc32(bomb, container.zlib.crc32(start))
    tracemalloc.start()
    refused(start + crc.to_bytes(4, "little") + bomb, tmp_path / "a.stackc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("stated", [False, True])
def test_a_bundled_file_that_is_a_bomb(small: Path, tmp_path, stated: bool) -> None:
    bomb = frame(b"\0" * (64 << 20), write_content_size=stated)
    manifest, payload = parts(small.read_bytes(), tmp_path)
    manifest[BUNDLE]["merges.txt"] = [len(bomb), 1000]
    path = tmp_path / "a.stackc"
    path.write_bytes(rebuild(manifest, payload + bomb))
    with Artifact(path) as artifact:
        tracemalloc.start()
        with pytest.raises(ArtifactError, match=r"the bundled merges.txt does not decompress"):
            artifact.bundled_file("merges.txt")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("tail", [b"\0", b"more", b"\xc0"])
def test_bytes_behind_the_manifest(small: Path, tmp_path, tail: bytes) -> None:
    manifest, payload = parts(small.read_bytes(), tmp_path)
    refused(frame_manifest(msgspec.msgpack.encode(manifest) + tail) + payload, tmp_path / "a.stackc")


def test_bytes_that_no_plane_owns(small: Path, tmp_path) -> None:
    manifest, payload = parts(small.read_bytes(), tmp_path)
    refused(rebuild(manifest, payload + b"hidden"), tmp_path / "a.stackc")
    refused(rebuild(manifest, b"hidden" + payload), tmp_path / "a.stackc")


@pytest.mark.parametrize("checksums", [b"", b"\0\0\0", b"\0" * 4, b"\0" * 8])
def test_checksums_that_do_not_match(small: Path, tmp_path, checksums: bytes) -> None:
    manifest, payload = parts(small.read_bytes(), tmp_path)
    manifest[CHECKSUMS] = checksums
    refused(rebuild(manifest, payload, checksums=False), tmp_path / "a.stackc")


def test_a_manifest_nested_without_end(small: Path, tmp_path) -> None:
    _, payload = parts(small.read_bytes(), tmp_path)
    refused(frame_manifest(b"\x91" * 100_000 + b"\xc0") + payload, tmp_path / "a.stackc")


def test_a_manifest_that_announces_a_huge_array(small: Path, tmp_path) -> None:
    _, payload = parts(small.read_bytes(), tmp_path)
    tracemalloc.start()
    for start in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        refused(frame_manifest(b"\x98\x00" + start) + payload, tmp_path / "a.stackc")
        refused(frame_manifest(b"\x98\x00\xc0" + start) + payload, tmp_path / "a.stackc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


VALUES = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(
    VALUES | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a manifest."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@settings(max_examples=200)
@given(data=st.data())
def test_anything_anywhere_is_refused_or_changes_no_shape(small: Path, tmp_path_factory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    original, payload = parts(small.read_bytes(), folder)
    manifest = copy.deepcopy(original)
    place = data.draw(st.sampled_from([p for p in places(manifest) if p and p[0] != CHECKSUMS]))
    put(*place, data.draw(ANYTHING))(manifest)
    path = folder / "any.stackc"
    path.write_bytes(rebuild(manifest, payload))
    try:
        with Artifact(path) as artifact:
            assert artifact.nbytes < 1 << 30
            assert isinstance(artifact.config, dict | None)
            for name in artifact:
                x = artifact[name]
                assert PlaneSpec.of(x) == artifact.specs[artifact.ties.get(name, name)]
            for name in artifact.bundled:
                artifact.bundled_file(name)
            assert sum(row.bytes for row in byte_rows(artifact)) == path.stat().st_size
    except (ArtifactError, DependencyError) as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_a_file_cannot_ask_for_planes_without_end(tmp_path: Path) -> None:
    """Every full-rank PCA doubles the planes: seven of them would cost 128 times the tensor to decode."""
    seed = {"use": "seed", "rank": 128, "center": False}
    again = {**seed, "on": "*/{basis,scores}"}
    x = torch.eye(128)
    honest = write_artifact(tmp_path / "honest.stackc", {"x": (x, [seed] + [again] * 4)})
    with Artifact(honest) as artifact:
        assert torch.dist(artifact["x"], x) < 1e-3
    costly = write_artifact(tmp_path / "costly.stackc", {"x": (x, [seed] + [again] * 6)})
    with Artifact(costly) as artifact, pytest.raises(ArtifactError, match="more than 64 times its own bytes"):
        artifact["x"]
