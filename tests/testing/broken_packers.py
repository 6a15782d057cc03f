"""Packers with one bug each, derived from the correct one, and the check that must find it."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from stackc.core.packer import Packer
from stackc.core.planes import from_bytes, to_bytes
from stackc.core.spec import PlaneSpec
from stackc.util.errors import ArtifactError
from stackc.util.lazy import numpy, torch
from tests.testing.sample_packers import Counted

if TYPE_CHECKING:
    from torch import Tensor

_calls = itertools.count()


class Broken(NamedTuple):
    """A broken packer, the check that must fail, and a piece of what it must say."""

    packer: Packer
    check: str
    message: str


class MutableField(Counted, frozen=True):
    names: list[str] = []  # noqa: RUF012 -- the bug


class RefusesAll(Counted, frozen=True):
    def refusal(self, spec: PlaneSpec) -> str | None:
        return f"takes nothing, not even {spec}"


class RefusesVaguely(Counted, frozen=True):
    def refusal(self, spec: PlaneSpec) -> str | None:
        return "no" if spec.is_real else None


class WorksByHalves(Counted, frozen=True):
    def work(self, spec: PlaneSpec) -> int:
        return spec.numel / 2


class Contradicts(Counted, frozen=True):
    def accepts(self, spec: PlaneSpec) -> bool:
        return not spec.is_real


class LosesLargeIntegers(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        x = super().unpack(data, spec)
        return x.to(torch.int32).to(x.dtype) if x.dtype == torch.int64 else x


class ForgetsLowerBound(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        x = super().unpack(data, spec)
        return x if spec.lo is None or spec.dtype == "bool" else x - spec.lo


class LosesSparseMasks(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        x = super().unpack(data, spec)
        return torch.zeros_like(x) if spec.dtype == "bool" and 0 < int(x.sum()) < 20 else x


class LosesNanPayload(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        x = super().unpack(data, spec)
        return torch.where(x.isnan(), float("nan"), x) if spec.is_real else x


class LosesSignedZero(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        x = super().unpack(data, spec)
        return torch.where(x == 0, 0.0, x).to(x.dtype) if spec.is_real else x


class LosesAxes(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        return torch.atleast_1d(super().unpack(data, spec))


class CrashesOnEmpty(Counted, frozen=True):
    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        x.max()
        return super().pack(x, spec)


class FollowsMemory(Counted, frozen=True):
    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        x = x.as_strided(x.shape, torch.empty(x.shape).stride()) if x.dim() == 1 else x
        return super().pack(x, spec)


class CountsCalls(Counted, frozen=True):
    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        return super().pack(x, spec) + bytes([next(_calls) % 256])

    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        return super().unpack(data[:-1], spec)


class FollowsHashSeed(Counted, frozen=True):
    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        return super().pack(x, spec) + hash("salt").to_bytes(8, "little", signed=True)

    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        return super().unpack(data[:-8], spec)


class WritesToInput(Counted, frozen=True):
    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        data = super().pack(x, spec)
        x.zero_()
        return data


class SharesMemory(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        x = super().unpack(data, spec)
        if not spec.is_real or not spec.numel:
            return x
        with warnings.catch_warnings(action="ignore"):  # torch warns that bytes should not be written to
            return torch.frombuffer(data, dtype=x.dtype, offset=4).reshape(spec.shape)


class CrashesOnShortData(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        data[3]
        return super().unpack(data, spec)


class TrustsValues(Counted, frozen=True):
    """Stores whole elements and does not hold them against the bounds."""

    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        return to_bytes(x)

    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        return from_bytes(data, spec)


class TrustsMasks(Counted, frozen=True):
    """Makes masks of bytes other than 0 and 1."""

    def pack(self, x: Tensor, spec: PlaneSpec) -> bytes:
        return to_bytes(x) if spec.dtype == "bool" else super().pack(x, spec)

    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        if spec.dtype != "bool":
            return super().unpack(data, spec)
        if len(data) != spec.numel:
            raise ArtifactError("the mask has another number of bytes than elements")
        return torch.tensor(list(data), dtype=torch.uint8).view(torch.bool).reshape(spec.shape)


class TrustsLength(Counted, frozen=True):
    """A bomb: allocates what the bytes declare, up to a bound that is far above the plane."""

    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        numpy.zeros(min(int.from_bytes(data[:4], "little"), 1 << 26), numpy.uint8)
        return super().unpack(data, spec)


class Panic(BaseException):
    """As a Rust library raises it: no Exception."""


class Panics(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        try:
            return super().unpack(data, spec)
        except ArtifactError as error:
            raise Panic(str(error)) from error


class VagueDamage(Counted, frozen=True):
    def unpack(self, data: bytes, spec: PlaneSpec) -> Tensor:
        try:
            return super().unpack(data, spec)
        except ArtifactError as error:
            raise ArtifactError("damaged") from error


class TooMuchSide(Counted, frozen=True):
    def side_bytes(self, data: bytes, spec: PlaneSpec) -> int:
        return len(data) + 1


class NotRegistered(Counted, frozen=True):
    name: ClassVar[str] = "sample-not-registered"


BROKEN = [
    Broken(MutableField(), "config", "cache key"),
    Broken(RefusesAll(), "refusal", "refuses every plane"),
    Broken(RefusesAll(), "damage", "takes none of the planes"),
    Broken(RefusesVaguely(), "refusal", "not a sentence"),
    Broken(Contradicts(), "refusal", "disagree"),
    Broken(WorksByHalves(), "refusal", "whole numbers of multiplications"),
    Broken(LosesLargeIntegers(), "integers", "other bits"),
    Broken(ForgetsLowerBound(), "integers", "other bits"),
    Broken(LosesSparseMasks(), "masks", "other bits"),
    Broken(LosesNanPayload(), "reals", "other bits"),
    Broken(LosesSignedZero(), "reals", "other bits"),
    Broken(LosesAxes(), "shapes", "something else"),
    Broken(CrashesOnEmpty(), "shapes", "packing it raises"),
    Broken(FollowsMemory(), "layout", "other bytes when it is strided"),
    Broken(CountsCalls(), "repeatable", "twice gives different bytes"),
    Broken(FollowsHashSeed(), "other process", "new process"),
    Broken(WritesToInput(), "no mutation", "writes to the plane"),
    Broken(SharesMemory(), "no mutation", "shares memory"),
    Broken(CrashesOnShortData(), "damage", "IndexError"),
    Broken(TrustsValues(), "damage", "does not fit"),
    Broken(TrustsMasks(), "damage", "other than 0 and 1"),
    Broken(TrustsLength(), "damage", "allocates"),
    Broken(Panics(), "damage", "Panic"),
    Broken(VagueDamage(), "damage", "not a sentence"),
    Broken(TooMuchSide(), "side bytes", "side_bytes"),
    Broken(NotRegistered(), "wire", "entry point"),
]
