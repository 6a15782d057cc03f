"""The page of `run.py`: ``results.json`` as tables.

python benchmarks/sharing/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/sharing/run.py --model minilm-sst2 --data dev.tsv --train train.tsv"

PARTS = {
    "basis": (
        "One basis for all attention matrices",
        "attention",
        "`seed` on the 24 matrices of 384x384, everything then as 8-bit codes. With one basis there is room for nearly twice "
        "the rank. The learning rate is 0.0005.",
    ),
    "codebook": (
        "One codebook for all attention matrices",
        "attention",
        "`codebook` on the same matrices, four values to a code, tables in float16; everything else as 8-bit codes. With one "
        "table there is room for three fifths more entries. The learning rate is 0.0001.",
    ),
    "books": (
        "One codebook for all layers",
        "layers",
        "The same on all 36 matrices of the layers, in which one table makes less of a difference: there is room for a sixth more "
        "entries.",
    ),
    "layers": (
        "One layer for all six",
        "layers",
        "`share` with `group: alike` and `difference: false` on all tensors of the layers, then 8-bit codes. These files are not "
        "equally large: the point is what six layers become. The learning rate is 0.0002.",
    ),
}


def table(lines: list[dict[str, Any]], compared: str) -> list[str]:
    """The runs of one part."""
    rows = [
        f"| | training steps | bytes of the file | of them {compared} | accuracy % [95 %] | agreement % | KL |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    for line in lines:
        value, low, high = (100 * each for each in line["accuracy"])
        rows.append(
            f"| {line['label']} | {line['steps'] or 'none'} | {line['bytes']:,} | {line[compared]:,} | "
            f"{value:.1f} [{low:.1f}, {high:.1f}] | {100 * line['agreement']:.1f} | {line['kl']:.3f} |"
        )
    return rows


def verdict(lines: list[dict[str, Any]]) -> list[str]:
    """In a sentence for each pair of equal size, what sharing does."""
    found = []
    for healed, how in ((False, "Not trained"), (True, "Trained")):
        of = [line for line in lines if bool(line["steps"]) == healed]
        by_name = {line["run"]: line for line in of}
        for line in of:
            shared = by_name.get(f"{line['run']}-shared")
            if shared is None:
                continue
            points = 100 * (shared["accuracy"][0] - line["accuracy"][0])
            what = "gains" if points > 0 else "loses"
            size = 100 * abs(shared["bytes"] / line["bytes"] - 1)
            found.append(
                f"* {how}, {shared['label']} {what} {abs(points):.1f} points against {line['label']}, and its KL is "
                f"{shared['kl']:.3f} instead of {line['kl']:.3f}; the files differ by {size:.2f} %."
            )
    return found


def page(content: dict[str, Any]) -> str:
    """The whole page."""
    lines = content["lines"]
    value, low, high = (100 * each for each in lines[0]["reference"])
    text = [
        "# Planes that tensors share",
        "",
        f"`{COMMAND}`, {content['head']}",
        "",
        f"MiniLM fine-tuned on SST-2: {value:.1f} % [{low:.1f}, {high:.1f}] of {lines[0]['rows']} rows, 90,855,944 bytes; one "
        "seed. Every number is measured on the decoded file, and a share of a shared plane counts for each that uses it. "
        "Trained is what is compared and nothing else, in steps of 16 rows. "
        "So few rows do not tell accuracies apart that differ by less than about two points; the divergence (KL) does better.",
        "",
    ]
    for part, (title, compared, words) in PARTS.items():
        of = [line for line in lines if line["part"] == part]
        if of:
            of.sort(key=lambda line: (line["run"].removesuffix("-shared"), line["steps"], line["run"]))
            text += [f"## {title}", "", words, "", *table(of, compared), ""]
            said = verdict(of)
            text += [*said, ""] if said else []
    return "\n".join(text).rstrip() + "\n"


if __name__ == "__main__":
    stored = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    (HERE / "results.md").write_text(page(stored), encoding="utf-8")
