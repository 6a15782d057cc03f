"""The README's table: the baselines of the claim and stackc's stacks, each evaluated once on the demo's test split.

    python benchmarks/baselines/run.py [--output benchmarks/baselines]

Writes ``results.md``, ``results.json`` and ``../../docs/images/ratio-accuracy.svg``. Settings were chosen on the holdout
split (``choose.py``); nothing here selects.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import stackc

HERE = Path(__file__).parent
#: Label and recipe, in the order of the table.
ROWS = [
    ("lossless", "lossless"),
    ("int8", "int8"),
    ("prune 50 %", "prune50"),
    ("seed (PCA, rank 16)", "seed"),
    ("seed at 106x", str(HERE / "seed-106x.yaml")),
    ("prune + seed + int8", "prune+seed+int8"),
    ("prune + seed + int4", "prune+seed+int4"),
]


def measure(label: str, recipe: str) -> dict[str, Any]:
    """Run one recipe and keep what the table shows."""
    with tempfile.TemporaryDirectory() as folder:
        report = stackc.run(recipe, output=Path(folder) / "run", every_stage=False).report
    score, reference = report.final.score, report.reference_score
    assert score is not None
    assert reference is not None
    return {
        "label": label,
        "recipe": Path(recipe).stem,
        "bytes": report.file.bytes,
        "ratio": report.file.ratio,
        "ratio to fp16": report.file.ratio_to_fp16,
        "ratio to lossless": report.file.ratio_to_lossless,
        "weight error": report.final.weight_error,
        "accuracy": [score.value, score.low, score.high],
        "retention": [score.retention, score.retention_low, score.retention_high],
        "skill retention": score.skill_retention,
        "agreement": score.agreement,
        "kl": score.kl,
        "p": score.mcnemar_p,
        "rows": score.rows,
        "majority": score.majority,
        "reference": [reference.value, reference.low, reference.high],
        "reference bytes": report.model.bytes,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    first = results[0]
    value, low, high = (100 * part for part in first["reference"])
    lossless = first["ratio to lossless"] / first["ratio"]
    lines = [
        "| | bytes | ratio | to fp16 | to lossless | accuracy [95 %] | retention [95 %] | skill kept | agreement |",
        "|---|--:|--:|--:|--:|---|---|--:|--:|",
        f"| original (fp32) | {first['reference bytes']:,} | 1.0x | 0.5x | {lossless:.1f}x | {value:.1f} [{low:.1f}, {high:.1f}] | 100 % | 100 % | 100 % |",
    ]
    for row in results:
        accuracy = [100 * part for part in row["accuracy"]]
        kept = [100 * part for part in row["retention"]]
        lines.append(
            f"| {row['label']} | {row['bytes']:,} | {row['ratio']:.1f}x | {row['ratio to fp16']:.1f}x | {row['ratio to lossless']:.1f}x "
            f"| {accuracy[0]:.1f} [{accuracy[1]:.1f}, {accuracy[2]:.1f}] | {kept[0]:.1f} % [{kept[1]:.1f}, {kept[2]:.1f}] "
            f"| {100 * row['skill retention']:.0f} % | {100 * row['agreement']:.1f} % |"
        )
    return "\n".join(lines)


def picture(results: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against ratio, with intervals; the majority class and the reference as lines."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "stackc"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2))
    reference = results[0]["reference"]
    axes.axhspan(100 * reference[1], 100 * reference[2], color="0.92", zorder=0)
    axes.axhline(100 * reference[0], color="0.45", linewidth=1, zorder=1)
    axes.text(280, 100 * reference[0] + 0.4, "trained reference", color="0.35", fontsize=9, ha="right")
    axes.axhline(100 * results[0]["majority"], color="0.45", linewidth=1, linestyle=":", zorder=1)
    axes.text(280, 100 * results[0]["majority"] + 0.5, "majority class", color="0.35", fontsize=9, ha="right")
    for row in results:
        value, low, high = (100 * part for part in row["accuracy"])
        ours = "+" in row["label"]
        color = "tab:blue" if ours else "tab:gray"
        axes.errorbar(row["ratio"], value, [[value - low], [high - value]], fmt="o", color=color, capsize=3)
        axes.annotate(
            row["label"].replace(" + int", "\n+ int").replace(" (", "\n("),
            (row["ratio"], low),
            xytext=(0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            color=color,
        )
    axes.set_xscale("log")
    axes.set_xlim(0.8, 300)
    axes.set_xticks([1, 2, 5, 10, 25, 50, 100, 200], ["1x", "2x", "5x", "10x", "25x", "50x", "100x", "200x"])
    axes.minorticks_off()
    axes.set_xlabel("bytes of the reference / bytes of the file")
    axes.set_ylabel(f"accuracy on {results[0]['rows']:,} test rows, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--redraw", action="store_true", help="table and picture from results.json, nothing measured")
    arguments = parser.parse_args()
    stored = arguments.output / "results.json"
    if arguments.redraw:
        results = json.loads(stored.read_text(encoding="utf-8"))
    else:
        results = [measure(label, recipe) for label, recipe in ROWS]
        stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = table(results)
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    head = f"# Baselines and stacks on the demo model\n\n`python benchmarks/baselines/run.py`, {date.today()}, {machine}, no GPU.\n\n"
    tail = (
        f"\n\nn = {results[0]['rows']} rows of the test split, majority class {100 * results[0]['majority']:.1f} %.\n"
    )
    (arguments.output / "results.md").write_text(head + text + tail, encoding="utf-8")
    picture(results, HERE.parents[1] / "docs" / "images" / "ratio-accuracy.svg")
    print(text)


if __name__ == "__main__":
    main()
