"""The lock file: nothing left to choose, and no way to change what it fixes unnoticed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stackc.core.registry import find
from stackc.recipe.document import dump_document, parse_document, parse_value
from stackc.recipe.lock import lock_document, locked_choices, settings_fingerprint
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.util.errors import RecipeError

RECIPE = {
    "model": "1e3",
    "stages": [
        {"use": "prune", "on": "*.weight", "sparsity": 0.5, "scope": "global"},
        {"use": "seed", "on": ["1e5", "!on"], "variance": 0.9, "allow_empty": True, "weights": "counts.npy"},
        "int8",
        "zstd",
    ],
}


def locked(recipe: dict[str, Any] = RECIPE) -> dict[str, Any]:
    prune, seed = find("prune").stage, find("seed").stage
    text = lock_document(
        recipe_from(recipe),
        task={"name": "none"},
        reference="f" * 64,
        weights={1: "a" * 64},
        choices={0: {"a.weight": prune(sparsity=0.5, scope="global", keep=7)}, 1: {"b/values": seed(rank=3)}},
        artifact="0" * 64,
    )
    return parse_value(text)


def read(document: dict[str, Any]):
    return parse_recipe(parse_document(dump_document(document), "recipe.lock.yaml"))


def test_the_lock_is_the_recipe_with_all_defaults_and_choices() -> None:
    document = locked()
    assert document["stages"] == [
        {"use": "prune", "on": ["*.weight"], "sparsity": 0.5, "scope": "global"},
        {
            "use": "seed",
            "on": ["1e5", "!on"],
            "weights": "counts.npy",
            "allow_empty": True,
            "variance": 0.9,
            "center": True,
        },
        {"use": "int", "bits": 8, "symmetric": True, "granularity": "row"},
        {"use": "zstd", "level": 19},
    ]
    assert document["model"] == "1e3"
    assert document["lock"]["stages"] == ["prune@2", "seed@1", "int@2", "zstd@1"]
    assert document["lock"]["versions"]["torch"]
    again = read(document)
    first = recipe_from(RECIPE)
    assert [stage.config for stage in again.stages] == [stage.config for stage in first.stages]
    assert [stage.on for stage in again.stages] == [stage.on for stage in first.stages]
    assert settings_fingerprint(again) == settings_fingerprint(first)
    assert again.name == "recipe"


def test_the_choices_come_back_as_stages() -> None:
    choices = locked_choices(read(locked()))
    assert msgspec.structs.asdict(choices[0]["a.weight"])["keep"] == 7
    assert msgspec.structs.asdict(choices[1]["b/values"])["rank"] == 3
    assert locked_choices(recipe_from(RECIPE)) == {}


def change(document: dict[str, Any], path: list[Any], value: Any) -> None:
    for part in path[:-1]:
        document = document[part]
    document[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["stages", 0, "sparsity"], 0.9, "was changed after it was locked; remove the 'lock' key"),
        (["stages", 0, "on"], ["*"], "was changed after it was locked"),
        (["stages", 1, "weights"], "other.npy", "was changed after it was locked"),
        (["stages", 1, "allow_empty"], False, "was changed after it was locked"),
        (["stages", 3, "level"], 3, "was changed after it was locked"),
        (["seed"], 1, "was changed after it was locked"),
        (["bundle"], ["tokenizer"], "was changed after it was locked"),
        (["stages", 3], "raw", "the lock is for the stages prune@2, seed@1, int@2, zstd@1, the recipe has .*raw@1"),
        (["lock", "choices", "7"], {"a": {"sparsity": 0.5}}, r"lock.choices\[7\] does not fit the recipe"),
        (["lock", "choices", "x"], {"a": {"sparsity": 0.5}}, r"lock.choices\[x\] does not fit the recipe"),
        (["lock", "choices", "0", "a.weight", "keep"], -1, r"lock.choices\[0\] does not fit the recipe: .*>= 0"),
        (["lock", "choices", "0", "a.weight", "kepe"], 1, r"lock.choices\[0\] does not fit the recipe: .*kepe"),
        (["lock", "choices", "0", "a.weight", "keep"], None, r"lock.choices\[0\] leaves the choice for a.weight open"),
        (["lock", "choices", "3"], {"a.weight": {"use": "int"}}, r"lock.choices\[3\] does not fit the recipe: .*int"),
    ],
)
def test_a_changed_lock_is_refused(path: list[Any], value: Any, message: str) -> None:
    document = locked()
    change(document, path, value)
    with pytest.raises(RecipeError, match=message):
        locked_choices(read(document))


def test_the_model_and_the_task_may_change() -> None:
    document = locked()
    document["model"] = "elsewhere"
    document["task"] = {"name": "text-classification", "data": "reviews.tsv"}
    assert locked_choices(read(document))
