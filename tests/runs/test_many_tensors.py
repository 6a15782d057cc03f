"""Models of very many small tensors: what is the same for all of them is done once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import torch
import zstandard
from torch import nn

import stackc
from stackc.core.spec import PlaneSpec
from stackc.reporting import weight_errors
from stackc.transforms.int import Int
from stackc.util import peak_memory as meter


class Many(nn.Module):
    """So many parameters of 16 numbers each."""

    def __init__(self, count: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        for number in range(count):
            self.register_parameter(f"p{number}", nn.Parameter(torch.randn(4, 4, generator=draw)))


def test_set_ups_do_not_grow_with_the_number_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def counted(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def count(*args, **options):
            calls[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, name, count)

    class Parameters:
        """zstandard's, which cannot be patched itself."""

        original = zstandard.ZstdCompressionParameters

        @classmethod
        def from_level(cls, *args, **options):
            calls["from_level"] += 1
            return cls.original.from_level(*args, **options)

    counted(msgspec.structs, "fields")
    monkeypatch.setattr(zstandard, "ZstdCompressionParameters", Parameters)

    def run(count: int) -> Counter[str]:
        calls.clear()
        stackc.compress(Many(count), {"stages": ["int8", "zstd"]}, tmp_path / f"{count}.stackc")
        return Counter(calls)

    run(10)  # what is kept for good
    few, many = run(20), run(60)
    assert few["fields"] == many["fields"]
    assert few["from_level"] <= many["from_level"] < few["from_level"] + 20


def test_a_shape_is_hardly_planned_again_for_each_tensor_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, calls = Int.plan, []

    def counted(self: Int, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        calls.append(spec)
        return plan(self, spec)

    monkeypatch.setattr(Int, "plan", counted)
    stackc.compress(Many(50), {"stages": ["int8", "zstd"]}, tmp_path / "many.stackc")
    # by the planner itself, and whenever the description of a stack is read from the file: not at every stage and plane
    assert len(calls) < 6 * 50


def test_short_pieces_of_work_do_not_read_the_memory_each(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(meter, "resident_bytes", lambda: reads.append(1) or 1)
    with meter.MemoryMeter() as gauge:
        for _ in range(2000):
            with gauge.during("short"):
                pass
    assert len(reads) < 500
    assert gauge.peaks["short"] == 1


def test_small_planes_of_one_block_are_read_from_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "many.stackc"
    stackc.compress(Many(50), {"stages": ["int8", "zstd"]}, path)
    with stackc.open(path) as artifact:
        reads = []
        read = artifact._payload._read_file
        monkeypatch.setattr(artifact._payload, "_read_file", lambda *place: reads.append(place) or read(*place))
        one_by_one = [artifact[name] for name in artifact]
        assert len(reads) == 1
    assert len(one_by_one) == 50


def test_bits_that_an_earlier_file_had_are_not_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    difference = weight_errors._squared_difference

    def counted(reference, name, decoded):
        compared.append(name)
        return difference(reference, name, decoded)

    monkeypatch.setattr(weight_errors, "_squared_difference", counted)
    _, report = stackc.compress(
        Many(20), {"stages": ["int8", "zstd", {"use": "zstd", "allow_empty": True}]}, tmp_path / "a"
    )
    assert len(compared) == 20
    errors = [row.weight_error for row in report.stages]
    assert errors[0] == errors[1] == errors[2] > 0

    compared.clear()
    stackc.compress(Many(20), {"stages": [{"use": "prune", "sparsity": 0.5}, "int8", "zstd"]}, tmp_path / "b")
    assert len(compared) == 40  # both stages that lose something, and not the last one


@pytest.mark.parametrize("stages", [["zstd"], ["int8", "zstd"]])
def test_a_small_tensor_takes_little_time(tmp_path: Path, stages: list[str]) -> None:
    path = tmp_path / "many.stackc"
    stackc.compress(Many(2), {"stages": stages}, path)  # what is loaded and compiled once
    begin = os.times().user
    stackc.compress(Many(1000), {"stages": stages}, path, overwrite=True)
    with stackc.open(path) as artifact:
        artifact.state_dict()
    assert os.times().user - begin < 6  # four times what it takes on a busy machine
