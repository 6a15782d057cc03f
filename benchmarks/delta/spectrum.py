"""How much of a difference its first singular vectors hold, matrix by matrix.

    OMP_NUM_THREADS=1 python benchmarks/delta/spectrum.py --model minilm-sst2 --finetunes runs/delta

For each group of matrices the share of the squared norm in the first 1, 2, 4 ... singular vectors, all matrices of the
group together; beside it what random numbers of the same shape would give is the rank over the lesser side, roughly.
Prints Markdown, and writes it to ``spectrum.md`` beside this file.
"""

from __future__ import annotations

import argparse
import re
import runpy
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
RANKS = (1, 2, 4, 8, 16, 32)
GROUPS = {
    "word embedding": "word_embeddings",
    "query, key": r"self\.(query|key)",
    "value, attention output": r"self\.value|attention\.output",
    "feed-forward": r"(intermediate|\d\.output)\.dense",
    "pooler": "pooler",
}


def squares(x: torch.Tensor) -> torch.Tensor:
    """Squared singular values, the largest first."""
    x = x.double()
    return torch.linalg.eigvalsh(x.T @ x if len(x) > x.shape[1] else x @ x.T).flip(0).clamp(min=0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base")
    parser.add_argument("--finetunes", type=Path, default=Path("runs/delta"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    describe = runpy.run_path(str(HERE.parent / "coding" / "machine.py"))["describe_machine"]
    base = load_file(arguments.model / "model.safetensors")
    lines = [f"# Singular values of differences\n\n`python benchmarks/delta/spectrum.py`, {describe('torch')}\n"]
    lines += ["Share of the squared norm in the first singular vectors, %:\n"]
    lines += ["| fine-tune | matrices | " + " | ".join(map(str, RANKS)) + " |", "|---|---|" + "--:|" * len(RANKS)]
    for folder in sorted(path for path in arguments.finetunes.iterdir() if path.is_dir()):
        tuned = load_file(folder / "model.safetensors")
        for group, pattern in GROUPS.items():
            names = [name for name, x in base.items() if x.ndim == 2 and re.search(pattern, name)]
            spectra = [squares(tuned[name] - base[name]) for name in names]
            total = sum(float(values.sum()) for values in spectra)
            shares = [100 * sum(float(values[:rank].sum()) for values in spectra) / total for rank in RANKS]
            lines.append(f"| {folder.name} | {group} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")
    text = "\n".join(lines) + "\n"
    (HERE / "spectrum.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
