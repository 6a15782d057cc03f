"""What a run takes from earlier ones: another last stage, and runs that are killed at random moments.

    python benchmarks/memo/run.py [--kills 10] [--seed 0]

On the demo model. First a recipe is run, then again with another last stage, each in a process of its own with the machine
code of kernels at hand; the second should take less than a fifth of the first. Then an allocated, calibrated, healed run is
killed with SIGKILL at random moments until it ends, and its bytes are compared with those of a run that nobody disturbed.
Prints a Markdown table.
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


def begin(recipe: dict[str, Any], output: Path, cache: Path) -> subprocess.Popen[bytes]:
    """A run in a process of its own."""
    kernels = {
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "stackc-kernels"))
    }
    environment = {**os.environ, **kernels, "STACKC_CACHE": str(cache)}
    environment.pop("STACKC_CACHE_SIZE", None)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(recipe), MODEL, str(output)], env=environment)


def timed(recipe: dict[str, Any], output: Path, cache: Path) -> float:
    """Seconds of a whole run."""
    start = time.perf_counter()
    assert begin(recipe, output, cache).wait() == 0
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = ({"task": TASK, "stages": [*HEADED, last]} for last in ("zstd", "ans"))
        for number, recipe in enumerate((first, second)):  # compiles the kernels
            timed(recipe, folder / f"warm-{number}", folder / f"warm-{number}-cache")
        before = timed(first, folder / "first", folder / "cache")
        after = timed(second, folder / "second", folder / "cache")
        alone = timed(second, folder / "alone", folder / "other")
        same = [(folder / run / "model.stackc").read_bytes() for run in ("second", "alone")]
        assert same[0] == same[1]
        print("| run | seconds |\n|---|---|")
        print(f"| four stages, `zstd` last | {before:.1f} |")
        print(f"| the same with `ans` last, after it | {after:.1f} ({after / before:.0%}) |")
        print(f"| the same with `ans` last, alone | {alone:.1f} |\n")
        whole = timed(ALLOCATED, folder / "whole", folder / "whole-cache")
        kills, attempts = 0, list[float]()
        while not (folder / "killed").is_dir():
            process, began = begin(ALLOCATED, folder / "killed", folder / "killed-cache"), time.perf_counter()
            try:
                process.wait(None if kills == options.kills else whole * moments.uniform(0.1, 0.9))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            attempts.append(time.perf_counter() - began)
        equal = all(
            (folder / "killed" / file).read_bytes() == (folder / "whole" / file).read_bytes()
            for file in ("model.stackc", "recipe.lock.yaml")
        )
        print(f"Allocated, calibrated, healed: {whole:.1f} s undisturbed. Killed {kills} times after ", end="")
        print(
            f"{', '.join(f'{seconds:.0f}' for seconds in attempts[:-1])} s, done {attempts[-1]:.1f} s after the last ",
            end="",
        )
        print(f"start; {'the same bytes' if equal else 'OTHER BYTES'}, lock file included.")
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
