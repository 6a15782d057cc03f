"""BERT-tiny healed at three sizes and its teacher at one, beside their controls; and the value of each ingredient.

    python benchmarks/healing/run.py --model bert-tiny-sst2 --teacher minilm-sst2 --data dev.tsv --train train.tsv \
        [--only 350x] [--work runs/healing]

Recipes are in ``recipes``; nothing in them was chosen by the evaluated rows. Every run is a folder under ``--work``, and one
that is complete is not repeated, but for controls that it does not have yet, so that runs may be shared out to several
processes by ``--only``, ``--seed`` and ``--control``. Seeds are folders of their own (``350x-seed-1``). Training is done on one
thread (``OMP_NUM_THREADS=1``), so that bytes do not depend on the number of cores. `report.py` makes the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import stackc
from stackc.cli.progress import showing_progress
from stackc.models import open_reference
from stackc.recipe.document import read_document
from stackc.recipe.parse import recipe_from
from stackc.reporting.report import read_report
from stackc.runs.controls.run import run_controls
from stackc.util.output import write_text

HERE = Path(__file__).parent


class Run(NamedTuple):
    """A line of the page: its recipe, and what it is run with."""

    name: str
    file: str
    seeds: int = 1
    controls: tuple[str, ...] = ()
    #: The teacher of the others is compressed, and is its own teacher.
    of_teacher: bool = False


ALL_CONTROLS = ("random-init", "linear", "no-heal")
#: In the order of the page.
HEADLINES = [
    Run("106x", "106x.yaml", 3, ALL_CONTROLS),
    Run("350x", "350x.yaml", 3, ALL_CONTROLS),
    Run("1000x", "1000x.yaml", 3, ALL_CONTROLS),
]
LARGER = [Run("minilm-100x", "minilm-100x.yaml", 3, ALL_CONTROLS, of_teacher=True)]
INGREDIENTS = [
    Run(path.stem, f"ingredients/{path.name}") for path in sorted((HERE / "recipes" / "ingredients").glob("*.yaml"))
]


def recipe_of(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """A recipe with the model, the teacher and the data of the command line."""
    recipe: dict[str, Any] = read_document(HERE / "recipes" / run.file).value
    recipe["model"] = arguments.teacher if run.of_teacher else arguments.model
    recipe["task"] = {"name": "text-classification", "data": arguments.data, "train": arguments.train}
    for stage in recipe["stages"]:
        if isinstance(stage, dict) and stage["use"] == "heal" and not run.of_teacher:
            stage["teacher"] = arguments.teacher
    return recipe


def folder_of(name: str, seed: int) -> str:
    """Name of the folder of a run under one of its seeds."""
    return name if seed == 0 else f"{name}-seed-{seed}"


def run_once(recipe: dict[str, Any], folder: Path, controls: Sequence[str]) -> None:
    """Run a recipe into a folder, or what its report does not have yet."""
    if (folder / "report.json").is_file():
        add_controls(recipe, folder, controls)
        return
    with showing_progress() as progress:
        run = stackc.run(recipe, output=folder, resume=True, controls=controls, every_stage=False, progress=progress)
    print(f"{folder.name}: {run.report.file.bytes:,} bytes")


def add_controls(recipe: dict[str, Any], folder: Path, controls: Sequence[str]) -> None:
    """Run the controls that the report of a complete run does not have, and write them into it."""
    report = read_report(folder / "report.json")
    missing = [control for control in controls if control not in {row.control for row in report.controls}]
    if not missing:
        return
    checked = recipe_from({**recipe, "controls": missing})
    with showing_progress() as progress:
        rows = run_controls(
            checked, open_reference(recipe["model"]), folder / "model.stackc", report, progress=progress
        )
    report = read_report(folder / "report.json")  # another process may have run others in the meantime
    report = msgspec.structs.replace(report, controls=[*report.controls, *rows])
    write_text(folder / "report.json", report.to_json())


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "teacher", "data", "train"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", action="append", help="names of runs; all without it")
    parser.add_argument("--seed", type=int, action="append", help="one of the seeds 0, 1, 2; all without it")
    parser.add_argument("--control", action="append", help="instead of all three")
    parser.add_argument("--work", type=Path, default=Path("runs/healing"))
    arguments = parser.parse_args()
    for run in [*HEADLINES, *LARGER, *INGREDIENTS]:
        for seed in range(run.seeds):
            if (arguments.only and run.name not in arguments.only) or (arguments.seed and seed not in arguments.seed):
                continue
            recipe = {**recipe_of(run, arguments), "seed": seed}
            # Controls are run for the first seed.
            wanted = (arguments.control or run.controls) if run.controls and seed == 0 else ()
            run_once(recipe, arguments.work / folder_of(run.name, seed), wanted)


if __name__ == "__main__":
    main()
