"""Second moments are those of what each linear layer is fed, padding apart, and of gradients where embeddings are looked up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stackc.core.transform import Known
from stackc.models import ModuleReference, open_reference
from stackc.tasks.calibration import Calibration, calibration_batches
from stackc.tasks.moments import second_moments
from stackc.tasks.text_classification import TextClassification
from stackc.util import lazy
from stackc.util.errors import ModelError, PlanError
from tests.helpers.models import tied, weights_file
from tests.helpers.tiny import tiny_classifier, tiny_reviews


def batches(*shapes: tuple[int, ...], name: str = "x") -> Calibration:
    draw = torch.Generator().manual_seed(3)
    return Calibration(tuple({name: torch.randn(shape, generator=draw)} for shape in shapes))


def moments_of(module: nn.Module, calibration: Calibration) -> dict[str, torch.Tensor]:
    reference = ModuleReference.of(module)
    with second_moments(reference, calibration, reference.specs) as moments:
        return dict(moments)


def expected(inputs: torch.Tensor) -> torch.Tensor:
    flat = inputs.reshape(-1, inputs.shape[-1]).double()
    return flat.T @ flat / len(flat)


class Attention(nn.Module):
    """Three layers with one input, one with another, one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.out = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.calls: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mixed = torch.tanh(self.query(x)) * self.key(x) + self.value(x)
        self.calls.append(mixed)
        y: torch.Tensor = self.out(input=mixed)
        return y


def test_moments_are_means_of_outer_products() -> None:
    calibration = batches((5, 7, 6), (2, 3, 6), (4, 6))
    inputs = torch.cat([batch["x"].reshape(-1, 6) for batch in calibration.batches])
    moments = moments_of(Attention(), calibration)
    assert set(moments) == {"query.weight", "key.weight", "value.weight", "out.weight"}
    for name in ("query", "key", "value"):
        assert moments[f"{name}.weight"].dtype == torch.float64
        torch.testing.assert_close(moments[f"{name}.weight"], expected(inputs), rtol=1e-5, atol=1e-6)
    model = Attention()
    moments = moments_of(model, calibration)
    with torch.no_grad():
        mixed = [model(batch["x"]) is not None and model.calls[-1].reshape(-1, 6) for batch in calibration.batches]
    torch.testing.assert_close(moments["out.weight"], expected(torch.cat(mixed)), rtol=1e-5, atol=1e-6)


def test_padding_does_not_count() -> None:
    (batch,) = batches((3, 5, 6)).batches
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    moments = moments_of(Attention(), Calibration(({**batch, "attention_mask": mask},)))
    real = batch["x"][mask.bool()]
    torch.testing.assert_close(moments["key.weight"], expected(real), rtol=1e-5, atol=1e-6)
    loud = {"x": torch.where(mask[..., None].bool(), batch["x"], 1e4), "attention_mask": mask}
    again = moments_of(Attention(), Calibration((loud,)))
    assert torch.equal(again["key.weight"], moments["key.weight"])


def test_layers_with_one_input_share_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = torch.from_file

    def counting(path: str, **options: Any) -> torch.Tensor:
        made.append(path)
        return original(path, **options)

    monkeypatch.setattr(lazy.torch, "from_file", counting)
    moments_of(Attention(), batches((4, 6)))
    assert len(made) == 2
    assert not any(Path(path).exists() for path in made)


def test_layers_that_shared_their_input_only_at_first_are_told_apart() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.a(x) + self.b(x if len(x) == 3 else 2 * x)
            return y

    calibration = batches((3, 4), (5, 4))
    first, second = (batch["x"] for batch in calibration.batches)
    moments = moments_of(Fickle(), calibration)
    torch.testing.assert_close(moments["a.weight"], expected(torch.cat([first, second])), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments["b.weight"], expected(torch.cat([first, 2 * second])), rtol=1e-5, atol=1e-6)


def test_a_layer_that_runs_twice_counts_twice() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, layer)
    calibration = batches((6, 4), name="input")
    x = calibration.batches[0]["input"]
    with torch.no_grad():
        inputs = torch.cat([x, layer(x)])
    torch.testing.assert_close(moments_of(model, calibration)["0.weight"], expected(inputs), rtol=1e-5, atol=1e-6)


def test_a_tied_weight_has_the_moments_of_its_linear_layer() -> None:
    model = tied()
    ids = torch.arange(12).reshape(3, 4)
    moments = moments_of(model, Calibration(({"ids": ids},)))
    with torch.no_grad():
        hidden = torch.tanh(model.layer(model.embedding(ids)))
    torch.testing.assert_close(moments["embedding.weight"], expected(hidden), rtol=1e-5, atol=1e-6)
    assert set(moments) == {"embedding.weight", "layer.weight"}


def test_a_weight_that_two_layers_hold_has_the_moments_of_both() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    calibration = batches((6, 4), name="input")
    x = calibration.batches[0]["input"]
    with torch.no_grad():
        inputs = torch.cat([x, first(x)])
    moments = moments_of(nn.Sequential(first, second), calibration)
    torch.testing.assert_close(moments["0.weight"], expected(inputs), rtol=1e-5, atol=1e-6)


def test_transposed_weights_are_refused() -> None:
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(3, 4))
    with pytest.raises(PlanError, match=r"0\.weight is the weight of a Conv1D, which stores it transposed"):
        moments_of(model, batches((2, 4), name="input"))


def test_only_what_is_asked_for_is_watched() -> None:
    reference = ModuleReference.of(Attention())
    with second_moments(reference, batches((4, 6)), ["out.weight", "norm.weight"]) as moments:
        assert list(moments) == ["out.weight"]


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "model")
    tiny_reviews(tmp_path)
    task = TextClassification(data=str(tmp_path / "reviews.tsv"), train=str(tmp_path / "reviews-train.tsv"))
    reference = open_reference(str(tmp_path / "model"))
    calibration = calibration_batches(task, reference)

    def found(threads: int) -> Iterator[torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with second_moments(reference, calibration, reference.specs) as moments:
                yield from moments.values()
        finally:
            torch.set_num_threads(before)

    one, two = list(found(1)), list(found(2))
    assert len(one) == 17  # six layers in each of two blocks, pooler, classifier; words, positions, kinds of token
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_weights_without_an_architecture_cannot_run(tmp_path: Path) -> None:
    reference = open_reference(str(weights_file(tmp_path / "model.safetensors")))
    with pytest.raises(ModelError), second_moments(reference, batches((4, 6)), reference.specs):
        pass


class Bag(nn.Module):
    """A classifier of what words and their places say."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(6, 4)
        self.unused = nn.Embedding(9, 4)
        self.out = nn.Linear(4, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        said = self.words(ids) + self.places(torch.arange(ids.shape[1])[None])
        logits: torch.Tensor = self.out(torch.tanh(said).mean(1))
        return logits


def texts(rows: int, length: int, at_once: int = 1) -> Calibration:
    ids = torch.randint(0, 9, (rows, length), generator=torch.Generator().manual_seed(5))
    return Calibration(tuple({"ids": part} for part in torch.split(ids, at_once)))


def information(model: Bag, calibration: Calibration) -> torch.Tensor:
    """Mean Fisher information of what one place gives, from Jacobians."""
    total, count = torch.zeros(4, 4, dtype=torch.float64), 0
    for batch in calibration.batches:
        for ids in batch["ids"]:

            def logits(words: torch.Tensor, ids: torch.Tensor = ids) -> torch.Tensor:
                found: torch.Tensor = model.out(torch.tanh(words + model.places.weight[: len(ids)]).mean(0))
                return found

            words = model.words.weight[ids].detach()
            p = logits(words).detach().double().softmax(0)
            for jacobian in torch.func.jacrev(logits)(words).detach().double().unbind(1):
                total += jacobian.T @ (p.diag() - p.outer(p)) @ jacobian
                count += 1
    return total / count


def with_even(moments: torch.Tensor) -> torch.Tensor:
    return moments + 0.3 * moments.diagonal().mean() * torch.eye(len(moments))


@pytest.mark.parametrize("classes", [2, 3])
def test_embeddings_meet_the_fisher_information(classes: int) -> None:
    torch.manual_seed(classes)
    model, calibration = Bag(classes), texts(7, 5)
    moments = moments_of(model, calibration)
    assert set(moments) == {"out.weight", "words.weight", "places.weight"}
    wanted = with_even(information(model, calibration))
    torch.testing.assert_close(moments["words.weight"], wanted, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(moments["places.weight"], wanted, rtol=1e-4, atol=1e-9)  # one text at a time: the same


def test_what_texts_have_in_common_meets_the_sum_of_their_information() -> None:
    torch.manual_seed(0)
    model, calibration = Bag(2), texts(2048, 3, at_once=8)
    moments = moments_of(model, calibration)
    wanted = with_even(information(model, calibration))
    torch.testing.assert_close(moments["words.weight"], wanted, rtol=1e-4, atol=1e-9)
    assert float(torch.dist(moments["places.weight"], 8 * wanted)) < 0.15 * float(torch.linalg.norm(8 * wanted))


def test_many_classes_meet_it_on_average() -> None:
    torch.manual_seed(1)
    model, calibration = Bag(40), texts(400, 3, at_once=8)
    wanted = with_even(information(model, calibration))
    assert float(torch.dist(moments_of(model, calibration)["words.weight"], wanted)) < 0.2 * float(
        torch.linalg.norm(wanted)
    )


def test_embeddings_of_a_model_without_logits_have_none() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.layer = nn.Embedding(9, 4), nn.Linear(4, 4)

        def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"pooled": self.layer(self.words(ids))}

    assert set(moments_of(Pooled(), texts(2, 3))) == {"layer.weight"}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(3, 4, 5, stride=2, padding=2, dilation=2), (2, 3, 17)),
        (lambda: nn.Conv1d(3, 4, 4, padding="same", padding_mode="circular"), (2, 3, 9)),
        (lambda: nn.Conv2d(2, 5, (3, 1), stride=(1, 2), padding=(1, 0)), (3, 2, 6, 7)),
        (lambda: nn.Conv2d(2, 5, 1, bias=False), (2, 6, 7)),  # without an axis of examples
        (lambda: nn.Conv3d(2, 3, 2, padding="valid"), (2, 2, 4, 3, 5)),
    ],
)
def test_convolutions_meet_patches(layer: Any, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a flattened row costs what it changes in the layer's output, to the mean square."""
    monkeypatch.setattr("stackc.tasks.moments.patches._CHUNK", 40)
    torch.manual_seed(0)
    module = nn.Sequential(layer())
    calibration = batches(shape, shape, name="input")
    moments = moments_of(module, calibration)["0.weight"]
    d = torch.randn_like(module[0].weight)
    with torch.no_grad():
        module[0].weight.copy_(d)
        if module[0].bias is not None:
            module[0].bias.zero_()
        axis = len(shape) - 1 - len(module[0].kernel_size)
        changes = torch.cat([module(batch["input"]).movedim(axis, 0).flatten(1) for batch in calibration.batches], 1)
    flat = d.flatten(1).double()
    torch.testing.assert_close((flat @ moments * flat).sum(1), changes.double().square().mean(1), rtol=1e-4, atol=1e-6)


class Own(nn.Conv2d):
    """Does something else with its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(2 * x)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 3, groups=4), nn.ConvTranspose2d(4, 8, 3), Own(4, 8, 3)])
def test_rows_that_do_not_all_meet_the_same_have_no_moments(layer: nn.Module) -> None:
    assert not moments_of(nn.Sequential(layer), batches((2, 4, 5, 5), name="input"))


def test_calibrated_convolutions_lose_less_in_what_comes_out() -> None:
    """`int` and `seed` use the moments of flattened rows, and so lose less of the outputs than without."""
    from stackc.core.spec import PlaneSpec
    from stackc.transforms.int import Int
    from stackc.transforms.seed import Seed

    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(4, 16, 3, bias=False))
    smooth = nn.functional.avg_pool2d(torch.randn(8, 4, 16, 16), 5, 1)
    moments = moments_of(module, Calibration(({"input": smooth},)))["0.weight"]
    x = module[0].weight.detach()
    for plain, calibrated in (
        (Int(bits=3), Int(bits=3, calibrated=True)),
        (
            Int(bits=3, granularity="group", group_size=10),
            Int(bits=3, granularity="group", group_size=10, calibrated=True),
        ),
        (Seed(rank=4), Seed(rank=4, calibrated=True)),
    ):
        lost = []
        for planes in (plain.encode(x), calibrated.encode(x, Known(moments=moments))):
            d = (plain.decode(planes, PlaneSpec.of(x)) - x).flatten(1).double()
            lost.append(float((d @ moments * d).sum()))
        assert lost[1] < lost[0] / 2, (plain, lost)
