"""What the stage ``delta`` makes of fine-tunes: files, their ratios both ways, and how often they predict the same.

    OMP_NUM_THREADS=1 python benchmarks/delta/stages.py --model minilm-sst2 --finetunes runs/delta --data dev.tsv

``--model`` is the base, ``--finetunes`` the folder that ``finetune.py`` wrote, ``--data`` the rows that both predict.
Nothing is trained, and the numbers of the stages are not chosen on these rows. Writes ``stages.json`` and ``stages.md`` beside this file; what
is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
import time
from pathlib import Path
from typing import Any

from stackc.models import open_reference
from stackc.recipe.parse import recipe_from
from stackc.runs.pipeline import compress_to_file

HERE = Path(__file__).parent
ROUNDED = {"use": "int", "on": "*/difference", "bits": 8, "granularity": "tensor"}


def lossy(rank: int, bits: int, step: float) -> list[Any]:
    """The stages of the recipe ``delta``, with other numbers."""
    return [
        {"use": "seed", "on": "*/difference", "rank": rank, "center": False},
        {"use": "int", "on": "*/basis", "bits": bits},
        {"use": "int", "on": "*/scores", "step": step},
        ROUNDED,
        "context",
        "floats",
    ]


#: Stages after ``delta`` by their name in the table, and whether the difference is exact.
CASES: dict[str, tuple[list[Any], bool]] = {
    "every bit, `context`": (["context"], True),
    "16 components, 5 bits (recipe `delta`)": (lossy(16, 5, 0.002), False),
    "8 components, 4 bits": (lossy(8, 4, 0.003), False),
    "every bit, `auto` (recipe `delta-exact`)": (["auto"], True),
    "every bit, `zstd` 19": ([{"use": "zstd", "level": 19}], True),
}


def measure(base: str, finetune: Path, data: str, stages: list[Any], exact: bool) -> dict[str, Any]:
    """Compress one fine-tune; figures for the table."""
    task = {"name": "none"} if exact else {"name": "text-classification", "data": data}
    recipe = recipe_from({"task": task, "stages": [{"use": "delta", "base": base, "exact": exact}, *stages]})
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.stackc")
        report = compress_to_file(recipe, open_reference(str(finetune)), path, every_stage=False).report
    score = report.final.score
    return {
        "bytes": report.file.bytes,
        "ratio": report.file.ratio,
        "ratio with base": report.file.ratio_with_bases,
        "weight error": report.final.weight_error,
        "agreement": 1.0 if score is None else score.agreement,
        "kl": 0.0 if score is None else score.kl,
        "encode seconds": report.final.encode_seconds,
        "decode seconds": report.final.decode_seconds,
        "seconds": time.perf_counter() - begin,
    }


def table(results: dict[str, dict[str, Any]], machine: str) -> str:
    """The Markdown page."""
    lines = [
        "# Differences as files",
        "",
        f"`python benchmarks/delta/stages.py`, {machine}",
        "",
        "| fine-tune | after `delta` | bytes | ratio | with the base | weight error | agreement % | KL | encode s | decode s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for finetune, cases in results.items():
        for case, one in cases.items():
            lines.append(
                f"| {finetune} | {case} | {one['bytes']:,} | {one['ratio']:.3g} | {one['ratio with base']:.3f} | "
                f"{one['weight error']:.2g} | {100 * one['agreement']:.2f} | {one['kl']:.5f} | {one['encode seconds']:.0f} | "
                f"{one['decode seconds']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--finetunes", type=Path, default=Path("runs/delta"))
    parser.add_argument("--data", required=True)
    options = parser.parse_args()
    machine = runpy.run_path(str(HERE.parent / "coding" / "machine.py"))["describe_machine"]("torch", "transformers")
    path = HERE / "stages.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for case, (stages, exact) in CASES.items():
        for finetune in sorted(folder for folder in options.finetunes.iterdir() if folder.is_dir()):
            known = results.setdefault(finetune.name, {})
            if case in known:
                continue
            known[case] = measure(options.model, finetune, options.data, stages, exact)
            print(finetune.name, case, known[case], flush=True)
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            (HERE / "stages.md").write_text(table(results, machine))


if __name__ == "__main__":
    main()
