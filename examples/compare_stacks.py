"""Try several stacks on one model and print what each saves and what it costs.

    python examples/compare_stacks.py [MODEL]

MODEL is anything that ``stackc run --model`` takes: a Hugging Face folder or id, a .safetensors file, module:function.
Without a task only sizes and weight errors are compared. They say which stacks are worth an evaluation, not which is best.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

import stackc

STACKS = {
    "lossless": ["zstd"],
    "half precision": ["bf16", "zstd"],
    "int8": ["int8", "zstd"],
    "int4 in groups": [{"use": "int", "bits": 4, "granularity": "group", "group_size": 32}, "ans", "zstd"],
    "prune 50 %": [{"use": "prune", "on": "*.weight", "sparsity": 0.5, "scope": "global"}, "ans", "zstd"],
    "PCA, half of the variance": [{"use": "seed", "on": "*.weight", "variance": 0.5}, "zstd"],
    "prune 50 % and int4": [
        {"use": "prune", "on": "*.weight", "sparsity": 0.5, "scope": "global"},
        {"use": "int", "bits": 4},
        "ans",
        "zstd",
    ],
    "PCA, 90 %, and int6": [
        {"use": "seed", "on": "*.weight", "variance": 0.9},
        {"use": "int", "bits": 6},
        "ans",
        "zstd",
    ],
}


def main(model: str = "demo/bert-tiny-reviews") -> None:
    """Compress with every stack and print one row for each."""
    table = Table("stack", "bytes", "ratio", "bits per parameter", "weight error")
    for name, stages in STACKS.items():
        artifact, report = stackc.compress(model, {"stages": stages})
        artifact.close()
        row = report.final
        table.add_row(
            name,
            f"{report.file.bytes:,}",
            f"{row.ratio:.2f}",
            f"{row.bits_per_parameter:.2f}",
            f"{row.weight_error:.4f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(*sys.argv[1:2])
