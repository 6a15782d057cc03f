"""Correct transforms that the battery must pass, from which the broken ones derive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from stackc.core.abilities import Settling, Sharing, Trainable
from stackc.core.rate import rounded
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Transform, Weighted, require_finite
from stackc.util.errors import SpecError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Negate(Transform, frozen=True):
    """Lossless: the plane with its signs flipped."""

    name: ClassVar[str] = "sample-negate"
    version: ClassVar[int] = 1
    lossless: ClassVar[bool] = True

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        if not spec.is_real:
            raise SpecError(f"takes real planes, not {spec.dtype}; put it before int")
        return {"values": spec}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        return {"values": -x.detach()}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return -planes["values"].to(getattr(torch, spec.dtype))


class Absmax(Trainable, frozen=True):
    """Lossy: integer codes with one float32 scale per row, at least two axes."""

    name: ClassVar[str] = "sample-absmax"
    version: ClassVar[int] = 1
    side: ClassVar[frozenset[str]] = frozenset({"scale"})

    bits: int = 8

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        if not spec.is_real or len(spec.shape) < 2:
            raise SpecError(f"takes real planes of two axes or more, not {spec}; leave vectors to raw")
        top = 2 ** (self.bits - 1) - 1
        return {
            "codes": PlaneSpec(spec.shape, "int8", -top, top),
            "scale": PlaneSpec((spec.shape[0],) + (1,) * (len(spec.shape) - 1), "float32"),
        }

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        require_finite(x)
        x = x.detach().float().contiguous()
        top = 2 ** (self.bits - 1) - 1
        axes = tuple(range(1, x.dim()))
        largest = x.abs().amax(axes, keepdim=True) if x.numel() else x.new_zeros((x.shape[0],) + (1,) * (x.dim() - 1))
        scale = largest / top
        codes = torch.where(scale > 0, x / scale, 0.0).round().clamp(-top, top).to(torch.int8)
        return {"codes": codes, "scale": scale}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        return (planes["codes"] * planes["scale"]).to(getattr(torch, spec.dtype))

    def error_bound(self, x: Tensor) -> float:
        largest = float(x.detach().abs().max().double()) if x.numel() else 0.0
        step = 0.5 / (2 ** (self.bits - 1) - 1) + 2 * torch.finfo(x.dtype).eps
        return largest * step * x.numel() ** 0.5

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        return {"codes": Known(known.weights)}

    def relax(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        top = 2 ** (self.bits - 1) - 1
        scale = torch.where(planes["scale"] > 0, planes["scale"], 1.0)
        return {**planes, "codes": rounded((x.float() / scale).clamp(-top, top))}

    def harden(self, x: Tensor, planes: Mapping[str, Tensor]) -> tuple[Self, dict[str, Tensor]]:
        relaxed = self.relax(x.detach(), planes)
        assert relaxed is not None
        return self, {**relaxed, "codes": relaxed["codes"].to(torch.int8)}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        return {"codes": index, "scale": index}

    def rate(self, planes: Mapping[str, Tensor], bits: Callable[[str, Tensor], Tensor] | None = None) -> Tensor | None:
        return 0.0 * (planes["scale"].sum() + planes["codes"].sum()) + float(self.bits * planes["codes"].numel())


class OneScale(Absmax, Sharing, frozen=True):
    """Lossy: rows of equal place in all planes have the scale of the largest of them."""

    name: ClassVar[str] = "sample-one-scale"

    @property
    def common(self) -> frozenset[str]:
        return frozenset({"scale"})

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {"every": list(names)} if names else {}

    def find_common(self, planes: Mapping[str, Weighted]) -> dict[str, Tensor]:
        scales = [self.encode(weighted.plane)["scale"] for weighted in planes.values()]
        return {"scale": torch.stack(scales).amax(0)}

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        planes = super().encode(x, known)
        return planes if not known.shared else self.hold(x, {**planes, **known.shared})

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        _, made = self.harden(x, planes)
        return made


class KeepRows(Trainable, Settling, frozen=True):
    """Unsettled until it has counted the rows with the largest sums; lossy."""

    name: ClassVar[str] = "sample-keep-rows"
    version: ClassVar[int] = 1
    side: ClassVar[frozenset[str]] = frozenset({"mask"})

    share: float = 0.5
    count: int | None = None

    @property
    def settled(self) -> bool:
        return self.count is not None

    def settle(self, planes: Mapping[str, Weighted]) -> dict[str, Self]:
        if self.settled:
            return dict.fromkeys(planes, self)
        return {name: type(self)(self.share, int(self.share * planes[name].plane.shape[0])) for name in planes}

    def plan(self, spec: PlaneSpec) -> dict[str, PlaneSpec]:
        if not spec.is_real or len(spec.shape) != 2:
            raise SpecError(f"takes real matrices, not {spec}; leave other planes to raw")
        rows = spec.shape[0] if self.count is None else self.count
        return {
            "values": PlaneSpec((rows, spec.shape[1]), spec.dtype),
            "mask": PlaneSpec((spec.shape[0],), "bool", 0, 1),
        }

    def encode(self, x: Tensor, known: Known = NOTHING) -> dict[str, Tensor]:
        require_finite(x)
        x = x.detach().contiguous()
        score = x.double().abs().sum(1) * (1.0 if known.weights is None else known.weights.double())
        kept = torch.argsort(score, descending=True, stable=True)[: self.count]
        mask = torch.zeros(x.shape[0], dtype=torch.bool)
        mask[kept] = True
        return {"values": x[mask], "mask": mask}

    def decode(self, planes: Mapping[str, Tensor], spec: PlaneSpec) -> Tensor:
        zeros = planes["values"].new_zeros(spec.shape)
        return zeros.index_put((planes["mask"],), planes["values"]).to(getattr(torch, spec.dtype))

    def hold(self, x: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"values": x[planes["mask"]], "mask": planes["mask"]}

    def row_planes(self, index: Tensor, planes: Mapping[str, Tensor]) -> dict[str, Tensor | None] | None:
        mask = planes["mask"]
        return {"values": (mask.cumsum(0) - 1)[index[mask[index]]], "mask": index}

    def carry(self, known: Known, planes: Mapping[str, Tensor]) -> dict[str, Known]:
        weights = None if known.weights is None else known.weights[planes["mask"]]
        return {"values": Known(weights, known.moments)}
