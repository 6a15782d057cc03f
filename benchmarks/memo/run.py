"""What a run takes from earlier ones: another last stage, and runs that are killed at random moments.

    python benchmarks/memo/run.py [--kills 10] [--seed 0] [--model FOLDER --data FILE.tsv --train FILE.tsv]

First a recipe is run, then again with another last stage, each in a process of its own with the machine code of kernels at
hand; the second should take less than a fifth of the first. Then an allocated, calibrated, healed run of the demo model is killed
with SIGKILL at random moments and started again until it ends, and its bytes are compared with those of a run that nobody
disturbed; so often that there were ten kills. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASK = {"name": "text-classification", "data": "demo/movie-reviews"}
HEADED = [
    {"use": "prune", "on": "*word_embeddings.weight", "rows": 0.5},
    {"use": "seed", "on": "*word_embeddings.weight/values", "rank": 32},
    {"use": "int", "on": ["*.weight", "*/scores", "*/basis"], "bits": 6, "calibrated": True},
]
ALLOCATED: dict[str, Any] = {
    "task": TASK,
    "allocate": {"ratio": 25},
    "calibration": {"rows": 64},
    "stages": [
        {"use": "seed", "on": "*word_embeddings.weight", "rank": "auto", "calibrated": True},
        {"use": "int", "on": "*/{scores,basis}", "bits": 6},
        {"use": "int8", "on": "*.weight"},
        {"use": "heal", "steps": 40, "batch_size": 16, "evaluations": 2},
        "context",
        "floats",
    ],
}
MODEL = "demo/bert-tiny-reviews"
SCRIPT = """
import json, sys
import stackc
stackc.run(json.loads(sys.argv[1]), sys.argv[2], output=sys.argv[3], resume=True)
"""


def begin(recipe: dict[str, Any], output: Path, cache: Path, model: str = MODEL) -> subprocess.Popen[bytes]:
    """A run in a process of its own."""
    kernels = {
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "stackc-kernels"))
    }
    environment = {**os.environ, **kernels, "STACKC_CACHE": str(cache)}
    environment.pop("STACKC_CACHE_SIZE", None)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(recipe), model, str(output)], env=environment)


def timed(recipe: dict[str, Any], output: Path, cache: Path, model: str = MODEL) -> float:
    """Seconds of a whole run."""
    start = time.perf_counter()
    assert begin(recipe, output, cache, model).wait() == 0
    return time.perf_counter() - start


def another_last_stage(options: argparse.Namespace, folder: Path) -> None:
    """A run, and another that differs in its last stage."""
    task = {**TASK, "data": options.data, **({"train": options.train} if options.train else {})}
    first, second = ({"task": task, "stages": [*HEADED, last]} for last in ("zstd", "ans"))
    for number, recipe in enumerate((first, second)):  # compiles the kernels
        timed({**recipe, "task": TASK}, folder / f"warm-{number}", folder / f"warm-{number}-cache")
    before = timed(first, folder / "first", folder / "cache", options.model)
    after = timed(second, folder / "second", folder / "cache", options.model)
    alone = timed(second, folder / "alone", folder / "other", options.model)
    same = [(folder / run / "model.stackc").read_bytes() for run in ("second", "alone")]
    assert same[0] == same[1]
    print("| run | seconds |\n|---|---|")
    print(f"| four stages, `zstd` last | {before:.1f} |")
    print(f"| the same with `ans` last, after it | {after:.1f} ({after / before:.0%}) |")
    print(f"| the same with `ans` last, alone | {alone:.1f} |\n", flush=True)


def kill(most: int, moments: random.Random, folder: Path) -> None:
    """Runs that are killed and started again, until there were so many kills."""
    timed(ALLOCATED, folder / "compiled", folder / "compiled-cache")
    whole = timed(ALLOCATED, folder / "whole", folder / "whole-cache")
    kills: list[float] = []
    rounds = equal = 0
    while len(kills) < most:
        output, cache = folder / f"killed-{rounds}", folder / f"killed-{rounds}-cache"
        while not output.is_dir():
            process, moment = begin(ALLOCATED, output, cache), whole * moments.uniform(0.1, 0.95)
            try:
                process.wait(None if len(kills) == most else moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills.append(moment)
            process.wait()
        rounds += 1
        equal += all(
            (output / file).read_bytes() == (folder / "whole" / file).read_bytes()
            for file in ("model.stackc", "recipe.lock.yaml")
        )
    print(f"Allocated, calibrated, healed: {whole:.1f} s undisturbed. Killed {len(kills)} times, ", end="")
    print(f"{', '.join(f'{seconds:.0f}' for seconds in kills)} s after a start, in {rounds} runs; of these ", end="")
    print(f"{equal} gave the bytes of the undisturbed one, lock file included.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default=TASK["data"])
    parser.add_argument("--train")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        another_last_stage(options, Path(name))
        kill(options.kills, random.Random(options.seed), Path(name))  # noqa: S311
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
