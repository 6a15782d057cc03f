"""Planes that stand once in a file and are used by many."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackc.artifact import container
from stackc.artifact.kept_planes import KeptPlanes
from stackc.artifact.reader import Artifact
from stackc.artifact.repacking import repack
from stackc.core.planes import to_bytes
from stackc.core.stack import Ref
from stackc.models import open_reference
from stackc.testing.planes import random_bits
from stackc.util.errors import ArtifactError, BaseNeededError, OutputError, StackcError
from tests.docs.second_decoder import SecondDecoder
from tests.helpers.crafted import parts, rewritten
from tests.helpers.sharing import (
    BASIS,
    HALVES,
    RAW,
    SCORES,
    TENSOR,
    Outside,
    base_model,
    base_of,
    example,
    halved,
    in_basis,
    numbers,
    programs,
    write_sharing,
)

FLOAT32, FLOAT16 = 0, 1
STACKS, TENSORS, SHARED = 2, 4, 8


def decoded(path: Path, name: str = "a") -> torch.Tensor:
    with Artifact(path) as artifact:
        return artifact[name]


def test_tensors_decode_with_the_planes_that_they_share(tmp_path: Path) -> None:
    basis = numbers(HALVES).float()
    path = example(tmp_path / "a.stackc")
    with Artifact(path) as artifact:
        for first, name in enumerate("abc"):
            assert torch.equal(artifact[name], numbers(SCORES, first) @ basis)
        assert torch.equal(artifact["whole"], basis)
        assert artifact.stack("a") == in_basis(Ref("@0"))
        assert [artifact.shared.stack(name) for name in artifact.shared] == [halved(Ref("@1")), RAW]
        assert torch.equal(artifact.shared["@1"], numbers(HALVES))
        assert artifact.shared.usage.users == [4, 1]
    second = SecondDecoder(path)
    with Artifact(path) as artifact:
        assert all(to_bytes(artifact[name]) == second.tensor(name).tobytes() for name in artifact)


def test_a_file_without_shared_planes_is_of_version_1(tmp_path: Path) -> None:
    tensors = {"a": (BASIS, RAW, [numbers(BASIS)])}
    plain = write_sharing(tmp_path / "plain.stackc", tensors, {})
    unused = write_sharing(tmp_path / "unused.stackc", tensors, {"@idle": (BASIS, RAW, [numbers(BASIS)])})
    assert plain.read_bytes() == unused.read_bytes()
    assert plain.read_bytes()[7] == 1
    assert len(parts(plain.read_bytes(), tmp_path)[0]) == 8
    assert example(tmp_path / "shared.stackc").read_bytes()[7] == 2


def test_shared_planes_are_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackc.transforms.cast import Cast

    calls = []
    decode = Cast.decode
    monkeypatch.setattr(Cast, "decode", lambda self, planes, spec: calls.append(1) or decode(self, planes, spec))
    with Artifact(example(tmp_path / "a.stackc")) as artifact:
        artifact.state_dict(workers=4)
        artifact["a"]
        assert len(calls) == 1
    with Artifact(tmp_path / "a.stackc") as artifact:
        monkeypatch.setattr(artifact.shared._memo, "limit", 0)
        state = artifact.state_dict(workers=2)
        assert len(calls) == 5  # nothing is kept: once for every user
    assert torch.equal(state["a"], decoded(tmp_path / "a.stackc"))


def test_a_memo_makes_each_once_and_keeps_few() -> None:
    memo, made, ready = KeptPlanes(100), [], threading.Barrier(4)

    def make() -> torch.Tensor:
        made.append(1)
        return torch.zeros(10)

    def ask(_: int) -> torch.Tensor:
        ready.wait()
        return memo.get(0, make)

    with ThreadPoolExecutor(4) as pool:
        assert len({id(tensor) for tensor in pool.map(ask, range(4))}) == 1
    assert len(made) == 1
    memo.get(1, make)
    memo.get(2, make)  # 120 bytes: the first goes
    memo.get(2, make)
    assert len(made) == 3
    memo.get(0, make)
    assert len(made) == 4
    memo.get(3, lambda: torch.zeros(1000))
    memo.get(0, make)
    assert len(made) == 4


def test_a_caller_may_change_what_it_got(tmp_path: Path) -> None:
    with Artifact(example(tmp_path / "a.stackc")) as artifact:
        before = artifact["whole"].clone()
        artifact["whole"].zero_()
        artifact.shared["@0"].zero_()
        assert torch.equal(artifact["whole"], before)


def test_one_tensor_reads_its_planes_and_those_that_it_refers_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = msgspec.structs.replace(BASIS, shape=(2, 50_000))
    tensor = msgspec.structs.replace(TENSOR, shape=(4, 50_000))
    tensors = {name: (tensor, in_basis(Ref(f"@{name}")), [numbers(SCORES)]) for name in ("a", "b", "c")}
    shared = {f"@{name}": (wide, RAW, [random_bits(wide, 1, name).nan_to_num(0, 1, 1).clamp(-9, 9)]) for name in "abc"}
    path = write_sharing(tmp_path / "a.stackc", tensors, shared)
    read = []
    pread = os.pread

    def counting(file: int, length: int, offset: int) -> bytes:
        read.append((offset, offset + length))
        return pread(file, length, offset)

    with Artifact(path) as artifact:
        monkeypatch.setattr(container.os, "pread", counting)
        artifact["b"]
        start = artifact.container_bytes + artifact.shared.planes("@1")[0].start
        length, block = artifact.shared.planes("@1")[0].length, container.BLOCK_BYTES
        assert 0 < sum(end - begin for begin, end in read) <= length + 3 * block
        for begin, end in read:
            own = begin < artifact.container_bytes + block
            assert own or (begin > start - block and end < start + length + block)


@pytest.mark.parametrize("users", [1, 2])
def test_a_base_model_is_asked_for_and_another_is_refused(tmp_path: Path, users: int) -> None:
    model = base_model()
    tensors = {f"w{number}": (BASIS, Ref("@w"), []) for number in range(users)}
    tensors["free"] = (BASIS, RAW, [numbers(BASIS)])
    shared = {"@w": (BASIS, Outside(base_of(model), "weight"), [])}
    path = write_sharing(tmp_path / "a.stackc", tensors, shared)
    sha256 = open_reference(model).fingerprint()
    other = open_reference(torch.nn.Linear(6, 2))
    with Artifact(path) as artifact:
        assert torch.equal(artifact["free"], numbers(BASIS))
        with pytest.raises(
            BaseNeededError, match=rf"needs the base model sha256:{sha256[:16]}\.\.\. \(it was some/model\)"
        ):
            artifact["w0"]
        with pytest.raises(ArtifactError, match=f"is another one, sha256:{other.fingerprint()[:16]}") as refusal:
            artifact.attach(other)
        assert sha256[:16] in str(refusal.value)
        artifact.attach(open_reference(model))
        assert torch.equal(artifact["w0"], model.weight)
        assert artifact.bases == [(sha256, "some/model")]
        assert artifact.shared.outside("@0") == (artifact.bases[0], "weight")
    with Artifact(path, base=open_reference(model)) as artifact:
        assert torch.equal(artifact.state_dict()["w0"], model.weight)
    with pytest.raises(ArtifactError, match="is another one"):
        Artifact(path, base=other)
    bases = {sha256: {"weight": model.weight.detach().numpy()}}
    assert SecondDecoder(path, bases).tensor("w0").tobytes() == to_bytes(model.weight.detach())
    plain = write_sharing(tmp_path / "plain.stackc", {"free": tensors["free"]}, {})
    with pytest.raises(ArtifactError, match="needs no base model"):
        Artifact(plain, base=other)


def test_a_base_with_other_tensors_than_the_file_says(tmp_path: Path) -> None:
    model = base_model()
    for spec, tensor, says in ((TENSOR, "weight", "it is float32 2x6 there"), (BASIS, "bias", "there is none")):
        shared = {"@w": (spec, Outside(base_of(model), tensor), [])}
        path = write_sharing(tmp_path / "a.stackc", {"w": (spec, Ref("@w"), [])}, shared)
        with pytest.raises(ArtifactError, match=says):
            Artifact(path, base=open_reference(model))


def test_a_writer_refuses_circles_and_what_is_not_there(tmp_path: Path) -> None:
    tensor = {"a": (BASIS, Ref("@a"), [])}
    path = tmp_path / "a.stackc"
    with pytest.raises(OutputError, match="refer to each other in a circle, @a -> @b -> @a"):
        write_sharing(path, tensor, {"@a": (BASIS, Ref("@b"), []), "@b": (BASIS, Ref("@a"), [])})
    with pytest.raises(OutputError, match="'@b', which was not given"):
        write_sharing(path, tensor, {"@a": (BASIS, Ref("@b"), [])})
    with pytest.raises(OutputError, match="'@a', which was not given"):
        write_sharing(path, tensor, {})
    assert not path.exists()


def damaged(path: Path, folder: Path, change: object) -> Path:
    target = folder / "changed.stackc"
    target.write_bytes(rewritten(path.read_bytes(), folder, change))
    return target


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m[STACKS].__setitem__(3, 0), "refers to shared plane 0, and it may only refer to those after it"),
        (lambda m: m[STACKS].__setitem__(3, 7), "its stack refers to shared plane 7, the file has 2"),
        (lambda m: m[STACKS].__setitem__(3, -1), "its stack refers to shared plane -1, the file has 2"),
        (lambda m: m[STACKS].__setitem__(3, True), "that cannot be"),
        (lambda m: m[SHARED][0].__setitem__(1, FLOAT16), "which is float16 2x6"),
        (lambda m: m[SHARED][0].__setitem__(2, [6, 2]), "which is float32 6x2"),
        (lambda m: m[SHARED][0].__setitem__(2, [1 << 40, 6]), "which is float32 1099511627776x6"),
        (lambda m: m[SHARED][0].__setitem__(0, 99), "a shared plane has a stack that is not there"),
        (lambda m: m[SHARED][0].__setitem__(0, None), "one of the two"),
        (lambda m: m[SHARED][0].__setitem__(6, [0, "weight"]), "one of the two"),
        (
            lambda m: m[SHARED].__setitem__(0, [None, 0, [2, 6], [], None, None, [0, "w"]]),
            "base model that is not there",
        ),
        (lambda m: m[SHARED][0].__setitem__(4, 0), "bounded on both sides or on neither"),
        (lambda m: m[SHARED][0].__setitem__(1, 77), "a dtype that is not known"),
        (lambda m: m[9].extend([[b"short", "x"]]), "other than 32 bytes"),
        (lambda m: m[9].extend([[bytes(32), "x"]] * 3), "3 base models for 2 shared planes"),
        (lambda m: m[:9], "does not parse"),
        (lambda m: m[:8], "its manifest describes"),
    ],
)
def test_references_that_cannot_be(tmp_path: Path, change: object, says: str) -> None:
    path = damaged(example(tmp_path / "a.stackc"), tmp_path, change)
    with pytest.raises(ArtifactError, match=says):
        decoded(path)


def chained(path: Path, length: int) -> Path:
    shared = {f"@{number}": (BASIS, Ref(f"@{number + 1}"), []) for number in range(length - 1)}
    shared[f"@{length - 1}"] = (BASIS, RAW, [numbers(BASIS)])
    return write_sharing(path, {"a": (BASIS, Ref("@0"), [])}, shared)


def test_chains_have_an_end(tmp_path: Path) -> None:
    assert torch.equal(decoded(chained(tmp_path / "a.stackc", 32)), numbers(BASIS))
    with pytest.raises(ArtifactError, match="begins a chain of 33 planes that refer to each other, more than 32"):
        decoded(chained(tmp_path / "b.stackc", 33))
    with pytest.raises(ArtifactError, match="begins a chain of 3000 planes"):
        decoded(chained(tmp_path / "c.stackc", 3000))


def test_what_is_shared_counts_once_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Artifact(example(tmp_path / "a.stackc")) as artifact:
        kept = artifact.shared.usage.cost
    monkeypatch.setattr("stackc.artifact.usage.kept_limit", lambda _: 0)
    with Artifact(tmp_path / "a.stackc") as artifact:
        again = artifact.shared.usage.cost
    assert again.planes - kept.planes == 3 * (BASIS.nbytes + HALVES.nbytes)
    assert again.work > kept.work


def test_repacking_keeps_planes_shared(tmp_path: Path) -> None:
    spec, half = (msgspec.structs.replace(each, shape=(2, 600)) for each in (BASIS, HALVES))
    tensor, model = msgspec.structs.replace(TENSOR, shape=(4, 600)), base_model()
    tensors = {name: (tensor, in_basis(Ref("@b")), [numbers(SCORES)]) for name in ("a", "@0")}
    tensors["w"] = (BASIS, Ref("@w"), [])
    shared = {
        "@b": (spec, halved(Ref("@h")), []),
        "@h": (half, RAW, [numbers(half)]),
        "@w": (BASIS, Outside(base_of(model), "weight"), []),
    }
    old, new = write_sharing(tmp_path / "old.stackc", tensors, shared), tmp_path / "new.stackc"
    result = repack(old, new)
    assert (result.planes, new.stat().st_size) == (3, result.after)
    assert result.after < result.before
    with Artifact(old, base=open_reference(model)) as before, Artifact(new, base=open_reference(model)) as after:
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert len(after.shared) == 3


def value(name: str, tensors: dict, shared: dict) -> torch.Tensor:
    """What a tensor or plane of a program is."""
    _, stack, planes = tensors[name] if name in tensors else shared[name]
    if isinstance(stack, Ref):
        return value(stack.plane, tensors, shared)
    if stack == RAW:
        return planes[0]
    return planes[0] @ value(stack.planes["basis"].plane, tensors, shared)


@given(programs())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_programs_round_trip(tmp_path: Path, program: tuple[dict, dict]) -> None:
    tensors, shared = program
    path = write_sharing(tmp_path / "a.stackc", tensors, shared)
    with Artifact(path) as artifact:
        state = artifact.state_dict()
        assert all(torch.equal(state[name], value(name, tensors, shared)) for name in tensors)
        assert all(artifact.shared.usage.users)
    second = SecondDecoder(path)
    assert all(second.tensor(name).tobytes() == to_bytes(state[name]) for name in tensors)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_give_no_wrong_tensors(tmp_path: Path, data: st.DataObject) -> None:
    path = example(tmp_path / "a.stackc")
    good = path.read_bytes()
    with Artifact(path) as artifact:
        right = artifact.state_dict()
    at = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        with Artifact(path) as artifact:
            found = artifact.state_dict()
    except StackcError:
        return
    assert all(torch.equal(found[name], right[name]) for name in right)
