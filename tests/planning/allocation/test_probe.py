"""Measured divergences, and that what looks good by mistake is not chosen."""

from __future__ import annotations

import pytest
import torch

from stackc.models import open_reference
from stackc.models.module import ModuleReference
from stackc.planning.allocation.allocate import Allocator
from stackc.planning.allocation.fisher import fisher_information
from stackc.planning.allocation.probe import Probe
from stackc.planning.allocation.sensitivity import Sensitivity, squared_norm
from stackc.planning.program import Program, Session
from stackc.recipe.parse import recipe_from
from stackc.tasks import find_task
from stackc.tasks.calibration import calibration_batches, named_weights
from stackc.tasks.none import NoTask
from tests.planning.allocation.test_fisher import divergence


def test_a_probe_measures_and_leaves_the_model_as_it_was(tiny_model, tiny_task):
    reference = open_reference(str(tiny_model))
    pool = calibration_batches(find_task(tiny_task), reference, 90)
    model = reference.build()
    probe = Probe(model, named_weights(model, reference), pool, 90)
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"):
        value = torch.zeros(reference.specs[name].shape)
        change, measured = probe.put(name, value)
        assert torch.equal(change, -reference.tensor(name))
        assert measured == pytest.approx(divergence(reference, pool, name, change))
        assert measured > 0
        assert probe.put(name, reference.tensor(name))[1] == 0


def test_a_broken_model_is_very_bad_and_not_an_error(tiny_model, tiny_task):
    reference = open_reference(str(tiny_model))
    pool = calibration_batches(find_task(tiny_task), reference, 20)
    with fisher_information(reference, pool, 10, 90) as fisher:
        value = torch.full((2, 16), float("inf"))
        assert fisher.measured("classifier.weight", value) >= 1e6


class Blind(Sensitivity):
    """Estimates that dropping rows costs nothing, and measures that it costs a lot."""

    name = "blind"
    unit = "nothing"
    measures = True

    def __init__(self, reference: ModuleReference) -> None:
        self.reference = reference
        self.calls = 0

    def loss(self, tensor, change):
        emptied = (change + self.reference.tensor(tensor)).std(dim=0).min() < 1e-4 if tensor == "weight" else False
        return 0.0 if emptied or squared_norm(change) > 0.3 * 64 * 32 else squared_norm(change)

    def measured(self, tensor, value):
        self.calls += 1
        return squared_norm(value - self.reference.tensor(tensor))


def test_large_changes_are_measured_before_they_are_chosen():
    torch.manual_seed(0)
    layer = torch.nn.Linear(32, 64, bias=False)
    with torch.no_grad():
        layer.weight.normal_()
    reference = ModuleReference.of(layer)
    recipe = recipe_from(
        {
            "allocate": {"bytes": 1400},
            "stages": [
                {"use": "prune", "rows": "auto"},
                {"use": "int", "on": "*/values", "step": "auto"},
                {"use": "ans", "on": "*/codes"},
            ],
        }
    )
    sensitivity = Blind(reference)
    allocator = Allocator(Program.of(recipe, reference.specs), Session(reference, NoTask()), sensitivity)
    allocator.explore(1400)
    fit = allocator.fit(1400)
    assert 1 <= sensitivity.calls <= 12
    # at 5 bits for a value, all rows at a coarser step are better than half of them at a finer one
    assert fit.choices[0]["weight"].rows < 0.2
    assert fit.loss > 1
