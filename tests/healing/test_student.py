"""The model in training: its weights are decoded, rows of embeddings one by one where that is possible, and ties stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stackc.core.registry import find, find_packer
from stackc.core.spec import PlaneSpec
from stackc.core.stack import Branch, Leaf
from stackc.healing import student as module
from stackc.healing.latents import Start, TrainedTensor
from stackc.healing.student import Student
from stackc.testing.planes import bell

ROWS = 40


class Words(nn.Module):
    """The mean of embeddings, through a layer that may be the embedding again."""

    def __init__(self, *, tied: bool = False, **options: object) -> None:
        super().__init__()
        self.words = nn.Embedding(ROWS, 6, **options)  # type: ignore[arg-type]
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(6, ROWS, bias=False)
        if tied:
            self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Scores of all words."""
        scores: torch.Tensor = self.out(self.drop(self.words(ids)).mean(1))
        return scores


def form(name: str = "int", **settings: object) -> TrainedTensor:
    x = 8 * bell((ROWS, 6), 0, name)
    transform = find(name).stage(**settings)
    raw = Leaf(find_packer("raw"))
    planes = transform.encode(x)  # type: ignore[union-attr]
    stack = Branch(transform, dict.fromkeys(planes, raw))  # type: ignore[arg-type]
    return TrainedTensor(stack, PlaneSpec.of(x), Start(planes, {"": x}), "planes")


@pytest.fixture(params=[1, ROWS + 1], ids=["rows one by one", "whole"])
def few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "_FEW_ROWS", request.param)
    return int(request.param)


IDS = torch.tensor([[3, 3, 7], [39, 0, 7]])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("int", {"bits": 4}),
        ("int", {"bits": 4, "granularity": "tensor"}),
        ("seed", {"rank": 2}),
        ("prune", {"rows": 0.5}),
        ("prune", {"sparsity": 0.5}),
        ("codebook", {"entries": 4}),
        ("cast", {"to": "float16"}),
    ],
)
def test_answers_and_gradients_are_those_of_the_decoded_weights(few_rows: int, name: str, settings: dict) -> None:
    trained, expected = form(name, **settings), form(name, **settings)
    model, plain = Words(), Words().eval()
    plain.load_state_dict(model.state_dict())
    student = Student(model, {"w": model.words.weight}, {"w": trained})
    answers = student({"ids": IDS})
    answers.square().sum().backward()
    wanted = torch.func.functional_call(plain, {"words.weight": expected.value()}, (IDS,))
    wanted.square().sum().backward()
    torch.testing.assert_close(answers, wanted)
    for path, parameter in expected.parameters.items():
        torch.testing.assert_close(trained.parameters[path].grad, parameter.grad)


def test_a_training_step_is_seen_by_the_next_forward_pass(few_rows: int) -> None:
    trained = form(bits=4)
    model = Words()
    student = Student(model, {"w": model.words.weight}, {"w": trained})
    before = student({"ids": IDS}).detach()
    with torch.no_grad():
        trained.parameters[""].add_(1.0)
        trained.parameters["scale"].add_(1.0)
    after = student({"ids": IDS}).detach()
    assert not torch.equal(before, after)
    again = torch.func.functional_call(model, {}, (IDS,)) if few_rows == 1 else after
    torch.testing.assert_close(after, again)


def test_ties_stay(few_rows: int) -> None:
    model = Words(tied=True)
    trained = form(bits=4)
    student = Student(model, {"w": model.words.weight}, {"w": trained})
    value = trained.value().detach()
    torch.testing.assert_close(student({"ids": IDS}).detach(), value[IDS].mean(1) @ value.T)


def test_what_is_not_trained_has_no_gradient_and_stays() -> None:
    model = Words()
    out = model.out.weight.detach().clone()
    Student(model, {"w": model.words.weight}, {"w": form(bits=4)})({"ids": IDS}).sum().backward()
    assert model.out.weight.grad is None
    assert model.words.weight.grad is None
    assert torch.equal(model.out.weight, out)


def test_tensors_that_are_no_parameters_are_left_out() -> None:
    model = Words()
    student = Student(model, {}, {"buffer": form(bits=4)})
    torch.testing.assert_close(student({"ids": IDS}), model(IDS))


@pytest.mark.parametrize("options", [{"max_norm": 0.1}, {"scale_grad_by_freq": True}], ids=str)
def test_embeddings_with_ways_of_their_own_are_decoded_whole(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FEW_ROWS", 1)
    model = Words(**options)
    own = type(model.words).forward
    Student(model, {"w": model.words.weight}, {"w": form(bits=4)})
    assert "forward" not in vars(model.words)
    assert model.words.forward.__func__ is own


def test_dropout_is_off() -> None:
    model = Words().train()
    student = Student(model, {"w": model.words.weight}, {"w": form(bits=4)})
    assert torch.equal(student({"ids": IDS}), student({"ids": IDS}))
