"""Every refuse-vector is refused by both decoders, with a named error."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from stackc.artifact.reader import Artifact
from stackc.util.errors import ArtifactError, DependencyError
from tests.docs.second_decoder import Refused, SecondDecoder
from tests.golden import write_refused
from tests.golden.test_golden import NAMES, golden
from tests.golden.write_refused import FILE, Vector, read

VECTORS = {vector.name: vector for vector in read()}


@pytest.fixture
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    file = tmp_path / "vector.stackc"
    file.write_bytes(bytes.fromhex(VECTORS[request.param].data))
    return file


@pytest.mark.parametrize("path", VECTORS, indirect=True)
def test_stackc_refuses(path: Path) -> None:
    with pytest.raises((ArtifactError, DependencyError)) as caught:
        _read_all_of(path)
    assert str(caught.value).isprintable()


def _read_all_of(path: Path) -> None:
    with Artifact(path) as artifact:
        for name in artifact:
            artifact[name]
        for name in artifact.bundled:
            artifact.bundled_file(name)


@pytest.mark.parametrize("path", VECTORS, indirect=True)
def test_the_second_decoder_refuses(path: Path) -> None:
    with pytest.raises(Refused):
        _read_all(SecondDecoder(path))


def _read_all(second: SecondDecoder) -> None:
    for name in second.names:
        second.tensor(name)
    for name in second.bundle:
        second.bundled(name)


def test_vectors_are_variations_of_golden_files_of_every_format() -> None:
    assert len(VECTORS) == len(read()) > 150
    assert {vector.origin for vector in VECTORS.values()} <= set(NAMES)
    covered = {each for vector in VECTORS.values() for each in golden(vector.origin).formats}
    assert covered >= {each for name in NAMES for each in golden(name).formats}


def test_vectors_are_never_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [Vector("magic", "int", "as it was", ""), Vector("older", "int", "no longer made", "00")]
    monkeypatch.setattr(write_refused, "FILE", tmp_path / FILE.name)
    (tmp_path / FILE.name).write_bytes(msgspec.json.encode(kept))
    write_refused.main()
    assert write_refused.read()[:2] == kept
    assert {vector.name for vector in write_refused.read()} == {*VECTORS, "older"}
