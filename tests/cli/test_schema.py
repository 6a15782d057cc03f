"""The JSON Schema of recipes takes what the parser takes, and refuses what it can know to be wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from stackc.core.registry import names
from stackc.recipe.document import Document, parse_document, read_document
from stackc.recipe.parse import RECIPE_KEYS, STAGE_KEYS, parse_recipe, shipped_recipes
from stackc.recipe.schema import FRAMEWORK_KEYS, recipe_schema
from stackc.util.errors import StackcError
from tests.cli.conftest import Invoke


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = recipe_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_it_knows_the_keys_of_the_parser(validator: Draft202012Validator) -> None:
    assert set(validator.schema["properties"]) == set(RECIPE_KEYS)
    assert {"use", *FRAMEWORK_KEYS} == set(STAGE_KEYS)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid(validator: Draft202012Validator, name: str) -> None:
    validator.validate(read_document(shipped_recipes()[name]).value)


GOOD = [
    "stages: [zstd]",
    "stages: [int8, {use: zstd, level: 3}]",
    "stages: [{use: seed, rank: 4, on: [a, '!b'], allow_empty: true, weights: token-counts}]",
    "stages: [{use: seed, rank: null, variance: 0.9}]",
    "{stackc: 1, model: m, task: none, seed: 3, bundle: [tokenizer], stages: [raw]}",
    "{task: {name: text-classification, data: x.tsv, limit: 10}, stages: [raw]}",
    "{lock: null, model: null, stages: [fp16]}",
]

BAD = [
    "stages: []",
    "{}",
    "[zstd]",
    "stages: [sed]",
    "stages: [cast]",
    "stages: [seed]",
    "stages: [{use: cast}]",
    "stages: [{use: cast, to: float8}]",
    "stages: [{use: int, bits: 17}]",
    "stages: [{use: int, bits: eight}]",
    "stages: [{use: int, bitz: 8}]",
    "stages: [{use: int8, bits: 8}]",
    "stages: [{use: zstd, on: 3}]",
    "stages: [{bits: 8}]",
    "stages: [3]",
    "{stackc: 2, stages: [zstd]}",
    "{stage: [zstd], stages: [zstd]}",
    "{seed: x, stages: [zstd]}",
    "{bundle: [config], stages: [zstd]}",
    "{task: text-classification, stages: [zstd]}",
    "{task: {name: text-classification}, stages: [zstd]}",
    "{task: {name: text-classification, data: x.tsv, limit: 0}, stages: [zstd]}",
    "{task: {name: nothing}, stages: [zstd]}",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_recipes(validator: Draft202012Validator, text: str) -> None:
    document = parse_document(text, "r.yaml")
    assert validator.is_valid(document.value)
    parse_recipe(document)


@pytest.mark.parametrize("text", BAD)
def test_bad_recipes(validator: Draft202012Validator, text: str) -> None:
    document = parse_document(text, "r.yaml")
    assert not validator.is_valid(document.value)
    with pytest.raises(StackcError, match=r"r\.yaml"):
        parse_recipe(document)


def test_bare_names_are_those_that_need_no_field(validator: Draft202012Validator) -> None:
    for name in names():
        try:
            parse_recipe(Document({"stages": [name]}, {}, "r"))
        except StackcError:
            parses = False
        else:
            parses = True
        assert validator.is_valid({"stages": [name]}) == parses


def test_every_field_is_described(validator: Draft202012Validator) -> None:
    stages = validator.schema["properties"]["stages"]["items"]["oneOf"][1:]
    tasks = validator.schema["properties"]["task"]["oneOf"][1:]
    described: list[dict[str, Any]] = [schema for stage in (*stages, *tasks) for schema in stage["properties"].values()]
    assert not [schema for schema in described if "description" not in schema and "const" not in schema]


def test_the_command_prints_both(stackc: Invoke) -> None:
    assert json.loads(stackc("schema").stdout) == json.loads(json.dumps(recipe_schema()))
    assert "StageRow" in json.loads(stackc("schema", "report").stdout)["$defs"]
    wrong = stackc("schema", "rcipe")
    assert wrong.exit_code == 2
    assert "did you mean 'recipe'?" in wrong.stderr


def test_reports_are_valid(stackc: Invoke, artifact: Any) -> None:
    schema = json.loads(stackc("schema", "report").stdout)
    Draft202012Validator(schema).validate(json.loads(artifact.with_name("report.json").read_text()))
