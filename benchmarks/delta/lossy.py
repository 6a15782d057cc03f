"""Which simple coding of a difference keeps a fine-tune's predictions in how few bytes, without training.

    OMP_NUM_THREADS=1 python benchmarks/delta/lossy.py --model minilm-sst2 --train train.tsv --data dev.tsv \
        [--only NAME] [--points GLOB ...] [--ratios 100,200]

Every method is set to a size by one number (a step, a share or a rank), which bisection finds; then its difference is
added to the base, and the sum's predictions are compared with the fine-tune's, on rows held out of the training data and
on the evaluated rows. Settings are to be chosen on the former.

Bytes are order-0 entropy of each plane by itself, plus 16 bits for each scale and 64 for each plane; rows of zeros are
left out by a mask, with its entropy. No container. What ``context`` makes of the same planes is measured for one method
with ``--packed``. Vectors and the head (32,000 weights) are coded alike in every method, half of their spread a step.

Writes ``lossy.json`` and ``lossy.md`` beside this file; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from finetune import KINDS, MAX_LENGTH, hold_rows_out, logits, read_rows, relabelled
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stackc.core.entropy import entropy_bits
from stackc.core.registry import find_packer
from stackc.core.spec import PlaneSpec

HERE = Path(__file__).parent
SCALE_BITS, PLANE_BITS = 16, 64
CALIBRATION_ROWS, JUDGED_ROWS = 256, 300
EMBEDDING = "bert.embeddings.word_embeddings.weight"


class Coded(NamedTuple):
    """A difference after coding, its size, and its integer planes for a packer."""

    value: Tensor
    bits: float
    planes: tuple[Tensor, ...] = ()


class Subject:
    """The matrices of a difference, what is known of their inputs, and what vectors and head became.

    Moments are the second moments of a layer's inputs, columns by columns; of the embedding how often each row occurs.
    """

    def __init__(self, matrices: dict[str, Tensor], moments: dict[str, Tensor], small: dict[str, Coded]) -> None:
        self.matrices, self.moments, self.small = matrices, moments, small
        self._components: dict[bool, dict[str, Components]] = {}

    def components(self, calibrated: bool) -> dict[str, Components]:
        """Singular vectors of every matrix, found once."""
        if calibrated not in self._components:
            self._components[calibrated] = {
                name: components(x, self.moments.get(name) if calibrated else None) for name, x in self.matrices.items()
            }
        return self._components[calibrated]


def plane_bits(codes: Tensor) -> float:
    """Entropy of a plane of integers; rows of zeros are left out by a mask where that is shorter."""
    whole = entropy_bits(codes)
    if codes.ndim == 2:
        live = (codes != 0).any(1)
        whole = min(whole, entropy_bits(live) + (entropy_bits(codes[live]) if live.any() else 0.0))
    return whole + PLANE_BITS


def to_codes(x: Tensor, step: float | Tensor, dead: float) -> Tensor:
    """Integers of a uniform quantiser; 0.5 rounds to the nearest, less makes the zone around zero wider."""
    scaled = x / step
    return (scaled.sign() * (scaled.abs() + dead).floor()).clamp(-32767, 32767).to(torch.int16)


def centred(x: Tensor, codes: Tensor, step: float) -> tuple[Tensor, float]:
    """Each code's value, with the mean of what became 1 and of what became more; and the bits of these two scales."""
    size, magnitudes = codes.abs().float(), x.abs() / step
    value = size.clone()
    for chosen in (size == 1, size > 1):
        if chosen.any():
            value[chosen] += (magnitudes[chosen] - size[chosen]).mean()
    return value * codes.sign() * step, 2 * SCALE_BITS


def uniform(x: Tensor, step: float, dead: float = 0.5) -> Coded:
    """One step for everything; rows that become zero are left out by a mask."""
    if x.ndim != 2:
        codes = to_codes(x, step, dead)
        value, bits = centred(x, codes, step)
        return Coded(value, entropy_bits(codes) + PLANE_BITS + bits, (codes,))
    live = x.abs().amax(1) >= (1 - dead) * step
    codes = to_codes(x[live], step, dead)
    value = torch.zeros_like(x)
    value[live], bits = centred(x[live], codes, step)
    return Coded(value, entropy_bits(live) + entropy_bits(codes) + 2 * PLANE_BITS + bits, (live, codes))


def weighted_uniform(x: Tensor, moments: Tensor, step: float, dead: float) -> Coded:
    """Columns that larger inputs meet get finer steps: by the square root of the second moment, as a power of 2 ** 0.5."""
    moments = moments.float()
    if moments.ndim == 1:  # of an embedding: rows that occur more often
        weight = (moments + 0.05 * moments.mean()).sqrt()
        weight = weight / weight.square().mean().sqrt()
        levels = (2 * weight.log2()).round().clamp(-8, 8)
        scale = 2 ** (levels / 2)[:, None]
    else:
        weight = moments.diagonal().sqrt()
        levels = (2 * (weight / weight.square().mean().sqrt()).log2()).round().clamp(-16, 16)
        scale = 2 ** (levels / 2)[None, :]
    coded = uniform(x * scale, step, dead)
    counted = levels[coded.planes[0]] if moments.ndim == 1 else levels
    side = entropy_bits(counted.to(torch.int8))
    return Coded(coded.value / scale, coded.bits + side, coded.planes)


def pruned(x: Tensor, share: float, levels: int) -> Coded:
    """The largest magnitudes of a tensor, in so many levels each side of zero."""
    keep = max(1, round(share * x.numel()))
    magnitudes = x.abs()
    threshold = magnitudes.reshape(-1).kthvalue(x.numel() - keep + 1).values
    kept = torch.where((magnitudes >= threshold) & (x != 0), x, 0)
    if levels == 1:
        codes = kept.sign().to(torch.int16)
        mean = magnitudes[codes != 0].mean() if (codes != 0).any() else torch.tensor(0.0)
        return Coded(codes * mean, plane_bits(codes) + SCALE_BITS, (codes,))
    step = float(magnitudes.max()) / levels
    codes = to_codes(kept, step, 0.5) if step else kept.to(torch.int16)
    return Coded(codes * step, plane_bits(codes) + SCALE_BITS, (codes,))


def signs(x: Tensor) -> Coded:
    """One bit a weight and a scale a row (Liu et al. 2024, "BitDelta"); rows that did not move cost a bit."""
    live = x.abs().mean(1) > 1e-3 * x.abs().mean()
    scales = torch.where(live, x.abs().mean(1), 0).half().float()
    count = int(live.sum())
    return Coded(x.sign() * scales[:, None], entropy_bits(live) + count * (x.shape[1] + SCALE_BITS) + PLANE_BITS)


class Components(NamedTuple):
    """A matrix as left @ diag(size) @ right; ``right`` may have been made for weighted columns."""

    left: Tensor
    size: Tensor
    right: Tensor
    #: Rows of the matrix, or how much they count.
    row_scale: Tensor | None
    #: How much an error of 1 in all of ``right`` counts, per column.
    spread: float


def components(x: Tensor, moments: Tensor | None) -> Components:
    """Singular value decomposition; with moments, of what the layer makes of its inputs."""
    rows = None
    x = x.double()
    root = inverse = None
    spread = 1.0
    if moments is not None and moments.ndim == 1:
        weight = (moments + 0.05 * moments.mean()).sqrt()
        rows = weight / weight.square().mean().sqrt()
        x = x * rows[:, None]
    elif moments is not None:
        values, vectors = torch.linalg.eigh(moments.double() / moments.diagonal().mean())
        values = values.clamp(min=0) + 0.01
        spread = float(values.mean())
        root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
        x = x @ root
    if len(x) > 4 * x.shape[1]:
        squares, right = torch.linalg.eigh(x.T @ x)
        size = squares.flip(0).clamp(min=1e-30).sqrt()
        right = right.flip(1).T
        left = (x @ right.T) / size
    else:
        left, size, right = torch.linalg.svd(x, full_matrices=False)
    if inverse is not None:
        right = right @ inverse
    return Components(left.float(), size.float(), right.float(), None if rows is None else rows.float(), spread)


def low_rank(parts: Components, rank: int, step: float) -> Coded:
    """So many components; a component's two sides get steps that make errors of all components alike."""
    rows, columns = len(parts.left), parts.right.shape[1]
    size = parts.size[:rank].half().float()
    left = to_codes(parts.left[:, :rank] * size, step, 0.5)
    fine = step / size / math.sqrt(parts.spread)
    right = to_codes(parts.right[:rank], fine[:, None], 0.5)
    value = (left * step) @ (right * fine[:, None])
    live = (left != 0).any(1)
    bits = entropy_bits(live) + sum(
        entropy_bits(left[live, index]) + entropy_bits(right[index]) for index in range(rank)
    )
    if parts.row_scale is not None:
        value = value / parts.row_scale[:, None]
    return Coded(value.view(rows, columns), bits + rank * SCALE_BITS + 2 * PLANE_BITS, (left, right))


def filled(parts: Components, step: float) -> Coded:
    """As many components as pay: what one takes off the error against the price of its bits at this step."""
    rows, columns = len(parts.left), parts.right.shape[1]
    variance = parts.size.double().square()

    def bits(count: int) -> Tensor:
        return count / 2 * torch.log2(1 + 2 * math.pi * math.e * variance / count / step**2)

    gain = variance - (rows + columns) * step**2 / 12 - 2 * math.log(2) / 12 * step**2 * (bits(rows) + bits(columns))
    rank = int((gain > 0).sum())
    if not rank:
        return Coded(torch.zeros(rows, columns), PLANE_BITS)
    return low_rank(parts, rank, step)


#: A method gives the coded difference of each matrix for its one number; larger numbers mean fewer bytes.
Method = Callable[[Subject, float], dict[str, Coded]]


def by_filling(subject: Subject, step: float, calibrated: bool) -> dict[str, Coded]:
    """`filled` for every matrix, with one step."""
    return {name: filled(parts, step) for name, parts in subject.components(calibrated).items()}


def by_rank(subject: Subject, step: float, calibrated: bool, rank: int) -> dict[str, Coded]:
    """`low_rank` with the same rank for every matrix, and one step."""
    return {name: low_rank(parts, rank, step) for name, parts in subject.components(calibrated).items()}


def filled_and_rest(subject: Subject, step: float, calibrated: bool, coarser: float) -> dict[str, Coded]:
    """Components as long as they pay at a coarser step, and the rest with a dead zone."""
    first = by_filling(subject, coarser * step, calibrated)
    result = {}
    for name, x in subject.matrices.items():
        rest = x - first[name].value
        moments = subject.moments.get(name) if calibrated else None
        second = uniform(rest, step, 0.3) if moments is None else weighted_uniform(rest, moments, step, 0.3)
        result[name] = Coded(
            first[name].value + second.value, first[name].bits + second.bits, (*first[name].planes, *second.planes)
        )
    return result


def _each(code: Callable[[Tensor, float], Coded]) -> Method:
    return lambda subject, number: {name: code(x, number) for name, x in subject.matrices.items()}


def _weighted(subject: Subject, step: float) -> dict[str, Coded]:
    return {
        name: weighted_uniform(x, subject.moments[name], step, 0.3)
        if name in subject.moments
        else uniform(x, step, 0.3)
        for name, x in subject.matrices.items()
    }


METHODS: dict[str, tuple[str, Method]] = {
    "uniform": ("one step for all, nearest", _each(lambda x, step: uniform(x, step, 0.5))),
    "uniform, dead zone": ("one step for all, |x| below 0.7 steps is zero, means as values", _each(lambda x, step: uniform(x, step, 0.3))),
    "uniform, wide dead zone": ("the same below 0.85 steps", _each(lambda x, step: uniform(x, step, 0.15))),
    "uniform, weighted": ("dead zone, finer where inputs are large and rows frequent", _weighted),
    "largest, ternary": ("the largest of each tensor, sign and one mean", _each(lambda x, number: pruned(x, min(1, 1 / number), 1))),
    "largest, 4 bit": ("the largest of each tensor, 7 levels each side", _each(lambda x, number: pruned(x, min(1, 1 / number), 7))),
    "signs": ("BitDelta: sign, a scale a row", _each(lambda x, number: signs(x))),
    **{
        f"rank {rank}": (
            f"{rank} singular vectors each, one step",
            functools.partial(by_rank, calibrated=False, rank=rank),
        )
        for rank in (1, 2, 4, 8, 16)
    },
    **{
        f"rank {rank}, calibrated": (
            f"{rank} singular vectors of difference times inputs, one step",
            functools.partial(by_rank, calibrated=True, rank=rank),
        )
        for rank in (1, 2, 4, 8, 16)
    },
    "components": ("as many singular vectors as pay, one step", functools.partial(by_filling, calibrated=False)),
    "components, calibrated": (
        "the same of difference times inputs",
        functools.partial(by_filling, calibrated=True),
    ),
    "components + rest": (
        "components at twice the step, the rest with a dead zone",
        functools.partial(filled_and_rest, calibrated=False, coarser=2.0),
    ),
    "components + rest, calibrated": (
        "the same, both weighted by inputs",
        functools.partial(filled_and_rest, calibrated=True, coarser=2.0),
    ),
}  # fmt: skip


#: Methods whose number is not a step but one over the share that is kept.
SHARES = [METHODS[name][1] for name in ("largest, ternary", "largest, 4 bit")]


def second_moments(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    """Second moments of the inputs of every linear layer over the tokens, and counts of the embedding's rows."""
    sums: dict[str, Tensor] = {}
    hooks = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, 0) + x.T @ x

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(watch(f"{name}.weight")))
    ids = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    tokens = torch.tensor([token for row in ids for token in row])
    counts = torch.bincount(tokens, minlength=model.config.vocab_size).double()
    with torch.inference_mode():
        step = max(1, len(ids) // CALIBRATION_ROWS)
        for row in ids[::step][:CALIBRATION_ROWS]:  # one by one: no padding that would count
            model(input_ids=torch.tensor([row]))
    for hook in hooks:
        hook.remove()
    return {**sums, EMBEDDING: counts}


def prepare(base: dict[str, Tensor], tuned: dict[str, Tensor], moments: dict[str, Tensor]) -> Subject:
    """Split a difference into matrices and what is small, and code the latter."""
    difference = {name: tuned[name] - x for name, x in base.items()}
    matrices = {name: x for name, x in difference.items() if x.ndim == 2 and x.numel() > 4096}
    small = {}
    for name, x in difference.items():
        if name not in matrices:
            step = float(x.square().mean().sqrt()) / 2 or 1.0
            small[name] = uniform(x, step)
    return Subject(matrices, {name: x for name, x in moments.items() if name in matrices}, small)


def at_size(subject: Subject, method: Method, size: float) -> tuple[float, dict[str, Coded], float] | None:
    """The method's number for at most so many bytes, what it gives, and its bytes; None if it cannot be so small."""
    fixed = sum(coded.bits for coded in subject.small.values())

    def total(coded: dict[str, Coded]) -> float:
        return (fixed + sum(part.bits for part in coded.values())) / 8

    rms = math.sqrt(
        sum(float(x.square().sum()) for x in subject.matrices.values())
        / sum(x.numel() for x in subject.matrices.values())
    )
    unit = 1.0 if method in SHARES else rms
    low, high = math.log(0.3), math.log(3000.0)
    best: tuple[float, dict[str, Coded], float] | None = None
    if method is METHODS["signs"][1]:  # has no number
        coded = method(subject, 1.0)
        return 1.0, coded, total(coded)
    for _ in range(11):
        middle = (low + high) / 2
        number = unit * math.exp(middle)
        coded = method(subject, number)
        if total(coded) <= size:
            high, best = middle, (number, coded, total(coded))
            if total(coded) > 0.98 * size:
                break
        else:
            low = middle
    return best


class Judge:
    """Predictions of one fine-tune, and how far others are from them."""

    def __init__(self, folder: Path, splits: dict[str, list[tuple[str, int]]]) -> None:
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.splits = splits
        self.expected = {split: self._logits(split) for split in splits}

    def _logits(self, split: str) -> Tensor:
        return logits(self.model, self.tokenizer, [text for text, _ in self.splits[split]])

    def score(self, state: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        """Agreement, divergence and accuracy of a state, by split."""
        self.model.load_state_dict(state)
        result = {}
        for split, expected in self.expected.items():
            got = self._logits(split)
            labels = torch.tensor([label for _, label in self.splits[split]])
            divergence = kl_div(got.log_softmax(1), expected.log_softmax(1), log_target=True, reduction="batchmean")
            result[split] = {
                "rows": len(labels),
                "agreement": 100 * float((got.argmax(1) == expected.argmax(1)).double().mean()),
                "kl": float(divergence),
                "accuracy": 100 * float((got.argmax(1) == labels).double().mean()),
            }
        return result


def run(name: str, arguments: argparse.Namespace, results: dict[str, Any], save: Callable[[], None]) -> None:
    """Measure the chosen methods at the chosen sizes for one fine-tune."""
    folder = arguments.finetunes / name
    base, tuned = load_file(arguments.model / "model.safetensors"), load_file(folder / "model.safetensors")
    training, held_out = hold_rows_out(relabelled(read_rows(arguments.train), KINDS[name].labels))
    evaluated = relabelled(read_rows(arguments.data), KINDS[name].labels)
    judge = Judge(folder, {"held out": held_out[:JUDGED_ROWS], "evaluated": evaluated})
    keys = {f"{label} @ {ratio:g}x": (label, ratio) for ratio in arguments.ratios for label in METHODS}
    chosen = [key for glob in arguments.points for key in keys if fnmatch.fnmatch(key, glob)]
    moments = {}
    if any("calibrated" in key or "weighted" in key for key in chosen):
        moments = second_moments(judge.model, judge.tokenizer, [text for text, _ in training])
    subject = prepare(base, tuned, moments)
    whole = sum(4 * x.numel() for x in tuned.values())
    entry = results.setdefault(name, {"bytes": whole, "points": {}})
    points = entry["points"]
    energy = sum(float(x.double().square().sum()) for x in subject.matrices.values())

    def add(key: str, state: dict[str, Tensor], more: dict[str, Any]) -> None:
        points[key] = {**more, **judge.score(state)}
        row = points[key]
        print(f"{name}: {key}: {json.dumps(row)}", flush=True)
        save()

    if "fine-tune" not in points:
        add("fine-tune", tuned, {"bytes": whole})
        add("base alone", base, {"bytes": 0})
        for label, exact in (
            ("base + vectors and head", lambda key: key in subject.small),
            ("base + all but the word embedding", lambda key: key != EMBEDDING),
        ):
            add(label, {key: tuned[key] if exact(key) else x for key, x in base.items()}, {"bytes": None})
    for key in dict.fromkeys(chosen):
        if key in points:
            continue
        label, ratio = keys[key]
        found = at_size(subject, METHODS[label][1], whole / ratio)
        if found is None:
            print(f"{name}: {key} cannot be so small", flush=True)
            continue
        number, coded, size = found
        error = sum(float((x - coded[part].value).double().square().sum()) for part, x in subject.matrices.items())
        state = {part: x + {**subject.small, **coded}[part].value.view_as(x) for part, x in base.items()}
        more: dict[str, Any] = {
            "bytes": round(size),
            "number": number,
            "energy left": error / energy,
            "embedding bytes": round(coded[EMBEDDING].bits / 8),
        }
        if arguments.packed:
            more["packed"] = sum(
                packed_bytes(plane) for part in (*coded.values(), *subject.small.values()) for plane in part.planes
            )
        add(key, state, more)


def packed_bytes(codes: Tensor) -> int:
    """What ``context`` makes of a plane; scales are not in it."""
    if not codes.numel():
        return 0
    spec = PlaneSpec.of(codes)
    if codes.dtype != torch.bool:
        spec = PlaneSpec(tuple(codes.shape), "int16", lo=int(codes.min()), hi=int(codes.max()))
    packer = find_packer("context")
    data = packer.pack(codes.contiguous(), spec)
    if not torch.equal(packer.unpack(data, spec), codes):
        raise SystemExit("context does not give a plane back")
    return len(data)


def table(results: dict[str, Any]) -> str:
    """Markdown, a line for each point."""
    lines = [f"# Differences of fine-tunes, with loss\n\n`python benchmarks/delta/lossy.py`, {results['machine']}\n"]
    for name in [name for name in results if name != "machine"]:
        entry = results[name]
        lines += [
            f"## {name}\n",
            "| | bytes | of them for the word embedding | packed with context | ratio | energy left | held out: agreement % | KL | evaluated: agreement % | KL | accuracy % |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for key, row in entry["points"].items():
            size = row["bytes"]
            ratio = "–" if not size else f"{entry['bytes'] / size:,.0f}x"
            left = f"{100 * row['energy left']:.0f} %" if "energy left" in row else "–"
            cells = [
                key,
                "–" if size is None else f"{size:,}",
                f"{row['embedding bytes']:,}" if "embedding bytes" in row else "–",
                f"{row['packed']:,}" if "packed" in row else "–",
                ratio,
                left,
                f"{row['held out']['agreement']:.1f}",
                f"{row['held out']['kl']:.4f}",
                f"{row['evaluated']['agreement']:.2f}",
                f"{row['evaluated']['kl']:.4f}",
                f"{row['evaluated']['accuracy']:.1f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines.append("What the methods are: " + "; ".join(f"*{key}*: {text}" for key, (text, _) in METHODS.items()) + ".")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="rows to evaluate on")
    parser.add_argument("--finetunes", type=Path, default=Path("runs/delta"))
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--points", nargs="+", default=["*"], help='globs, such as "components @ *x"')
    parser.add_argument(
        "--ratios", default="100,200,400,1000", type=lambda text: [float(part) for part in text.split(",")]
    )
    parser.add_argument("--packed", action="store_true", help="pack the planes too, which takes its time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "lossy.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    describe = runpy.run_path(str(HERE.parent / "coding" / "machine.py"))["describe_machine"]
    results = {"machine": describe("torch", "transformers"), **{k: v for k, v in results.items() if k != "machine"}}

    def save() -> None:
        if path.exists():  # another process may have added another fine-tune
            stored = json.loads(path.read_text("utf-8"))
            mine = ("machine", *arguments.only.split(","))
            results.update({key: entry for key, entry in stored.items() if key not in mine})
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(results), encoding="utf-8")

    for name in arguments.only.split(","):
        run(name, arguments, results, save)
    save()


if __name__ == "__main__":
    main()
