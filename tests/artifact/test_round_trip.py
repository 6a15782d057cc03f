"""What is written is read back: tensors one by one, ties, bundled files, and every byte accounted for."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import pytest
import torch

from stackc.artifact import container
from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.core.spec import PlaneSpec
from stackc.reporting.accounting import byte_rows
from stackc.util.errors import ArtifactError, ModelError, OutputError
from tests.artifact.conftest import BUNDLE, CONFIG
from tests.helpers.crafted import pack, parts, rebuild, stack_of, write_artifact

LOSSY = {"embeddings.weight", "layer.weight"}


def test_tensors_come_back(small: Path, tensors) -> None:
    with Artifact(small) as artifact:
        assert list(artifact.specs) == list(tensors)
        for name, x in tensors.items():
            y = artifact[name]
            assert artifact.specs[name] == PlaneSpec.of(x) == PlaneSpec.of(y)
            if name in LOSSY:
                assert torch.dist(x, y) < 0.9 * torch.linalg.vector_norm(x)
            else:
                assert to_bytes(x) == to_bytes(y)


def test_it_is_a_mapping(small: Path, tensors) -> None:
    with Artifact(small) as artifact:
        assert list(artifact) == [*tensors, "decoder.weight"]
        assert len(artifact) == len(tensors) + 1
        assert "decoder.weight" in artifact
        assert "decoder" not in artifact
        assert 3 not in artifact
        assert artifact.get("nothing") is None
        with pytest.raises(KeyError, match=r"no tensor 'layer.wieght', did you mean 'layer.weight'"):
            artifact["layer.wieght"]
        assert "small.stackc: 9 tensors" in repr(artifact)
        assert artifact.nbytes == sum(x.numel() * x.element_size() for x in tensors.values())


def test_ties_are_stored_once_and_restored(small: Path) -> None:
    with Artifact(small) as artifact:
        assert artifact.ties == {"decoder.weight": "embeddings.weight"}
        assert torch.equal(artifact["decoder.weight"], artifact["embeddings.weight"])
        state = artifact.state_dict()
        assert state["decoder.weight"] is state["embeddings.weight"]
        assert set(state) == set(artifact)


def test_config_kind_and_bundled_files_come_back(small: Path) -> None:
    with Artifact(small) as artifact:
        assert artifact.config == CONFIG
        assert artifact.kind == "module"
        assert {name: artifact.bundled_file(name) for name in artifact.bundled} == BUNDLE
        with pytest.raises(KeyError):
            artifact.bundled_file("other.json")


def test_every_byte_is_in_one_row(small: Path) -> None:
    with Artifact(small) as artifact:
        rows = byte_rows(artifact)
        assert sum(row.bytes for row in rows) == os.stat(small).st_size == artifact.file_bytes
        by_role = {role: sum(row.bytes for row in rows if row.role == role) for role in {row.role for row in rows}}
        assert by_role["container"] == artifact.container_bytes
        assert by_role["bundle"] == sum(artifact.bundled.values())
        stored = [plane for name in artifact.specs for plane in artifact.planes(name)]
        side = [plane for plane in stored if plane.planned.side]
        assert by_role["payload"] + by_role["side"] + by_role["tables"] == sum(plane.length for plane in stored)
        assert by_role["side"] <= sum(plane.length for plane in side)
        assert {row.plane for row in rows if row.role == "side"} == {"mask", "mean", "basis", "scale", "fallback"}
        assert all(row.entropy_bytes is None for row in rows)


def test_one_tensor_reads_only_the_blocks_that_it_lies_in(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    state = {f"t{n}": torch.randn(9000, generator=draw) for n in range(12)}
    path = write_artifact(tmp_path / "a.stackc", {name: (x, ["raw"]) for name, x in state.items()})
    read: list[tuple[int, int]] = []
    pread = os.pread

    def spy(handle: int, length: int, offset: int) -> bytes:
        read.append((offset, length))
        return pread(handle, length, offset)

    monkeypatch.setattr(container.os, "pread", spy)
    with Artifact(path) as artifact:
        assert not read
        assert torch.equal(artifact["t7"], state["t7"])
        start = artifact.container_bytes + 7 * 36000
        ((offset, length),) = read
        assert offset <= start
        assert offset + length >= start + 36000
        assert length <= 2 * container.BLOCK_BYTES
        # damage elsewhere does not matter to this tensor
        data = bytearray(path.read_bytes())
        data[artifact.container_bytes] ^= 1
    path.write_bytes(bytes(data))
    with Artifact(path) as artifact:
        assert torch.equal(artifact["t7"], state["t7"])
        with pytest.raises(ArtifactError, match="is damaged between bytes"):
            artifact["t0"]


def test_a_read_that_the_system_splits_is_put_together(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Artifact(small) as artifact:
        whole = {name: to_bytes(artifact[name]) for name in artifact}
        pread = os.pread
        monkeypatch.setattr(
            container.os, "pread", lambda handle, length, offset: pread(handle, min(length, 100), offset)
        )
        assert {name: to_bytes(artifact[name]) for name in artifact} == whole


def test_a_file_that_shrinks_or_vanishes_while_open(small: Path, tmp_path) -> None:
    copy = tmp_path / "copy.stackc"
    copy.write_bytes(small.read_bytes())
    with Artifact(copy) as artifact:
        copy.unlink()
        assert artifact["step"] == 7
    copy.write_bytes(small.read_bytes())
    with Artifact(copy) as artifact:
        os.truncate(copy, artifact.container_bytes + 3)
        with pytest.raises(ArtifactError, match=r"is truncated: .* bytes are missing"):
            artifact["step"]


def test_several_threads_may_read(small: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Artifact(small) as artifact, ThreadPoolExecutor(4) as pool:
        expected = {name: to_bytes(artifact[name]) for name in artifact}
        names = list(artifact) * 8
        assert [to_bytes(x) for x in pool.map(artifact.__getitem__, names)] == [expected[name] for name in names]


def test_the_file_is_closed_at_the_end_and_without_a_warning(small: Path) -> None:
    with Artifact(small) as artifact:
        pass
    with pytest.raises((ArtifactError, ValueError)):
        artifact["step"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Artifact(small)["step"] == 7
        gc.collect()


def test_writing_is_deterministic(small: Path, tmp_path, tensors, stages) -> None:
    pairs = {name: (x, stages[name]) for name, x in tensors.items()}
    again = write_artifact(
        tmp_path / "again.stackc", pairs, ties={"embeddings.weight": ["decoder.weight"]}, bundle=BUNDLE, config=CONFIG
    )
    assert again.read_bytes() == small.read_bytes()


def test_nothing_is_left_without_finish_and_nothing_else_with_it(tmp_path) -> None:
    from stackc.artifact.writer import ArtifactWriter

    x, spec = torch.ones(3), PlaneSpec((3,), "float32")
    stack = stack_of(["raw"], spec)
    with ArtifactWriter(tmp_path / "a.stackc", "module", None) as writer:
        writer.add(["x"], spec, stack, pack(stack, x))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
    with ArtifactWriter(tmp_path / "a.stackc", "module", None) as writer:
        writer.add(["x"], spec, stack, pack(stack, x))
        size = writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.stackc"]
    assert size == os.stat(tmp_path / "a.stackc").st_size
    other = tmp_path / "plain"
    other.touch()
    assert os.stat(tmp_path / "a.stackc").st_mode == other.stat().st_mode


def test_projected_sizes_are_exact(tmp_path) -> None:
    from stackc.artifact.writer import ArtifactWriter

    def write(path: Path, bundle: dict[str, bytes]) -> tuple[int, int, int]:
        with ArtifactWriter(path, "transformers", CONFIG) as writer:
            for n in range(5):
                x = torch.randn(9000, generator=torch.Generator().manual_seed(n))
                stack = stack_of(["raw"], PlaneSpec.of(x))
                writer.add([f"t{n}"], PlaneSpec.of(x), stack, pack(stack, x))
            sizes = writer.projected_bytes({}), writer.projected_bytes(files)
            for name, content in bundle.items():
                writer.add_file(name, content)
            return *sizes, writer.finish()

    files = {"vocabulary.txt": os.urandom(50_000), "tokenizer.json": b"{}" * 30_000}
    without, with_files, size = write(tmp_path / "a.stackc", {})
    assert size == without
    again, same, bundled = write(tmp_path / "b.stackc", files)
    assert (again, same) == (without, with_files)
    assert bundled == with_files


def test_an_artifact_without_tensors(tmp_path) -> None:
    path = write_artifact(tmp_path / "empty.stackc", {})
    with Artifact(path) as artifact:
        assert dict(artifact) == {}
        assert sum(row.bytes for row in byte_rows(artifact)) == os.stat(path).st_size
        with pytest.raises(ModelError, match="holds tensors without an architecture"):
            artifact.build()
        assert artifact.tokenizer() is None


def test_blocks_that_are_full_to_the_brim(tmp_path) -> None:
    for size in (container.BLOCK_BYTES - 1, container.BLOCK_BYTES, container.BLOCK_BYTES + 1):
        x = torch.arange(size).to(torch.uint8)
        with Artifact(write_artifact(tmp_path / "a.stackc", {"x": (x, ["raw"])})) as artifact:
            assert torch.equal(artifact["x"], x)
            assert len(artifact.manifest.checksums) == 4 * -(-size // container.BLOCK_BYTES)


@pytest.mark.parametrize("config", [{"a": 1 << 70}, {"a": {1, object}}])
def test_a_config_that_cannot_be_stored(tmp_path, config: dict) -> None:
    with pytest.raises(ModelError, match="the config of the model cannot be stored"):
        write_artifact(tmp_path / "a.stackc", {}, config=config)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_no_reader_would_take(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(OutputError, match="the model has too many tensors"):
        write_artifact(tmp_path / "a.stackc", {}, config={"a": "x" * 200})


def test_rebuilding_a_file_from_its_parts_gives_the_same_file(small: Path, tmp_path) -> None:
    assert rebuild(*parts(small.read_bytes(), tmp_path)) == small.read_bytes()
