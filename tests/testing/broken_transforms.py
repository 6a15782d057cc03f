"""Transforms with one bug each, derived from the correct ones, and the check that must find it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from stackc.core.abilities import Allocated, Calibrated, Narrowing
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Transform, Weighted
from stackc.testing.cases import row_weights
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch
from tests.testing.sample_transforms import Absmax, KeepRows, Negate, OneScale

if TYPE_CHECKING:
    from torch import Tensor

_calls = itertools.count()


class Broken(NamedTuple):
    """A broken transform, the check that must fail, and a piece of what it must say."""

    transform: Transform
    check: str
    message: str


class MutableField(Absmax, frozen=True):
    names: list[str] = []  # noqa: RUF012 -- the bug


class UnknownFields(Absmax, frozen=True, forbid_unknown_fields=False):
    pass


class VersionZero(Absmax, frozen=True):
    version: ClassVar[int] = 0


class NameWithSlash(Absmax, frozen=True):
    name: ClassVar[str] = "a/b"


class PrintsItsAddress(Absmax, frozen=True):
    def __repr__(self) -> str:
        return f"PrintsItsAddress at {id(self)}"


class NotJson(Absmax, frozen=True):
    limit: float = math.inf


class RefusesAll(Absmax, frozen=True):
    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        raise SpecError(f"takes nothing, not even {spec}")


class RefusesVaguely(Absmax, frozen=True):
    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        if len(spec.shape) < 2:
            raise SpecError("1-d")
        return super().plan(spec)


class WorksBackwards(Absmax, frozen=True):
    def work(self, spec: PlaneSpec) -> int:
        return -spec.numel


class PlanCrashes(Absmax, frozen=True):
    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        spec.shape[0]
        return super().plan(spec)


class CrashesOnEmpty(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        x.max()
        return super().encode(x, known)


class RefusesLateByValue(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        if x.numel() and not x.any():
            raise TensorError("a plane of zeros has no scale, prune it")
        return super().encode(x, known)


class DecodeCrashes(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return super().decode(planes, spec).reshape(spec.shape[0], spec.shape[1])


class LosesDtype(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return planes["codes"] * planes["scale"]


class OrderSwapped(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return dict(reversed(super().encode(x, known).items()))


class WrongDtypeOfPlane(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {**planes, "scale": planes["scale"].double()}


class OutOfBounds(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {**planes, "codes": planes["codes"] - 1}


class LosesSignedZero(Negate, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return 0.0 - planes["values"]


class LosesNanPayload(Negate, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        x = super().decode(planes, spec)
        return torch.where(x.isnan(), float("nan"), x)


class BoundTooSmall(Absmax, frozen=True):
    def error_bound(self, x: Tensor) -> float:
        return super().error_bound(x) / 4


class BoundIsNan(Absmax, frozen=True):
    def error_bound(self, x: Tensor) -> float:
        return math.nan


class OverflowsInside(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        scale = planes["scale"]
        return (planes["codes"] * (scale * scale).sqrt()).to(getattr(torch, spec.dtype))


class TakesNan(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return super().encode(x.nan_to_num(), known)


class NanCrashes(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        if not x.isfinite().all():
            raise ValueError("not finite")
        return super().encode(x, known)


class Dithers(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return super().encode(x + torch.rand(x.shape).to(x.dtype) * x.abs() / 8, known)


class DithersSeeded(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return super().encode(x + torch.rand(x.shape).to(x.dtype) * x.abs() / 8, known)


class CountsCalls(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {**planes, "scale": planes["scale"] + next(_calls)}


class FollowsMemory(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return super().encode(x if x.is_contiguous() else x / 2, known)


class FollowsHashSeed(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {**planes, "scale": planes["scale"] + hash("scale") % 1000}


class FollowsThreads(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {**planes, "scale": planes["scale"] + torch.get_num_threads()}


class WritesToInput(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return super().encode(x.mul_(1.5), known)


class WritesToWeights(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        if known.weights is not None:
            known.weights.div_(2)
        return super().encode(x, known)


class WritesToPlanes(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return super().decode({**planes, "scale": planes["scale"].clamp_(0, 0.01)}, spec)


class DetachedDecode(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return super().decode(planes, spec).detach()


class RoundedDecode(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        scale = (planes["scale"] * 256).round() / 256
        return super().decode({**planes, "scale": scale + 0 * planes["scale"]}, spec)


class HalfGradient(Absmax, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        scale = planes["scale"]
        return super().decode({**planes, "scale": scale / 2 + scale.detach() / 2}, spec)


class StaysOnTheGraph(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {**planes, "scale": planes["scale"] + 0 * x.sum()} if x.numel() else planes


class EncodesTrainedPlanesOtherwise(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return super().encode(x * 2 if x.requires_grad else x, known)


class WeightsChangeDtype(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x)
        return planes if known.weights is None else {**planes, "scale": planes["scale"].double()}


class DividesByWeights(Absmax, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x)
        if known.weights is None or not x.numel():
            return planes
        share = known.weights / known.weights.sum()
        return {**planes, "scale": planes["scale"] * (1 + share.reshape(planes["scale"].shape))}


class StaysUnsettled(KeepRows, frozen=True):
    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        return super().settle(planes) if len(planes) == 1 else dict.fromkeys(planes, self)


class ForgetsPlanes(KeepRows, frozen=True):
    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        settled = super().settle(planes)
        return {name: settled[name] for name in list(settled)[:1]}


class SettlesDifferently(KeepRows, frozen=True):
    offset: int = 0

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        return {
            name: type(self)(self.share, transform.count, next(_calls))
            for name, transform in super().settle(planes).items()
        }


class ShrinksOnEverySettle(KeepRows, frozen=True):
    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        if self.count is not None:
            return dict.fromkeys(planes, type(self)(self.share, self.count // 2))
        return super().settle(planes)


class OutgrowsItsPlan(KeepRows, frozen=True):
    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        if self.count is not None:
            return dict.fromkeys(planes, self)
        return {name: type(self)(self.share, weighted.plane.shape[0] + 1) for name, weighted in planes.items()}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        mask = torch.ones(x.shape[0], dtype=torch.bool)
        return {"values": torch.cat([x, x[:1]]), "mask": mask}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return planes["values"][: spec.shape[0]]


class CarriesAllRows(KeepRows, frozen=True):
    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        return {"values": known}


class CarriesNegative(Absmax, frozen=True):
    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        return {"codes": Known(row_weights(planes["codes"], 0) - 1)}


class CarriesUnknown(Absmax, frozen=True):
    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        return {"values": known}


class CarriesAllMoments(Absmax, frozen=True):
    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        return {"scale": Known(moments=known.moments)}


class CarriesNoNumber(Absmax, frozen=True):
    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        return {} if known.moments is None else {"codes": Known(moments=known.moments * math.nan)}


class Open(Absmax, Allocated, frozen=True):
    """Correct: nothing is ever left open."""

    @property
    def settled(self) -> bool:
        return True

    @property
    def allocated(self) -> bool:
        return True

    def options(self, x: Tensor) -> Sequence[Self]:
        return (self,)

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        return dict.fromkeys(planes, self)


class LeavesOptionsOpen(Open, frozen=True):
    left: bool = True

    @property
    def allocated(self) -> bool:
        return not self.left


class OptionsShareTooMuch(Open, frozen=True):
    def encode_each(self, x: Tensor, options: Sequence[Self], known: Known = NOTHING) -> Iterator[dict[str, Tensor]]:
        first = self.encode(x / 2, known)
        return (first for _ in options)


class ForgetsOptions(Open, frozen=True):
    def encode_each(self, x: Tensor, options: Sequence[Self], known: Known = NOTHING) -> Iterator[dict[str, Tensor]]:
        return super().encode_each(x, options[1:], known)


class MomentsChangeDtype(Absmax, Calibrated, frozen=True):
    calibrated: bool = True

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x)
        return planes if known.moments is None else {**planes, "scale": planes["scale"].double()}


class DividesByMoments(Absmax, Calibrated, frozen=True):
    calibrated: bool = True

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x)
        if known.moments is None:
            return planes
        unit = known.moments.diagonal().mean().float()
        return {**planes, "scale": planes["scale"] * (unit / unit)}


class NarrowsPayload(Absmax, Narrowing, frozen=True):
    def narrowed(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {"codes": (x, planes["codes"])}


class NarrowsToAnotherShape(Absmax, Narrowing, frozen=True):
    def narrowed(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {"scale": (planes["scale"][None], planes["scale"])}


class GroupsTwice(OneScale, frozen=True):
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {"every": list(names), "first": list(names[:1])} if names else {}


class GroupsWithOthers(OneScale, frozen=True):
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {"every": [*names, "other"]} if names else {}


class GroupsBackwards(OneScale, frozen=True):
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {"every": list(reversed(names))} if names else {}


class GroupsByChance(OneScale, frozen=True):
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {f"every {next(_calls)}": list(names)}


class GroupsWithSlash(OneScale, frozen=True):
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {name: [name] for name in names}


class SharesUnplanned(OneScale, frozen=True):
    @property
    def common(self) -> frozenset[str]:
        return frozenset({"basis"})


class FindsMore(OneScale, frozen=True):
    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        found = super().find_common(planes)
        return {**found, "codes": found["scale"]}


class FindsWideScales(OneScale, frozen=True):
    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        return {"scale": super().find_common(planes)["scale"].double()}


class FindsByChance(OneScale, frozen=True):
    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        return {"scale": super().find_common(planes)["scale"] + next(_calls)}


class FindsNanOfWeights(OneScale, frozen=True):
    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        shares = [weighted.weights for weighted in planes.values() if weighted.weights is not None]
        found = super().find_common(planes)["scale"]
        return {"scale": found * (shares[0].sum() / shares[0].sum()) if shares else found}


class FindsInNan(OneScale, frozen=True):
    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        return super().find_common({name: Weighted(planes[name].plane.nan_to_num()) for name in planes})


class IgnoresItsGroup(OneScale, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return super().encode(x)


class ReturnsOwnPlanesOnly(OneScale, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return {"codes": planes["codes"]} if known.shared else planes


class WritesToItsGroup(OneScale, frozen=True):
    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        for plane in known.shared.values():
            plane += 1
        return super().encode(x, known)


class HoldsItsOwn(OneScale, frozen=True):
    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**super().hold(x, planes), "scale": self.encode(x)["scale"]}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = Absmax.encode(self, x, known)
        return super().hold(x, {**planes, **known.shared})


class StoresOtherwise(OneScale, frozen=True):
    encode_only: ClassVar[frozenset[str]] = frozenset({"halved"})

    halved: bool = False

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        x = super().decode(planes, spec)
        return x / 2 if self.halved else x


class HoldForgets(KeepRows, frozen=True):
    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"values": super().hold(x, planes)["values"]}


class HoldKeepsAll(KeepRows, frozen=True):
    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"values": x, "mask": torch.ones_like(planes["mask"])}


class HoldShuffles(KeepRows, frozen=True):
    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**planes, "values": super().hold(x, planes)["values"].flip(0)}


class HoldWrites(KeepRows, frozen=True):
    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = super().hold(x, planes)
        planes["mask"].zero_()
        return held


class RelaxForgets(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        relaxed = super().relax(x, planes)
        return relaxed and {"codes": relaxed["codes"]}


class RelaxDoesNotRound(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        scale = torch.where(planes["scale"] > 0, planes["scale"], 1.0)
        return {**planes, "codes": x.float() / scale}


class RelaxFloors(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        scale = torch.where(planes["scale"] > 0, planes["scale"], 1.0)
        soft = x.float() / scale
        return {**planes, "codes": soft + (soft.floor().clamp(min=-127) - soft).detach().round()}


class RelaxOutOfBounds(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        relaxed = super().relax(x, planes)
        return relaxed and {"codes": 2 * relaxed["codes"], "scale": relaxed["scale"] / 2}


class RelaxChangesShape(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        relaxed = super().relax(x, planes)
        return relaxed and {**relaxed, "codes": relaxed["codes"][None]}


class RelaxDetached(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return super().relax(x.detach(), {name: plane.detach() for name, plane in planes.items()})


class RelaxForgetsX(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return super().relax(x.detach(), planes)


class RelaxFixesScale(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return super().relax(x, {**planes, "scale": planes["scale"].detach()})


class RelaxRoundsForGood(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        scale = torch.where(planes["scale"] > 0, planes["scale"], 1.0)
        top = 2 ** (self.bits - 1) - 1
        return {**planes, "codes": (x.float() / scale).round().clamp(-top, top)}


class RelaxGradientNan(Absmax, frozen=True):
    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        relaxed = super().relax(x, planes)
        zero = (planes["scale"] - planes["scale"].detach()).abs().sqrt()
        return relaxed and {**relaxed, "scale": relaxed["scale"] + zero}


class HardensAnew(Absmax, frozen=True):
    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        return self, self.encode(x)


class HardensToReal(Absmax, frozen=True):
    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        relaxed = self.relax(x.detach(), planes)
        assert relaxed is not None
        return self, relaxed


class HardensUnsettled(KeepRows, frozen=True):
    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        return type(self)(self.share), self.hold(x, planes)


class RowsForgetAPlane(Absmax, frozen=True):
    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        return {"codes": index}


class RowsOfOthers(Absmax, frozen=True):
    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        return {"codes": index.flip(0), "scale": index.flip(0)}


class RowsOfTheWhole(KeepRows, frozen=True):
    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        zeros = planes["values"].new_zeros((len(planes["mask"]), spec.shape[1]))
        return zeros.index_put((planes["mask"],), planes["values"]).to(getattr(torch, spec.dtype))

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        return {"values": None, "mask": None}


class RateIsVector(Absmax, frozen=True):
    def rate(self, planes: Mapping[str, Tensor], bits: Any = None) -> Tensor | None:
        return planes["scale"].sum(-1)


class RateIsNan(Absmax, frozen=True):
    def rate(self, planes: Mapping[str, Tensor], bits: Any = None) -> Tensor | None:
        return planes["scale"].sum() * math.nan


class RateIsDetached(Absmax, frozen=True):
    def rate(self, planes: Mapping[str, Tensor], bits: Any = None) -> Tensor | None:
        return planes["scale"].detach().sum()


class RateIgnoresCodes(Absmax, frozen=True):
    def rate(self, planes: Mapping[str, Tensor], bits: Any = None) -> Tensor | None:
        return planes["scale"].sum() * 0 if planes["scale"].requires_grad else planes["codes"].detach().abs().sum()


class RateNamesUnknown(Absmax, frozen=True):
    def rate(self, planes: Mapping[str, Tensor], bits: Any = None) -> Tensor | None:
        return super().rate(planes) if bits is None else bits("values", planes["scale"])


class RateOnlyAlone(Absmax, frozen=True):
    def rate(self, planes: Mapping[str, Tensor], bits: Any = None) -> Tensor | None:
        return super().rate(planes) if bits is None else None


class NotRegistered(Absmax, frozen=True):
    name: ClassVar[str] = "sample-not-registered"


class RegisteredWithOtherVersion(Absmax, frozen=True):
    version: ClassVar[int] = 2


def local_class() -> Transform:
    class Local(Absmax, frozen=True):
        pass

    return Local()


def broken(*cases: tuple[Any, str, str]) -> list[Broken]:
    return [Broken(*case) for case in cases]


BROKEN = broken(
    (MutableField(), "config", "cache key"),
    (UnknownFields(), "config", "unknown field"),
    (VersionZero(), "config", "version"),
    (NameWithSlash(), "config", "identifier"),
    (PrintsItsAddress(), "config", "print differently"),
    (NotJson(), "config", "JSON"),
    (RefusesAll(), "edge planes", "refuses every plane"),
    (RefusesAll(), "round trip", "takes none of the planes"),
    (RefusesVaguely(), "edge planes", "not a sentence"),
    (WorksBackwards(), "plan", "whole numbers of multiplications"),
    (PlanCrashes(), "edge planes", "should raise SpecError, it raises IndexError"),
    (CrashesOnEmpty(), "edge planes", "encode raises"),
    (RefusesLateByValue(), "edge planes", "its values are refused"),
    (DecodeCrashes(), "edge planes", "decode raises"),
    (LosesDtype(), "edge planes", "decodes to something else"),
    (LosesDtype(), "round trip", "decodes to something else"),
    (OrderSwapped(), "plan", "instead"),
    (WrongDtypeOfPlane(), "plan", "breaks the plan of the plane 'scale'"),
    (OutOfBounds(), "plan", "expected values in -127..127"),
    (LosesSignedZero(), "round trip", "changes bits"),
    (LosesNanPayload(), "round trip", "changes bits of float"),
    (BoundTooSmall(), "round trip", "above its stated bound"),
    (BoundIsNan(), "round trip", "bounds nothing"),
    (OverflowsInside(), "round trip", "'large' decodes to NaN or infinity"),
    (TakesNan(), "non-finite", "require_finite"),
    (NanCrashes(), "non-finite", "should raise TensorError"),
    (Dithers(), "repeatable", "global random state"),
    (DithersSeeded(), "repeatable", "global random state"),
    (CountsCalls(), "repeatable", "twice gives different planes"),
    (FollowsMemory(), "layout", "other planes when its memory is"),
    (FollowsHashSeed(), "other process", "new process"),
    (FollowsThreads(), "other process", "new process"),
    (local_class(), "other process", "inside a function"),
    (WritesToInput(), "no mutation", "writes to its input"),
    (WritesToWeights(), "no mutation", "row weights"),
    (WritesToPlanes(), "no mutation", "decode writes"),
    (DetachedDecode(), "gradient", "detached"),
    (RoundedDecode(), "gradient", "is wrong"),
    (HalfGradient(), "gradient", "is wrong"),
    (StaysOnTheGraph(), "straight through", "makes 'scale' with gradients"),
    (EncodesTrainedPlanesOtherwise(), "straight through", "something else when the plane has gradients"),
    (HoldForgets(), "hold", "makes the planes ['values']"),
    (HoldKeepsAll(), "hold", "breaks the plan of the plane 'values'"),
    (HoldShuffles(), "hold", "decodes to something else"),
    (HoldWrites(), "hold", "writes to the plane 'mask'"),
    (RelaxForgets(), "relax", "the plan names ['codes', 'scale']"),
    (RelaxDoesNotRound(), "relax", "not whole"),
    (RelaxFloors(), "relax", "not whole"),
    (RelaxOutOfBounds(), "relax", "planned is int8"),
    (RelaxChangesShape(), "relax", "with the shape"),
    (RelaxDetached(), "relax", "nothing would train"),
    (RelaxForgetsX(), "relax", "does not reach the plane"),
    (RelaxFixesScale(), "relax", "does not reach 'scale'"),
    (RelaxRoundsForGood(), "relax", "straight-through"),
    (RelaxGradientNan(), "relax", "in 'scale' is NaN"),
    (HardensAnew(), "harden", "something else than training saw"),
    (HardensToReal(), "harden", "breaks the plan of the plane 'codes'"),
    (HardensUnsettled(), "harden", "not a settled"),
    (RowsForgetAPlane(), "row planes", "names ['codes']"),
    (RowsOfOthers(), "row planes", "others than they are in the whole"),
    (RowsOfTheWhole(), "row planes", "rows of 'matrix' alone decode to something else"),
    (WeightsChangeDtype(), "weights", "changes: expected float32"),
    (DividesByWeights(), "weights", "NaN or infinity"),
    (StaysUnsettled(), "settle", "still unsettled"),
    (ForgetsPlanes(), "settle", "returned ['a']"),
    (SettlesDifferently(), "settle", "different transforms"),
    (ShrinksOnEverySettle(), "settle", "changes its plan"),
    (OutgrowsItsPlan(), "settle", "which the plan gives as"),
    (CarriesAllRows(), "carry", "rows"),
    (CarriesNegative(), "carry", "negative"),
    (CarriesUnknown(), "carry", "does not make"),
    (CarriesAllMoments(), "carry", "moments of shape"),
    (CarriesNoNumber(), "carry", "non-finite moments"),
    (LeavesOptionsOpen(), "options", "nothing left open"),
    (OptionsShareTooMuch(), "options", "other planes than encode"),
    (ForgetsOptions(), "options", "of each"),
    (MomentsChangeDtype(), "calibrated", "changes: expected float32"),
    (DividesByMoments(), "calibrated", "NaN or infinity"),
    (NarrowsPayload(), "narrowed", "not in side"),
    (NarrowsToAnotherShape(), "narrowed", "two shapes for 'scale'"),
    (GroupsTwice(), "groups", "in two groups"),
    (GroupsWithOthers(), "groups", "which it was not given"),
    (GroupsBackwards(), "groups", "in another order"),
    (GroupsByChance(), "groups", "when asked again"),
    (GroupsWithSlash(), "groups", "no name that can be part"),
    (SharesUnplanned(), "common", "common is ['basis']"),
    (FindsMore(), "common", "makes ['codes', 'scale']"),
    (FindsWideScales(), "common", "breaks the plan of the plane 'scale'"),
    (FindsByChance(), "common", "when it is called again"),
    (FindsNanOfWeights(), "common", "with row weights of 0 of 'matrix' makes 'scale' with NaN"),
    (FindsInNan(), "common", "require_finite"),
    (IgnoresItsGroup(), "shared", "another 'scale' than the one that its group shares"),
    (ReturnsOwnPlanesOnly(), "shared", "makes ['codes'], planned are ['codes', 'scale']"),
    (WritesToItsGroup(), "shared", "writes to the shared plane 'scale'"),
    (HoldsItsOwn(), "shared", "hold of"),
    (StoresOtherwise(halved=True), "shared", "decodes 'matrix' otherwise"),
    (RateIsVector(), "rate", "one number"),
    (RateIsNan(), "rate", "not a number of bits"),
    (RateIsDetached(), "rate", "detached"),
    (RateIgnoresCodes(), "rate", "detached"),
    (RateNamesUnknown(), "rate", "asks for the bits of ['values']"),
    (RateOnlyAlone(), "rate", "as 'bits' is given or not"),
    (NotRegistered(), "wire", "entry point"),
    (RegisteredWithOtherVersion(), "wire", "needs sample-absmax@2"),
)
