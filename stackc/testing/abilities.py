"""Checks of what a transform can do beyond encoding and decoding, for those that can; see `stackc.core.abilities`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stackc.core.abilities import Allocated, Narrowing, Outside, Settling, Sharing, Trainable, uses_moments
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Known, Weighted
from stackc.testing.cases import Case, Cases, LazyPlanes, row_weights, second_moments
from stackc.testing.check import require, require_sentence
from stackc.testing.config import check_config
from stackc.testing.planes import EXTREME_PLANES, non_finite_planes, same_bits
from stackc.testing.training import TrainingChecks
from stackc.util.errors import SpecError, TensorError
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Planes that a stage may match, for the question which of them belong together.
_NAMES = ("layer.0.weight", "layer.0.bias", "layer.1.weight", "layer.1.bias", "head", "head/values", "layer.2.weight")


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
    if isinstance(transform, Sharing) and transform.common:
        checks["groups"] = lambda: _groups(transform)
        checks["common"] = lambda: _common(cases, transform)
        checks["shared"] = lambda: _shared(cases, transform)
    if isinstance(transform, Outside):
        checks["outside"] = lambda: _outside(cases, transform)
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


def _outside(cases: Cases, transform: Outside) -> None:
    """The plane of another model is what it is there, and what is stored beside it gives the plane back."""
    plane = transform.outside
    for case in cases.cases:
        spec = transform.plan(case.spec).get(plane)
        require(
            spec is not None and (spec.shape, spec.dtype) == (case.spec.shape, case.spec.dtype),
            f"the plane {plane!r} of {case.name!r} is planned as {spec}, and is to be as {case.spec}",
        )
        others = {"itself": case.x, "in reverse": case.x.reshape(-1).flip(0).reshape(case.spec.shape)}
        for label, other in others.items():
            given = other.clone()
            try:
                planes = transform.encode(case.x, Known(shared={plane: other}))
            except TensorError as error:
                require(
                    case.name in EXTREME_PLANES,
                    f"with {case.name!r} {label} as the other model's, encode says: {error}",
                )
                require_sentence(str(error), f"encode of the plane {case.name!r}")
                continue
            require(
                same_bits(planes[plane], given) and same_bits(other, given),
                f"encode changes the plane {plane!r} of another model for {case.name!r}",
            )
            decoded = transform.decode(planes, case.spec)
            if transform.is_lossless:
                require(same_bits(decoded, case.plane), f"with {label} as the other model's, {case.name!r} loses bits")
                continue
            # Two roundings: of the difference, and of the sum.
            scale = float(case.plane.double().abs().max()) if case.spec.numel else 0.0
            apart = float((decoded.double() - case.plane.double()).abs().max()) if case.spec.numel else 0.0
            allowed = 4 * torch.finfo(case.plane.dtype).eps * scale
            require(
                apart <= allowed,
                f"with {label} as the other model's, {case.name!r} comes back off by {apart:g}, more than {allowed:g}",
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


def _groups(transform: Sharing) -> None:
    found = transform.groups(_NAMES)
    require(found == transform.groups(_NAMES), f"groups of {transform!r} gives other groups when asked again")
    members = [name for group in found.values() for name in group]
    unknown = sorted(set(members) - set(_NAMES))
    require(not unknown, f"groups of {transform!r} has the planes {unknown}, which it was not given")
    require(len(set(members)) == len(members), f"groups of {transform!r} puts a plane in two groups: {found}")
    for name, group in found.items():
        require(bool(name) and "/" not in name, f"the group {name!r} has no name that can be part of a plane's")
        require(
            group == sorted(group, key=_NAMES.index),
            f"the group {name!r} has the planes {group}, which were given in another order",
        )
    require(transform.groups([]) == {}, f"groups of {transform!r} makes groups of no planes")


def _common(cases: Cases, transform: Sharing) -> None:
    for case in cases.cases:
        specs = case.transform.plan(case.spec)
        require(
            transform.common <= set(specs),
            f"common is {sorted(transform.common)}, and the plan of {case.name!r} names {list(specs)}",
        )
        for label, weights in _weights(case, cases.seed).items():
            planes = _group(case, weights)
            found = _of(case).find_common(planes)
            require(
                set(found) == transform.common,
                f"find_common of {case.name!r} makes {sorted(found)}, common is {sorted(transform.common)}",
            )
            for name, plane in found.items():
                difference = specs[name].mismatch(plane)
                require(
                    difference is None,
                    f"find_common{label} breaks the plan of the plane {name!r} of {case.name!r}: {difference}",
                )
                require(
                    not plane.is_floating_point() or bool(torch.isfinite(plane).all()),
                    f"find_common{label} of {case.name!r} makes {name!r} with NaN or infinity",
                )
            again = _of(case).find_common(planes)
            require(
                all(same_bits(again[name], plane) for name, plane in found.items()),
                f"find_common of {case.name!r} gives something else when it is called again",
            )
    if not transform.lossless:
        _refuses_non_finite(cases, transform)


def _refuses_non_finite(cases: Cases, transform: Sharing) -> None:
    for name, plane in non_finite_planes(cases.seed).items():
        try:
            transform.plan(PlaneSpec.of(plane))
        except SpecError:
            continue
        whole = torch.where(plane.isfinite(), plane, 0.0)
        try:
            transform.find_common(LazyPlanes({"a": Weighted(whole), "b": Weighted(plane)}))
        except TensorError:
            continue
        raise AssertionError(f"find_common takes a plane with {name}; call stackc.core.transform.require_finite")


def _shared(cases: Cases, transform: Sharing) -> None:
    for case in cases.cases:
        specs = case.transform.plan(case.spec)
        group = _group(case, None)
        shared = _of(case).find_common(group)
        kept = {name: plane.clone() for name, plane in shared.items()}
        for member in group:
            try:
                made = case.transform.encode(group[member].plane, Known(shared=shared))
            except TensorError as error:
                require(case.name in EXTREME_PLANES, f"encode of {case.name!r} refuses what its group shares: {error}")
                require_sentence(str(error), f"encode of the plane {case.name!r} with the planes of its group")
                continue
            require(
                list(made) == list(specs),
                f"with the planes of its group, encode of {case.name!r} makes {list(made)}, planned are {list(specs)}",
            )
            for name, spec in specs.items():
                difference = spec.mismatch(made[name])
                require(
                    difference is None,
                    f"with the planes of its group, encode breaks the plan of {name!r} of {case.name!r}: {difference}",
                )
            for name, plane in kept.items():
                require(same_bits(shared[name], plane), f"encode of {case.name!r} writes to the shared plane {name!r}")
                require(
                    same_bits(made[name], plane),
                    f"encode of {case.name!r} returns another {name!r} than the one that its group shares",
                )
            stored = case.transform.stored
            require(
                list(stored.plan(case.spec).items()) == list(specs.items()),
                f"what the file stores of {case.transform!r} plans {case.name!r} otherwise",
            )
            require(
                same_bits(stored.decode(made, case.spec), case.transform.decode(made, case.spec)),
                f"what the file stores of {case.transform!r} decodes {case.name!r} otherwise",
            )
            held = case.form.hold(group[member].plane, made)
            require(
                all(same_bits(held[name], plane) for name, plane in kept.items()),
                f"hold of {case.name!r} changes a plane that its group shares",
            )


def _of(case: Case) -> Sharing:
    assert isinstance(case.transform, Sharing)
    return case.transform


def _group(case: Case, weights: Tensor | None) -> LazyPlanes:
    """A plane and another one of its kind, as a group."""
    other = case.x.flip(0) if case.spec.shape else case.x
    return LazyPlanes({"a": Weighted(case.x, weights), "b": Weighted(other)})


def _weights(case: Case, seed: int) -> dict[str, Tensor | None]:
    """Row weights to try, by what a message says about them."""
    if not case.spec.shape:
        return {"": None}
    return {
        "": None,
        " with row weights": row_weights(case.x, seed),
        " with row weights of 0": torch.zeros(len(case.x)),
    }
