"""``--set path=value``."""

from __future__ import annotations

import pytest

from stackc.recipe.document import Document, parse_document
from stackc.recipe.overrides import override
from stackc.recipe.parse import parse_recipe
from stackc.util.errors import RecipeError

TEXT = """\
model: a
task: none
bundle: []
stages:
  - {use: seed, on: "*.weight", rank: 4}
  - int8
  - zstd
"""


@pytest.fixture
def document() -> Document:
    return parse_document(TEXT, "r.yaml")


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("stages[0].rank=8", ("stages", 0, "rank"), 8),
        ("stages[0].variance=1e-1", ("stages", 0, "variance"), 0.1),
        ("stages[2].level=3", ("stages", 2), {"use": "zstd", "level": 3}),
        ("stages[-1].level=3", ("stages", 2), {"use": "zstd", "level": 3}),
        ("stages[1]={use: int, bits: 4}", ("stages", 1), {"use": "int", "bits": 4}),
        ("stages=[raw]", ("stages",), ["raw"]),
        ("stages[0].on=*.bias", ("stages", 0, "on"), "*.bias"),
        ("stages[0].on=!*.bias", ("stages", 0, "on"), "!*.bias"),
        ("stages[0].on=[a, b]", ("stages", 0, "on"), ["a", "b"]),
        (" model = b ", ("model",), "b"),
        ("model=", ("model",), None),
        ("model=x=y", ("model",), "x=y"),
        ("seed=3", ("seed",), 3),
        ("task={name: none}", ("task",), {"name": "none"}),
        ("task.limit=3", ("task",), {"name": "none", "limit": 3}),
        ("bundle=[tokenizer]", ("bundle",), ["tokenizer"]),
    ],
)
def test_a_value_is_set(document: Document, assignment: str, path: tuple, value: object) -> None:
    changed = override(document, [assignment]).value
    for part in path:
        changed = changed[part]
    assert changed == value
    assert document == parse_document(TEXT, "r.yaml")


def test_assignments_build_on_each_other(document: Document) -> None:
    changed = override(document, ["stages[2].level=3", "stages[2].on=a", "stages[2].level=5"])
    assert changed.value["stages"][2] == {"use": "zstd", "level": 5, "on": "a"}
    again = override(changed, ["seed=1"])
    assert again.assigned == {("stages", 2, "level"), ("stages", 2, "on"), ("seed",)}


def test_a_task_can_be_added() -> None:
    document = parse_document("stages: [raw]", "r.yaml")
    assert override(document, ["task.name=none"]).value["task"] == {"name": "none"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages[0].rank", "--set 'stages[0].rank' has no '='; write for example --set stages[1].rank=8"),
        ("=3", "--set needs a path before the '=', such as stages[1].rank"),
        ("stages[0]..rank=3", "--set 'stages[0]..rank': a path looks like stages[1].rank or task.split"),
        ("stages[x].rank=3", "--set 'stages[x].rank': a path looks like stages[1].rank or task.split"),
        ("stages[0=3", "--set 'stages[0': a path looks like stages[1].rank or task.split"),
        (
            "stages[3].rank=3",
            "--set 'stages[3].rank=3': there is no stages[3]; the list has 3 items, numbered from 0",
        ),
        ("stages[-4]=raw", "--set 'stages[-4]=raw': there is no stages[-4]; the list has 3 items, numbered from 0"),
        ("bundle[0]=a", "--set 'bundle[0]=a': there is no bundle[0]; the list has 0 items, numbered from 0"),
        ("stages.rank=3", "--set 'stages.rank=3': stages has no keys"),
        ("[0]=3", "--set '[0]=3': the recipe is no list"),
        ("task[0]=3", "--set 'task[0]=3': task is no list"),
        ("stages[0].rank.x=3", "--set 'stages[0].rank.x=3': stages[0].rank has no keys"),
        ("stage[0].rank=3", "--set 'stage[0].rank=3': there is no 'stage', did you mean 'stages'?"),
        ("stages[0].rnk.x=3", "--set 'stages[0].rnk.x=3': there is no 'stages[0].rnk', did you mean 'rank'?"),
        ("model=[", "--set 'model=[': '[' is not a YAML value"),
        ("model={a: 1, a: 2}", "--set 'model={a: 1, a: 2}': '{a: 1, a: 2}' is not a YAML value"),
    ],
)
def test_a_bad_assignment_is_refused(document: Document, assignment: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override(document, [assignment])
    assert str(caught.value) == message


def test_assignments_to_what_is_no_mapping() -> None:
    with pytest.raises(RecipeError, match="the recipe has no keys"):
        override(parse_document("[raw]", "r.yaml"), ["seed=1"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stages[0].rank=0", "stages[0].rank (from --set): expected 'int' >= 1 (it is 0)"),
        ("stages[-1].level=30", "stages[2].level (from --set): expected 'int' <= 22 (it is 30)"),
        ("stages[1]={use: int, bits: 0}", "stages[1].bits (from --set): expected 'int' >= 1 (it is 0)"),
        ("modle=b", "modle (from --set): a recipe has no key 'modle', did you mean 'model'?"),
        (
            "stages[1].bits=4",
            "stages[1].bits (from --set): int8 already means int with bits=8; write 'use: int' to choose it",
        ),
    ],
)
def test_errors_in_set_values_say_where_they_come_from(document: Document, assignment: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(override(document, [assignment]))
    assert str(caught.value) == message
