"""What a model cannot be fed is found out before the first forward pass; what fails in one is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from stackc import compress
from stackc.models.forward import as_fed, forward_pass, padding_token, require_fit, single_rows, usable_positions
from stackc.tasks.calibration import Calibration
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError, ModelError
from tests.helpers.tiny import VOCABULARY, tiny_classifier, tiny_reviews

WORDS = len(VOCABULARY)
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
BART = {
    "vocab_size": WORDS,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GPT2 = {"vocab_size": WORDS, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 24, "bos_token_id": 2}

#: Architecture, config, and how many tokens it takes.
FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    ("Bert", SMALL | {"max_position_embeddings": 12}, 12),
    ("Roberta", SMALL | {"max_position_embeddings": 12, "pad_token_id": 1}, 10),
    ("Roberta", SMALL | {"max_position_embeddings": 12, "pad_token_id": 0}, 11),
    ("XLMRoberta", SMALL | {"max_position_embeddings": 12}, 10),
    ("MPNet", SMALL | {"max_position_embeddings": 12}, 10),
    ("Electra", SMALL | {"max_position_embeddings": 12, "embedding_size": 4}, 12),
    ("DistilBert", {"vocab_size": WORDS, "dim": 8, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 12}, 12),
    ("Nystromformer", SMALL | {"max_position_embeddings": 12}, 12),
    ("Bart", BART | {"max_position_embeddings": 12}, 12),
    ("MBart", BART | {"max_position_embeddings": 12}, 12),
    (
        "OPT",
        {
            "vocab_size": WORDS,
            "hidden_size": 8,
            "word_embed_proj_dim": 8,
            "ffn_dim": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        12,
    ),
    ("GPT2", GPT2 | {"n_positions": 12}, 12),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and tiny reviews."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_classifier(folder / "model")
    tiny_reviews(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """The tiny model."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    """Its tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(folder / "model")


def build(family: str, config: dict[str, Any], **changed: Any) -> Any:
    """A tiny classifier of an architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind = getattr(transformers, f"{family}ForSequenceClassification")
        return kind(getattr(transformers, f"{family}Config")(**config | changed)).eval()


def row(length: int) -> dict[str, torch.Tensor]:
    """A text of words, ended as BART needs it."""
    ids = torch.full((1, length), 7)
    ids[0, -1] = 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("family", "config", "limit"), FAMILIES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_longest_text_that_is_let_through_runs(family: str, config: dict[str, Any], limit: int) -> None:
    model = build(family, config)
    assert usable_positions(model) == limit
    require_fit(model, [row(limit)], "the rows")
    with torch.no_grad():
        model(**row(limit))
    with pytest.raises(
        DataError, match=f"a text has {limit + 1} tokens, the model {limit} positions: set 'max_length: "
    ):
        require_fit(model, [row(3), row(limit + 1)], "the rows")


def test_models_without_a_table_of_positions_have_no_limit() -> None:
    assert usable_positions(torch.nn.Linear(2, 2)) is None
    require_fit(torch.nn.Linear(2, 2), [{"input": torch.ones(2, 2)}], "the rows")


def test_tokens_without_an_embedding_are_named(folder: Path, model: Any, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.add_tokens(["zombie"])
    data = tmp_path / "zombies.tsv"
    data.write_text("text\tlabel\na film\t1\na zombie film\t0\n")
    evaluation = TextClassification(data=str(data)).prepare(tokenizer, model.config)
    with pytest.raises(
        DataError, match=rf"hold the token id {WORDS}, and BertForSequenceClassification has embeddings for {WORDS}"
    ):
        evaluation.measure(model)


def test_a_text_without_tokens_is_named(folder: Path, model: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    data = tmp_path / "unknown.tsv"
    data.write_text("text\tlabel\nfilm\t1\nzoo\t0\n")
    dropping = Tokenizer(models.BPE({"[PAD]": 0, "f": 5, "i": 6, "l": 7, "m": 8}, []))
    with pytest.raises(DataError, match="line 3: the tokenizer makes no token of the text 'zoo'"):
        TextClassification(data=str(data)).prepare(_wrapped(dropping), model.config)
    failing = Tokenizer(models.WordLevel({"[PAD]": 0, "film": 5}))
    with pytest.raises(
        DataError, match=r"the tokenizer fails on the texts of .*: WordLevel error: Missing \[UNK\] token"
    ):
        TextClassification(data=str(data)).prepare(_wrapped(failing), model.config)


def _wrapped(tokenizer: Any) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


@pytest.mark.parametrize("error", [IndexError, RuntimeError, ValueError, KeyError, AttributeError, NotImplementedError])
def test_whatever_a_forward_pass_raises_is_a_sentence(folder: Path, tokenizer: Any, error: type[Exception]) -> None:
    class Failing(torch.nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            raise error("index 34 is out\nof bounds")

    evaluation = TextClassification(data=str(folder / "reviews.tsv")).prepare(tokenizer, None)
    message = (
        rf"^Failing does not run on the evaluation rows \(input_ids 32x\d+, .*\): {error.__name__}: .*index 34 is out"
    )
    with pytest.raises(ModelError, match=message) as caught:
        evaluation.measure(Failing())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, error)


def test_our_own_errors_and_memory_pass_unchanged() -> None:
    for error in (DataError("no"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), forward_pass(torch.nn.Linear(1, 1), "rows", {}):
            raise error


class TestPadding:
    """Models that find the end of a text by its padding answer as to each text alone."""

    @pytest.mark.parametrize("pad", [None, -1, 5, VOCABULARY["[PAD]"]])
    def test_batches_change_nothing(self, folder: Path, tokenizer: Any, pad: int | None) -> None:
        """Whatever the config says of padding."""
        model = build("GPT2", GPT2, pad_token_id=pad)
        task = TextClassification(data=str(folder / "reviews.tsv"), train=str(folder / "reviews-train.tsv"))
        together = task.prepare(tokenizer, model.config).measure(model).values
        alone = TextClassification(data=task.data, batch_size=1).prepare(tokenizer, model.config).measure(model).values
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        assert model.config.pad_token_id == pad
        inputs = task.calibration_inputs(20, tokenizer)
        fitted = Calibration(tuple(inputs)).fitted(model)
        with torch.no_grad():
            answers = torch.cat([model(**batch).logits for batch in fitted.batches])
            expected = torch.cat([model(**one).logits for batch in inputs for one in single_rows(batch)])
        torch.testing.assert_close(answers, expected, atol=1e-5, rtol=1e-5)

    def test_what_fits_is_not_copied(self) -> None:
        """Rows that are filled up with the model's own token stay as they are."""
        inputs = {"input_ids": torch.tensor([[7, 8], [7, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
        assert as_fed(build("GPT2", GPT2, pad_token_id=0), inputs)[0] is inputs
        assert as_fed(torch.nn.Linear(1, 1), inputs)[0] is inputs
        (filled,) = as_fed(build("GPT2", GPT2, pad_token_id=4), inputs)
        assert filled["input_ids"].tolist() == [[7, 8], [7, 4]]
        first, second = as_fed(build("GPT2", GPT2, pad_token_id=None), inputs)
        assert (first["input_ids"].tolist(), second["input_ids"].tolist()) == ([[7, 8]], [[7]])

    def test_the_token_is_the_models(self) -> None:
        """The tokenizer's is for models that say nothing."""
        assert padding_token(build("GPT2", GPT2, pad_token_id=4), 0) == 4
        assert padding_token(build("GPT2", GPT2, pad_token_id=None), 0) is None
        assert padding_token(torch.nn.Linear(1, 1), 9) == 9

    def test_rows_are_cut_out_of_padding_on_either_side(self) -> None:
        """Also on the left."""
        inputs = {"input_ids": torch.tensor([[0, 7], [7, 0]]), "attention_mask": torch.tensor([[0, 1], [1, 0]])}
        assert [one["input_ids"].tolist() for one in single_rows(inputs)] == [[[7]], [[7]]]

    def test_healing_needs_a_padding_token_or_single_rows(self, folder: Path, tmp_path: Path) -> None:
        """One sentence says both."""
        place = tiny_classifier(tmp_path / "causal")
        build("GPT2", GPT2, pad_token_id=None).save_pretrained(place)
        task = {
            "name": "text-classification",
            "data": str(folder / "reviews.tsv"),
            "train": str(folder / "reviews-train.tsv"),
        }
        heal = {"use": "heal", "steps": 2, "holdout": 5}
        recipe = {"task": task, "stages": [{"use": "int", "on": "*wte.weight", "step": 0.02}, heal, "zstd"]}
        with pytest.raises(
            ModelError, match=r"stages\[1\] \(heal\): GPT2.* cannot tell padding from text.*batch_size: 1"
        ):
            compress(str(place), recipe, evaluate=False)
        heal["batch_size"] = 1
        _, report = compress(str(place), recipe)
        assert report.final.score is not None


def test_training_rows_beyond_the_positions_are_refused(folder: Path, tmp_path: Path) -> None:
    place = tiny_classifier(tmp_path / "short")
    build("Roberta", SMALL | {"max_position_embeddings": 20, "pad_token_id": 1}).save_pretrained(place)
    train = tmp_path / "train.tsv"
    train.write_text("text\tlabel\n" + "".join(f"{word} {'film ' * 30}\t1\n" for word in list(VOCABULARY)[5:40]))
    task = {"name": "text-classification", "data": str(folder / "reviews.tsv"), "train": str(train)}
    calibrated = {"use": "int", "on": "*query.weight", "step": 0.02, "calibrated": True}
    healed = [{"use": "int", "on": "*query.weight", "step": 0.02}, {"use": "heal", "steps": 2, "holdout": 5}]
    for stages in ([calibrated], healed):
        with pytest.raises(DataError, match=r"a text has \d+ tokens, the model 18 positions: set 'max_length: 18'"):
            compress(str(place), {"task": task, "stages": stages}, evaluate=False)
