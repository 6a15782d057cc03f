"""Checks of what a transform can do beyond encoding and decoding, for those that can; see `stackc.core.abilities`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stackc.core.abilities import Allocated, Narrowing, Settling, Trainable, uses_moments
from stackc.core.transform import Known, Weighted
from stackc.testing.cases import Cases, LazyPlanes, second_moments
from stackc.testing.check import require
from stackc.testing.config import check_config
from stackc.testing.planes import same_bits
from stackc.testing.training import TrainingChecks
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def ability_checks(cases: Cases) -> dict[str, Callable[[], None]]:
    """The checks of the abilities that a transform has, by name."""
    transform = cases.transform
    checks: dict[str, Callable[[], None]] = {}
    if isinstance(transform, Settling):
        checks["settle"] = lambda: _settle(cases, transform)
    if isinstance(transform, Allocated):
        checks["options"] = lambda: _options(cases, transform)
    if uses_moments(transform):
        checks["calibrated"] = lambda: _calibrated(cases)
    if isinstance(transform, Narrowing):
        checks["narrowed"] = lambda: _narrowed(cases)
    if isinstance(transform, Trainable):
        training = TrainingChecks(cases)
        checks["hold"] = training.hold
        checks["relax"] = training.relax
        checks["harden"] = training.harden
        checks["row planes"] = training.row_planes
        checks["rate"] = training.rate
    return checks


def _settle(cases: Cases, unsettled: Settling) -> None:
    for case in cases.cases:
        upper = unsettled.plan(case.spec)
        planes = LazyPlanes({"a": Weighted(case.x), "b": Weighted(case.x)})
        settled = unsettled.settle(planes)
        require(list(settled) == ["a", "b"], f"settle was given the planes 'a' and 'b' and returned {list(settled)}")
        require(settled == unsettled.settle(planes), f"settling twice on {case.name!r} gives different transforms")
        for transform in settled.values():
            require(transform.settled, f"settle of {case.name!r} returns {transform!r}, which is still unsettled")
            check_config(transform)
            specs = transform.plan(case.spec)
            require(
                list(specs) == list(upper),
                f"settling on {case.name!r} changes the planes from {list(upper)} to {list(specs)}",
            )
            for name, spec in specs.items():
                require(
                    spec == upper[name] if unsettled.settled else spec.numel <= upper[name].numel,
                    f"settling on {case.name!r} makes {name!r} {spec}, which the plan gives as {upper[name]}",
                )
            again = transform.settle({"x": Weighted(case.x)})["x"]
            require(
                again.plan(case.spec) == specs,
                f"settling the settled {transform!r} again changes its plan for {case.name!r}",
            )


def _options(cases: Cases, transform: Allocated) -> None:
    for case in cases.cases:
        for option in transform.options(case.x):
            require(
                type(option) is type(transform) and option.allocated,
                f"an option for {case.name!r} is {option!r}, which is not a {type(transform).__name__} with nothing left open",
            )
        settled = case.transform
        assert isinstance(settled, Allocated)
        alone = settled.encode(case.x)
        together = list(settled.encode_each(case.x, [settled, settled]))
        require(
            len(together) == 2 and all(list(planes) == list(alone) for planes in together),
            f"encode_each of two options of {case.name!r} does not give the planes of each",
        )
        require(
            all(same_bits(planes[name], alone[name]) for planes in together for name in alone),
            f"encode_each of {case.name!r} gives other planes than encode",
        )


def _calibrated(cases: Cases) -> None:
    for case in cases.cases:
        moments = second_moments(case.spec, cases.seed)
        if moments is None:
            continue
        for label, known in {"of inputs": moments, "of inputs that are always zero": torch.zeros_like(moments)}.items():
            planes: dict[str, Tensor] = case.transform.encode(case.x, Known(moments=known))
            for name, spec in case.transform.plan(case.spec).items():
                difference = spec.mismatch(planes[name])
                require(
                    difference is None,
                    f"with second moments {label}, {name!r} of {case.name!r} changes: {difference}",
                )
            require(
                bool(torch.isfinite(case.transform.decode(planes, case.spec)).all()),
                f"with second moments {label}, {case.name!r} decodes to NaN or infinity",
            )


def _narrowed(cases: Cases) -> None:
    for case in cases.cases:
        transform = case.transform
        assert isinstance(transform, Narrowing)
        for name, (before, after) in transform.narrowed(case.x, transform.encode(case.x)).items():
            require(name in transform.side, f"narrowed names the plane {name!r} of {case.name!r}, which is not in side")
            require(
                before.shape == after.shape,
                f"narrowed gives two shapes for {name!r} of {case.name!r}: {tuple(before.shape)}, {tuple(after.shape)}",
            )
