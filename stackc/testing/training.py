"""Checks of what a training step does with a transform: its gradients, its training form, and what is stored after it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.core.abilities import Outside
from stackc.core.spec import PlaneSpec
from stackc.testing.cases import Case, Cases
from stackc.testing.check import require
from stackc.testing.planes import EXTREME_PLANES, same_bits
from stackc.util.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

#: What training makes of side information, and of the plane: steps grow, and values leave the range they were in.
_TRAINED, _GROWN = 1.25, 3.0


class TrainingChecks:
    """The bodies of the checks of what training does with a transform.

    Parameters
    ----------
    cases : Cases
        The planes to try it on.
    """

    def __init__(self, cases: Cases) -> None:
        self._cases = cases

    def gradient(self) -> None:
        for case in self._cases.cases:
            if not case.spec.is_real or case.spec.item_bytes < 4 or not 0 < case.spec.numel <= 4096:
                continue
            if case.name in EXTREME_PLANES:
                continue
            planes = case.transform.encode(case.x)
            # Nobody trains the tensor of another model.
            outside = case.transform.outside if isinstance(case.transform, Outside) else None
            real = [
                name
                for name, plane in planes.items()
                if plane.is_floating_point() and plane.numel() and name != outside
            ]
            if not real:
                continue
            exact = case.spec.dtype == "float64"
            inputs = [planes[name].detach().double().clone().requires_grad_() for name in real]
            rest = {name: plane for name, plane in planes.items() if name not in real}

            def decoded(*values: Tensor, case: Case = case, rest: Any = rest, real: Any = real) -> Tensor:
                return case.transform.decode({**rest, **dict(zip(real, values, strict=True))}, case.spec).double()

            require(
                decoded(*inputs).requires_grad,
                f"decode of {case.name!r} is detached from its real planes {', '.join(real)}",
            )
            try:
                torch.autograd.gradcheck(
                    decoded,
                    inputs,
                    eps=1e-6 if exact else 1e-2,
                    atol=1e-5 if exact else 1e-2,
                    rtol=1e-3 if exact else 2e-2,
                    fast_mode=True,
                )
            except RuntimeError as error:
                raise AssertionError(
                    f"the gradient of decode for {case.name!r} in {', '.join(real)} is wrong: {str(error).splitlines()[0]}"
                ) from error

    def straight_through(self) -> None:
        for case in self._cases.cases:
            if not case.spec.is_real:
                continue
            x = case.x.requires_grad_()
            planes = case.transform.encode(x)
            for name, plane in planes.items():
                require(
                    not plane.requires_grad,
                    f"encode of {case.name!r} makes {name!r} with gradients; begin with x.detach()",
                )
            stored = case.transform.decode(case.transform.encode(case.x), case.spec)
            require(
                same_bits(case.transform.decode(planes, case.spec), stored),
                f"encode of {case.name!r} gives something else when the plane has gradients, as in training",
            )
            require(same_bits(x.detach(), case.plane), f"encode writes to the plane {case.name!r} with gradients")

    def hold(self) -> None:
        for case in self._cases.cases:
            planes = case.transform.encode(case.x)
            kept = {name: plane.clone() for name, plane in planes.items()}
            held = case.form.hold(case.x, planes)
            _require_specs(case, held, "hold", case.transform.plan(case.spec))
            for name, plane in kept.items():
                require(same_bits(planes[name], plane), f"hold writes to the plane {name!r} of {case.name!r}")
            _require_agreement(
                case,
                case.transform.decode(held, case.spec),
                case.transform.decode(planes, case.spec),
                "hold of {} with the planes that encode made decodes to something else than they do",
            )

    def relax(self) -> None:
        for case, planes, sides in self._trainable():
            x = case.x.requires_grad_()
            sides = {name: side.requires_grad_() for name, side in sides.items()}
            relaxed = case.form.relax(x, {**planes, **sides})
            if relaxed is None:
                continue
            require(
                set(relaxed) == set(planes),
                f"relax of {case.name!r} makes {list(relaxed)}, the plan names {list(planes)}",
            )
            self._require_whole(case, relaxed)
            shown = case.transform.decode(relaxed, case.spec)
            _require_agreement(
                case,
                shown.detach(),
                case.transform.decode(planes, case.spec),
                "what relax makes of {} decodes to something else than what is stored",
            )
            self._require_gradients(case, shown, x, sides)

    def harden(self) -> None:
        for case, planes, sides in self._trainable():
            grown, more = (1.0, 1.0) if case.name in EXTREME_PLANES else (_GROWN, _TRAINED)
            x = case.x * grown
            trained = {name: side * more for name, side in sides.items()}
            around = {**planes, **trained}
            made = case.form.relax(x, around)
            if made is None:
                made = case.form.hold(x, around)
            shown = case.transform.decode({**made, **trained}, case.spec)
            transform, stored = case.form.harden(x, around)
            require(
                type(transform) is type(case.transform) and transform.settled,
                f"harden of {case.name!r} gives {transform!r}, which is not a settled {type(case.transform).__name__}",
            )
            _require_specs(case, stored, "harden", transform.plan(case.spec))
            _require_agreement(
                case,
                transform.stored.decode({**stored, **trained}, case.spec),
                shown,
                "what harden stores of {} after training decodes to something else than training saw",
                exact=True,
            )

    def row_planes(self) -> None:
        for case in self._cases.cases:
            if len(case.spec.shape) < 2 or not case.spec.shape[0]:
                continue
            planes = case.transform.encode(case.x)
            integers = {name: plane for name, plane in planes.items() if not plane.is_floating_point()}
            whole = case.transform.decode(planes, case.spec)
            for index in _some_rows(case.spec.shape[0]):
                numbers = case.form.row_planes(index, integers)
                if numbers is None:
                    break
                require(
                    set(numbers) == set(planes),
                    f"row_planes of {case.name!r} names {list(numbers)}, encode makes {list(planes)}",
                )
                chosen = {
                    name: plane if (rows := numbers[name]) is None else plane[rows] for name, plane in planes.items()
                }
                few = msgspec.structs.replace(case.spec, shape=(len(index), *case.spec.shape[1:]))
                decoded = case.transform.decode(chosen, few)
                difference = few.mismatch(decoded)
                require(
                    difference is None,
                    f"{len(index)} rows of {case.name!r} alone decode to something else: {difference}",
                )
                _require_agreement(
                    case,
                    decoded,
                    whole[index],
                    "rows of {} alone decode to others than they are in the whole",
                    exact=True,
                )

    def rate(self) -> None:
        for case in self._cases.cases:
            planes = case.transform.encode(case.x)
            real = {
                name: plane.detach().clone().requires_grad_()
                for name, plane in planes.items()
                if plane.is_floating_point()
            }
            self._require_bits(case, {**planes, **real}, list(real.values()))
        for case, planes, sides in self._trainable():
            x = case.x.requires_grad_()
            relaxed = case.form.relax(x, {**planes, **sides})
            if relaxed is not None:
                self._require_bits(case, relaxed, [plane for plane in relaxed.values() if plane.requires_grad])

    def _require_bits(self, case: Case, planes: Mapping[str, Tensor], trained: list[Tensor]) -> None:
        bits = case.form.rate(planes)
        asked: list[str] = []

        def price(name: str, codes: Tensor) -> Tensor:
            asked.append(name)
            return codes.abs().sum()

        priced = case.form.rate(planes, price)
        require((bits is None) == (priced is None), f"rate of {case.name!r} is there or not, as 'bits' is given or not")
        require(
            set(asked) <= set(planes),
            f"rate of {case.name!r} asks for the bits of {asked}, the planes are {list(planes)}",
        )
        if bits is None:
            return
        require(
            bits.dim() == 0,
            f"rate of {case.name!r} has the shape {tuple(bits.shape)}, it must be one number of bits",
        )
        count = float(bits.detach())
        require(math.isfinite(count) and count >= 0, f"rate of {case.name!r} is {count}, not a number of bits")
        require(bits.requires_grad or not trained, f"rate of {case.name!r} is detached from the real planes")

    def _trainable(self) -> Iterator[tuple[Case, dict[str, Tensor], dict[str, Tensor]]]:
        """Real planes that are not empty, with what encode makes of them and copies of their real side information."""
        for case in self._cases.cases:
            if not case.spec.is_real or not case.spec.numel:
                continue
            planes = case.transform.encode(case.x)
            sides = {
                name: plane.detach().clone()
                for name, plane in planes.items()
                if plane.is_floating_point() and plane.numel() and name in case.transform.side
            }
            yield case, planes, sides

    @staticmethod
    def _require_whole(case: Case, relaxed: Mapping[str, Tensor]) -> None:
        """Relaxed codes are whole numbers in the bounds of their plane."""
        for name, spec in case.transform.plan(case.spec).items():
            codes = relaxed[name].detach()
            require(
                tuple(codes.shape) == spec.shape,
                f"relax makes {name!r} of {case.name!r} with the shape {tuple(codes.shape)}, planned is {spec}",
            )
            if spec.is_real or not codes.is_floating_point() or not codes.numel():
                continue
            require(
                bool((codes == codes.round()).all()),
                f"relax makes {name!r} of {case.name!r} with numbers that are not whole, such as "
                f"{float(codes[codes != codes.round()][:1].sum()):g}: what is stored would differ",
            )
            least, most = float(codes.min()), float(codes.max())
            require(
                (spec.lo is None or least >= spec.lo) and (spec.hi is None or most <= spec.hi),
                f"relax makes {name!r} of {case.name!r} with numbers in {least:g}..{most:g}, planned is {spec}",
            )

    @staticmethod
    def _require_gradients(case: Case, shown: Tensor, x: Tensor, sides: dict[str, Tensor]) -> None:
        """The decoded plane passes gradients to the plane and to its side information."""
        require(shown.requires_grad, f"what relax makes of {case.name!r} is detached from it, so nothing would train")
        gradients = torch.autograd.grad(shown.double().sum(), [x, *sides.values()], allow_unused=True)
        for name, gradient in zip(("the plane", *map(repr, sides)), gradients, strict=True):
            require(gradient is not None, f"the gradient of relax of {case.name!r} does not reach {name}")
            if gradient is not None and case.name not in EXTREME_PLANES:
                require(
                    bool(torch.isfinite(gradient).all()),
                    f"the gradient of relax of {case.name!r} in {name} is NaN or infinite",
                )
        # Where all values are one, all may be at the end of the range.
        varied = bool((case.plane != case.plane.reshape(-1)[0]).any()) and case.name not in EXTREME_PLANES
        require(
            gradients[0] is None or bool(gradients[0].any()) or not varied,
            f"the gradient of relax of {case.name!r} is zero everywhere: a straight-through estimate is missing",
        )


def _require_specs(case: Case, made: Mapping[str, Tensor], method: str, specs: Mapping[str, PlaneSpec]) -> None:
    require(
        set(made) == set(specs),
        f"{method} of {case.name!r} makes the planes {list(made)}, the plan names {list(specs)}",
    )
    for name, spec in specs.items():
        difference = spec.mismatch(made[name].contiguous())
        require(difference is None, f"{method} of {case.name!r} breaks the plan of the plane {name!r}: {difference}")


def _require_agreement(case: Case, one: Tensor, other: Tensor, complaint: str, *, exact: bool = False) -> None:
    """Two decoded planes are equal but for rounding.

    Choices of an encoder that the file does not hold, such as a price of bits, are not made in training. Unless ``exact``,
    such values may differ where they are no farther from the plane.
    """
    if not one.numel():
        return
    if not case.spec.is_real:
        require(same_bits(one, other), complaint.format(repr(case.name)))
        return
    apart = _norm(one.double() - other.double())
    shown = torch.finfo(one.dtype)
    # What is decoded comes through sums of float32, or of float64, and is rounded to the dtype of the plane.
    relative = 1e-10 if case.spec.dtype == "float64" else 1e-5
    slack = (relative + 4 * shown.eps) * max(_norm(one), _norm(other))
    slack += shown.smallest_normal * math.sqrt(one.numel())
    if apart <= slack:
        return
    if not exact and case.transform != case.transform.stored:
        errors = [_norm(plane.double() - case.plane.double()) for plane in (one, other)]
        if errors[0] <= 1.1 * errors[1] + slack:
            return
    raise AssertionError(f"{complaint.format(repr(case.name))}, by {apart:g} in the norm; rounding explains {slack:g}")


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.detach().double()))


def _some_rows(count: int) -> Iterator[Tensor]:
    """Numbers of rows, ascending: all, single ones, and every third."""
    yield torch.arange(count)
    yield torch.tensor([0])
    yield torch.tensor([count - 1])
    yield torch.arange(0, count, 3)
