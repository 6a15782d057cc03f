"""From YAML to recipes, and what is refused on the way: every message names the path and the line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from stackc.recipe.document import parse_document
from stackc.recipe.parse import find_recipe, load_recipe, parse_recipe, recipe_from, shipped_recipes
from stackc.recipe.recipe import Recipe
from stackc.util.errors import DependencyError, RecipeError


def parse(text: str) -> Recipe:
    return parse_recipe(parse_document(text, "r.yaml"))


FULL = """\
stackc: 1
model: some/model
task: {name: text-classification, data: reviews.csv, limit: 10}
seed: 7
bundle: [tokenizer]
stages:
  - {use: prune, on: "*.word_embeddings.weight", rows: 0.7, weights: token-counts}
  - use: seed
    on: ["*.weight", "!*Norm*"]
    rank: 16
  - {use: int8, allow_empty: true}
  - zstd
"""


def test_a_whole_recipe() -> None:
    recipe = parse(FULL)
    assert (recipe.name, recipe.model, recipe.seed, recipe.bundle) == ("r", "some/model", 7, ("tokenizer",))
    assert recipe.task == {"name": "text-classification", "data": "reviews.csv", "limit": 10}
    prune, seed, int8, zstd = recipe.stages
    assert (prune.use, prune.config.name, prune.on, prune.weights) == (
        "prune",
        "prune",
        ("*.word_embeddings.weight",),
        "token-counts",
    )
    assert msgspec.structs.asdict(prune.config)["rows"] == 0.7
    assert seed.on == ("*.weight", "!*Norm*")
    assert (int8.use, int8.config.name, msgspec.structs.asdict(int8.config)["bits"]) == ("int8", "int", 8)
    assert int8.allow_empty
    assert not zstd.allow_empty
    assert (zstd.use, zstd.on, zstd.is_packer, prune.is_packer) == ("zstd", (), True, False)


def test_a_bare_name_is_the_stage_with_its_defaults() -> None:
    assert parse("stages: [zstd]").stages == parse("stages: [{use: zstd}]").stages


def test_what_is_left_out_has_its_default() -> None:
    recipe = parse("stages: [raw]")
    assert (recipe.model, recipe.task, recipe.seed, recipe.bundle, recipe.lock) == (None, {"name": "none"}, 0, (), None)


def test_a_preset_is_its_stage_with_fields_set() -> None:
    assert parse("stages: [int8]").stages[0].config == parse("stages: [{use: int, bits: 8}]").stages[0].config
    assert parse("stages: [{use: int8, symmetric: false}]").stages[0].config == (
        parse("stages: [{use: int, bits: 8, symmetric: false}]").stages[0].config
    )


def test_descriptions_hold_what_differs_from_the_defaults() -> None:
    stages = parse("stages: [{use: int, bits: 4, on: ['*/codes', '!a*']}, zstd]").stages
    assert [stage.describe() for stage in stages] == ["int(bits=4) on */codes, !a*", "zstd"]


def test_a_preset_is_described_by_its_own_name() -> None:
    stages = parse("stages: [int8, {use: int8, granularity: tensor}, {use: int, bits: 8}]").stages
    assert [stage.describe() for stage in stages] == ["int8", "int8(granularity=tensor)", "int"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[raw]", "the recipe (line 1 of r.yaml): a recipe is a mapping with 'stages:', not a list"),
        ("raw", "the recipe (line 1 of r.yaml): a recipe is a mapping with 'stages:', not text"),
        ("3", "the recipe (line 1 of r.yaml): a recipe is a mapping with 'stages:', not 3"),
        ("~", "the recipe (line 1 of r.yaml): a recipe is a mapping with 'stages:', not nothing"),
        (
            "model: a\nstage: [raw]",
            "stage (line 2 of r.yaml): a recipe has no key 'stage', did you mean 'stages'?",
        ),
        ("model: a", "stages (line 1 of r.yaml): 'stages' is a list of at least one stage, not nothing"),
        ("model: a\nstages:", "stages (line 2 of r.yaml): 'stages' is a list of at least one stage, not nothing"),
        ("stages: []", "stages (line 1 of r.yaml): 'stages' is a list of at least one stage, not an empty list"),
        ("stages: {}", "stages (line 1 of r.yaml): 'stages' is a list of at least one stage, not an empty mapping"),
        ("stages: zstd", "stages (line 1 of r.yaml): 'stages' is a list of at least one stage, not text"),
        (
            "stackc: 2\nstages: [raw]",
            "stackc (line 1 of r.yaml): recipe format 2 is not known; this release reads format 1",
        ),
        ("stackc: '1'\nstages: [raw]", "stackc (line 1 of r.yaml): expected 'int', got 'str' (it is '1')"),
        ("stackc: true\nstages: [raw]", "stackc (line 1 of r.yaml): expected 'int', got 'bool'"),
        ("seed: 1.5\nstages: [raw]", "seed (line 1 of r.yaml): expected 'int', got 'float' (it is 1.5)"),
        ("model: [a]\nstages: [raw]", "model (line 1 of r.yaml): expected 'str | null', got 'array'"),
        (
            "bundle: tokenizer\nstages: [raw]",
            "bundle (line 1 of r.yaml): expected 'array', got 'str' (it is 'tokenizer')",
        ),
        (
            "bundle: [vocabulary]\nstages: [raw]",
            "bundle (line 1 of r.yaml): cannot bundle 'vocabulary'; what can be bundled: tokenizer",
        ),
        ("stages: [3]", "stages[0] (line 1 of r.yaml): a stage is a name or a mapping with 'use:', not 3"),
        ("stages:\n- [raw]", "stages[0] (line 2 of r.yaml): a stage is a name or a mapping with 'use:', not a list"),
        (
            "stages:\n- raw\n- {bits: 4}",
            "stages[1] (line 3 of r.yaml): a stage needs 'use:' with the name of a transform or packer",
        ),
        (
            "stages:\n- {use: 3}",
            "stages[0] (line 2 of r.yaml): a stage needs 'use:' with the name of a transform or packer",
        ),
        (
            "stages:\n- {use: int, bits: 4}\n- zstdd",
            "stages[1].use (line 3 of r.yaml): unknown stage 'zstdd', did you mean 'zstd'?; 'stackc list' shows all",
        ),
        (
            "stages:\n- use: int\n  bitz: 4",
            "stages[0].bitz (line 3 of r.yaml): int has no field 'bitz', did you mean 'bits'?",
        ),
        (
            "stages:\n- use: int\n  onn: a",
            "stages[0].onn (line 3 of r.yaml): int has no field 'onn', did you mean 'on'?",
        ),
        (
            "stages:\n- use: int\n  bits: 20",
            "stages[0].bits (line 3 of r.yaml): expected 'int' <= 16 (it is 20)",
        ),
        (
            "stages:\n- use: int\n  bits: four",
            "stages[0].bits (line 3 of r.yaml): expected 'int | null', got 'str' (it is 'four')",
        ),
        (
            "stages:\n- use: int\n  bits: 4.0",
            "stages[0].bits (line 3 of r.yaml): expected 'int | null', got 'float' (it is 4.0)",
        ),
        (
            "stages:\n- use: int\n  granularity: rows",
            "stages[0].granularity (line 3 of r.yaml): there is no 'rows', did you mean 'row'? group or row or tensor",
        ),
        (
            "stages:\n- use: int8\n  bits: 4",
            "stages[0].bits (line 3 of r.yaml): int8 already means int with bits=8; write 'use: int' to choose it",
        ),
        ("stages: [cast]", "stages[0] (line 1 of r.yaml): object missing required field 'to'"),
        (
            "stages:\n- raw\n- {use: seed, rank: 4,\n   variance: 0.9}",
            "stages[1] (line 3 of r.yaml): give exactly one of rank and variance, not both",
        ),
        (
            "stages:\n- {use: prune, rows: 1.5}",
            "stages[0].rows (line 2 of r.yaml): expected 'float' <= 1.0 (it is 1.5)",
        ),
        ("stages:\n- {use: raw, on: 3}", "stages[0].on (line 2 of r.yaml): 'on' is a glob or a list of globs, not 3"),
        (
            "stages:\n- {use: raw, on: }",
            "stages[0].on (line 2 of r.yaml): 'on' is a glob or a list of globs, not nothing",
        ),
        (
            "stages:\n- use: raw\n  on:\n  - a\n  - 3",
            "stages[0].on[1] (line 5 of r.yaml): expected 'str', got 'int' (it is 3)",
        ),
        (
            "stages:\n- {use: raw, on: ''}",
            "stages[0].on (line 2 of r.yaml): a glob is empty; write '*' for all tensors, or leave 'on' out",
        ),
        (
            "stages:\n- {use: raw, on: [a, '!']}",
            "stages[0].on (line 2 of r.yaml): a glob is empty; write '*' for all tensors, or leave 'on' out",
        ),
        (
            "stages:\n- {use: raw, allow_empty: yes}",
            "stages[0].allow_empty (line 2 of r.yaml): expected 'bool', got 'str' (it is 'yes')",
        ),
        (
            "stages:\n- {use: zstd, weights: token-counts}",
            "stages[0].weights (line 2 of r.yaml): zstd is a packer and loses nothing, so row weights mean nothing to it; "
            "remove them",
        ),
        (
            "stages:\n- {use: int, weights: 3}",
            "stages[0].weights (line 2 of r.yaml): expected 'str | null', got 'int' (it is 3)",
        ),
        ("task: 3\nstages: [raw]", "task (line 1 of r.yaml): a task is a name, or a mapping with 'name:'"),
        ("task: {data: a}\nstages: [raw]", "task (line 1 of r.yaml): a task is a name, or a mapping with 'name:'"),
        (
            "task: {name: non}\nstages: [raw]",
            "task.name (line 1 of r.yaml): unknown task 'non', did you mean 'none'? Installed are none, text-classification",
        ),
        (
            "task: text-classification\nstages: [raw]",
            "task (line 1 of r.yaml): object missing required field 'data'",
        ),
        (
            "task:\n  name: text-classification\n  data: a.csv\n  limit: 0\nstages: [raw]",
            "task.limit (line 4 of r.yaml): expected 'int' >= 1 (it is 0)",
        ),
        (
            "task:\n  name: text-classification\n  data: a.csv\n  lmit: 3\nstages: [raw]",
            "task.lmit (line 4 of r.yaml): task has no field 'lmit', did you mean 'limit'?",
        ),
        (
            "lock: {reference: a, choises: {}}\nstages: [raw]",
            "lock.choises (line 1 of r.yaml): lock has no field 'choises', did you mean 'choices'?",
        ),
        (
            "lock:\n  reference: a\n  stages: [raw@1]\n  settings: b\n  versions: {a: 1}\nstages: [raw]",
            "lock.versions (line 5 of r.yaml): expected 'str', got 'int'",
        ),
        (
            "lock: {stages: [raw@1]}\nstages: [raw]",
            "lock (line 1 of r.yaml): object missing required field 'versions'",
        ),
    ],
)
def test_mistakes_are_refused_with_path_line_and_remedy(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_recipes_from_python_need_no_lines() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from({"stages": ["raw", {"use": "int", "bits": 17}]})
    assert str(caught.value) == "stages[1].bits (recipe): expected 'int' <= 16 (it is 17)"


@pytest.mark.parametrize("value", [{3: 4, "stages": ["raw"]}, {"stages": [{"use": "int", 3: 4}]}])
def test_keys_from_python_are_words_too(value: dict) -> None:
    with pytest.raises(RecipeError, match="has the key 3; keys are words"):
        recipe_from(value)


def test_a_recipe_does_not_change_with_the_dictionary_it_came_from() -> None:
    source = {"task": {"name": "none"}, "stages": [{"use": "raw", "on": ["a"]}]}
    recipe = recipe_from(source)
    source["task"]["name"] = "other"
    source["stages"][0]["on"].append("b")
    assert recipe.task == {"name": "none"}
    assert recipe.stages[0].on == ("a",)


def test_a_recipe_stays_what_it_is() -> None:
    recipe = parse(FULL)
    assert recipe_from(recipe) is recipe


def test_a_stage_that_does_not_import_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from stackc.core import registry

    points = {**registry._points(), "wavelet": EntryPoint("wavelet", "no_such_package:Wavelet", "stackc.transforms")}
    monkeypatch.setattr(registry, "_points", lambda: points)
    registry.find.cache_clear()
    with pytest.raises(DependencyError, match=r"stages\[0\].use \(line 1 of r.yaml\): .*wavelet.*no_such_package"):
        parse("stages: [wavelet]")


def test_shipped_recipes_parse_and_are_found_by_name_and_path(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_recipes()
    assert {"lossless", "int8", "prune50", "seed", "prune+seed+int8", "claim/int8", "claim/assembly"} <= set(shipped)
    for name, path in shipped.items():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert (recipe.model is None) == name.startswith("delta")  # of which nobody but you has the model
        assert find_recipe(f"recipes/{name}.yaml") == find_recipe(f"{name}.yaml") == find_recipe(name) == path


def test_recipes_of_one_stem_are_told_apart(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_recipe("claim/int8") != find_recipe("int8")
    # By its file as well, so that the default output folder is the same.
    assert load_recipe(find_recipe("claim/int8")).name == "claim/int8"
    monkeypatch.chdir(tmp_path)
    Path("claim").mkdir()
    Path("claim/mine.yaml").write_text("stages: [raw]")
    assert load_recipe("claim/mine.yaml").name == "mine"


def test_a_folder_of_recipes_belongs_to_the_name() -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe 'claim/int9', did you mean 'claim/int8'"):
        find_recipe("claim/int9")


def test_a_file_wins_over_a_shipped_recipe(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("int8").write_text("stages: [raw]")
    assert [stage.use for stage in load_recipe("int8").stages] == ["raw"]


@pytest.mark.parametrize("source", ["int9", "recipes/int9.yaml", "other/int8.yaml", ""])
def test_a_recipe_that_is_not_there(source: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecipeError,
        match=r"there is no recipe .*give a YAML file or one of allocated, delta-exact, delta, healed, int8, lossless",
    ):
        load_recipe(source)


def test_a_wrong_choice_names_the_valid_ones() -> None:
    with pytest.raises(
        RecipeError, match=r"stages\[0\].granularity .*no 'rwo', did you mean 'row'\?.*group or row or tensor"
    ):
        parse("stages: [{use: int, granularity: rwo}]")


@pytest.mark.parametrize("on", ["[]", "5", "{a: b}", "~"])
def test_on_is_a_glob_or_a_list_of_globs(on: str) -> None:
    with pytest.raises(RecipeError, match=r"stages\[0\].on .*glob"):
        parse(f"stages: [{{use: int, on: {on}}}]")
