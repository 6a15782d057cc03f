"""A training step of MiniLM whose layers are one beside a step of the same recipe without sharing, on the same batches, in turn.

    OMP_NUM_THREADS=1 python benchmarks/sharing/step_time.py --model minilm-sst2 --train train.tsv [--steps 20]

All weights of the layers are trained, as 8-bit codes with their scales. Prints medians and the ratio.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from stackc.healing.batches import Batches
from stackc.healing.latents import SharedTensor, TrainedTensor
from stackc.healing.memory import keeping_freed_memory
from stackc.healing.nodes import Start
from stackc.healing.student import Student
from stackc.healing.train import distillation_loss
from stackc.models import open_reference
from stackc.planning.encode import walk
from stackc.planning.plan import TensorPlan
from stackc.planning.program import Program, Session
from stackc.planning.settle import settle
from stackc.recipe.parse import recipe_from
from stackc.tasks.calibration import named_weights
from stackc.tasks.none import NoTask

LAYERS = "*.encoder.layer.*"
INT8 = {"use": "int8", "on": LAYERS}
SIDES = {
    "six layers": [INT8],
    "one layer": [{"use": "share", "on": LAYERS, "difference": False}, INT8],
    "six, and what is common": [{"use": "share", "on": LAYERS}, INT8],
}


def main() -> None:
    """Time the kinds of step in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference = open_reference(arguments.model)
    with open(arguments.train, encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)][:4000]
    ids = reference.tokenizer()(texts, truncation=True, max_length=64)["input_ids"]
    batches = Batches(ids, arguments.batch_size, 0, seed=0)
    steps = {name: _step(reference, stages) for name, stages in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with keeping_freed_memory():
        for number in range(arguments.steps + 2):
            for name, step in steps.items():
                begin = time.perf_counter()
                step(batches.at(number).inputs)
                if number >= 2:
                    seconds[name].append(time.perf_counter() - begin)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratio = statistics.median(mine / its for mine, its in zip(values, first, strict=True))
        print(f"{name:24s} median {1000 * statistics.median(values):6.0f} ms, {ratio:.2f} of six layers")


def _step(reference: Any, stages: list[dict[str, Any]]) -> Callable[[dict[str, torch.Tensor]], None]:
    session = Session(reference, NoTask())
    program = settle(Program.of(recipe_from({"stages": stages}), reference.specs), session)
    model = reference.build()
    places = named_weights(model, reference)
    shared: dict[str, SharedTensor] = {}
    tensors: dict[str, TrainedTensor] = {}

    def trained(tensor: TensorPlan) -> TrainedTensor:
        walker = walk(program, session, tensor, keep_inputs=True)
        for stage in range(len(stages)):
            walker.apply(stage)
        start = Start({path: plane for path, (_, plane) in walker.planes.items()}, walker.inputs, shared)
        return TrainedTensor(tensor.stacks[-1], tensor.spec, start, "planes")

    for plane in reversed(program.plan.shared):
        tensors[plane.name] = trained(plane)
        shared[plane.name] = SharedTensor(tensors[plane.name])
    for tensor in program.plan.tensors:
        if tensor.name in places and ".layer." in tensor.name:
            tensors[tensor.name] = trained(tensor)
    student = Student(model, places, tensors, shared.values())
    parameters = [value for tensor in tensors.values() for value in tensor.parameters.values()]
    optimiser = torch.optim.Adam(parameters, lr=1e-5, fused=True)

    def step(inputs: dict[str, torch.Tensor]) -> None:
        optimiser.zero_grad()
        logits = student(inputs).logits
        distillation_loss(logits, torch.zeros_like(logits), 2.0).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
