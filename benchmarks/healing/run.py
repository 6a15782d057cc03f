"""BERT-tiny healed at three sizes, under several seeds, each beside its controls; and the value of each ingredient.

    python benchmarks/healing/run.py --model bert-tiny-sst2 --teacher minilm-sst2 --data dev.tsv --train train.tsv \
        [--only 350x] [--work runs/healing]

Recipes are in ``recipes``; nothing in them was chosen by the evaluated rows. Every run is a folder under ``--work``, and one
that is complete is not repeated, so that runs may be shared out to several processes by ``--only``. Training is done on one
thread (``OMP_NUM_THREADS=1``), so that bytes do not depend on the number of cores. `report.py` makes the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import stackc
from stackc.cli.progress import showing_progress
from stackc.recipe.document import read_document

HERE = Path(__file__).parent

#: Name, recipe, seeds, controls: in the order of the page.
HEADLINES = [
    ("106x", "106x.yaml", 3, ("random-init", "linear", "no-heal")),
    ("350x", "350x.yaml", 3, ("random-init", "linear", "no-heal")),
    ("1000x", "1000x.yaml", 3, ("random-init", "linear", "no-heal")),
]
INGREDIENTS = [
    (path.stem, f"ingredients/{path.name}", 1, ()) for path in sorted((HERE / "recipes" / "ingredients").glob("*.yaml"))
]


def recipe_of(file: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A recipe with the model, the teacher and the data of the command line."""
    recipe: dict[str, Any] = read_document(HERE / "recipes" / file).value
    recipe["model"] = arguments.model
    recipe["task"] = {"name": "text-classification", "data": arguments.data, "train": arguments.train}
    for stage in recipe["stages"]:
        if isinstance(stage, dict) and stage["use"] == "heal":
            stage["teacher"] = arguments.teacher
    return recipe


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "teacher", "data", "train"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", action="append", help="names of runs; all without it")
    parser.add_argument("--seeds", type=int, help="instead of three; a run with fewer is not repeated for more")
    parser.add_argument("--control", action="append", help="instead of all three")
    parser.add_argument("--work", type=Path, default=Path("runs/healing"))
    arguments = parser.parse_args()
    for name, file, seeds, controls in [*HEADLINES, *INGREDIENTS]:
        folder = arguments.work / name
        if (arguments.only and name not in arguments.only) or (folder / "report.json").is_file():
            continue
        with showing_progress() as progress:
            run = stackc.run(
                recipe_of(file, arguments),
                output=folder,
                resume=True,
                seeds=arguments.seeds or seeds,
                controls=(arguments.control or controls) if controls else (),
                every_stage=False,
                progress=progress,
            )
        print(f"{name}: {run.report.file.bytes:,} bytes")


if __name__ == "__main__":
    main()
