"""A label is read as the class that it means; where it could mean two, both are named and the recipe decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.recipe.document import dump_document, parse_document
from stackc.recipe.parse import parse_recipe
from stackc.recipe.schema import recipe_schema
from stackc.tasks.data.table import Label
from stackc.tasks.labels import Reading, class_numbers
from stackc.tasks.text_classification import TextClassification
from stackc.util.errors import DataError, RecipeError


def model(*names: str, **fields: Any) -> SimpleNamespace:
    """Config of a model with these classes."""
    maps = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    return SimpleNamespace(num_labels=len(names), **maps | fields)


def read(values: list[Any], config: Any, reading: Reading | None = None, names: tuple[str, ...] = ()) -> list[int]:
    """Class numbers of what stands in a table."""
    return class_numbers([Label.of(value, names) for value in values], "row {}".format, config, reading)


STARS = model("1", "2", "3", "4", "5")
SIGNS = model("-1", "0", "1")
FILMS = model("negative", "positive")
DEFAULT = model("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("values", "config", "numbers"),
    [
        (["negative", "positive"], FILMS, [0, 1]),
        (["Negative ", " POSITIVE", 1, "0"], FILMS, [0, 1, 1, 0]),
        (["0.0", "1.0"], FILMS, [0, 1]),
        ([0.0, 1.0], FILMS, [0, 1]),
        ([True, False], FILMS, [1, 0]),
        ([False, True], model("True", "False"), None),
        ([True, False], model("false", "true"), [1, 0]),
        (["LABEL_1", "LABEL_0"], DEFAULT, [1, 0]),
        (["0", "1"], DEFAULT, [0, 1]),
        # names that look like numbers
        (["1", "2", "5"], STARS, [0, 1, 4]),
        ([1, 2, 3, 4, 5], STARS, [0, 1, 2, 3, 4]),
        (["1.0", "5.0"], STARS, [0, 4]),
        (["1", "2", "3", "4"], STARS, None),
        (["0", "1", "2"], STARS, None),
        (["-1", "0", "1"], SIGNS, [0, 1, 2]),
        (["0", "1"], SIGNS, None),
        (["0", "1"], model("0", "1"), [0, 1]),
        (["1.0", "2.0"], model("1.0", "2.0", "3.0"), None),
        (["1", "3"], model("1.0", "2.0", "3.0"), [0, 2]),
        # names that differ in little
        (["us", "US", "x"], model("us", "US", "x"), [0, 1, 2]),
        (["Us", "x"], model("us", "US", "x"), None),
        (["a", "a "], model("a", "a "), [0, 1]),
        ([" a"], model("a", "a "), None),
        (["caf\u00e9", "te"], model("cafe\u0301", "te"), [0, 1]),
        (["none", "nan"], model("none", "nan"), [0, 1]),
        # what a config may lack, or say twice
        (["neg", "pos"], SimpleNamespace(num_labels=2, id2label={0: "neg", 1: "pos"}, label2id=None), [0, 1]),
        (["neg", "pos"], SimpleNamespace(num_labels=2, label2id={"neg": 0, "pos": 1}), [0, 1]),
        (["neg", "pos"], model("LABEL_0", "LABEL_1", label2id={"neg": 0, "pos": 1}), [0, 1]),
        (["neg", "no"], model("neg", "pos", label2id={"neg": 0, "no": 0, "pos": 1}), [0, 0]),
        ([3, 7], None, [3, 7]),
    ],
)
def test_labels_are_read_as_the_class_that_they_mean(values: list[Any], config: Any, numbers: list[int] | None) -> None:
    if numbers is None:
        with pytest.raises(DataError, match=r"class .* and .*class "):
            read(values, config)
    else:
        assert read(values, config) == numbers


@pytest.mark.parametrize(
    ("values", "config", "message"),
    [
        (
            ["1", "2"],
            STARS,
            "row 0: the label '1' is the name of class 0 of the model and the number of class 1, which it calls '2'; say in "
            "the recipe which it is, with 'labels: names', 'labels: numbers', or the class of every label as in "
            """'labels: {"1": 0}'""",
        ),
        (
            ["x", "Us"],
            model("us", "US", "x"),
            r"row 1: the label 'Us' is class 0 \('us'\) by id2label and class 1 \('US'\) by id2label",
        ),
        (
            ["neg", "pos"],
            model("neg", "pos", label2id={"pos": 0, "neg": 1}),
            r"'neg' is class 0 \('neg'\) by id2label and class 1 \('neg'\) by label2id of the model's config.json; mend",
        ),
        (
            ["negative", "positive"],
            model("neg", "pos", label2id={"positive": 0, "negative": 1}),
            "class 0 of the model is 'neg' by id2label and 'positive' by label2id",
        ),
        (["x"], model("x", "x"), r"'x' is class 0 \('x'\) by id2label and class 1 \('x'\) by id2label"),
        (["a"], model("b", label2id={"a": 5}), r"'a' is class 5 \('a'\) by label2id .* it has 0 to 0"),
        (["a"], model(label2id={"a": "first"}), "label2id of the model's config.json gives 'a' the number 'first'"),
        (["1", "0", "2"], FILMS, "row 2: the label 2 is not a class of the model, which has 0 to 1"),
        (["1", "-1"], FILMS, "row 1: the label is -1, as in splits whose labels are hidden"),
        (["nan", "1"], FILMS, "row 0: the label 'nan' looks like a missing value; mend or remove the row"),
        (["word " * 900], FILMS, r"the label 'word word .{0,40}\.\.\.' is not a class name"),
        (["9" * 5000], FILMS, r"the label '9{40}\.\.\.' is not a class name"),
    ],
)
def test_what_cannot_be_read_is_named(values: list[Any], config: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(values, config)


def test_numbers_need_no_names() -> None:
    """A config whose maps contradict each other still has classes by number."""
    assert read(["0", "1"], model("neg", "pos", label2id={"pos": 0, "neg": 1})) == [0, 1]


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6, unique=True))
def test_every_exact_name_is_its_class_or_refused(names: list[str]) -> None:
    try:
        numbers = read(list(names), model(*names))
    except DataError:  # two readings
        return
    assert numbers == list(range(len(names)))


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6, unique=True))
def test_names_and_mappings_take_every_exact_name(names: list[str]) -> None:
    expected = list(range(len(names)))
    assert read(list(names), model(*names), "names") == expected
    assert read(list(names), None, dict(zip(names, expected, strict=True))) == expected
    assert read(list(names), model(*names), {name: name for name in names}) == expected


class TestRecipe:
    """What the recipe says decides."""

    def test_names_or_numbers(self) -> None:
        """The two readings by name."""
        values = ["1", "2", "3", "4"]
        assert read(values, STARS, "names") == [0, 1, 2, 3]
        assert read(values, STARS, "numbers") == [1, 2, 3, 4]
        with pytest.raises(DataError, match="the label '0' is not a class name of the model"):
            read(["0"], STARS, "names")
        with pytest.raises(DataError, match="5 is not a class of the model, which has 0 to 4"):
            read(["5"], STARS, "numbers")

    def test_a_mapping(self) -> None:
        """Class numbers, and names of classes."""
        assert read(["good", "Bad", " good"], FILMS, {"good": "positive", "bad": 0}) == [1, 0, 1]
        assert read([1, "2.0", 2], STARS, {"1": 0, "2": "5"}) == [0, 4, 4]
        assert read([0, 1], FILMS, {"0": 1, "1": 0}, names=("neg", "pos")) == [1, 0]
        assert read([-1, 1], FILMS, {"-1": 0, "1": 1}) == [0, 1]

    @pytest.mark.parametrize(
        ("mapping", "message"),
        [
            ({"good": 1}, "row 0: 'labels' of the recipe does not say what 'bad' means; it has good"),
            ({"bad": 2}, "labels.bad: 2 is not a class of the model, which has 0 to 1"),
            ({"bad": "negativ"}, "labels.bad: 'negativ' is not a class name of the model, did you mean 'negative'"),
            ({"BAD": 1, "Bad": 0}, "row 0: the label 'bad' is class 1 and class 0 by 'labels'"),
        ],
    )
    def test_a_mapping_that_does_not_fit(self, mapping: dict[str, Any], message: str) -> None:
        """One sentence each."""
        with pytest.raises(DataError, match=message):
            read(["bad"], FILMS, mapping)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{a: 1.5}", r"task.labels \(line 4 of r.yaml\): expected 'int | str', got 'float'"),
            ("{1: 0}", r"task.labels \(line 4 of r.yaml\) has the key 1; keys are words, so put it in quotes: '1'"),
            ("name", r"task.labels \(line 4 of r.yaml\): there is no 'name', did you mean 'names'"),
            ("3", r"task.labels \(line 4 of r.yaml\): expected"),
        ],
    )
    def test_wrong_fields_have_a_line(self, text: str, message: str) -> None:
        """As every field of a recipe."""
        recipe = f"task:\n  name: text-classification\n  data: a.tsv\n  labels: {text}\nstages: [zstd]\n"
        with pytest.raises(RecipeError, match=message):
            parse_recipe(parse_document(recipe, "r.yaml"))

    def test_a_lock_file_keeps_it(self) -> None:
        """Words that another reader of YAML takes for something else included."""
        labels = {"1": 0, "no": "1", "1.0": 2, "~": 0, "very good": "positive"}
        task = {"name": "text-classification", "data": "a.tsv", "labels": labels}
        text = dump_document({"task": task, "stages": ["zstd"]})
        assert parse_recipe(parse_document(text, "recipe.lock.yaml")).task == task

    def test_the_schema_knows_it(self) -> None:
        """So that editors complete it."""
        tasks = recipe_schema()["properties"]["task"]
        assert "additionalProperties" in str(next(p for p in _properties(tasks) if "labels" in p)["labels"])


def _properties(schema: Any) -> list[dict[str, Any]]:
    """All ``properties`` in a schema."""
    if isinstance(schema, list):
        return [found for item in schema for found in _properties(item)]
    if not isinstance(schema, dict):
        return []
    own = [schema["properties"]] if isinstance(schema.get("properties"), dict) else []
    return own + [found for item in schema.values() for found in _properties(item)]


def test_an_evaluation_says_how_labels_were_read(tmp_path: Path, tokenizer: Any) -> None:
    data = tmp_path / "stars.tsv"
    data.write_text("text\tlabel\na film\t1\na story\t2\na plot\t4\nan ending\t5\n")
    evaluation = TextClassification(data=str(data), limit=3).prepare(tokenizer, STARS)
    assert evaluation.labels.tolist() == [0, 1, 3], "the row beyond the limit says that these are names"
    assert evaluation.describe()["label_classes"] == {"1": 0, "2": 1, "4": 3}
    numbered = TextClassification(data=str(data), labels={"1": "5", "2": 0, "4": 1, "5": 2})
    assert numbered.prepare(tokenizer, STARS).labels.tolist() == [4, 0, 1, 2]
