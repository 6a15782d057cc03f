"""``stackc list`` says what is installed, straight from the classes."""

from __future__ import annotations

import pytest

from stackc.cli import catalogue
from stackc.core.registry import names
from stackc.recipe.parse import load_recipe, shipped_recipes
from tests.cli.conftest import Invoke


def test_every_stage_recipe_model_and_task_is_listed(stackc: Invoke) -> None:
    result = stackc("list")
    assert result.exit_code == 0, result.output
    words = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert words >= {*names(), *shipped_recipes(), "demo/bert-tiny-reviews", "none", "text-classification"}


def test_sections_alone(stackc: Invoke) -> None:
    text = stackc("list", "recipes").stdout
    assert "prune+seed+int8" in text
    assert "transform" not in text


def test_every_shipped_recipe_says_what_it_is() -> None:
    assert all(recipe.summary for recipe in catalogue.recipes())


def test_every_parameter_has_a_type_and_a_meaning() -> None:
    parameters = [p for entry in (*catalogue.stages(), *catalogue.tasks()) for p in entry.parameters]
    assert parameters
    assert not [p for p in parameters if not p.type or not p.description]


def test_details_of_a_stage(stackc: Invoke) -> None:
    text = stackc("list", "stages", "int").stdout
    assert "integer 1 to 16" in text
    assert "bits per code" in text
    assert "planes: codes, scale (side information)" in text
    assert "transform, lossy" in text


def test_a_preset_hides_what_it_fixes(stackc: Invoke) -> None:
    text = stackc("list", "stages", "int8").stdout
    assert "int with bits: 8" in text
    assert "integer 1 to 16" not in text


def test_what_stages_take_is_tried_out() -> None:
    accepts = {stage.name: stage.accepts for stage in catalogue.stages()}
    assert accepts["zstd"] == accepts["raw"] == "every plane"
    assert "integers with known bounds" in accepts["ans"]
    assert "integers without bounds" not in accepts["ans"]
    assert "real matrices" in accepts["seed"]
    assert "real vectors" not in accepts["seed"]
    assert "integers" not in accepts["int"]


def test_a_recipe_is_printed_as_it_is(stackc: Invoke) -> None:
    text = stackc("list", "recipes", "lossless").stdout
    assert text.partition("\n")[2] == shipped_recipes()["lossless"].read_text()
    assert load_recipe("lossless").stages


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("stagess",), 2, "did you mean 'stages'?"),
        (("stages", "sed"), 1, "did you mean 'seed'?"),
        (("recipes", "int9"), 1, "did you mean 'int8'?"),
        (("tasks", "qqq"), 1, "there are none, text-classification"),
    ],
)
def test_unknown_names(stackc: Invoke, arguments: tuple[str, ...], code: int, words: str) -> None:
    result = stackc("list", *arguments)
    assert result.exit_code == code
    assert words in result.stderr


def test_a_stage_that_does_not_import_is_listed_with_the_reason(
    stackc: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    from stackc.core import registry

    broken = EntryPoint("broken", "no_such_package:Stage", "stackc.transforms")
    points = {**registry._points(), "broken": broken}
    monkeypatch.setattr(registry, "_points", lambda: points)
    line = next(line for line in stackc("list", "stages").stdout.splitlines() if line.startswith("broken"))
    assert "not available" in line
    assert "no_such_package" in line
