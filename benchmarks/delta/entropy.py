"""What the difference between a fine-tune and its base holds, and what lossless coders make of it.

    python benchmarks/delta/entropy.py --model minilm-sst2 --finetunes runs/delta

Three differences, each of which gives the fine-tune back bit for bit with the base in hand:

* *ordered*: float32 bit patterns as integers that grow with the number (monotone), subtracted modulo 2**32. It counts
  how many floats lie between the two.
* *xor*: of the bit patterns.
* *float*: the float32 difference. It gives the fine-tune back only where base + difference rounds to it; the share is measured.

Everything is done for each tensor by itself, as in a file of stackc, and added up. ``zipnn`` is measured if it is
installed (``pip install zipnn==0.5.4``). Writes ``entropy.json`` and ``entropy.md`` beside this file.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from safetensors.numpy import load_file

from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec

try:
    import zipnn
except ImportError:
    zipnn = None

HERE = Path(__file__).parent
#: Name in the table, and what it holds of the tensor names.
CLASSES = {"word embeddings": "word_embeddings.weight", "other matrices": ".weight", "vectors": ""}
LAYER = "encoder.layer.3."
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def ordered(x: np.ndarray) -> np.ndarray:
    """Bit patterns of float32 as int64 that grow with the number; -0.0 is one below 0.0."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)


def ordered_difference(base: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Floats between the two, modulo 2**32."""
    difference = (ordered(tuned) - ordered(base)) & 0xFFFFFFFF
    return difference.astype(np.uint32).view(np.int32)


def exclusive_or(base: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Bits that differ."""
    return base.view(np.int32) ^ tuned.view(np.int32)


def entropy(symbols: np.ndarray) -> tuple[float, float]:
    """Order-0 entropy in bits of all symbols: as counted, and with the correction of Miller and Madow (1955).

    Counts of few samples of many symbols look less random than what they were drawn from. The correction adds half a
    nat for each symbol but one; neither says what a coder needs that has to be told the counts.
    """
    counts = np.unique(symbols, return_counts=True)[1]
    total = symbols.size
    counted = float((counts * (math.log2(total) - np.log2(counts))).sum())
    return counted, counted + (counts.size - 1) / 2 * math.log2(math.e)


def class_entropy(difference: np.ndarray) -> float:
    """Bits of sign and bit length by order-0 entropy, and the bits below the leading one as they are.

    What a coder can do that adapts to the size of a difference but knows nothing of its lower bits.
    """
    magnitudes = np.abs(difference.astype(np.int64))
    lengths = np.where(magnitudes > 0, np.floor(np.log2(np.maximum(magnitudes, 1))) + 1, 0).astype(np.int64)
    counted, _ = entropy(np.where(difference < 0, -lengths, lengths))
    return counted + float(np.maximum(lengths - 1, 0).sum())


def planes_of_bytes(x: np.ndarray) -> bytes:
    """Byte 0 of every element, then byte 1 of every element, and so on."""
    return np.ascontiguousarray(x).view(np.uint8).reshape(-1, x.itemsize).T.tobytes()


def zstd(data: bytes) -> int:
    """Bytes at level 19."""
    return len(zstandard.ZstdCompressor(level=19).compress(data))


def zipnn_bytes(x: np.ndarray) -> int:
    """Bytes of ZipNN with its settings for float32, decoded again and compared; an element that it leaves counts whole."""
    codec = zipnn.ZipNN(bytearray_dtype="float32", input_format="byte", threads=1)
    content = x.tobytes()
    data = bytes(codec.compress(bytearray(content)))
    if bytes(zipnn.ZipNN(bytearray_dtype="float32", input_format="byte", threads=1).decompress(data)) != content:
        raise SystemExit("ZipNN does not give a tensor back")
    return len(data)


def packed(packer: str, x: np.ndarray) -> int | None:
    """Bytes of one of stackc's packers, decoded again and compared; None if it does not take such planes."""
    plane = torch.from_numpy(np.ascontiguousarray(x))
    spec = PlaneSpec(x.shape, str(x.dtype))
    if not plane.is_floating_point():
        spec = PlaneSpec(x.shape, str(x.dtype), lo=int(x.min()), hi=int(x.max()))
    found = find_packer(packer)
    if not found.accepts(spec):
        return None
    chosen, data = found.choose(plane, spec)
    if chosen.unpack(data, spec).numpy().tobytes() != np.ascontiguousarray(x).tobytes():
        raise SystemExit(f"{packer} does not give a tensor back")
    return len(data)


def coders() -> dict[str, Callable[[np.ndarray, np.ndarray], int | None]]:
    """Bytes of a tensor by what is coded and how."""

    def both(base: np.ndarray, tuned: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "fine-tune": tuned,
            "ordered": ordered_difference(base, tuned),
            "xor": exclusive_or(base, tuned),
            "float": tuned - base,
        }

    result: dict[str, Callable[[np.ndarray, np.ndarray], int | None]] = {}

    def add(name: str, what: str, count: Callable[[np.ndarray], int | None]) -> None:
        result[f"{what}: {name}"] = lambda base, tuned: count(both(base, tuned)[what])

    for what in ("fine-tune", "ordered", "xor", "float"):
        add("zstd -19", what, lambda x: zstd(x.tobytes()))
        add("byte planes, zstd -19", what, lambda x: zstd(planes_of_bytes(x)))
        if zipnn is not None:
            add("zipnn", what, zipnn_bytes)
    for what in ("fine-tune", "float"):
        add("stackc floats", what, lambda x: packed("floats", x))
    # The bits of the exclusive or are no number; read as a float32, `floats` splits them as it does any other.
    add("stackc floats", "xor", lambda x: packed("floats", x.view(np.float32)))
    add("stackc zstd", "ordered", lambda x: packed("zstd", x))
    return result


def one_layer(base: dict[str, np.ndarray], tuned: dict[str, np.ndarray]) -> dict[str, int]:
    """What every packer of stackc makes of the tensors of one layer; `context` takes minutes for more."""
    sizes: dict[str, int] = {}
    for name in (name for name in base if LAYER in name):
        planes = {
            "fine-tune": tuned[name],
            "ordered": ordered_difference(base[name], tuned[name]),
            "float": tuned[name] - base[name],
        }
        for what, x in planes.items():
            sizes[f"{what}: elements"] = sizes.get(f"{what}: elements", 0) + x.size
            for packer in ("zstd", "floats", "context", "auto"):
                size = packed(packer, x)
                if size is not None:
                    sizes[f"{what}: {packer}"] = sizes.get(f"{what}: {packer}", 0) + size
    return sizes


def kind_of(name: str) -> str:
    """The class of a tensor."""
    if name.endswith(CLASSES["word embeddings"]):
        return "word embeddings"
    return "vectors" if "LayerNorm" in name or name.endswith("bias") else "other matrices"


def changes(base: dict[str, np.ndarray], tuned: dict[str, np.ndarray]) -> dict[str, Any]:
    """How much changed, by class of tensor, and how far relative to the weight."""
    result: dict[str, Any] = {}
    for kind in [*CLASSES, "all"]:
        names = [name for name in base if kind in ("all", kind_of(name))]
        before = np.concatenate([base[name].reshape(-1) for name in names])
        after = np.concatenate([tuned[name].reshape(-1) for name in names])
        moved = before.view(np.int32) != after.view(np.int32)
        distance = np.abs(after.astype(np.float64) - before)
        usable = moved & (before != 0)
        result[kind] = {
            "tensors": len(names),
            "changed tensors": sum(base[name].tobytes() != tuned[name].tobytes() for name in names),
            "elements": int(before.size),
            "changed elements": int(moved.sum()),
            "norm of difference over norm of base": float(
                np.sqrt((distance**2).sum() / (before.astype(float) ** 2).sum())
            ),
            "rms of base": float(np.sqrt((before.astype(float) ** 2).mean())),
            "rms of difference": float(np.sqrt((distance**2).mean())),
            "quantiles of changed |difference| / |base|": np.quantile(
                distance[usable] / np.abs(before[usable].astype(np.float64)), QUANTILES
            ).tolist(),
            "base + float difference gives the fine-tune, share": float(((before + (after - before)) == after).mean()),
        }
    rows = next(name for name in base if kind_of(name) == "word embeddings")
    difference = (tuned[rows] - base[rows]).astype(np.float64)
    largest = np.abs(difference).max(1)
    result["rows of the word embedding"] = {
        "rows": len(largest),
        "unchanged": int((largest == 0).sum()),
        "moved by less than 1e-4 of their norm": int(
            (np.linalg.norm(difference, axis=1) < 1e-4 * np.linalg.norm(base[rows], axis=1)).sum()
        ),
    }
    return result


def entropies(base: dict[str, np.ndarray], tuned: dict[str, np.ndarray]) -> dict[str, Any]:
    """Bits of each difference by class of tensor."""
    result: dict[str, Any] = {}
    for name, x in base.items():
        y = tuned[name]
        kinds = {
            "ordered": ordered_difference(x, y),
            "xor": exclusive_or(x, y),
            "float": (y - x).view(np.int32),
            "fine-tune": y.view(np.int32),
        }
        row = {}
        for what, symbols in kinds.items():
            row[what], row[f"{what}, corrected"] = entropy(symbols)
        row["ordered, by bit length"] = class_entropy(kinds["ordered"])
        for kind in (kind_of(name), "all"):
            sums = result.setdefault(kind, {})
            for what, bits in row.items():
                sums[what] = sums.get(what, 0.0) + bits
    return result


def measure(
    base: dict[str, np.ndarray], tuned: dict[str, np.ndarray], globs: list[str], save: Callable[[dict[str, Any]], None]
) -> None:
    """Everything about one fine-tune; what is known is saved after each coder."""
    result: dict[str, Any] = {"changes": changes(base, tuned), "bits": entropies(base, tuned), "bytes": {}}
    save(result)
    for label, coder in coders().items():
        if not any(fnmatch.fnmatch(label, glob) for glob in globs):
            continue
        begin, sizes = time.process_time(), {}
        for name, x in base.items():
            size = coder(x, tuned[name])
            sizes[kind_of(name)] = sizes.get(kind_of(name), 0) + (x.nbytes if size is None else size)
        result["bytes"][label] = {**sizes, "all": sum(sizes.values())}
        save(result)
        print(f"  {label}: {sum(sizes.values()):,} bytes, {time.process_time() - begin:.0f} s", flush=True)
    if any(fnmatch.fnmatch("one layer", glob) for glob in globs):
        result["one layer"] = one_layer(base, tuned)
        save(result)


def table(results: dict[str, Any]) -> str:
    """Markdown of everything."""
    names = list(results["finetunes"])
    head = "| " + " | ".join(names) + " |\n"
    lines = [f"# Differences of fine-tunes, lossless\n\n`python benchmarks/delta/entropy.py`, {results['machine']}\n"]
    lines.append("How much changed, and how far:\n\n| |" + head[1:] + "|---|" + "--:|" * len(names))
    for kind in [*CLASSES, "all"]:
        for label, form in (
            ("changed elements", lambda row: f"{100 * row['changed elements'] / row['elements']:.2f} %"),
            (
                "norm of the difference over that of the base",
                lambda row: f"{row['norm of difference over norm of base']:.5f}",
            ),
            ("rms of the difference", lambda row: f"{row['rms of difference']:.2e}"),
            (
                "changed: median of abs(difference) / abs(base) (1 %, 99 %)",
                lambda row: "{3:.1e} ({0:.1e}, {6:.1e})".format(*row["quantiles of changed |difference| / |base|"]),
            ),
            (
                "base + float32 difference is the fine-tune",
                lambda row: f"{100 * row['base + float difference gives the fine-tune, share']:.4f} %",
            ),
        ):
            cells = [form(results["finetunes"][name]["changes"][kind]) for name in names]
            lines.append(f"| {kind}: {label} | " + " | ".join(cells) + " |")
    for label in ("unchanged", "moved by less than 1e-4 of their norm"):
        rows = [results["finetunes"][name]["changes"]["rows of the word embedding"] for name in names]
        lines.append(
            f"| rows of the word embedding: {label} | "
            + " | ".join(f"{row[label]:,} of {row['rows']:,}" for row in rows)
            + " |"
        )
    lines.append(
        "\nOrder-0 entropy in bits a weight, each tensor by itself (in brackets: corrected for few samples):\n"
    )
    lines.append("| |" + head[1:] + "|---|" + "--:|" * len(names))
    for kind in [*CLASSES, "all"]:
        for what in ("fine-tune", "ordered", "xor", "float"):
            cells = []
            for name in names:
                elements = results["finetunes"][name]["changes"][kind]["elements"]
                bits = results["finetunes"][name]["bits"][kind]
                cells.append(f"{bits[what] / elements:.2f} ({bits[f'{what}, corrected'] / elements:.2f})")
            lines.append(f"| {kind}: {what} | " + " | ".join(cells) + " |")
        cells = [
            f"{results['finetunes'][name]['bits'][kind]['ordered, by bit length'] / results['finetunes'][name]['changes'][kind]['elements']:.2f}"
            for name in names
        ]
        lines.append(
            f"| {kind}: ordered, entropy of sign and bit length, the rest as it is | " + " | ".join(cells) + " |"
        )
    lines.append("\nBytes, lossless (in brackets: of the fine-tune's float32 bytes):\n")
    lines.append("| |" + head[1:] + "|---|" + "--:|" * len(names))
    for label in dict.fromkeys(label for name in names for label in results["finetunes"][name]["bytes"]):
        cells = []
        for name in names:
            size = results["finetunes"][name]["bytes"].get(label, {}).get("all")
            whole = 4 * results["finetunes"][name]["changes"]["all"]["elements"]
            cells.append("–" if size is None else f"{size:,} ({100 * size / whole:.1f} %)")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    names = [name for name in names if "one layer" in results["finetunes"][name]]
    if not names:
        return "\n".join(lines) + "\n"
    head = "| " + " | ".join(names) + " |\n"
    lines.append(f"\nBits a weight by every packer of stackc, tensors of `{LAYER}` alone:\n")
    lines.append("| |" + head[1:] + "|---|" + "--:|" * len(names))
    for label in results["finetunes"][names[0]]["one layer"]:
        if not label.endswith("elements"):
            sizes = [results["finetunes"][name]["one layer"] for name in names]
            elements = label.split(":")[0] + ": elements"
            lines.append(f"| {label} | " + " | ".join(f"{8 * row[label] / row[elements]:.2f}" for row in sizes) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every fine-tune that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base")
    parser.add_argument(
        "--finetunes", type=Path, default=Path("runs/delta"), help="folder that holds the fine-tunes' folders"
    )
    parser.add_argument("--only", help="one fine-tune; the stored figures of the others stay")
    parser.add_argument("--coders", nargs="+", default=["*"], help="globs over the coders, and 'one layer'")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    describe = runpy.run_path(str(HERE.parent / "coding" / "machine.py"))["describe_machine"]
    path = HERE / "entropy.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {"finetunes": {}}
    results["machine"] = describe("torch", "numpy", "zstandard", "zipnn", "numba")
    base = load_file(arguments.model / "model.safetensors")
    for folder in sorted(arguments.finetunes.glob(arguments.only or "*")):
        print(folder.name, flush=True)
        tuned = load_file(folder / "model.safetensors")

        def save(result: dict[str, Any], name: str = folder.name) -> None:
            results["finetunes"][name] = result
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            path.with_suffix(".md").write_text(table(results), encoding="utf-8")

        measure(base, tuned, arguments.coders, save)
    print(table(results))


if __name__ == "__main__":
    main()
