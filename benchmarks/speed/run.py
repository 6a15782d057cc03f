"""Time and memory of encoding and decoding a model, with zstd -3 of the same bytes beside them in the same run.

    python benchmarks/speed/run.py --model FOLDER [--data FILE.tsv] [--recipe prune+seed+int8] [--repeat 3]

Every measurement runs in a process of its own, so that its peak memory is its own; encode, decode and zstd take turns.
With --data the recipe is also evaluated end to end. Nothing is taken from earlier runs. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["STACKC_CACHE_SIZE"] = "0"

MEMORY_ALLOWANCE = 500e6
MEMORY_FACTOR = 1.5

ENCODE = """
import json, resource, sys, time
begin = time.perf_counter()
import stackc
run = stackc.run(sys.argv[1], sys.argv[2], output=sys.argv[3], overwrite=True, evaluate=len(sys.argv) > 4)
seconds = run.report.seconds
print(json.dumps({
    "seconds": seconds["encode"] + seconds["settle"],
    "with checks": sum(seconds.values()),
    "process": time.perf_counter() - begin,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "score": None if run.report.final.score is None else {
        "reference": run.report.reference_score.value, "value": run.report.final.score.value, "rows": run.report.final.score.rows,
        "verdict": run.report.final.score.verdict,
    },
    "bytes": run.report.model.bytes, "file": run.report.file.bytes, "ratio": run.report.file.ratio,
}))
"""

DECODE = """
import json, resource, sys, time
import torch, stackc
begin = time.perf_counter()
with stackc.open(sys.argv[1]) as artifact:
    state = artifact.state_dict()
print(json.dumps({
    "seconds": time.perf_counter() - begin,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "bytes": sum(t.numel() * t.element_size() for t in state.values()),
}))
"""

IMPORTS = """
import json, resource
import torch, transformers, stackc.runs.pipeline, stackc.util.statistics
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""

ZSTD = """
import json, sys, time, zstandard
from pathlib import Path
data = b"".join(p.read_bytes() for p in sorted(Path(sys.argv[1]).glob("*.safetensors")))
begin = time.perf_counter()
packed = zstandard.ZstdCompressor(level=3).compress(data)
middle = time.perf_counter()
zstandard.ZstdDecompressor().decompress(packed)
print(json.dumps({"seconds": middle - begin, "decode": time.perf_counter() - middle, "file": len(packed), "bytes": len(data)}))
"""


def measure(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script in a process of its own and read the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1] if done.stderr else "the measured process failed")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def median(rows: list[dict[str, Any]], key: str) -> float:
    """Median of one figure over repeated runs."""
    return statistics.median(row[key] for row in rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="local Hugging Face folder with safetensors")
    parser.add_argument("--data", help="TSV with sentence and label; evaluates the recipe end to end")
    parser.add_argument("--train", help="TSV of training texts, for the token counts of the recipe")
    parser.add_argument("--recipe", default=str(Path(__file__).with_name("minilm.yaml")))
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    encodes, decodes, peers = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        output, recipe = str(Path(folder) / "run"), with_task(arguments, Path(folder))
        for _ in range(arguments.repeat):
            encodes.append(measure(ENCODE, recipe, arguments.model, output))
            decodes.append(measure(DECODE, str(Path(output) / "model.stackc")))
            peers.append(measure(ZSTD, arguments.model))
        imports = measure(IMPORTS)
        evaluated = measure(ENCODE, recipe, arguments.model, output, "evaluate") if arguments.data else None
    size = encodes[0]["bytes"]
    limit = MEMORY_FACTOR * size + MEMORY_ALLOWANCE
    print(
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, recipe {Path(arguments.recipe).name}"
    )
    print(
        f"reference {size / 1e6:.1f} MB; median of {arguments.repeat} runs; imports alone hold {imports['peak'] / 1e6:.0f} MB\n"
    )
    print("| | seconds | peak memory | bytes | times zstd -3 |")
    print("|---|---|---|---|---|")
    rows = [
        ("encode, all stages reported", encodes, "seconds", "seconds", encodes[0]["file"]),
        ("encode and check every stage's file", encodes, "with checks", "seconds", encodes[0]["file"]),
        ("decode", decodes, "seconds", "decode", decodes[0]["bytes"]),
    ]
    for label, runs, key, peer, count in rows:
        ratio = statistics.median(run[key] / other[peer] for run, other in zip(runs, peers, strict=True))
        print(
            f"| {label} | {median(runs, key):.2f} | {median(runs, 'peak') / 1e6:.0f} MB | {count:.0f} | {ratio:.1f} |"
        )
    print(f"| zstd -3, compress | {median(peers, 'seconds'):.2f} | | {peers[0]['file']:.0f} | 1.0 |")
    print(f"| zstd -3, decompress | {median(peers, 'decode'):.2f} | | {peers[0]['bytes']:.0f} | 1.0 |")
    print(f"\nratio {encodes[0]['ratio']:.1f}x; memory limit 1.5 x model + 500 MB = {limit / 1e6:.0f} MB")
    if evaluated:
        score = evaluated["score"]
        print(
            f"\n{score['rows']} rows: reference {score['reference']:.4f}, decoded file {score['value']:.4f}; {score['verdict']}"
        )


def with_task(arguments: argparse.Namespace, folder: Path) -> str:
    """The recipe's file, or one beside it that names the data."""
    from stackc.recipe.document import read_document
    from stackc.recipe.overrides import override
    from stackc.recipe.parse import find_recipe

    document = read_document(find_recipe(arguments.recipe))
    if arguments.data:
        task = {"name": "text-classification", "data": arguments.data, "train": arguments.train}
        document = override(document, [f"task={json.dumps(task)}"])
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document.value), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
