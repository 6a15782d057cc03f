"""The estimated divergence beside the real one."""

from __future__ import annotations

import pytest
import torch

from stackc.models import open_reference
from stackc.models.module import ModuleReference
from stackc.planning.allocation.fisher import fisher_information
from stackc.planning.allocation.logits import directions
from stackc.tasks import find_task
from stackc.tasks.calibration import Calibration, calibration_batches
from stackc.util.errors import ModelError
from tests.helpers.tiny import VOCABULARY


def divergence(reference, calibration, name, change):
    """Mean KL(reference || changed) over the rows of a calibration."""

    def probabilities(model):
        with torch.inference_mode():
            outputs = [model(**batch) for batch in calibration.batches]
        logits = [output if isinstance(output, torch.Tensor) else output.logits for output in outputs]
        return torch.cat(logits).double().log_softmax(-1)

    state = {tensor: reference.tensor(tensor) for tensor in reference.specs}
    before = probabilities(reference.build(state))
    after = probabilities(reference.build({**state, name: state[name] + change}))
    return float((before.exp() * (before - after)).sum(-1).mean())


@pytest.fixture(scope="module")
def tiny(tiny_model, tiny_task):
    reference = open_reference(str(tiny_model))
    pool = calibration_batches(find_task(tiny_task), reference, 90)
    with fisher_information(reference, pool, 4000, 10**9) as fisher:
        yield reference, pool, fisher


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.1.intermediate.dense.weight",
        "bert.encoder.layer.1.intermediate.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ],
)
def test_small_changes_cost_what_is_estimated(tiny, name):
    """With nearly all rows drawn often the estimate is the second-order term itself, coherent changes included."""
    reference, pool, fisher = tiny
    noise = torch.randn(reference.specs[name].shape, generator=torch.Generator().manual_seed(1))
    for direction in (noise, reference.tensor(name) / reference.tensor(name).abs().amax().clamp(min=1e-3)):
        change = 2e-3 * direction
        assert fisher.loss(name, change) == pytest.approx(divergence(reference, pool, name, change), rel=0.15, abs=1e-9)


def test_rows_that_never_occur_still_count(tiny):
    reference, pool, _ = tiny
    name = "bert.embeddings.word_embeddings.weight"
    unseen, seen = torch.zeros(reference.specs[name].shape), torch.zeros(reference.specs[name].shape)
    unseen[VOCABULARY["[MASK]"]] = seen[VOCABULARY["the"]] = torch.linspace(-1, 1, unseen.shape[1])
    losses = []
    for population in (90, 900):
        with fisher_information(reference, pool, 90, population) as fisher:
            losses.append(fisher.loss(name, unseen))
            assert 0 < losses[-1] < 0.1 * fisher.loss(name, seen)
    assert losses[0] > 5 * losses[1]


def test_other_kinds_of_layers_are_covered():
    """A convolution has no records of its own: its gradients are kept whole."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv1d(3, 4, 3)
            self.out = torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.out(torch.tanh(self.convolution(x)).mean(-1))

    torch.manual_seed(3)
    reference = ModuleReference.of(Net())
    generator = torch.Generator().manual_seed(2)
    pool = Calibration(tuple({"x": torch.randn(8, 3, 9, generator=generator)} for _ in range(4)))
    with fisher_information(reference, pool, 2000, 32) as fisher:
        for name in reference.specs:
            change = 1e-2 * torch.randn(reference.specs[name].shape, generator=generator)
            assert fisher.loss(name, change) == pytest.approx(divergence(reference, pool, name, change), rel=0.15)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_directions_of_few_classes_are_a_basis(classes):
    logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    p = logits.softmax(-1).reshape(-1)
    found = directions(logits, torch.Generator())
    basis = torch.stack([vector.reshape(-1) for vector in found.vectors]).T
    torch.testing.assert_close(basis.T @ basis, torch.eye(classes - 1, dtype=torch.float64))
    torch.testing.assert_close(basis.sum(0), torch.zeros(classes - 1, dtype=torch.float64))
    information = torch.diag(p) - torch.outer(p, p)
    torch.testing.assert_close(torch.tensor(found.curvatures), (basis.T @ information @ basis).diagonal().float())


def test_directions_of_many_classes_are_right_on_average():
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, generator = logits.softmax(-1).reshape(-1), torch.Generator().manual_seed(1)
    rows = torch.stack([d.reshape(-1) for _ in range(6000) for d in directions(logits, generator).vectors])
    torch.testing.assert_close(rows.T @ rows / 6000, torch.diag(p) - torch.outer(p, p), atol=0.015, rtol=0)


def test_large_changes_behind_which_all_is_linear_cost_what_is_estimated(tiny):
    """Rows on which the model is sure have no curvature, but a change that turns them is seen."""
    reference, pool, fisher = tiny
    for scale in (0.3, 1.0, 3.0):
        change = -scale * reference.tensor("classifier.weight")
        measured = divergence(reference, pool, "classifier.weight", change)
        assert fisher.loss("classifier.weight", change) == pytest.approx(measured, rel=0.05)


def test_a_model_without_logits_is_refused():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, x):
            return {"something": self.layer(x)}

    pool = Calibration(({"x": torch.ones(2, 2)},))
    with (
        pytest.raises(ModelError, match=r"gives no logits.*sensitivity: weight-error"),
        fisher_information(ModuleReference.of(Net()), pool, 4, 4),
    ):
        pass
