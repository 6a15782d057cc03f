"""How near to its order-0 entropy a small plane can be coded: a bell curve fitted to each one, its parameters for free.

    python benchmarks/coding/limit.py --minilm FOLDER --bert-tiny FOLDER

The order-0 entropy of a thousand codes of 8 bits counts each code with the share that it has among just these, which nobody
knows before they are read. This is what they take with the generalised normal distribution that suits the plane best, its
mean, width and exponent told for nothing. Writes ``limit.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from integer_planes import Plane, small_planes
from machine import describe_machine
from safetensors.numpy import load_file
from scipy.optimize import minimize
from scipy.stats import gennorm

from stackc.core.entropy import entropy_bits

HERE = Path(__file__).parent


def fitted_bits(codes: np.ndarray) -> float:
    """Bits of a plane's codes under the best generalised normal distribution, rounded to whole numbers."""
    values, counts = np.unique(codes, return_counts=True)

    def bits(parameters: np.ndarray) -> float:
        mean, width, exponent = parameters[0], np.exp(parameters[1]), np.exp(parameters[2])
        shares = gennorm.cdf(values + 0.5, exponent, mean, width) - gennorm.cdf(values - 0.5, exponent, mean, width)
        return float(-(counts * np.log2(np.maximum(shares, 1e-12))).sum())

    spread = max(float(codes.std()), 0.3)
    begins = [
        np.array([codes.mean(), np.log(spread * scale), np.log(exponent)]) for scale, exponent in ((0.8, 1), (1.4, 2))
    ]
    return min(float(minimize(bits, begin, method="Nelder-Mead", options={"maxiter": 600}).fun) for begin in begins)


def groups(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Plane]]]:
    """Small planes of both models by group, without the ternary ones."""
    found: dict[str, list[Plane]] = {}
    for label, folder in (("BERT-tiny", arguments.bert_tiny), ("MiniLM", arguments.minilm)):
        for plane in small_planes(label, load_file(folder / "model.safetensors")):
            if "bit" in plane.group:
                found.setdefault(plane.group, []).append(plane)
    yield from found.items()


def main() -> None:
    """Fit, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--bert-tiny", type=Path, required=True)
    arguments = parser.parse_args()
    lines = [
        "# Small planes: how near to the entropy?",
        "",
        f"`python benchmarks/coding/limit.py --minilm minilm-sst2 --bert-tiny bert-tiny-sst2`, {describe_machine('scipy', 'numpy')}",
        "",
        "Bytes of all planes of a group. *fitted*: under the generalised normal distribution that suits each plane best, with its",
        "parameters for free.",
        "",
        "| planes | entropy | fitted | fitted / entropy |",
        "|---|--:|--:|--:|",
    ]
    for group, planes in groups(arguments):
        entropy = sum(entropy_bits(torch.from_numpy(plane.codes)) for plane in planes) / 8
        fitted = sum(fitted_bits(plane.codes) for plane in planes) / 8
        lines.append(f"| {group} | {entropy:,.0f} | {fitted:,.0f} | {fitted / entropy:.4f} |")
    text = "\n".join(lines) + "\n"
    (HERE / "limit.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
