"""Files that ask for more than their size can justify are refused in a process that has little, before it is spent.

Honest files at the far end of what this project writes stand beside them: the limits are no use if these do not open.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from stackc.artifact.container import HEADER_BYTES
from stackc.artifact.limits import FREE_BYTES, MAX_EXPANSION, Budget
from stackc.artifact.reader import Artifact
from stackc.util.errors import ArtifactError, OutputError
from tests.artifact.hostile_files import HOSTILE_FILES, RAW, ZERO_PLANES, ZEROS, HostileFile, crafted, stored
from tests.helpers.crafted import write_artifact
from tests.helpers.limited import Outcome, read_limited

#: What a process may take beyond its imports; the dearest file that is allowed at a few bytes takes about 350 MB.
MEMORY = 1 << 30
SECONDS = 20
#: What refusing a file may take.
REFUSED = 64 << 20

#: Files of a hundred bytes that ask for nearly all that such a file may ask for.
DEAR = {
    "zeros": stored({"x": ((FREE_BYTES // 4,), ZEROS, ZERO_PLANES)}),
    "a-product": stored(
        {
            "x": (
                (1900, 1900),
                ["seed", 1, {"rank": 1900, "variance": None, "center": False}, [ZEROS, ZEROS]],
                ZERO_PLANES * 2,
            )
        }
    ),
    "rows": stored(
        {
            "x": (
                (1, 16_000_000),
                ["seed", 1, {"rank": 1, "variance": None, "center": True}, [ZEROS] * 3],
                ZERO_PLANES * 3,
            )
        }
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of every hostile and every dear file, by name."""
    if sys.platform != "linux":
        pytest.skip("the limits of a process are those of Linux")
    folder = tmp_path_factory.mktemp("hostile")
    files = {file.name: file.content() for file in HOSTILE_FILES} | {
        f"dear-{name}": data for name, data in DEAR.items()
    }
    paths = [folder / f"{name}.stackc" for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return dict(zip(files, read_limited(paths, MEMORY, SECONDS), strict=True))


@pytest.mark.parametrize("file", HOSTILE_FILES, ids=lambda file: file.name)
def test_hostile_files_are_refused_by_name(outcomes: dict[str, Outcome], file: HostileFile) -> None:
    outcome = outcomes[file.name]
    assert (outcome.error, outcome.connected) == (file.error, []), outcome
    assert file.says in outcome.message
    assert "\n" not in outcome.message
    assert outcome.grown < REFUSED, outcome


@pytest.mark.parametrize("name", DEAR)
def test_the_dearest_files_that_are_allowed_fit_as_well(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[f"dear-{name}"].error == "", outcomes[f"dear-{name}"]


def test_a_caller_who_trusts_a_file_raises_all_limits_with_one_number(tmp_path: Path) -> None:
    path = tmp_path / "a.stackc"
    stack: Any = ["context", 1, {}]
    path.write_bytes(crafted(stacks=[stack], names=["x"], tensors=[[0, 9, [4096, 4500], [2]]], payload=b"\x02\x20"))
    with Artifact(path) as artifact, pytest.raises(ArtifactError, match="multiplications, more than the limit of"):
        artifact["x"]
    with Artifact(path, max_bytes=1 << 30) as artifact, pytest.raises(ArtifactError, match="does not decode"):
        artifact["x"]
    assert Budget.of(100, None).tensors == FREE_BYTES + MAX_EXPANSION * 100


def test_work_is_that_of_the_whole_file(tmp_path: Path) -> None:
    """One tensor of many is refused for what all of them would take; what does not decode does not count."""
    product = ["seed", 1, {"rank": 1000, "variance": None, "center": False}, [ZEROS, ZEROS]]
    path = tmp_path / "a.stackc"
    for tensors, refused in ((4, False), (16, True)):
        path.write_bytes(stored({str(n): ((1000, 1000), product, ZERO_PLANES * 2) for n in range(tensors)}))
        with Artifact(path) as artifact:
            if refused:
                with pytest.raises(ArtifactError, match="take the work of 21120002048 multiplications"):
                    artifact["0"]
            else:
                assert not artifact["0"].any()
    unknown = ["wavelet", 1, {}, [ZEROS, ZEROS]]
    path.write_bytes(
        stored({"x": ((2,), RAW, (bytes(8),)), **{str(n): ((1000, 1000), unknown, ZERO_PLANES * 2) for n in range(16)}})
    )
    with Artifact(path) as artifact:
        assert not artifact["x"].any()


def test_a_stack_is_parsed_once_for_all_tensors_of_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackc.artifact import stacks

    path = write_artifact(
        tmp_path / "a.stackc", {str(n): (torch.zeros(4, 1 + n % 2), ["int8", "raw"]) for n in range(20)}
    )
    parsed, fitted = [], []
    parse, fit = stacks.stages_of, stacks.fit
    monkeypatch.setattr(stacks, "stages_of", lambda wire: parsed.append(wire) or parse(wire))
    monkeypatch.setattr(stacks, "fit", lambda stages, spec, shared: fitted.append(spec) or fit(stages, spec, shared))
    with Artifact(path) as artifact:
        assert len(artifact.state_dict(workers=1)) == 20
    assert len(parsed) == 1
    assert sorted(spec.shape for spec in fitted) == [(4, 1), (4, 2)]


def test_the_config_stays_raw_until_somebody_asks(tmp_path: Path) -> None:
    path = tmp_path / "a.stackc"
    config = b"\x81\xa1x\xdd" + (100_000).to_bytes(4, "big") + b"\x80" * 100_000
    path.write_bytes(crafted(config=config, stacks=[RAW], names=["x"], tensors=[[0, 8, [1], [1]]], payload=b"\7"))
    with Artifact(path) as artifact:
        assert artifact["x"].tolist() == [7]
        with pytest.raises(ArtifactError, match=r"its config does not parse \(it consists of more than 66,\d+ values"):
            assert artifact.config


def test_honest_extremes_open(tmp_path: Path) -> None:
    """An embedding of zeros in 200 bytes, ten thousand numbers, a config with 20,000 labels."""
    embedding = ["int", 1, {"bits": 4, "symmetric": True, "granularity": "tensor", "group_size": None}]
    zeros = tmp_path / "zeros.stackc"
    for packer, plane in (("ans", b"\x40\x08"), ("context", b"\x00\x00\x00")):
        stack = [*embedding, [[packer, 1, {}], RAW]]
        zeros.write_bytes(stored({"word_embeddings": ((30522, 384), stack, (plane, bytes(4)))}))
        assert zeros.stat().st_size < 200
        with Artifact(zeros) as artifact:
            assert not artifact["word_embeddings"].any()
    labels = {str(n): f"LABEL_{n}" for n in range(20_000)}
    config = {"id2label": labels, "label2id": {label: int(n) for n, label in labels.items()}}
    many = tmp_path / "many.stackc"
    many.write_bytes(stored({f"layer.{n}.scale": ((), RAW, (bytes(4),)) for n in range(10_000)}, config=config))
    with Artifact(many) as artifact:
        assert (len(artifact), artifact.config) == (10_000, config)


def test_a_writer_writes_no_manifest_that_readers_refuse(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its config repeats itself too often; shorten it"):
        write_artifact(tmp_path / "a.stackc", {"x": (torch.zeros(1), ["raw"])}, config={"x": "x" * (2 << 20)})
    assert list(tmp_path.iterdir()) == []
    # bytes of tensors justify a manifest of their own size
    noise = torch.arange(100_000, dtype=torch.int64)
    write_artifact(tmp_path / "b.stackc", {"x": (noise, ["raw"])}, config={"x": "x" * (2 << 20)})
    with Artifact(tmp_path / "b.stackc") as artifact:
        assert artifact.config == {"x": "x" * (2 << 20)}
        assert artifact.container_bytes > HEADER_BYTES


def test_no_memory_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_artifact(tmp_path / "a.stackc", {"x": (torch.zeros(4), ["int8", "raw"])}, config={"a": 1})

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with Artifact(path) as artifact:
        monkeypatch.setattr("stackc.artifact.reader.unpack_config", fail)
        with pytest.raises(ArtifactError, match="does not fit in memory"):
            assert artifact.config
        monkeypatch.setattr("stackc.artifact.stacks.stages_of", fail)
        with pytest.raises(ArtifactError, match="its stack does not fit in memory"):
            artifact["x"]
    monkeypatch.setattr(msgspec.msgpack, "decode", fail)
    with pytest.raises(ArtifactError, match="lists more than fits in memory"):
        Artifact(path)
