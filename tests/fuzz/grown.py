"""Files that were never written by an encoder: a random stack on a random tensor, with planes of the right length.

Most of them decode, so that what stages do with numbers that no encoder makes is tried too.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stackc.core.registry import find_format
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Transform
from stackc.util.errors import StackcError
from tests.fuzz.draw import STAGES, Draw
from tests.fuzz.parts import Parts

_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


def grown(draw: Draw) -> Parts:
    """A file of one tensor."""
    shape = [draw.below(draw.one((3, 6, 10))) for _ in range(draw.one((0, 1, 2, 2, 2, 3, 4)))]
    dtype = draw.below(4 if draw.chance(0.8) else 10)
    spec = PlaneSpec(tuple(shape), _DTYPES[dtype], *((0, 1) if dtype == 9 else ()))
    pieces: list[bytes] = []
    wire = _node(draw, spec, pieces, None, draw.one((1, 2, 3, 6)))
    manifest = [2, None, [wire], ["w"], [[0, dtype, shape, [len(piece) for piece in pieces]]], {}, {}, b""]
    return Parts(manifest, pieces)


def _node(draw: Draw, spec: PlaneSpec, pieces: list[bytes], ones: int | None, depth: int) -> list[Any]:
    if depth and ones is None and spec.is_real and draw.chance(0.8):
        name = draw.one(STAGES[:8])
        config = _config(draw, name, spec)
        try:
            stage = msgspec.convert(config, find_format(name, 1))
            if not isinstance(stage, Transform):
                raise TypeError(f"{name} is no transform")
            specs = stage.plan(spec)
        except (StackcError, msgspec.ValidationError, ValueError):
            return ["raw", 1, {}, *([] if draw.chance(0.5) else [[]])]
        children = []
        for plane, below in specs.items():
            kept = None
            if plane == "mask":
                kept = specs["values"].shape[-1 if config.get("columns") is not None else 0]
            children.append(_node(draw, below, pieces, kept, depth - 1))
        return [name, 1, config, children]
    pieces.append(_raw(draw, spec, ones))
    if draw.chance(0.2):
        pieces[-1] = bytes([draw.one((0, 0x20, 1))]) + pieces[-1]
        return draw.one((["zstd", 1, {"level": 19}], ["ans", 1, {}], ["floats", 1, {}], ["context", 1, {}]))
    return ["raw", 1, {}]


def _raw(draw: Draw, spec: PlaneSpec, ones: int | None) -> bytes:
    """Bytes that ``raw`` takes, for masks with as many ones as there must be."""
    size = spec.nbytes
    if spec.lo is not None:
        bits = spec.numel * spec.bits
        size = -(-bits // 8)
        number = draw.getrandbits(bits) if bits else 0
        if ones is not None:
            chosen = draw.sample(range(spec.numel), min(ones, spec.numel))
            number = sum(1 << place for place in chosen)
        return number.to_bytes(size, "little")
    if draw.chance(0.3):
        return draw.one((b"\0", b"\xff", b"\x7f", b"\x80", b"\x01")) * size
    return draw.randbytes(size)


def _config(draw: Draw, name: str, spec: PlaneSpec) -> dict[str, Any]:
    """A configuration that is mostly legal."""
    match name:
        case "prune":
            share = draw.one((0.0, 0.25, 0.5, 0.75, 1.0, draw.random()))
            which = draw.one(("sparsity", "rows", "columns", "keep"))
            shares = {"sparsity": None, "rows": None, "columns": None}
            shares["sparsity" if which == "keep" else which] = share
            scope = "global" if which == "keep" else "tensor"
            return {**shares, "scope": scope, "keep": draw.below(spec.numel + 1) if which == "keep" else None}
        case "seed":
            most = min(spec.shape[0], spec.numel // max(spec.shape[0], 1)) if spec.shape else 1
            return {"rank": 1 + draw.below(most), "variance": None, "center": draw.chance(0.5)}
        case "int":
            granularity = draw.one(("tensor", "row", "group"))
            symmetric = draw.chance(0.6)
            bits = 1 + draw.below(16 if symmetric and granularity == "tensor" else 8)
            group = 1 + draw.below(12) if granularity == "group" else None
            return {"bits": bits, "symmetric": symmetric, "granularity": granularity, "group_size": group}
        case "cast":
            return {"to": draw.one(("float16", "bfloat16"))}
        case "delta":
            return {"exact": draw.chance(0.5)}
        case "share":
            return {"difference": draw.chance(0.5)}
        case "tcq":
            return {"states": draw.one((4, 8)), "bits": 2 + draw.below(15)}
        case _:
            entries = draw.one((2, 3, 5, 300, 65536))
            dims = 1 + draw.below(5)
            dtype = draw.one((None, "float16", "float32", "float64"))
            return {"entries": entries, "dims": dims, "shared": False, "dtype": dtype, "table": None}
