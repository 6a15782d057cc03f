"""Speed of quantiser and coder together, one core: stackc's trellis and context coder beside NNCodec's, zstd for scale.

    python benchmarks/coding/speed.py --model FOLDER [--qp -24] [--repeat 3]

All matrices of the model. NNCodec quantises with its 8-state trellis at the given parameter and codes with its defaults, by
the compiled functions that its own path calls; what that path adds around them in Python is not counted against it. stackc's
steps are set, tensor by tensor, so that its weight error is NNCodec's: the work is the same. The sides take turns;
seconds are those of the processor, the least of the repeats. Writes ``speed.json`` and ``speed.md``.
"""

from __future__ import annotations

import one_thread

# isort: split
import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nncodec_peer
import numpy as np
import torch
import zstandard
from machine import describe_machine
from safetensors.numpy import load_file

from stackc.core.registry import find, find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.transform import Transform, Weighted

HERE = Path(__file__).parent
#: One side: weights of a tensor and its name, to what decoding needs; and back to weights.
Encode = Callable[[np.ndarray, str], tuple[bytes, Any]]
Decode = Callable[[bytes, Any], np.ndarray]


def nncodec_side(qp: int) -> tuple[Encode, Decode]:
    """NNCodec's trellis and coder."""

    def encode(x: np.ndarray, _name: str) -> tuple[bytes, Any]:
        return nncodec_peer.encode_integers(nncodec_peer.quantise(x, qp), dependent=True), x.shape

    def decode(data: bytes, shape: Any) -> np.ndarray:
        return nncodec_peer.dequantise(nncodec_peer.decode_integers(data, shape, dependent=True), qp)

    return encode, decode


def stackc_side(name: str, packer: str, steps: Mapping[str, float], **fields: Any) -> tuple[Encode, Decode]:
    """A quantiser of stackc with a step for each tensor, and a packer for its codes."""
    kind, coder = find(name).stage, find_packer(packer)
    assert issubclass(kind, Transform)

    def encode(x: np.ndarray, tensor: str) -> tuple[bytes, Any]:
        plane = torch.from_numpy(x)
        spec = PlaneSpec.of(plane)
        transform = kind(step=steps[tensor], **fields).settle({tensor: Weighted(plane)})[tensor]
        planned, planes = transform.plan(spec), transform.encode(plane)
        return coder.pack(planes["codes"], planned["codes"]), (transform, spec, planes["scale"])

    def decode(data: bytes, known: Any) -> np.ndarray:
        transform, spec, scale = known
        codes = coder.unpack(data, transform.plan(spec)["codes"])
        return np.asarray(transform.decode({"codes": codes, "scale": scale}, spec).numpy())

    return encode, decode


def zstd_side(steps: Mapping[str, float]) -> tuple[Encode, Decode]:
    """Rounding to one byte a code, and zstd -3."""

    def encode(x: np.ndarray, tensor: str) -> tuple[bytes, Any]:
        codes = np.clip(np.rint(x * np.float32(1 / steps[tensor])), -127, 127).astype(np.int8)
        return zstandard.ZstdCompressor(level=3).compress(codes), (x.shape, np.float32(steps[tensor]))

    def decode(data: bytes, known: Any) -> np.ndarray:
        codes = np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.int8).reshape(known[0])
        return codes * known[1]

    return encode, decode


def matching_steps(
    name: str, matrices: Mapping[str, np.ndarray], errors: Mapping[str, float], **fields: Any
) -> dict[str, float]:
    """Steps with which a quantiser's squared error is the given one, within 2 %."""
    kind = find(name).stage
    assert issubclass(kind, Transform)
    steps = {}
    for tensor, x in matrices.items():
        plane = torch.from_numpy(x)
        spec, step = PlaneSpec.of(plane), float(np.sqrt(12 * errors[tensor] / x.size)) * (0.6 if name == "tcq" else 1.0)
        for _ in range(6):
            transform = kind(step=step, **fields).settle({tensor: Weighted(plane)})[tensor]
            decoded = transform.decode(transform.encode(plane), spec)
            ratio = float(((decoded - plane).double() ** 2).sum()) / errors[tensor]
            if abs(ratio - 1) < 0.02:
                break
            step /= ratio**0.5
        steps[tensor] = step
    return steps


def measure(
    sides: Mapping[str, tuple[Encode, Decode]], matrices: Mapping[str, np.ndarray], repeat: int
) -> dict[str, Any]:
    """Speed, bytes and error of all matrices for each side; the sides take turns."""
    norm = sum(float((x.astype(np.float64) ** 2).sum()) for x in matrices.values())
    weights = sum(x.size for x in matrices.values()) / 1e6
    results: dict[str, Any] = {}
    for _ in range(repeat):
        for label, (encode, decode) in sides.items():
            begin = time.process_time()
            packed = {name: encode(x, name) for name, x in matrices.items()}
            middle = time.process_time()
            decoded = {name: decode(*part) for name, part in packed.items()}
            end = time.process_time()
            error = sum(float(((decoded[name].astype(np.float64) - x) ** 2).sum()) for name, x in matrices.items())
            best = results.get(label, {"encode": 0.0, "decode": 0.0})
            results[label] = {
                "bytes": sum(len(data) for data, _ in packed.values()),
                "weight error": error / norm,
                "encode": max(best["encode"], weights / (middle - begin)),
                "decode": max(best["decode"], weights / (end - middle)),
            }
    return results


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder with the weights")
    parser.add_argument("--qp", type=int, default=-24, help="NNCodec's quantisation parameter")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tensors", type=int, default=0, help="only the first so many matrices; 0: all")
    parser.add_argument("--output", type=Path, default=HERE / "speed.json")
    parser.add_argument("--redraw", action="store_true", help="table from the stored results, nothing measured")
    arguments = parser.parse_args()
    if not arguments.redraw:
        if not arguments.model:
            parser.error("give --model")
        arguments.output.write_text(json.dumps(run(arguments), indent=1) + "\n", encoding="utf-8")
    text = table(json.loads(arguments.output.read_text("utf-8")))
    arguments.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides at equal error."""
    one_thread.pin()
    state = load_file(arguments.model / "model.safetensors")
    matrices = {name: x for name, x in state.items() if x.ndim > 1}
    matrices = dict(list(matrices.items())[: arguments.tensors or None])
    errors = {}
    for name, x in matrices.items():
        rebuilt = nncodec_peer.dequantise(nncodec_peer.quantise(x, arguments.qp), arguments.qp)
        errors[name] = max(float(((rebuilt.astype(np.float64) - x) ** 2).sum()), 1e-12)
    uniform = matching_steps("int", matrices, errors)
    sides: dict[str, tuple[Encode, Decode]] = {
        "NNCodec, trellis": nncodec_side(arguments.qp),
        "int + context": stackc_side("int", "context", uniform),
        "zstd -3 of rounded bytes": zstd_side(uniform),
    }
    for states in (8, 4):
        for rdo in (0.0, 0.25):
            steps = matching_steps("tcq", matrices, errors, states=states, rdo=rdo)
            sides[f"tcq, {states} states, rdo {rdo:g} + context"] = stackc_side(
                "tcq", "context", steps, states=states, rdo=rdo
            )
    smallest = min(matrices, key=lambda name: matrices[name].size)
    measure(sides, {smallest: matrices[smallest]}, 1)  # compiles and loads what a first call compiles and loads
    results = measure(sides, matrices, arguments.repeat)
    weights = sum(x.size for x in matrices.values())
    return {
        "machine": describe_machine(),
        "qp": arguments.qp,
        "weights": weights,
        "repeat": arguments.repeat,
        "sides": results,
    }


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    sides = results["sides"]
    peer = sides["NNCodec, trellis"]
    lines = [
        "# Speed: quantiser and coder together, one core",
        "",
        f"`python benchmarks/coding/speed.py --model minilm-sst2 --qp {results['qp']} --repeat {results['repeat']}`, {results['machine']}",
        "",
        f"{results['weights'] / 1e6:.1f} million weights in matrices, at equal weight error; million weights a second of processor",
        f"time, the best of {results['repeat']} runs.",
        "",
        "| | encode | of NNCodec | decode | of NNCodec | bytes | of NNCodec | weight error |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for label, row in sides.items():
        lines.append(
            f"| {label} | {row['encode']:.1f} | {row['encode'] / peer['encode']:.1f}x | {row['decode']:.1f} | {row['decode'] / peer['decode']:.1f}x "
            f"| {row['bytes']:,} | {row['bytes'] / peer['bytes']:.3f} | {row['weight error']:.5f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
