"""Safetensors headers are read without the library, and a damaged file gives a ModelError, never another exception."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from stackc.core.spec import PlaneSpec
from stackc.models import SafetensorsReference
from stackc.models.safetensors_file import read_header
from stackc.util.errors import ModelError

TENSORS = {
    "double": torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3),
    "single": torch.tensor([[1.5, float("nan")], [float("-inf"), -0.0]]),
    "half": torch.tensor([1.0, 2.0], dtype=torch.float16),
    "brain": torch.tensor([[3.0]], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "ids": torch.arange(4, dtype=torch.int32),
    "short": torch.tensor([-3], dtype=torch.int16),
    "codes": torch.tensor([-128, 127], dtype=torch.int8),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 5),
}


def write(path: Path, header: object, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def every_dtype(tmp_path: Path) -> Path:
    path = tmp_path / "all.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def test_header_agrees_with_the_library(every_dtype: Path) -> None:
    header = read_header(every_dtype)
    assert {name: stored.spec for name, stored in header.items()} == {
        name: PlaneSpec.of(t) for name, t in TENSORS.items()
    }
    with safe_open(every_dtype, framework="pt") as file:
        assert set(header) == set(file.keys())


def test_tensors_and_bytes_are_exact(every_dtype: Path) -> None:
    reference = SafetensorsReference.open(every_dtype, "typed")
    for name, tensor in TENSORS.items():
        read = reference.tensor(name)
        assert read.dtype == tensor.dtype
        assert read.shape == tensor.shape
        expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert b"".join(reference.chunks(name)) == expected
        assert not read.numel() or read.reshape(-1).view(torch.uint8).numpy().tobytes() == expected
    assert reference.nbytes == sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())
    assert reference.parameters == sum(tensor.numel() for tensor in TENSORS.values())


def test_a_tensor_is_a_copy(every_dtype: Path) -> None:
    reference = SafetensorsReference.open(every_dtype, "typed")
    reference.tensor("double").zero_()
    assert torch.equal(reference.tensor("double"), TENSORS["double"])


def test_order_is_that_of_the_bytes(tmp_path: Path) -> None:
    header = {"z": entry(offsets=(4, 8)), "__metadata__": {"format": "pt"}, "a": entry(offsets=(8, 12)), "m": entry()}
    path = write(tmp_path / "order.safetensors", header, bytes(12))
    assert list(read_header(path)) == ["m", "z", "a"]


def test_a_large_tensor_streams_in_small_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_file({"w": torch.arange(700_000, dtype=torch.float32)}, path)
    pieces = list(SafetensorsReference.open(path, "large").chunks("w"))
    assert max(map(len, pieces)) <= 1 << 20
    assert b"".join(pieces) == torch.arange(700_000, dtype=torch.float32).numpy().tobytes()


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        pytest.param({"w": entry("F8_E4M3", (4,))}, 4, "'w' .* dtype F8_E4M3.*float32", id="float8"),
        pytest.param({"w": entry("C64", (1,), (0, 8))}, 8, "'w' .* dtype C64", id="complex"),
        pytest.param({"w": entry(shape=(2,))}, 4, "gives it 4 bytes", id="too few bytes"),
        pytest.param({"w": entry(offsets=(4, 0))}, 4, "-4 bytes", id="offsets swapped"),
        pytest.param({"w": entry(shape=(-1, -1))}, 4, "shape", id="negative lengths"),
        pytest.param({"w": entry(shape=(1,) * 65)}, 4, "shape", id="too many axes"),
        pytest.param({"w": entry(shape=(2**62, 2**62))}, 4, "gives it 4 bytes", id="overflow"),
        pytest.param({"w": entry(offsets=(4, 8))}, 8, "hole", id="hole"),
        pytest.param({"v": entry(), "w": entry()}, 4, "overlaps", id="overlap"),
        pytest.param({"w": entry()}, 5, "describes", id="unindexed byte"),
        pytest.param({"w": entry()}, 3, "truncated", id="truncated"),
        pytest.param({"w": entry(shape="four")}, 4, "does not parse", id="shape of another type"),
        pytest.param({"w": {"dtype": "F32"}}, 4, "does not parse", id="no offsets"),
        pytest.param([], 0, "does not parse", id="a list"),
        pytest.param(b"\xff\xfe{}", 0, "does not parse", id="not UTF-8"),
        pytest.param(b'{"w":' + b"[" * 100_000, 0, "does not parse", id="nested deeply"),
        pytest.param(b'{"w":' + b'{"a":' * 100_000, 0, "does not parse", id="nested objects"),
    ],
)
def test_damage_is_named(tmp_path: Path, header: object, data: int, words: str) -> None:
    path = write(tmp_path / "bad.safetensors", header, bytes(data))
    with pytest.raises(ModelError, match=words):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"1234567", (10**9).to_bytes(8, "little") + b"{}", b"\xff" * 8])
def test_a_file_that_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="truncated, or not a safetensors file"):
        read_header(path)


def test_header_cap_is_checked_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:  # sparse: 200 MB that take no disk
        file.write((150_000_000).to_bytes(8, "little"))
        file.truncate(200_000_000)
    with pytest.raises(ModelError, match="header of 150000000 bytes"):
        read_header(path)


def test_unreadable_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_header(tmp_path / "missing.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        read_header(tmp_path)


def test_a_file_that_changes_while_in_use(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    reference = SafetensorsReference.open(path, "w")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ModelError, match="cannot be read"):
        reference.tensor("w")
    with pytest.raises(ModelError, match="shorter"):
        reference.fingerprint()
    save_file({"w": torch.zeros(5)}, path)
    with pytest.raises(ModelError, match="changed while it was in use"):
        reference.tensor("w")
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        reference.tensor("w")


def test_bool_bytes_other_than_0_and_1(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.safetensors", {"mask": entry("BOOL", (2,), (0, 2))}, b"\x01\x02")
    with pytest.raises(ModelError, match="other than 0 and 1"):
        SafetensorsReference.open(path, "mask").tensor("mask")


def test_unknown_tensor_gives_the_nearest(every_dtype: Path) -> None:
    reference = SafetensorsReference.open(every_dtype, "typed")
    with pytest.raises(ModelError, match="typed has no tensor 'singel', did you mean 'single'"):
        reference.tensor("singel")


def test_a_bare_file_has_no_architecture(every_dtype: Path) -> None:
    reference = SafetensorsReference.open(every_dtype, "typed")
    with pytest.raises(ModelError, match="says nothing about the architecture"):
        reference.build()
    assert reference.tokenizer() is None
    assert reference.config is None


def test_threads_read_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    state = {f"layer.{i}": torch.full((50, 50), float(i)) for i in range(20)}
    save_file(state, path)
    reference = SafetensorsReference.open(path, "many")
    wrong: list[str] = []

    def read() -> None:
        wrong.extend(name for name in reference.specs if not torch.equal(reference.tensor(name), state[name]))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BOOL", "I64", "F8_E5M2", ""]),
        "shape": st.lists(st.integers(-1, 3) | st.integers(), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 9) | st.integers(), max_size=3) | JSON,
    }
)
HEADER = st.dictionaries(st.text(max_size=4), ENTRY | JSON, max_size=3)


def usable(path: Path) -> None:
    """Open, read and hash a file: all of it works, or it is a ModelError."""
    with contextlib.suppress(ModelError):
        reference = SafetensorsReference.open(path, "fuzzed")
        for name, spec in reference.specs.items():
            assert spec.mismatch(reference.tensor(name)) is None
        assert len(reference.fingerprint()) == 64


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADER, data=st.binary(max_size=24))
def test_any_header_opens_or_raises_a_model_error(tmp_path: Path, header: object, data: bytes) -> None:
    usable(write(tmp_path / "fuzz.safetensors", header, data))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_opens_or_raises_a_model_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "flipped.safetensors"
    save_file({"a.weight": torch.ones(2, 3), "mask": torch.tensor([True, False])}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    usable(path)


READ_ALL = """
import resource, sys, torch
from pathlib import Path
from stackc.models import SafetensorsReference
reference = SafetensorsReference.open(Path(sys.argv[1]), "large")
reference.tensor("warm")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in reference.specs:
    reference.tensor(name)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_reading_one_by_one_holds_one_tensor(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    each, count = 32 << 20, 8
    header = {str(i): entry("U8", (each,), (i * each, (i + 1) * each)) for i in range(count)}
    path = write(tmp_path / "large.safetensors", header | {"warm": entry("U8", (1,), (count * each, count * each + 1))})
    with path.open("rb+") as file:  # sparse: takes no disk
        file.truncate(path.stat().st_size + count * each + 1)
    run = subprocess.run([sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True)
    # The copy and the mapped pages that it is made from.
    assert int(run.stdout) < 3 * each
