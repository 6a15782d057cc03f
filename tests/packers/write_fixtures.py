"""Writes the frozen fixtures of the packers, for each packer one folder per plane under ``fixtures/``.

Run once per released format version::

    python tests/packers/write_fixtures.py

Folders that exist are left alone: a frozen format is not rewritten. When a packer gets a new version, this script writes
its fixtures beside those of the old one, which must keep decoding. Planes are built from integers, never from
``torch.randn``, so every machine has the same ones.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.testing import Plane, write_frozen
from stackc.testing.planes import bell, random_bits, random_integers, random_words

FOLDER = Path(__file__).parent / "fixtures"


def fixture_planes() -> dict[str, Plane]:
    """Small planes that take every path through the three formats."""
    codes = (bell((24, 50), 7, "fixture codes") * 25).round().clamp(-7, 7).to(torch.int8)
    shares = torch.from_numpy((random_words(1999, 7, "fixture mask") >> 44).astype("int64"))
    few = torch.tensor([-9000, -1, 0, 3, 8999], dtype=torch.int16)[shares % 5]
    ramp = torch.arange(700, dtype=torch.int32) * 3 - 1000
    wide = PlaneSpec((90,), "int64", lo=-(1 << 40), hi=1 << 40)
    noise = PlaneSpec((120,), "uint8", lo=0, hi=255)
    return {
        "codes-4-bit": Plane(PlaneSpec((24, 50), "int8", lo=-7, hi=7), codes),
        "codes-skewed": Plane(PlaneSpec((24, 50), "int8", lo=-1, hi=1), codes.clamp(3, 5) - 4),
        "codes-8-bit": Plane(
            PlaneSpec((24, 50), "int8", lo=-127, hi=127),
            (bell((24, 50), 7, "8") * 400).round().clamp(-127, 127).to(torch.int8),
        ),
        "mask": Plane(PlaneSpec((1999,), "bool", lo=0, hi=1), shares < 104_858),
        "mask-blocks": Plane(PlaneSpec((1600,), "bool", lo=0, hi=1), (shares[:200] < 209_715).repeat_interleave(8)),
        "few-of-many": Plane(PlaneSpec((1999,), "int16", lo=-9000, hi=9000), few),
        "ramp": Plane(PlaneSpec((700,), "int32", lo=-1000, hi=1097), ramp),
        "one-value": Plane(PlaneSpec((500,), "int8", lo=-7, hi=7), torch.full((500,), 3, dtype=torch.int8)),
        "no-bits": Plane(PlaneSpec((500,), "int8", lo=3, hi=3), torch.full((500,), 3, dtype=torch.int8)),
        "noise": Plane(noise, random_integers(noise, 7, "fixture noise")),
        "wide": Plane(wide, random_integers(wide, 7, "fixture wide")),
        "unbounded": Plane(
            PlaneSpec((5, 9), "int32"), random_integers(PlaneSpec((5, 9), "int32"), 7, "fixture unbounded")
        ),
        "weights": Plane(PlaneSpec((20, 30), "float32"), bell((20, 30), 7, "fixture weights")),
        "weights-half": Plane(PlaneSpec((20, 30), "bfloat16"), bell((20, 30), 7, "fixture half").bfloat16()),
        "any-bits": Plane(PlaneSpec((40,), "float64"), random_bits(PlaneSpec((40,), "float64"), 7, "fixture bits")),
        "number": Plane(PlaneSpec((), "float16"), torch.tensor(-0.0, dtype=torch.float16)),
        "empty": Plane(PlaneSpec((0, 3), "uint8", lo=0, hi=9), torch.empty((0, 3), dtype=torch.uint8)),
    }


def float_fixture_planes() -> dict[str, Plane]:
    """Small real planes that take every path through the format of ``floats``."""
    halves = 2.0 ** -(torch.arange(5000) % 7).float()
    rows, columns = halves[:60, None], halves[:72]
    bits = random_bits(PlaneSpec((900,), "float32"), 7, "fixture float bits")
    planes = {
        "any-bits": random_bits(PlaneSpec((40,), "float64"), 7, "fixture bits"),
        "number": torch.tensor(-0.0, dtype=torch.float16),
        "no-floats": torch.empty((0, 3), dtype=torch.bfloat16),
        "repeats": bell((3, 40), 7, "fixture repeats").repeat(10, 1),
        "rows": bell((60, 72), 7, "fixture rows") * rows,
        "rows-and-columns": (bell((60, 72), 7, "fixture both") * rows * columns).bfloat16(),
        "columns": (bell((30, 72), 7, "fixture columns") * columns).half(),
        "positive": bell((333,), 7, "fixture positive").abs() + 0.5,
        "double": math.prod(bell((30, 40), 7, f"fixture double {factor}").double() for factor in range(3)),
        "sparse": torch.where(bell((50, 40), 7, "fixture sparse") > 0.08, bell((50, 40), 7, "fixture values"), 0.0),
        "few-bits": ((bell((40, 41), 7, "fixture few bits") * rows[:40]).view(torch.int32) & -(1 << 18)).view(
            torch.float32
        ),
        "non-finite": torch.where(torch.arange(900) % 9 == 4, bits, bell((900,), 7, "fixture finite")),
    }
    return {name: Plane(PlaneSpec.of(x), x) for name, x in planes.items()}


def context_fixture_planes() -> dict[str, Plane]:
    """Small integer planes that take every path through the format of ``context``, beside those of `fixture_planes`."""
    rows = 2.0 ** -(torch.arange(60) % 7).float()
    columns = 2.0 ** -(torch.arange(48) * 5 % 6).float()
    values = bell((60, 48), 7, "fixture context") * 300
    sparse = values * (torch.arange(60)[:, None] % 20 < 13) * (torch.arange(48) % 16 > 3)
    drift = values * 2.0 ** -(torch.arange(60 * 48).reshape(60, 48) // 400).float()
    extreme = (bell((30, 20), 7, "fixture extreme") * 2.0 ** (torch.arange(600).reshape(30, 20) % 37).float()).double()
    codes = {
        "active-rows": (values * rows[:, None], -64, 63),
        "active-columns": (values * columns, -64, 63),
        "active-rows-and-columns": (values * rows[:, None] * columns * 4, -128, 127),
        "empty-rows-and-columns": (sparse / 8, -32, 31),
        "empty-columns": ((sparse / 8)[:13], -32, 31),
        "drift": (drift, -64, 63),
        "drift-down": (drift.T, -64, 63),
        "clusters": (values / 4 * (bell((60, 6), 7, "fixture clusters") > 0).repeat_interleave(8, 1), -16, 15),
        "none-negative": (values.abs() / 6, 0, 31),
        "none-positive": (-values.abs() / 6, -31, 0),
        "far-from-zero": ((values / 8 + 100).clamp(90, 111), 90, 111),
        "all-far-from-zero": (torch.full((8, 9), -77), -100, -70),
        "four-axes": (values.reshape(6, 10, 8, 6) / 10, -16, 15),
        "mask-of-rows": (sparse.abs() > 20, 0, 1),
        "small": (values[:12, :20] / 40, -15, 15),
        "small-sparse": (sparse[:20, :40] / 90, -3, 3),
        "small-vector": (values[3] / 60, -7, 7),
    }
    planes = {}
    for name, (x, lo, hi) in codes.items():
        dtype = "bool" if x.dtype == torch.bool else "int8"
        planes[name] = Plane(
            PlaneSpec(tuple(x.shape), dtype, lo, hi), x.float().round().clamp(lo, hi).to(getattr(torch, dtype))
        )
    extremes = extreme.round().clamp(-(2**30), 2**30 - 1).int()
    planes["extreme"] = Plane(PlaneSpec((30, 20), "int32", -(1 << 30), (1 << 30) - 1), extremes)
    largest = torch.where(torch.arange(64) % 9 == 4, (1 << 31) - 1, torch.arange(64) % 3).reshape(8, 8)
    planes["largest"] = Plane(PlaneSpec((8, 8), "int64", 0, (1 << 31) - 1), largest)
    noise = PlaneSpec((60,), "int16")
    planes["noise-without-bounds"] = Plane(noise, random_integers(noise, 7, "fixture noise"))
    for states in (4, 8):
        planes[f"trellis-{states}"] = Plane(PlaneSpec((40, 50), "int8", -8, 7), trellis_codes((40, 50), states))
    return planes


def trellis_codes(shape: tuple[int, int], states: int) -> torch.Tensor:
    """Codes that are mostly zero in one quantiser of a trellis and mostly not in the other."""
    table = {4: ((0, 2), (2, 0), (1, 3), (3, 1)), 8: ((0, 2), (2, 0), (4, 6), (6, 4), (5, 7), (7, 5), (1, 3), (3, 1))}
    values = (bell(shape, 7, "fixture trellis") * 20).reshape(-1).tolist()
    state, codes = 0, []
    for value in values:
        codes.append(round(value) if state < states // 2 else round(value + math.copysign(1, value)))
        state = table[states][state][codes[-1] & 1]
    return torch.tensor(codes, dtype=torch.int8).clamp(-8, 7).reshape(shape)


def planes_of(name: str) -> dict[str, Plane]:
    """The planes that the fixtures of a packer are made of, by name."""
    if name == "floats":
        return float_fixture_planes()
    planes = fixture_planes() | (context_fixture_planes() if name == "context" else {})
    return {plane_name: plane for plane_name, plane in planes.items() if find(name).stage().accepts(plane.spec)}


def main() -> None:
    """Write what is not there yet."""
    for name in ("raw", "zstd", "ans", "floats", "context"):
        packer = find(name).stage()
        for plane_name, (spec, x) in planes_of(name).items():
            folder = FOLDER / f"{name}-{packer.version}" / plane_name
            if not folder.exists():
                write_frozen(packer, x, folder, spec)


if __name__ == "__main__":
    main()
