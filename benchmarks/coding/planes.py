"""Same integer planes in, bytes out: stackc's packers beside zstd, xz, brotli, order-0 ANS and NNCodec's arithmetic coder.

    python benchmarks/coding/planes.py --minilm FOLDER --bert-tiny FOLDER [--coders context,auto] [--groups "BERT-tiny*"]

Every coder gets the same codes, shape and bounds; everything is decoded again and compared. One process, one thread, one
core; seconds are those of the processor, after a warm-up. With ``--coders`` only these are measured, and the figures of
the others are taken from the stored results, as long as the planes are bit-identical.
Writes ``planes.json`` and ``planes.md``.
"""

from __future__ import annotations

import one_thread

# isort: split
import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coders import OURS, PEERS, Coder, coders
from integer_planes import Plane, planes, small_planes
from machine import describe_machine
from safetensors.numpy import load_file

from stackc.core.entropy import entropy_bits

HERE = Path(__file__).parent
#: Planes of more codes are not coded in every form, but in the one that is best on so many codes.
LARGE, SAMPLE = 1 << 20, 1 << 18


def sources(arguments: argparse.Namespace) -> Iterator[Plane]:
    """All planes of both models."""
    models = {"BERT-tiny": arguments.bert_tiny, "MiniLM": arguments.minilm}
    states = {label: load_file(folder / "model.safetensors") for label, folder in models.items() if folder}
    for label, state in states.items():
        yield from small_planes(label, state)
    for label, state in states.items():
        yield from planes(label, state)


def measure(coder: Coder, plane: Plane) -> dict[str, Any]:
    """Bytes and seconds of the smallest form; refuses a coder that does not give the codes back.

    For large planes the form is the one that is smallest on their first rows.
    """
    forms = coder.forms(plane)
    if len(forms) > 1 and plane.codes.size > LARGE:
        rows = plane.codes[: max(1, len(plane.codes) * SAMPLE // plane.codes.size)]
        sample = replace(plane, codes=np.ascontiguousarray(rows))
        forms = [min(forms, key=lambda form: len(coder.encode(sample, form)))]
    results = []
    for form in forms:
        begin = time.process_time()
        data = coder.encode(plane, form)
        middle = time.process_time()
        decoded = coder.decode(data, plane, form)
        end = time.process_time()
        if not np.array_equal(decoded, plane.codes):
            raise SystemExit(f"{coder.name} {form} does not give {plane.group}, {plane.name} back")
        results.append((len(data), middle - begin, end - middle, form))
    size, encode, decode, form = min(results)
    return {"bytes": size, "encode": encode, "decode": decode, "form": form}


def warm_up(chosen: list[Coder]) -> None:
    """Compile and load what the first call compiles and loads."""
    generator = np.random.default_rng(0)
    for shape, top in (((64, 48), 7), ((500,), 1), ((64, 48), 127)):
        codes = np.clip(np.rint(generator.normal(size=shape) * top / 3), -top, top).astype(np.int8)
        for coder in chosen:
            measure(coder, Plane("warm-up", str(shape), codes, -top, top))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path, help="folder with the MiniLM weights")
    parser.add_argument("--bert-tiny", type=Path, help="folder with the BERT-tiny weights")
    parser.add_argument("--coders", default=",".join([*PEERS, "zstd-3", *OURS]))
    parser.add_argument("--groups", default="*", help="glob over the names of the groups")
    parser.add_argument("--missing", action="store_true", help="measure only what has no stored figure")
    parser.add_argument("--output", type=Path, default=HERE / "planes.json")
    parser.add_argument("--redraw", action="store_true", help="table from the stored results, nothing measured")
    arguments = parser.parse_args()
    stored = json.loads(arguments.output.read_text("utf-8")) if arguments.output.exists() else {"planes": []}
    if not arguments.redraw:
        if not (arguments.minilm or arguments.bert_tiny):
            parser.error("give --minilm, --bert-tiny or both")
        stored = run(arguments, stored)
        arguments.output.write_text(dump(stored), encoding="utf-8")
    text = table(stored)
    arguments.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def run(arguments: argparse.Namespace, stored: dict[str, Any]) -> dict[str, Any]:
    """Measure the chosen coders on the chosen groups; every other stored figure stays."""
    one_thread.pin()
    chosen = coders(arguments.coders.split(","))
    warm_up(chosen)
    rows = {(row["group"], row["name"]): row for row in stored["planes"]}
    group = ""
    for plane in sources(arguments):
        if not fnmatch.fnmatch(plane.group, arguments.groups):
            continue
        if plane.group != group:
            group = plane.group
            print(f"... {group}", file=sys.stderr, flush=True)
            arguments.output.with_suffix(".partial").write_text(dump({"planes": list(rows.values())}), encoding="utf-8")
        row = rows.get((plane.group, plane.name))
        if row is None or row["digest"] != plane.digest:
            row = {
                "group": plane.group,
                "name": plane.name,
                "digest": plane.digest,
                "codes": plane.codes.size,
                "entropy": entropy_bits(torch.from_numpy(plane.codes)) / 8,
                "coders": {},
            }
            rows[plane.group, plane.name] = row
        if {coder.name for coder in chosen} & set(OURS) == {"context"}:
            row["coders"].pop("auto", None)  # it may have chosen what context was before
        for coder in chosen:
            if not (arguments.missing and coder.name in row["coders"]):
                row["coders"][coder.name] = measure(coder, plane)
    arguments.output.with_suffix(".partial").unlink(missing_ok=True)
    return {"machine": describe_machine(), "planes": list(rows.values())}


def dump(results: dict[str, Any]) -> str:
    """JSON with one plane a line."""
    head = json.dumps({key: value for key, value in results.items() if key != "planes"}, indent=1)
    lines = ",\n".join(json.dumps(_rounded(row)) for row in results["planes"])
    comma = "," if len(results) > 1 else ""
    return head.removesuffix("}").rstrip() + comma + '\n "planes": [\n' + lines + "\n]}\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return (
        float(f"{value:.5g}")
        if isinstance(value, float) and value < 1000
        else round(value, 1)
        if isinstance(value, float)
        else value
    )


def table(results: dict[str, Any]) -> str:
    """Markdown: bytes by group, then speeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results["planes"]:
        groups.setdefault(row["group"], []).append(row)
    known = {name for row in results["planes"] for name in row["coders"]}
    names = [name for name in (*PEERS, *OURS) if name in known]
    lines = [
        "# Integer planes: the same codes in, bytes out",
        "",
        "`python benchmarks/coding/planes.py --minilm minilm-sst2 --bert-tiny bert-tiny-sst2`, "
        + results.get("machine", ""),
        "",
        LEGEND,
        "",
        "| planes | count | codes | entropy | "
        + " | ".join(names)
        + " | ours / entropy | ours / best peer | worst plane |",
        "|---|--:|--:|--:|" + "--:|" * len(names) + "--:|--:|---|",
    ]
    for group, rows in groups.items():
        lines.append(_bytes_line(group, rows, names))
    lines += ["", "Speed on one core, million codes a second (encode / decode), all planes of a group together:", ""]
    timed = [name for name in (*OURS, "nncodec", "ans", "zstd-3", "zstd-22", "xz-9e", "brotli-11") if name in known]
    lines += ["| planes | " + " | ".join(timed) + " |", "|---|" + "--:|" * len(timed)]
    for group, rows in groups.items():
        if "small" not in group and "mask" not in group:
            lines.append(f"| {group} | " + " | ".join(_speed(rows, name) for name in timed) + " |")
    return "\n".join(lines) + "\n"


LEGEND = """\
Bytes of all planes of a group together. *entropy*: of each plane by itself, order 0, without any table. zstd, xz and
brotli: the smaller of one code a byte and several codes a byte, no file headers. *ans*: order-0 ANS with its table.
*nncodec*: DeepCABAC with the search of start values, row skipping, the smaller of its plain and its codebook form, payload
alone. *ours*: ``auto``, which takes the smallest of stackc's packers. *best peer*: chosen for each plane, not for each group; so is *worst plane*, the largest ratio of ours to the
best peer over single planes, with its bytes and the peer's name, and how many planes are larger at all."""


def _bytes_line(group: str, rows: list[dict[str, Any]], names: list[str]) -> str:
    complete = [name for name in names if all(name in row["coders"] for row in rows)]
    totals = {name: sum(row["coders"][name]["bytes"] for row in rows) for name in complete}
    cells = [f"{totals[name]:,}" if name in totals else "–" for name in names]
    entropy = sum(row["entropy"] for row in rows)
    count, codes = len(rows), sum(row["codes"] for row in rows)
    ours, peers = [name for name in OURS if name in totals], [name for name in PEERS if name in totals]
    summary = ["–", "–", "–"]
    if ours and peers:
        pairs = []
        for row in rows:
            size, peer = min((row["coders"][name]["bytes"], name) for name in peers)
            pairs.append((row["coders"][ours[-1]]["bytes"], size, peer))
        size, least, peer = max(pairs, key=lambda pair: pair[0] / max(1, pair[1]))
        larger = sum(size > least for size, least, _ in pairs)
        summary = [
            f"{totals[ours[-1]] / entropy:.4f}",
            f"{totals[ours[-1]] / sum(size for _, size, _ in pairs):.4f}",
            f"{size / max(1, least):.4f} ({size:,} B, {peer})" + (f"; {larger} of {count} larger" if larger else ""),
        ]
    return f"| {group} | {count} | {codes:,} | {entropy:,.0f} | {' | '.join([*cells, *summary])} |"


def _speed(rows: list[dict[str, Any]], name: str) -> str:
    if not all(name in row["coders"] for row in rows):
        return "–"
    codes = sum(row["codes"] for row in rows) / 1e6
    seconds = [sum(row["coders"][name][key] for row in rows) for key in ("encode", "decode")]
    return " / ".join(f"{codes / max(second, 1e-9):.3g}" for second in seconds)


if __name__ == "__main__":
    main()
