"""Write the frozen fixtures of the transforms: ``python tests/transforms/write_fixtures.py``.

Each file holds an input plane, the planes that it was encoded to, and what those decode to, with the transform's name,
version and configuration as metadata. Files that exist are left alone: they stand for artifacts that people have, so a
decoder that no longer reproduces them needs a new version, not new fixtures. Add a case, run this, commit the new file.

The planes of two cases of ``seed`` are rounded to multiples of 1/256: their sums are exact in any order, which was all that
the format promised at first. Those of the third are not, so it pins the order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from stackc.core.abilities import Outside
from stackc.core.registry import find
from stackc.core.spec import PlaneSpec
from stackc.core.transform import NOTHING, Known, Weighted, config_fields
from stackc.transforms.share import Share

FOLDER = Path(__file__).parent / "fixtures"

#: Cases whose planes are rounded, so that their sums are exact.
ROUNDED = ("seed-centred", "seed-uncentred")

#: Formats of older versions are among the files, but nothing writes them any more.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prune@2-sparsity": ("prune", {"sparsity": 0.6}),
    "prune@2-rows": ("prune", {"rows": 0.5}),
    "prune@2-columns": ("prune", {"columns": 0.4}),
    "seed-centred": ("seed", {"rank": 3}),
    "seed-uncentred": ("seed", {"rank": 3, "center": False}),
    "seed-order-of-sums": ("seed", {"rank": 9}),
    "int@2-8-symmetric-row": ("int", {"bits": 8}),
    "int@2-4-group": ("int", {"bits": 4, "granularity": "group", "group_size": 4}),
    "int@2-5-asymmetric": ("int", {"bits": 5, "symmetric": False}),
    "int@2-1": ("int", {"bits": 1}),
    "int@2-step": ("int", {"step": 0.07}),
    "int@2-step-16-bits": ("int", {"step": 0.0002}),
    "tcq-8-states": ("tcq", {"step": 0.1}),
    "tcq-4-states": ("tcq", {"step": 0.07, "states": 4, "rdo": 0.0}),
    "tcq-8-states-16-bits": ("tcq", {"step": 0.0001}),
    "codebook@3-values": ("codebook", {"entries": 16}),
    "codebook@3-vectors": ("codebook", {"entries": 20, "dims": 3, "dtype": "float16"}),
    "codebook@3-group": ("codebook", {"entries": 50, "dims": 4, "group": "all"}),
    "delta": ("delta", {}),
    "delta-exact": ("delta", {"exact": True}),
    "cast-float16": ("cast", {"to": "float16"}),
    "cast-bfloat16": ("cast", {"to": "bfloat16"}),
    "share": ("share", {}),
    "share-one": ("share", {"difference": False}),
}


def example_plane(shape: tuple[int, ...] = (12, 10)) -> torch.Tensor:
    """A matrix of 12x10 numbers, with a row of zeros, a tie and an outlier; as many numbers in another shape."""
    x = torch.sin(torch.arange(120, dtype=torch.float64) ** 1.5).reshape(12, 10).to(torch.float32)
    x[4] = 0.0
    x[7] = x[6]
    x[9, 3] = -5.25
    return x.reshape(shape)


def other_plane(x: torch.Tensor) -> torch.Tensor:
    """What another model may have in the place of a plane: some of it the same, some of another sign."""
    return x + torch.cos(torch.arange(x.numel()).reshape(x.shape) * 0.7).clamp(min=0) / 8


def write(case: str) -> None:
    """Write the fixture of one case."""
    name, config = CASES[case]
    transform = msgspec.convert(config, find(name).stage)
    x = example_plane((12, 5, 1, 2) if "@" in case else (12, 10))
    spec = PlaneSpec.of(x)
    if not transform.settled:
        transform = transform.settle({"x": Weighted(x)})["x"]
    known = Known(shared={transform.outside: other_plane(x)}) if isinstance(transform, Outside) else NOTHING
    if isinstance(transform, Share):
        known = Known(shared=transform.find_common({"x": Weighted(x), "turned": Weighted(x.flip(0))}))
    planes = transform.encode(x, known)
    if case in ROUNDED:
        planes = {plane: torch.round(values * 256) / 256 for plane, values in planes.items()}
    metadata = {
        "name": name,
        "version": str(transform.version),
        "config": json.dumps(config_fields(transform.stored)),
        "spec": msgspec.json.encode(spec).decode(),
    }
    tensors = {"x": x, "decoded": transform.decode(planes, spec).clone()}
    tensors |= {f"planes.{plane}": values.contiguous() for plane, values in planes.items()}
    save_file(tensors, FOLDER / f"{case}.safetensors", metadata)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        if not (FOLDER / f"{case}.safetensors").exists():
            write(case)
