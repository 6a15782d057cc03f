"""A training step through the decoder beside a plain fine-tuning step, on the same batches, in turn.

    python benchmarks/healing/step_time.py --model bert-tiny-sst2 --train train.tsv [--steps 60]

The stack is prune (rows) + seed + int; both sides use the same loss, Adam and one thread. Prints medians and the ratio.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable

import torch

from stackc.healing.batches import Batches
from stackc.healing.latents import Start, TrainedTensor
from stackc.healing.memory import keeping_freed_memory
from stackc.healing.price import Pricing
from stackc.healing.settings import Heal
from stackc.healing.student import Student
from stackc.healing.train import PRICED_EVERY, distillation_loss
from stackc.models import open_reference
from stackc.planning.encode import Walker
from stackc.planning.program import Program, Session
from stackc.planning.settle import settle
from stackc.recipe.parse import recipe_from
from stackc.tasks.calibration import named_weights
from stackc.tasks.none import NoTask

STAGES = [
    {"use": "prune", "on": "*.word_embeddings.weight", "rows": 0.5},
    {"use": "seed", "on": "*{word,position}_embeddings.weight*", "rank": 16},
    {"use": "int", "on": ["*.weight", "!*/{mask,fallback}"], "step": 0.03},
]


def main() -> None:
    """Time both kinds of step in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference = open_reference(arguments.model)
    with open(arguments.train, encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)][:20000]
    ids = reference.tokenizer()(texts, truncation=True, max_length=64)["input_ids"]
    batches = Batches(ids, 64, 0, seed=0)

    plain = reference.build()
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    plain_step = _step(lambda inputs: plain(**inputs).logits, list(plain.parameters()), None)
    sides = {"plain": plain_step, "healed": _healed(reference, 0.0), "healed, bits priced": _healed(reference, 1e-7)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with keeping_freed_memory():
        # As many steps at a time as the training loop has between two in which it counts bits.
        for number in range(arguments.steps + 5):
            for name, step in sides.items():
                begin = time.perf_counter()
                for each in range(PRICED_EVERY):
                    step(batches.at(PRICED_EVERY * number + each).inputs, priced=each == 0)
                if number >= 5:
                    seconds[name].append((time.perf_counter() - begin) / PRICED_EVERY)
    for name, values in seconds.items():
        ratios = [mine / its for mine, its in zip(values, seconds["plain"], strict=True)]
        print(f"{name:20s} median {1000 * statistics.median(values):6.1f} ms, {statistics.median(ratios):.2f} of plain")


def _healed(reference, rate: float) -> Callable[..., None]:
    recipe = recipe_from({"stages": STAGES})
    plan = settle(Program.of(recipe, reference.specs), Session(reference, NoTask())).plan
    model = reference.build()
    places = named_weights(model, reference)
    tensors = {}
    for tensor in plan.tensors:
        if tensor.name not in places:
            continue
        walker = Walker(tensor, reference.tensor(tensor.name), keep_inputs=True)
        for stage in range(len(STAGES)):
            walker.apply(stage)
        start = Start({path: plane for path, (_, plane) in walker.planes.items()}, walker.inputs)
        tensors[tensor.name] = TrainedTensor(tensor.stacks[-1], tensor.spec, start, "planes")
    student = Student(model, places, tensors)
    parameters = [value for tensor in tensors.values() for value in tensor.parameters.values()]
    pricing = Pricing(Heal(steps=10000, rate=rate), tensors, 10000) if rate else None
    return _step(lambda inputs: student(inputs).logits, parameters, pricing)


def _step(forward, parameters: list[torch.Tensor], pricing: Pricing | None) -> Callable[..., None]:
    optimiser = torch.optim.Adam(parameters, lr=1e-5, fused=True)

    def step(inputs: dict[str, torch.Tensor], *, priced: bool) -> None:
        optimiser.zero_grad()
        logits = forward(inputs)
        loss = distillation_loss(logits, torch.zeros_like(logits), 2.0)
        if pricing is not None and priced:
            loss = loss + 1e-7 * pricing.bits()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
