"""The page, the figures and the picture of `run.py`, from the reports of its runs.

    python benchmarks/healing/report.py [--work runs/healing]

Writes ``results.md``, ``results.json`` and ``../../docs/images/healing.svg``; with ``--redraw`` the first and the last from
the second. Nothing is measured here; stored runs whose folders are gone are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from run import HEADLINES, INGREDIENTS, LARGER, Run, folder_of

from stackc.reporting.report import ControlRow, Report, SeedRow, read_report
from stackc.runs.controls.run import summarise_seeds
from stackc.tasks import Score

HERE = Path(__file__).parent

#: A control with less than this share of the result's bytes is none at equal bytes.
_EQUAL = 0.9
COMMAND = (
    "python benchmarks/healing/run.py --model bert-tiny-sst2 --teacher minilm-sst2 --data dev.tsv --train train.tsv"
)


def kept(name: str, reports: dict[int, Report]) -> dict[str, Any]:
    """What the page needs of one run, as plain data; its reports by seed."""
    report = reports[0]
    seeds = [SeedRow(seed=seed, bytes=each.file.bytes, score=each.final.score) for seed, each in reports.items()]
    healing = [
        {
            "steps": summary.steps,
            "best step": summary.best_step,
            "seconds": round(summary.seconds),
            "rows": summary.rows,
            "dropped": summary.dropped,
            "held out": summary.held_out,
            "estimated bytes": summary.estimated_bytes,
            "packed bytes": summary.packed_bytes,
            "price": summary.price,
            "curve": [[point.step, point.loss, point.divergence, point.bits] for point in summary.curve],
        }
        for summary in report.healing
    ]
    return {
        "name": name,
        "bytes": report.file.bytes,
        "self contained": report.file.self_contained_bytes,
        "reference bytes": report.model.bytes,
        "reference": msgspec.to_builtins(report.reference_score),
        "score": msgspec.to_builtins(report.final.score),
        "healing": healing,
        "controls": msgspec.to_builtins(report.controls),
        "seeds": msgspec.to_builtins(summarise_seeds(seeds)) if len(seeds) > 1 else None,
        "seconds": {part: round(seconds) for part, seconds in report.seconds.items()},
    }


def collected(stored: list[dict[str, Any]], work: Path) -> tuple[list[dict[str, Any]], list[Report]]:
    """All runs in the order of the page, those of a folder as they are now and others as they are stored; reports read."""
    by_name, read = {run["name"]: run for run in stored}, []
    order = [*HEADLINES, *LARGER, *INGREDIENTS]
    for run in order:
        paths = {seed: work / folder_of(run.name, seed) / "report.json" for seed in range(run.seeds)}
        reports = {seed: read_report(path) for seed, path in paths.items() if path.is_file()}
        if 0 in reports:
            by_name[run.name] = kept(run.name, reports)
            read += reports.values()
    return [by_name[run.name] for run in order if run.name in by_name], read


def page(runs: list[dict[str, Any]], head: str) -> str:
    """Markdown."""
    by_name = {run["name"]: run for run in runs}
    lines = [
        "# Healing",
        "",
        head,
        "",
        "Every number is measured on the decoded file.",
        "",
        "## BERT-tiny at three sizes",
        "",
    ]
    lines += _beside_controls(HEADLINES, by_name, "The teacher is a stronger model.")
    larger = _beside_controls(LARGER, by_name, "The teacher is the reference.")
    if larger:
        lines += ["", "## MiniLM", "", *larger]
    lines += [
        "",
        "## What each ingredient is worth",
        "",
        "BERT-tiny, one seed, the budget of the recipes in `recipes/ingredients`. KL is that of the teacher's and the model's "
        "answers on rows held out of the training data, by which the step is chosen that is kept; accuracy is that of the "
        "evaluated rows. The reference was trained on the held-out rows too, which favours early steps.",
        "",
        "| | bytes | ratio | step kept | KL held out, there and at the end | accuracy % [95 %] | retention % [95 %] |",
        "|---|--:|--:|--:|---|---|---|",
    ]
    ingredients = [by_name[run.name] for run in INGREDIENTS if run.name in by_name]
    lines += map(_ingredient, sorted(ingredients, key=lambda run: -run["bytes"]))
    return "\n".join(lines) + "\n"


def _beside_controls(runs: list[Run], by_name: dict[str, dict[str, Any]], teacher: str) -> list[str]:
    """The runs of one reference, and their controls."""
    found = [by_name[run.name] for run in runs if run.name in by_name]
    if not found:
        return []
    reference = msgspec.convert(found[0]["reference"], Score)
    lines = [
        f"Reference: {_percent(reference.value)} [{_percent(reference.low)}, {_percent(reference.high)}] on {reference.rows} "
        f"evaluated rows, majority class {_percent(reference.majority)}; {found[0]['reference bytes']:,} bytes. {teacher}",
        "",
        "The file of the first seed; mean and standard deviation where there are more. Controls are run for the first seed.",
        "",
        "| | bytes | ratio | accuracy % [95 %] | retention % [95 %] | skill kept % | agreement % | KL | over seeds "
        "| estimated over packed bytes | training rows | minutes of training |",
        "|---|--:|--:|---|---|--:|--:|--:|---|--:|--:|--:|",
        *map(_headline, found),
        "",
        "| | control | bytes | accuracy % [95 %] | result ahead by, points [95 %] | McNemar p | in words |",
        "|---|---|--:|---|---|--:|---|",
    ]
    for run in found:
        lines += [_control(run["name"], msgspec.convert(row, ControlRow), run["bytes"]) for row in run["controls"]]
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _headline(run: dict[str, Any]) -> str:
    seeds, score = run["seeds"], msgspec.convert(run["score"], Score)
    healing = run["healing"][-1]
    ratio = run["reference bytes"] / run["bytes"]
    spread = "-"
    if seeds:
        spread = ", ".join(
            f"{100 * seeds[what]['mean']:.1f} ± {100 * seeds[what]['deviation']:.1f} {of}"
            for what, of in (("value", "accuracy"), ("retention", "retention"))
        )
        spread += f", {seeds['bytes']['mean']:,.0f} bytes ({len(seeds['runs'])} seeds)"
    return (
        f"| {run['name']} | {run['bytes']:,} | {ratio:,.0f}x "
        f"| {_percent(score.value)} [{_percent(score.low)}, {_percent(score.high)}] "
        f"| {_percent(score.retention)} [{_percent(score.retention_low)}, {_percent(score.retention_high)}] "
        f"| {_percent(score.skill_retention)} | {_percent(score.agreement)} | {score.kl:.3f} | {spread} "
        f"| {healing['estimated bytes'] / healing['packed bytes']:.3f} | {healing['rows']:,} "
        f"| {healing['seconds'] / 60:.0f} |"
    )


def _control(name: str, row: ControlRow, size: int) -> str:
    score, words = row.score, row.verdict
    if row.control == "random-init" and row.bytes < _EQUAL * size:
        words = f"no control at equal bytes: its codes died out on the way to {size:,} bytes"
    accuracy = "-" if score is None else f"{_percent(score.value)} [{_percent(score.low)}, {_percent(score.high)}]"
    ahead, p = "-", "-"
    if row.difference is not None and row.difference_low is not None and row.difference_high is not None:
        ahead = f"{100 * row.difference:+.1f} [{100 * row.difference_low:+.1f}, {100 * row.difference_high:+.1f}]"
        p = f"{row.mcnemar_p:.2g}"
    return f"| {name} | {row.control} | {row.bytes:,} | {accuracy} | {ahead} | {p} | {words} |"


def _ingredient(run: dict[str, Any]) -> str:
    score = msgspec.convert(run["score"], Score)
    step, divergence = "-", "-"
    if run["healing"]:
        healing = run["healing"][-1]
        best = next(point[2] for point in healing["curve"] if point[0] == healing["best step"])
        step, divergence = f"{healing['best step']:,}", f"{best:.3f}, {healing['curve'][-1][2]:.3f}"
    return (
        f"| {run['name']} | {run['bytes']:,} | {run['reference bytes'] / run['bytes']:.0f}x | {step} | {divergence} "
        f"| {_percent(score.value)} [{_percent(score.low)}, {_percent(score.high)}] "
        f"| {_percent(score.retention)} [{_percent(score.retention_low)}, {_percent(score.retention_high)}] |"
    )


def picture(runs: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against bytes: results, controls and ingredients, with the reference as a line."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "stackc"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.4))
    runs = [run for run in runs if run["reference bytes"] == runs[0]["reference bytes"]]  # of one model
    reference = runs[0]["reference"]
    axes.axhspan(100 * reference["low"], 100 * reference["high"], color="0.93", zorder=0)
    axes.axhline(100 * reference["value"], color="0.5", linewidth=1, zorder=1)
    groups: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        if run["controls"]:
            groups.setdefault("healed", []).append((run["bytes"], run["score"]["value"]))
            for control in run["controls"]:
                # One that died out on the way is no control at equal bytes, and would hide the others.
                equal = control["control"] != "random-init" or control["bytes"] >= _EQUAL * run["bytes"]
                if control["score"] is not None and equal:
                    groups.setdefault(control["control"], []).append((control["bytes"], control["score"]["value"]))
        elif run["healing"] and run["healing"][-1]["best step"]:
            label = "healed, four fixed prices or none, short training"
            groups.setdefault(label, []).append((run["bytes"], run["score"]["value"]))
    for (label, points), marker in zip(groups.items(), "osv^Dx", strict=False):
        axes.plot(
            *zip(*[(size / 1000, 100 * value) for size, value in sorted(points)], strict=True), marker, label=label
        )
    axes.set_xscale("log")
    axes.set_xticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
    axes.minorticks_off()
    axes.text(axes.get_xlim()[1], 100 * reference["value"] + 0.15, "reference", color="0.4", fontsize=9, ha="right")
    axes.set_xlabel("bytes of the file, kB")
    axes.set_ylabel(f"accuracy on {reference['rows']:,} rows, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/healing"))
    parser.add_argument("--redraw", action="store_true", help="from results.json")
    arguments = parser.parse_args()
    stored = HERE / "results.json"
    content = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {"runs": []}
    if not arguments.redraw:
        runs, read = collected(content["runs"], arguments.work)
        machine = (
            f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, two runs at a time, one thread each, "
            f"{platform.system()}, Python {platform.python_version()}, torch {version('torch')}, no GPU"
        )
        content = {"head": f"`{COMMAND}`, {machine}.", "runs": runs}
        text = json.dumps(content, indent=1) + "\n"
        for report in read:  # where folders are on this machine is nobody's business
            for summary in report.healing:
                text = text.replace(summary.teacher, Path(summary.teacher).name)
        stored.write_text(text, encoding="utf-8")
    (HERE / "results.md").write_text(page(content["runs"], content["head"]), encoding="utf-8")
    picture(content["runs"], HERE.parents[1] / "docs" / "images" / "healing.svg")


if __name__ == "__main__":
    main()
