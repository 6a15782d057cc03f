"""The conformance battery of packers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from stackc.core.packer import Packer
from stackc.core.spec import ITEM_BYTES, PlaneSpec, integer_range
from stackc.core.stack import Leaf, from_wire, to_wire
from stackc.testing.check import Check, require, require_sentence, require_work, said
from stackc.testing.child import Answer, digest, encode_elsewhere
from stackc.testing.config import check_config
from stackc.testing.damage import Guard, damaged
from stackc.testing.planes import bell, random_bits, random_integers, random_words, same_bits
from stackc.util.errors import StackcError
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    from torch import Tensor

_REAL = ("float64", "float32", "float16", "bfloat16")
_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
_SHAPES = ((), (0,), (0, 3), (3, 0), (1,), (7,), (8,), (9,), (1, 1), (5, 1, 3))

#: What `unpack` of a damaged plane may allocate: this many times the plane, and one MiB.
_MEMORY_MULTIPLE = 16
_MEMORY_EXTRA = 1 << 20
_DAMAGE_SECONDS = 60.0

#: One plane for each way that packers store planes; damage to more of them would only take longer.
_DAMAGED = (
    "bell-shaped codes",
    "ternary codes",
    "five of 60,001",
    "only the lowest",
    "int32 131 in -1000..700",
    "mask with 10 % set",
    "float32 weights",
    "bfloat16 zeros",
    "float64 special",
    "bool 0-d",
    "int16 0",
)


class Plane(NamedTuple):
    """A plane with the spec that it is to be packed with."""

    spec: PlaneSpec
    x: Tensor


def packer_checks(packer: Packer, *, seed: int = 0, planes: Mapping[str, Plane] | None = None) -> list[Check]:
    """Checks that every packer must pass, for ``pytest.mark.parametrize``.

    Each check makes one class of bug impossible:

    ``config``
        A packer that an artifact or a recipe lock cannot name: fields that do not survive JSON, mutable fields.
    ``planning``
        A `refusal` that imports torch, so that ``stackc check`` takes seconds.
    ``refusal``
        Refusals that do not say what would fit, packers that take nothing, and `work` that is no count.
    ``integers``
        Integers that come back changed at some width, dtype, bound or extreme.
    ``masks``
        Masks that come back changed at some density.
    ``reals``
        Real planes whose bits change: NaN payloads, signed zeros, infinities, subnormal numbers.
    ``shapes``
        Wrong results for 0-d, empty, one-element and odd-sized planes.
    ``layout``
        Bytes that depend on the memory layout of the plane.
    ``repeatable``
        Hidden state: bytes that depend on earlier calls.
    ``other process``
        Bytes that depend on the process, its hash seed or its number of threads.
    ``no mutation``
        A packer that writes to the plane, or an unpacked plane that shares memory with the bytes.
    ``damage``
        Crashes, hangs, wrong shapes, out-of-range values and decompression bombs on damaged bytes.
    ``side bytes``
        Tables charged to the values, or more side information than bytes.
    ``wire``
        A packer that is not registered under its name and version.

    Parameters
    ----------
    packer : Packer
        The value to check.
    seed : int
        Picks the values of the planes.
    planes : mapping of str to Plane, optional
        Further planes, for a packer that takes none of the standard ones or has edge cases of its own.

    Returns
    -------
    list of Check
        Callables that raise `AssertionError` with a sentence.

    Examples
    --------
    In a test module of a plugin::

        @pytest.mark.parametrize("check", packer_checks(Huffman()), ids=str)
        def test_huffman_conforms(check):
            check()
    """
    battery = _Battery(packer, seed, {**(planes or {})})
    bodies: dict[str, Callable[[], None]] = {
        "config": lambda: check_config(packer),
        "planning": battery.planning,
        "refusal": battery.refusal,
        "integers": lambda: battery.round_trips(integer_planes(seed)),
        "masks": lambda: battery.round_trips(mask_planes(seed)),
        "reals": lambda: battery.round_trips(real_planes(seed)),
        "shapes": lambda: battery.round_trips(shape_planes(seed)),
        "layout": battery.layout,
        "repeatable": battery.repeatable,
        "other process": battery.other_process,
        "no mutation": battery.no_mutation,
        "damage": battery.damage,
        "side bytes": battery.side_bytes,
        "wire": battery.wire,
    }
    if planes:
        bodies["own planes"] = lambda: battery.round_trips(battery.own_planes)
    return [Check(name, body) for name, body in bodies.items()]


def integer_planes(seed: int = 0) -> dict[str, Plane]:
    """Integer planes by description: every dtype with and without bounds, every width, uniform and skewed values."""
    planes: dict[str, Plane] = {}

    def add(what: str, spec: PlaneSpec) -> None:
        planes[f"{spec} {what}"] = Plane(spec, random_integers(spec, seed, str(spec)))

    for dtype in _INTEGERS:
        least, most = integer_range(dtype)
        add("", PlaneSpec((1025,), dtype))
        add("full range", PlaneSpec((1025,), dtype, least, most))
        for value in (least, most, 0, 5):
            add("one value", PlaneSpec((77,), dtype, value, value))
        for width in range(1, 8 * ITEM_BYTES[dtype]):
            lo = max(least, -(1 << (width - 1)) + 1)
            add("every width", PlaneSpec((131,), dtype, lo, lo + (1 << width) - 1))
            add("at the top", PlaneSpec((37,), dtype, most - (1 << width) + 2, most))
            add("at the bottom", PlaneSpec((37,), dtype, least, least + (1 << (width - 1))))
    for name, (spec, x) in skewed_planes(seed).items():
        planes[name] = Plane(spec, x)
    return planes


def skewed_planes(seed: int = 0) -> dict[str, Plane]:
    """Integer planes as quantisers make them: bell-shaped, ternary, mostly zero, few values in a large alphabet."""
    words = random_words(6000, seed, "skewed")
    shares = (words >> numpy.uint64(44)).astype(numpy.int64)  # 0 to 2**20 - 1
    ternary = numpy.where(shares < 52429, -1, numpy.where(shares < 104858, 1, 0)).astype(numpy.int8)
    rare = numpy.zeros(6000, numpy.int8)
    rare[4321] = 1
    codes = (bell((60, 100), seed, "codes") * 400).round().clamp(-127, 127).to(torch.int8)
    few = numpy.array([-30000, -7, 0, 1, 29999])[shares % 5]
    return {
        "bell-shaped codes": Plane(PlaneSpec((60, 100), "int8", -127, 127), codes),
        "4-bit codes": Plane(
            PlaneSpec((60, 100), "int8", -7, 7), (codes.float() / 12).round().clamp(-7, 7).to(torch.int8)
        ),
        "ternary codes": Plane(PlaneSpec((6000,), "int8", -1, 1), torch.from_numpy(ternary)),
        "one in 6,000": Plane(PlaneSpec((6000,), "int8", 0, 1), torch.from_numpy(rare)),
        "only the lowest": Plane(PlaneSpec((6000,), "int8", 0, 100), torch.zeros(6000, dtype=torch.int8)),
        "only the highest": Plane(PlaneSpec((6000,), "uint8", 0, 255), torch.full((6000,), 255, dtype=torch.uint8)),
        "five of 60,001": Plane(PlaneSpec((6000,), "int32", -30000, 30000), torch.from_numpy(few.astype(numpy.int32))),
        "five, no bounds": Plane(PlaneSpec((6000,), "int64"), torch.from_numpy(few)),
        "in order": Plane(PlaneSpec((6000,), "int32", 0, 5999), torch.arange(6000, dtype=torch.int32)),
    }


def mask_planes(seed: int = 0) -> dict[str, Plane]:
    """Masks of several densities by description."""
    shares = (random_words(5003, seed, "masks") >> numpy.uint64(44)).astype(numpy.int64)
    planes = {
        f"mask with {density} % set": Plane(
            PlaneSpec((5003,), "bool", 0, 1), torch.from_numpy(shares < density * (1 << 20) / 100)
        )
        for density in (0, 0.1, 1, 10, 50, 90, 100)
    }
    planes["mask without bounds"] = Plane(PlaneSpec((5003,), "bool"), torch.from_numpy(shares < 1 << 19))
    planes["mask that is all true by its spec"] = Plane(PlaneSpec((9,), "bool", 1, 1), torch.ones(9, dtype=torch.bool))
    return planes


def real_planes(seed: int = 0) -> dict[str, Plane]:
    """Real planes by description: ordinary weights, random bit patterns, special values."""
    planes = {}
    special = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1.0, -1.0, 2.0**-14, 2.0**-24]
    for dtype in _REAL:
        spec = PlaneSpec((37, 41), dtype)
        kind = getattr(torch, dtype)
        planes[f"{dtype} weights"] = Plane(spec, bell((37, 41), seed, dtype).to(kind))
        planes[f"{dtype} random bits"] = Plane(spec, random_bits(spec, seed, dtype))
        planes[f"{dtype} zeros"] = Plane(spec, torch.zeros((37, 41), dtype=kind))
        planes[f"{dtype} special"] = Plane(PlaneSpec((9,), dtype), torch.tensor(special, dtype=kind))
        limits = torch.finfo(kind)
        edges = torch.tensor([limits.max, limits.min, limits.tiny, limits.eps, limits.smallest_normal / 2], dtype=kind)
        planes[f"{dtype} limits"] = Plane(PlaneSpec((5,), dtype), edges)
    return planes


def shape_planes(seed: int = 0) -> dict[str, Plane]:
    """Planes of every edge shape by description, for every dtype."""
    planes: dict[str, Plane] = {}
    for shape in _SHAPES:
        for dtype in _REAL:
            spec = PlaneSpec(shape, dtype)
            planes[str(spec)] = Plane(spec, random_bits(spec, seed, str(spec)))
        for dtype in (*_INTEGERS, "bool"):
            bounds = (0, 1) if dtype == "bool" else (1, 100)
            for spec in (PlaneSpec(shape, dtype, *bounds), PlaneSpec(shape, dtype)):
                planes[str(spec)] = Plane(spec, random_integers(spec, seed, str(spec)))
    return planes


class _Battery:
    """The bodies of the checks of one packer."""

    def __init__(self, packer: Packer, seed: int, planes: dict[str, Plane]) -> None:
        self.packer = packer
        self.seed = seed
        self.own_planes = planes

    @functools.cached_property
    def cases(self) -> dict[str, Plane]:
        """A few planes of every kind that the packer takes and gives back; other checks judge those that it does not."""
        known = {**self.own_planes, **skewed_planes(self.seed), **mask_planes(self.seed), **real_planes(self.seed)}
        shapes = shape_planes(self.seed)
        known.update({name: shapes[name] for name in (*list(shapes)[::7], "bool 0-d", "int16 0")})
        spec = PlaneSpec((131,), "int32", -1000, 700)
        known[str(spec)] = Plane(spec, random_integers(spec, self.seed, str(spec)))
        cases = {}
        for name, (spec, x) in known.items():
            try:
                taken = self.packer.refusal(spec) is None and same_bits(
                    self.packer.unpack(self.packer.pack(x.clone(), spec), spec), x
                )
            except Exception:  # noqa: BLE001 -- another check reports it with its message
                continue
            if taken:
                cases[name] = Plane(spec, x)
        require(
            bool(cases),
            f"{self.packer!r} takes none of the planes, so nothing was checked; pass some that it takes as 'planes'",
        )
        return cases

    @functools.cached_property
    def answer(self) -> Answer:
        return encode_elsewhere(self.packer, {name: (spec, x) for name, (spec, x) in self.cases.items()})

    def planning(self) -> None:
        require(
            not self.answer.loaded,
            f"asking {self.packer!r} for its refusal loads {' and '.join(self.answer.loaded)}; import them from stackc.util.lazy, "
            "and other heavy packages in the functions that use them",
        )

    def refusal(self) -> None:
        taken = 0
        kinds = {**integer_planes(self.seed), **mask_planes(self.seed), **real_planes(self.seed), **self.own_planes}
        for name, (spec, _) in kinds.items():
            reason = self.packer.refusal(spec)
            require(self.packer.accepts(spec) == (reason is None), f"accepts and refusal disagree about {name!r}")
            if reason is None:
                taken += 1
                require_work(self.packer.work(spec), name)
            else:
                require_sentence(reason, f"refusal of {name!r} ({spec})")
        require(taken > 0, f"{self.packer!r} refuses every plane; pass some that it takes as 'planes'")

    def round_trips(self, planes: Mapping[str, Plane]) -> None:
        for name, (spec, x) in planes.items():
            if self.packer.refusal(spec) is not None:
                continue
            try:
                data = self.packer.pack(x.clone(), spec)
                require(isinstance(data, bytes), f"pack of {name!r} returns {type(data).__name__}, not bytes")
                back = self.packer.unpack(data, spec)
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"refusal takes {name!r} ({spec}), but packing it raises {said(error)}") from error
            difference = spec.mismatch(back)
            require(difference is None, f"{name!r} comes back as something else: {difference}")
            require(same_bits(back, x), f"{name!r} ({spec}) comes back with other bits")

    def layout(self) -> None:
        for name, (spec, x) in self.cases.items():
            expected = self.packer.pack(x.clone(memory_format=torch.contiguous_format), spec)
            variants = {"strided": torch.stack([x, x], dim=-1)[..., 0]}
            if x.dim() >= 2:
                variants["transposed"] = (
                    x.transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)
                )
            for layout, variant in variants.items():
                require(
                    self.packer.pack(variant, spec) == expected,
                    f"pack of {name!r} gives other bytes when it is {layout}",
                )

    def repeatable(self) -> None:
        first = {name: self.packer.pack(x.clone(), spec) for name, (spec, x) in self.cases.items()}
        for name, (spec, x) in reversed(self.cases.items()):
            require(self.packer.pack(x.clone(), spec) == first[name], f"packing {name!r} twice gives different bytes")
            require(
                same_bits(self.packer.unpack(first[name], spec), x), f"unpacking {name!r} twice gives different planes"
            )

    def other_process(self) -> None:
        for name, (spec, x) in self.cases.items():
            require(
                self.answer.digests[name] == digest(self.packer, spec, x),
                f"pack of {name!r} gives other bytes in a new process with another number of threads and hash seed",
            )

    def no_mutation(self) -> None:
        for name, (spec, x) in self.cases.items():
            given = x.clone()
            data = self.packer.pack(given, spec)
            require(same_bits(given, x), f"pack writes to the plane {name!r}")
            kept = bytes(bytearray(data))
            back = self.packer.unpack(data, spec)
            if back.numel():
                back.zero_()
            require(data == kept, f"unpack of {name!r} returns a plane that shares memory with the bytes")
            require(
                same_bits(self.packer.unpack(data, spec), x), f"writing to an unpacked {name!r} changes the next one"
            )

    def damage(self) -> None:
        chosen = {name: plane for name, plane in self.cases.items() if name in _DAMAGED or name in self.own_planes}
        for name, (spec, x) in (chosen or self.cases).items():
            data = self.packer.pack(x.clone(), spec)
            guard = Guard(_MEMORY_MULTIPLE * spec.nbytes + _MEMORY_EXTRA, _DAMAGE_SECONDS)
            guard.run(functools.partial(self._complaint, spec), damaged(data, self.seed), name)

    def _complaint(self, spec: PlaneSpec, data: bytes) -> str | None:
        back = self.packer.unpack(data, spec)
        if back.dtype == torch.bool and back.numel() and int(back.reshape(-1).view(torch.uint8).max()) > 1:
            return "gives a mask with bytes other than 0 and 1"
        difference = spec.mismatch(back)
        return None if difference is None else f"gives a plane that does not fit: {difference}"

    def side_bytes(self) -> None:
        for name, (spec, x) in self.cases.items():
            data = self.packer.pack(x.clone(), spec)
            side = self.packer.side_bytes(data, spec)
            require(0 <= side <= len(data), f"side_bytes of {name!r} is {side}, it has {len(data)} bytes")

    def wire(self) -> None:
        leaf = Leaf(self.packer)
        for spec, _ in self.cases.values():
            try:
                read = from_wire(msgspec.json.decode(msgspec.json.encode(to_wire(leaf))), spec)
            except StackcError as error:
                raise AssertionError(
                    f"the packer does not come back from the wire (is {self.packer.name!r} an entry point of the group "
                    f"stackc.packers?): {error}"
                ) from error
            require(read == leaf, f"{self.packer!r} comes back from the wire as {read}")
