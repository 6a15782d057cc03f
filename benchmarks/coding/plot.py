"""Bytes against weight error and against accuracy, from the points that ``accuracy.py`` stored.

    python benchmarks/coding/plot.py

Writes ``docs/images/coding.svg``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = {"minilm": "MiniLM, 22.7 M weights", "bert-tiny": "BERT-tiny, 4.4 M weights"}
#: Peers are grey and brown; what stackc makes is blue and green.
COLORS = {
    "nncodec": ("0.25", "0.5", "0.7"),
    "gptq": ("tab:brown", "tab:orange"),
    "recipes": ("tab:blue", "tab:green", "tab:purple", "tab:cyan", "tab:red", "tab:olive", "tab:pink"),
}
MARKERS = {"nncodec": "s", "gptq": "^", "recipes": "o"}
LEVEL = 0.99


def draw(results: dict[str, Any], path: Path) -> None:
    """A row for each model: weight error on the left, accuracy on the right."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "stackc"
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rows = [row for row in results["points"] if row["split"] == "data"]
    models = [model for model in NAMES if any(row["model"] == model for row in rows)]
    figure, grid = plt.subplots(len(models), 2, figsize=(11, 4.2 * len(models)), squeeze=False)
    styles: dict[str, tuple[str, str]] = {}
    for method, colors in COLORS.items():
        curves = dict.fromkeys(row["curve"] for row in rows if row["method"] == method)
        styles.update({curve: (colors[index % len(colors)], MARKERS[method]) for index, curve in enumerate(curves)})
    for model, (error, accuracy) in zip(models, grid, strict=True):
        of_model = [row for row in rows if row["model"] == model]
        for curve, (color, marker) in styles.items():
            points = sorted((row for row in of_model if row["curve"] == curve), key=lambda row: row["bytes"])
            size = [row["bytes"] / 1e6 for row in points]
            style: dict[str, Any] = {
                "color": color,
                "marker": marker,
                "markersize": 4,
                "linewidth": 1.2,
                "label": curve,
            }
            error.plot(size, [row["weight error"] for row in points], **style)
            accuracy.plot(size, [100 * row["accuracy"][0] for row in points], **style)
        reference, low, high = (100 * part for part in results["references"][model])
        accuracy.axhspan(low, high, color="0.94", zorder=0)
        accuracy.axhline(reference, color="0.45", linewidth=1, zorder=1)
        accuracy.axhline(LEVEL * reference, color="0.45", linewidth=1, linestyle=":", zorder=1)
        beside: dict[str, Any] = {
            "transform": accuracy.get_yaxis_transform(),
            "color": "0.35",
            "fontsize": 8,
            "va": "center",
        }
        accuracy.text(1.01, reference, "reference", **beside)
        accuracy.text(1.01, LEVEL * reference, "99 % of it", **beside)
        accuracy.set_ylim(max(reference - 13, 50), reference + 2.5)
        error.set_yscale("log")
        error.set_ylabel("squared weight error / squared norm")
        accuracy.set_ylabel(f"accuracy on {of_model[0]['rows']:,} rows, %")
        for axes in (error, accuracy):
            axes.set_xscale("log")
            axes.set_title(NAMES[model], fontsize=10, loc="left")
            axes.set_xlabel("bytes of the file, MB")
            axes.xaxis.set_major_locator(
                FixedLocator([0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20])
            )
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    lines = -(-len(labels) // 4)
    figure.tight_layout(rect=(0, 0.022 * lines + 0.01, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=HERE / "accuracy.json")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "docs" / "images" / "coding.svg")
    arguments = parser.parse_args()
    draw(json.loads(arguments.input.read_text("utf-8")), arguments.output)


if __name__ == "__main__":
    main()
