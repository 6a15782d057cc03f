"""Read one tensor of a file, and say how it is stored; the other tensors are not read.

python examples/read_one_tensor.py FILE [TENSOR]
"""

from __future__ import annotations

import sys

from rich.console import Console

import stackc
from stackc.core.stack import describe


def main(path: str, name: str | None = None) -> None:
    """Show the tensors of a file, or one tensor with its planes."""
    console = Console(highlight=False, soft_wrap=True)
    with stackc.open(path) as artifact:
        if name is None:
            for known, spec in artifact.specs.items():
                console.print(f"{known}: {spec}", markup=False)
            return
        tensor = artifact[name]
        planes = artifact.planes(name)
        console.print(f"{name}: {describe(artifact.stack(name))}", markup=False)
        for plane in planes:
            where = plane.planned.path or "the tensor itself"
            console.print(f"  {where}: {plane.planned.spec}, {plane.length:,} bytes", markup=False)
        read = sum(plane.length for plane in planes)
        console.print(f"{read:,} of {artifact.file_bytes:,} bytes hold this tensor; its norm is {tensor.norm():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
