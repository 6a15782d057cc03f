"""Choose the settings of the shipped stacks on the holdout split of the demo; the test split is never read.

    python benchmarks/baselines/choose.py

Tries the overrides below and prints, for each, bytes, ratio, holdout retention and the divergence from the reference's
probabilities. The rule: of the settings that reach the ratio, the one with the smallest divergence, which 818 rows
measure far more sharply than an accuracy.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

from stackc.recipe.document import read_document
from stackc.recipe.overrides import override
from stackc.recipe.parse import find_recipe, parse_recipe
from stackc.runs.runner import run

#: Ratio that each recipe has to reach.
RATIOS = {"prune+seed+int8": 25, "prune+seed+int4": 50}


class Trial(NamedTuple):
    """One setting and what it gave on the holdout split."""

    overrides: tuple[str, ...]
    size: int
    ratio: float
    retention: float
    divergence: float


def grid(**choices: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every combination of values; keys name a stage and a field, as ``s1_rank``."""
    combinations = []
    for values in product(*choices.values()):
        settings = zip((key.split("_", 1) for key in choices), values, strict=True)
        combinations.append(tuple(f"stages[{stage[1:]}].{field}={value}" for (stage, field), value in settings))
    return combinations


GRIDS = {
    "prune+seed+int8": grid(s0_rows=("0.5", "0.55", "0.6", "0.65"), s1_rank=("24", "26", "28", "32", "36")),
    "prune+seed+int4": grid(
        s0_rows=("0.55", "0.6", "0.65"), s1_rank=("24", "28", "32"), s2_bits=("5", "6"), s3_bits=("4", "5")
    ),
}


def trial(recipe: str, overrides: tuple[str, ...]) -> Trial:
    """Run a shipped recipe with some settings on the holdout split."""
    document = override(read_document(find_recipe(recipe)), [*overrides, "task.split=holdout"])
    with tempfile.TemporaryDirectory() as folder:
        report = run(parse_recipe(document), output=Path(folder) / "run", every_stage=False).report
    score = report.final.score
    if score is None or score.retention is None or score.kl is None:
        raise SystemExit("the recipe has no task, or its model is broken")
    return Trial(overrides, report.file.bytes, report.file.ratio, score.retention, score.kl)


def main() -> None:
    """Print a table for every recipe, smallest file first, and the choice."""
    for recipe, settings in GRIDS.items():
        trials = sorted((trial(recipe, overrides) for overrides in settings), key=lambda t: t.size)
        print(f"\n{recipe}\n\n| settings | bytes | ratio | holdout retention | KL, nats |\n|---|--:|--:|--:|--:|")
        for found in trials:
            print(
                f"| {', '.join(found.overrides)} | {found.size:,} | {found.ratio:.1f}x | {100 * found.retention:.1f} % "
                f"| {found.divergence:.4f} |"
            )
        good = [found for found in trials if found.ratio >= RATIOS[recipe]]
        chosen = min(good, key=lambda t: t.divergence, default=None)
        print(f"\nchosen: {', '.join(chosen.overrides)}" if chosen else f"\nnone reaches {RATIOS[recipe]}x")


if __name__ == "__main__":
    main()
