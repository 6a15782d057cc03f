"""The conformance battery of transforms."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from stackc.core.abilities import settle_each
from stackc.core.planes import to_bytes
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec, as_matrix
from stackc.core.stack import Branch, Leaf, decode, from_wire, to_wire
from stackc.core.transform import Known, Transform, Weighted
from stackc.testing.abilities import ability_checks
from stackc.testing.cases import Cases, row_weights, second_moments, settled_on
from stackc.testing.check import Check, require, require_sentence, require_work, said
from stackc.testing.child import Answer, digest, encode_elsewhere
from stackc.testing.config import check_config
from stackc.testing.planes import (
    EXTREME_PLANES,
    non_finite_planes,
    random_bits,
    same_bits,
)
from stackc.testing.training import TrainingChecks
from stackc.util.errors import SpecError, StackcError, TensorError
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    from torch import Tensor


def transform_checks(transform: Transform, *, seed: int = 0, planes: Mapping[str, Tensor] | None = None) -> list[Check]:
    """Checks that every transform must pass, for ``pytest.mark.parametrize``.

    Each check makes one class of bug impossible:

    ``config``
        A transform that an artifact or a recipe lock cannot name: fields that do not survive JSON, mutable fields.
    ``planning``
        A plan that reads data or imports torch, so that ``stackc check`` takes seconds.
    ``edge planes``
        Crashes on unusual planes (0-d, empty, one row, constant, huge, half precision ...): each is refused by `plan`
        with a sentence, or goes through. Also a transform that refuses everything.
    ``plan``
        Planes other than planned: wrong names, order, shape, dtype, or codes out of bounds; `work` that is no count.
    ``round trip``
        A lossless transform that loses bits (NaN payloads and signed zeros count), or a lossy one with a larger error
        than it states, a changed shape or dtype, or NaN from finite weights.
    ``non-finite``
        NaN or infinity quantised to something plausible.
    ``repeatable``
        Hidden state: results that depend on earlier calls or on a global random state, or that change that state.
    ``layout``
        Results that depend on the memory layout of the input.
    ``other process``
        Results that depend on the process, its hash seed or its number of threads.
    ``no mutation``
        An encoder or decoder that writes to its arguments.
    ``gradient``
        A decoder that healing cannot train through: detached, rounded, or with a wrong derivative.
    ``straight through``
        An encoder that a training step cannot repeat: one that fails on a plane with gradients, encodes it otherwise, or
        hangs its planes on its graph.
    ``weights``
        Row weights that change the form of the result, or divide by zero where rows do not matter.
    ``carry``
        Row weights or second moments that do not fit the planes they are for.
    ``wire``
        A transform that is not registered under its name and version, or whose artifact does not decode.

    Further checks are for the abilities of `stackc.core.abilities` that the transform has.

    ``settle`` (of `Settling`)
        Transforms that stay unsettled, outgrow their plan, or change when settled again.
    ``options`` (of `Allocated`)
        Options that are still open, or that `encode_each` encodes otherwise than `encode`.
    ``calibrated`` (of `Calibrated`, where it is)
        Second moments that change the form of the result, or divide by zero where there are no inputs.
    ``narrowed`` (of `Narrowing`)
        Planes that are no side information, or numbers that cannot be compared.
    ``groups`` (of `Sharing` where it shares planes, as are the next two)
        Groups that have a plane twice, that invent one, or that change.
    ``common``
        Planes of a group that are not as planned, differ when they are sought again, or are made of NaN.
    ``shared``
        An encoder that returns other planes than those its group shares, or a file that decodes them otherwise.
    ``outside`` (of `Outside`)
        A plane of another model that is changed, or that the rest does not give the plane back from.
    ``hold`` (of `Trainable`, as are the next ones)
        A training step that encodes otherwise than the file: planes other than planned, or that decode to something else.
    ``relax``
        Relaxed codes that are not whole or out of bounds, that decode to something else than what is stored, or that
        pass no gradient on to the plane or to its trained side information.
    ``harden``
        Planes that outgrow their plan after training, or decode to something else than training saw.
    ``row planes``
        Rows that decode to others than they are in the whole plane.
    ``rate``
        A rate estimate that is not one finite differentiable number of bits.

    Parameters
    ----------
    transform : Transform
        The value to check; if it is unsettled it is settled on each plane first.
    seed : int
        Picks the values of the standard planes.
    planes : mapping of str to Tensor, optional
        Further planes, for a transform that takes none of the standard ones or has edge cases of its own.

    Returns
    -------
    list of Check
        Callables that raise `AssertionError` with a sentence.

    Examples
    --------
    In a test module of a plugin::

        @pytest.mark.parametrize("check", transform_checks(Wavelet(levels=2)), ids=str)
        def test_wavelet_conforms(check):
            check()
    """
    battery = _Battery(transform, seed, {**(planes or {})})
    training = TrainingChecks(battery)
    bodies: dict[str, Callable[[], None]] = {
        "config": lambda: check_config(transform),
        "planning": battery.planning,
        "edge planes": battery.edge_planes,
        "plan": battery.plan,
        "round trip": battery.round_trip,
        "non-finite": battery.non_finite,
        "repeatable": battery.repeatable,
        "layout": battery.layout,
        "other process": battery.other_process,
        "no mutation": battery.no_mutation,
        "gradient": training.gradient,
        "straight through": training.straight_through,
        "weights": battery.weights,
        "carry": battery.carry,
        "wire": battery.wire,
        **ability_checks(battery),
    }
    return [Check(name, body) for name, body in bodies.items()]


def _bits(planes: Mapping[str, Tensor]) -> dict[str, tuple[str, bytes]]:
    return {name: (str(PlaneSpec.of(plane)), to_bytes(plane)) for name, plane in planes.items()}


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return list(a) == list(b) and _bits(a) == _bits(b)


def _global_random_state() -> tuple[Any, ...]:
    legacy: Any = numpy.random.get_state(legacy=False)
    state = legacy["state"]
    return (bytes(torch.get_rng_state().tolist()), state["key"].tobytes(), state["pos"], random.getstate())


class _Battery(Cases):
    """The bodies of the checks of what a transform stores."""

    @functools.cached_property
    def answer(self) -> Answer:
        return encode_elsewhere(self.transform, {case.name: (case.spec, case.x) for case in self.cases})

    def planning(self) -> None:
        require(
            not self.answer.loaded,
            f"planning with {self.transform!r} loads {' and '.join(self.answer.loaded)}; import them from stackc.util.lazy, and "
            "other heavy packages in the functions that use them",
        )

    def edge_planes(self) -> None:
        taken = 0
        for name, plane in self.planes.items():
            spec = PlaneSpec.of(plane)
            try:
                self.transform.plan(spec)
            except SpecError as error:
                require_sentence(str(error), f"plan of the plane {name!r} ({spec})")
                continue
            except Exception as error:
                raise AssertionError(
                    f"plan of {name!r} ({spec}) should raise SpecError, it raises {said(error)}"
                ) from error
            try:
                settled = settled_on(self.transform, plane.clone())
                planes = settled.encode(plane.clone())
            except TensorError as error:
                require(name in EXTREME_PLANES, f"plan takes {name!r} ({spec}), but its values are refused: {error}")
                require_sentence(str(error), f"encode of the plane {name!r} ({spec})")
                continue
            except Exception as error:
                raise AssertionError(f"plan takes {name!r} ({spec}), but encode raises {said(error)}") from error
            try:
                decoded = settled.decode(planes, spec)
            except Exception as error:
                raise AssertionError(f"plan takes {name!r} ({spec}), but decode raises {said(error)}") from error
            difference = spec.mismatch(decoded) if spec.dtype != "bool" else None
            require(difference is None, f"the plane {name!r} decodes to something else: {difference}")
            taken += 1
        require(
            taken > 0,
            f"{self.transform!r} refuses every plane, so nothing was checked; pass some that it takes as 'planes'",
        )

    def plan(self) -> None:
        for case in self.cases:
            specs = case.transform.plan(case.spec)
            planes = case.transform.encode(case.x)
            require(bool(specs), f"plan of {case.name!r} makes no planes, so nothing could be stored")
            require_work(case.transform.work(case.spec), case.name)
            require(
                list(planes) == list(specs),
                f"plan of {case.name!r} names {list(specs)}, encode makes {list(planes)} instead",
            )
            for name, spec in specs.items():
                difference = spec.mismatch(planes[name])
                require(
                    difference is None, f"encode of {case.name!r} breaks the plan of the plane {name!r}: {difference}"
                )
                require(
                    "/" not in name and bool(name),
                    f"the plane name {name!r} is empty or has a slash, which separates paths",
                )

    def round_trip(self) -> None:
        for case in self.cases:
            x = case.x
            decoded = case.transform.decode(case.transform.encode(x), case.spec)
            difference = case.spec.mismatch(decoded)
            require(difference is None, f"the plane {case.name!r} decodes to something else: {difference}")
            if case.transform.is_lossless:
                require(
                    same_bits(decoded, case.plane), f"{case.transform!r} is lossless but changes bits of {case.name!r}"
                )
                continue
            require(bool(torch.isfinite(decoded).all()), f"the finite plane {case.name!r} decodes to NaN or infinity")
            error = float(torch.linalg.vector_norm(case.plane.double() - decoded.double()))
            bound = case.transform.error_bound(x)
            require(
                not math.isnan(bound) and bound >= 0, f"error_bound of {case.name!r} is {bound}, which bounds nothing"
            )
            slack = 1e-12 * float(torch.linalg.vector_norm(case.plane.double()))
            require(
                error <= bound * (1 + 1e-6) + slack,
                f"the error of {case.name!r} is {error}, above its stated bound {bound}",
            )
        if self.transform.is_lossless:
            self._exact_on_all_bit_patterns()

    def _exact_on_all_bit_patterns(self) -> None:
        for dtype in ("float64", "float32", "float16", "bfloat16"):
            spec = PlaneSpec((48, 40), dtype)
            plane = random_bits(spec, self.seed, dtype)
            try:
                self.transform.plan(spec)
                settled = settled_on(self.transform, plane.clone())
                decoded = settled.decode(settled.encode(plane.clone()), spec)
            except (SpecError, TensorError):
                continue
            require(
                same_bits(decoded, plane),
                f"{self.transform!r} is lossless but changes bits of {dtype} NaN, infinity or zero",
            )

    def non_finite(self) -> None:
        if self.transform.is_lossless:
            return
        for name, plane in non_finite_planes(self.seed).items():
            spec = PlaneSpec.of(plane)
            try:
                self.transform.plan(spec)
            except SpecError:
                continue
            try:
                settled = settled_on(self.transform, plane.clone())
                settled.encode(plane.clone())
            except TensorError as error:
                require_sentence(str(error), f"encode of a plane with {name}")
                continue
            except Exception as error:
                raise AssertionError(
                    f"encode of a plane with {name} should raise TensorError, not {said(error)}"
                ) from error
            raise AssertionError(f"encode takes a plane with {name}; call stackc.core.transform.require_finite")

    def repeatable(self) -> None:
        with torch.random.fork_rng(devices=[]):
            for case in self.cases:
                torch.manual_seed(1)
                before = _global_random_state()
                first = case.transform.encode(case.x)
                decoded = case.transform.decode(first, case.spec)
                require(
                    before == _global_random_state(),
                    f"encode or decode of {case.name!r} draws from a global random state; use numpy's Philox or a Generator",
                )
                torch.manual_seed(2)
                second = case.transform.encode(case.x)
                require(_same(first, second), f"encoding {case.name!r} twice gives different planes")
                again = case.transform.decode(second, case.spec)
                require(same_bits(decoded, again), f"decoding {case.name!r} twice gives different tensors")

    def layout(self) -> None:
        for case in self.cases:
            expected = case.transform.encode(case.plane.clone(memory_format=torch.contiguous_format))
            variants = {"strided": torch.stack([case.plane, case.plane], dim=-1)[..., 0]}
            if case.plane.dim() >= 2:
                variants["transposed"] = (
                    case.plane.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)
                )
            for layout, x in variants.items():
                require(
                    _same(expected, case.transform.encode(x)),
                    f"encode of {case.name!r} gives other planes when its memory is {layout}; begin with x.contiguous()",
                )

    def other_process(self) -> None:
        for case in self.cases:
            here = digest(self.transform, case.spec, case.x)
            require(
                self.answer.digests[case.name] == here,
                f"encode of {case.name!r} gives other planes in a new process with another number of threads and hash seed",
            )

    def no_mutation(self) -> None:
        for case in self.cases:
            x = case.x
            weights = row_weights(x, self.seed) if x.dim() else None
            before = None if weights is None else weights.clone()
            settle_each(self.transform, {"x": Weighted(x, weights)})
            planes = case.transform.encode(x, Known(weights))
            case.transform.error_bound(x)
            require(same_bits(x, case.plane), f"encode writes to its input on the plane {case.name!r}")
            require(
                weights is None or before is None or same_bits(weights, before),
                f"encode writes to the row weights of the plane {case.name!r}",
            )
            kept = {name: plane.clone() for name, plane in planes.items()}
            case.transform.decode(planes, case.spec)
            require(_same(planes, kept), f"decode writes to the planes that it was given for {case.name!r}")

    def weights(self) -> None:
        for case in self.cases:
            if not case.spec.shape:
                continue
            x = case.x
            some = row_weights(x, self.seed)
            some[::3] = 0
            for label, weights in {
                "1": torch.ones(x.shape[0]),
                "0 and more": some,
                "0": torch.zeros(x.shape[0]),
            }.items():
                transform = settled_on(self.transform, x, weights)
                planes = transform.encode(x, Known(weights))
                for name, spec in transform.plan(case.spec).items():
                    difference = spec.mismatch(planes[name])
                    require(
                        difference is None,
                        f"with row weights of {label}, {name!r} of {case.name!r} changes: {difference}",
                    )
                decoded = transform.decode(planes, case.spec)
                require(
                    not case.spec.is_real or bool(torch.isfinite(decoded).all()),
                    f"with row weights of {label}, {case.name!r} decodes to NaN or infinity",
                )
                if transform.is_lossless:
                    require(
                        same_bits(decoded, case.plane), f"with row weights of {label}, {case.name!r} is no longer exact"
                    )

    def carry(self) -> None:
        for case in self.cases:
            if not case.spec.shape:
                continue
            x = case.x
            weights, moments = row_weights(x, self.seed), second_moments(case.spec, self.seed)
            known = Known(weights.clone(), None if moments is None else moments.clone())
            transform = settled_on(self.transform, x, known.weights)
            planes = transform.encode(x, known)
            for name, carried in transform.carry(known, planes).items():
                require(name in planes, f"carry names the plane {name!r} of {case.name!r}, which encode does not make")
                if carried.weights is not None:
                    self._require_weights(case.name, name, carried.weights, planes[name])
                if carried.moments is not None:
                    self._require_moments(case.name, name, carried.moments, planes[name])
            for given, left in ((weights, known.weights), (moments, known.moments)):
                require(
                    given is None or left is None or same_bits(given, left),
                    f"carry writes to what is known about {case.name!r}",
                )

    @staticmethod
    def _require_weights(case: str, name: str, weights: Tensor, plane: Tensor) -> None:
        rows = tuple(plane.shape[:1])
        require(
            rows != () and tuple(weights.shape) == rows,
            f"carry gives weights of shape {tuple(weights.shape)} for {name!r} of {case!r}, which has {rows} rows",
        )
        require(
            bool(torch.isfinite(weights).all()) and bool((weights >= 0).all()),
            f"carry gives negative or non-finite weights for {name!r} of {case!r}",
        )

    @staticmethod
    def _require_moments(case: str, name: str, moments: Tensor, plane: Tensor) -> None:
        columns = as_matrix(tuple(plane.shape))[-1] if plane.dim() else 1
        require(
            tuple(moments.shape) == (columns, columns),
            f"carry gives moments of shape {tuple(moments.shape)} for {name!r} of {case!r}, whose rows have {columns} values",
        )
        require(bool(torch.isfinite(moments).all()), f"carry gives non-finite moments for {name!r} of {case!r}")

    def wire(self) -> None:
        raw = find("raw").stage
        packer = raw()
        require(not isinstance(packer, Transform), "the stage registered as 'raw' is not a packer")
        for case in self.cases:
            specs = case.transform.plan(case.spec)
            stack = Branch(case.transform, dict.fromkeys(specs, Leaf(packer)))  # type: ignore[arg-type]
            wire = msgspec.json.decode(msgspec.json.encode(to_wire(stack)))
            try:
                read = from_wire(wire, case.spec)
            except StackcError as error:
                raise AssertionError(
                    f"the stack of {case.name!r} does not come back from the wire (is {case.transform.name!r} an entry point of "
                    f"the group stackc.transforms?): {error}"
                ) from error
            stored_stack = stack._replace(transform=case.transform.stored)
            require(read == stored_stack, f"the stack of {case.name!r} comes back from the wire as {read}")
            planes = case.transform.encode(case.x)
            stored = {name: packer.pack(plane, specs[name]) for name, plane in planes.items()}  # type: ignore[union-attr]
            decoded = decode(read, case.spec, lambda path, spec, leaf, stored=stored: leaf.unpack(stored[path], spec))  # type: ignore[misc]
            require(
                same_bits(decoded, case.transform.decode(planes, case.spec)),
                f"the plane {case.name!r} decodes differently once its planes have been stored",
            )
