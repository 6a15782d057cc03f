"""For each class of bug, the battery fails in the check that is meant to find it, and says what is wrong."""

from __future__ import annotations

import threading

import pytest
import torch

from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING
from stackc.testing import Plane, packer_checks, transform_checks
from stackc.testing.check import Check
from stackc.testing.damage import Guard, damaged
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy
from tests.testing import broken_packers, broken_transforms
from tests.testing.heavy_stages import HeavyCounted, HeavyNegate
from tests.testing.sample_packers import Counted
from tests.testing.sample_transforms import Absmax


def named(checks: list[Check], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def complaint(check: Check) -> str:
    with pytest.raises(AssertionError) as failure:
        check()
    return str(failure.value)


@pytest.mark.parametrize(
    "broken", broken_transforms.BROKEN, ids=lambda broken: f"{type(broken.transform).__name__}-{broken.check}"
)
def test_the_right_check_finds_the_broken_transform(broken):
    said = complaint(named(transform_checks(broken.transform), broken.check))
    assert broken.message in said
    assert "unexpected" not in said


@pytest.mark.parametrize(
    "broken", broken_packers.BROKEN, ids=lambda broken: f"{type(broken.packer).__name__}-{broken.check}"
)
def test_the_right_check_finds_the_broken_packer(broken):
    said = complaint(named(packer_checks(broken.packer), broken.check))
    assert broken.message in said
    assert "unexpected" not in said


@pytest.mark.parametrize(
    "checks", [transform_checks(HeavyNegate()), packer_checks(HeavyCounted())], ids=["transform", "packer"]
)
def test_a_module_that_imports_torch_is_found(checks):
    assert "loads torch and numpy" in complaint(named(checks, "planning"))


def test_own_planes_are_checked_too():
    class Fussy(Absmax, frozen=True):
        def encode(self, x, known=NOTHING):
            if x.shape == (3, 2, 1):
                raise ValueError("three rows of two are too many")
            return super().encode(x, known)

    named(transform_checks(Fussy()), "edge planes")()
    checks = transform_checks(Fussy(), planes={"three by two": torch.ones(3, 2, 1)})
    assert "'three by two'" in complaint(named(checks, "edge planes"))


def test_own_planes_of_packers_are_checked_too():
    class Fussy(Counted, frozen=True):
        def pack(self, x, spec):
            return super().pack(x * 2 if spec.shape == (3, 2, 1) else x, spec)

    own = {"three by two": Plane(PlaneSpec((3, 2, 1), "float32"), torch.ones(3, 2, 1))}
    assert "'three by two'" in complaint(named(packer_checks(Fussy(), planes=own), "own planes"))


def test_a_reader_that_never_returns_is_found():
    release = threading.Event()

    def read(data: bytes) -> None:
        if data == b"ac":
            release.wait()

    try:
        with pytest.raises(AssertionError, match=r"bit 0 of byte 1 flipped, has not returned after 0\.5 s"):
            Guard(1 << 20, 0.5).run(read, iter([("cut", b""), ("bit 0 of byte 1 flipped", b"ac")]), "a plane")
    finally:
        release.set()


def test_a_reader_that_allocates_what_the_bytes_declare_is_found():
    def read(data: bytes) -> None:
        numpy.ones(int.from_bytes(data, "little"), numpy.uint8)
        raise ArtifactError("the plane is not that long")

    Guard(1 << 20, 10).run(read, iter([("small", (1 << 16).to_bytes(4, "little"))]), "a plane")
    with pytest.raises(AssertionError, match="allocates"):
        Guard(1 << 20, 10).run(read, iter([("large", (1 << 24).to_bytes(4, "little"))]), "a plane")


@pytest.mark.parametrize("size", [0, 1, 5, 100, 3000])
def test_damaged_bytes_are_damaged(size):
    data = bytes(range(256)) * 12
    versions = list(damaged(data[:size], 0))
    assert all(version != data[:size] for _, version in versions)
    flips = {version for _, version in versions if len(version) == size}
    for bit in range(min(8 * size, 512)):
        expected = bytearray(data[:size])
        expected[bit // 8] ^= 1 << bit % 8
        assert bytes(expected) in flips
    lengths = {len(version) for _, version in versions}
    assert lengths >= {*range(min(size, 64)), size + 1}
