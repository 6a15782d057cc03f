"""Decoded tensors have the same bits whoever asks for them, and a checksum says so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import stackc
from stackc.artifact.reader import Artifact
from stackc.core.planes import to_bytes
from stackc.transforms.seed import Seed
from tests.helpers.crafted import write_artifact

STAGES = [{"use": "seed", "rank": 17}, "raw"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix whose product a library splits between threads."""
    x = torch.randn(5000, 33, generator=torch.Generator().manual_seed(0))
    return write_artifact(tmp_path_factory.mktemp("large") / "large.stackc", {"w": (x, STAGES)})


@pytest.mark.parametrize("product", ["of the format", "of a library, as a plugin may have it"])
def test_bits_do_not_depend_on_threads_or_on_the_company(large: Path, product: str, monkeypatch) -> None:
    if product != "of the format":
        monkeypatch.setattr(
            Seed, "decode", lambda self, planes, spec: planes["mean"] + planes["scores"] @ planes["basis"]
        )
    before = torch.get_num_threads()
    with Artifact(large) as artifact:
        whole = artifact.state_dict()["w"]
        checksum = artifact.checksum()
        try:
            for threads in (1, 2, 4, 7):
                torch.set_num_threads(threads)
                assert torch.equal(artifact["w"], whole)
                assert torch.equal(artifact.state_dict(workers=threads)["w"], whole)
                assert artifact.checksum(workers=threads) == checksum
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)


def test_the_checksum_is_that_of_the_format_page(small: Path, tensors) -> None:
    """docs/format.md, "The same bits": what is hashed, in which order."""
    with Artifact(small) as artifact:
        digest = hashlib.sha256()
        for name, x in tensors.items():
            dtype = str(x.dtype).removeprefix("torch.")
            digest.update(json.dumps([name, dtype, list(x.shape)], separators=(",", ":")).encode() + b"\n")
            digest.update(to_bytes(artifact[name]))
        digest.update(b'{"decoder.weight":"embeddings.weight"}\n')
        assert artifact.checksum() == digest.hexdigest()


def test_the_checksum_of_a_file_without_loss_is_the_fingerprint_of_its_model(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    artifact, _ = stackc.compress(model, {"stages": ["floats", "zstd"]}, tmp_path / "model.stackc")
    with artifact:
        assert artifact.checksum() == stackc.models.open_reference(model).fingerprint()


def test_one_bit_of_one_tensor_changes_the_checksum(tmp_path: Path) -> None:
    found = set()
    for value in (0.0, -0.0, 2.0**-149):
        path = write_artifact(tmp_path / f"{len(found)}.stackc", {"w": (torch.tensor([1.0, value]), ["raw"])})
        with Artifact(path) as artifact:
            found.add(artifact.checksum())
    assert len(found) == 3


def test_packers_do_not_change_the_checksum(tmp_path: Path) -> None:
    x = torch.arange(24.0).reshape(4, 6)
    found = set()
    for packer in ("raw", "zstd", "floats"):
        with Artifact(write_artifact(tmp_path / f"{packer}.stackc", {"w": (x, [packer])})) as artifact:
            found.add(artifact.checksum())
    assert len(found) == 1
