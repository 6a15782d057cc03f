"""``docs/healing.md`` is true: its recipes run, its messages are real, and its table holds the settings and their defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import stackc
from stackc.healing.settings import Heal
from stackc.recipe.document import parse_document, parse_value
from stackc.recipe.parse import parse_recipe
from stackc.recipe.recipe import Recipe
from stackc.util.errors import StackcError
from tests.helpers.tiny import tiny_classifier, tiny_reviews

PAGE = (Path(__file__).parents[2] / "docs/healing.md").read_text(encoding="utf-8")

RECIPES = re.findall(r"```yaml\n(.*?)```(?:\n<!-- error -->\n```text\n(.*?)```)?", PAGE, re.DOTALL)
LEGAL = [recipe for recipe, error in RECIPES if not error]
WRONG = [(recipe, error) for recipe, error in RECIPES if error]

#: The tests have 90 training rows and little time.
SHORT = {"epochs": None, "steps": 3, "batch_size": 8, "holdout": 9, "evaluations": 1}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model, and a folder with the files that the recipes of the page name."""
    tiny_reviews(tmp_path)
    (tmp_path / "more.txt").write_text("the view is clever .\nthe view is never dull .\n")
    tiny_classifier(tmp_path / "larger-model", seed=9)
    monkeypatch.chdir(tmp_path)
    return str(tiny_classifier(tmp_path / "model"))


def shortened(text: str) -> Recipe:
    recipe = parse_recipe(parse_document(text, "recipe.yaml"))
    stages = tuple(
        msgspec.structs.replace(stage, config=msgspec.structs.replace(stage.config, **SHORT))
        if isinstance(stage.config, Heal)
        else stage
        for stage in recipe.stages
    )
    return msgspec.structs.replace(recipe, stages=stages, controls=(), seeds=1)


@pytest.mark.parametrize("recipe", LEGAL, ids=range(len(LEGAL)))
def test_every_recipe_heals(recipe: str, model: str) -> None:
    short = shortened(recipe)
    report = stackc.run(short, model, output="out", evaluate=False, every_stage=False).report
    heals = [index for index, stage in enumerate(short.stages) if isinstance(stage.config, Heal)]
    assert heals
    assert [summary.stage for summary in report.healing] == heals
    named = [stage.config.teacher for stage in short.stages if isinstance(stage.config, Heal)]
    assert [summary.stronger_teacher for summary in report.healing] == [teacher is not None for teacher in named]


@pytest.mark.parametrize(("recipe", "error"), WRONG, ids=range(len(WRONG)))
def test_every_message_is_real(recipe: str, error: str, model: str) -> None:
    with pytest.raises(StackcError) as caught:
        stackc.compress(model, shortened(recipe))
    assert f"{caught.value}\n" == error


def test_the_page_has_recipes_and_messages() -> None:
    assert len(LEGAL) >= 5
    assert WRONG


def test_the_table_holds_every_setting_and_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", PAGE.split("## Settings")[1], re.MULTILINE))
    assert list(rows) == [field.name for field in msgspec.structs.fields(Heal)]
    for field in msgspec.structs.fields(Heal):
        assert shown_default(rows[field.name]) == default(field.name), field.name


def shown_default(cell: str) -> Any:
    return None if cell == "none" else parse_value(cell.strip("`"))


def default(name: str) -> Any:
    if name == "epochs":  # what it is when steps are not given either
        return Heal().total_steps(6400) / 100
    value = getattr(Heal(), name)
    return list(value) if isinstance(value, tuple) else value
