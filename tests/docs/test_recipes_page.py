"""``docs/recipes.md`` is true: its recipes parse and plan, and every stack and message that it shows is a real one.

Where a message has changed on purpose, ``python -m tests.docs.test_recipes_page`` puts the new one into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stackc.core.spec import PlaneSpec
from stackc.core.stack import describe
from stackc.planning.plan import Plan, plan_recipe
from stackc.recipe.document import parse_document
from stackc.recipe.parse import parse_recipe
from stackc.recipe.targets import require_target
from stackc.util.errors import PlanError, RecipeError

PAGE = Path(__file__).parents[2] / "docs/recipes.md"

_FENCE = re.compile(r"(?:<!-- (?P<role>\w+) -->\n)?```(?P<kind>yaml|text)\n(?P<body>.*?)```", re.DOTALL)


def example_model(page: str) -> dict[str, PlaneSpec]:
    rows = re.findall(r"^\| `([\w.]+)` \| (float32|int64) \| ([\d x]+) \|$", page, re.MULTILINE)
    return {name: PlaneSpec(tuple(map(int, shape.split("x"))), dtype) for name, dtype, shape in rows}


def planned(recipe: str, page: str) -> Plan:
    parsed = parse_recipe(parse_document(recipe, "recipe.yaml"))
    require_target(parsed)
    bases = {"my-org/base": example_model(page)}
    return plan_recipe(parsed, example_model(page), bases=bases)


def shown(role: str, recipe: str, page: str) -> str:
    """What the page must show for a recipe."""
    if role == "error":
        try:
            planned(recipe, page)
        except (RecipeError, PlanError) as error:
            return f"{error}\n"
        return "no error\n"
    plan = planned(recipe, page)
    if role == "stacks":
        width = max(len(tensor.name) for tensor in plan.tensors)
        return "".join(f"{tensor.name:{width}}  {describe(tensor.stacks[-1])}\n" for tensor in plan.tensors)
    return "".join(f"{plane}: {reason}\n" for plane, reason in plan.stages[0].skipped)


def examples(page: str) -> list[tuple[str, str, str]]:
    """``(role, recipe, text)`` of every text block, with the recipe that stands last before it."""
    found, recipe = [], ""
    for match in _FENCE.finditer(page):
        if match["kind"] == "yaml":
            recipe = match["body"]
        else:
            found.append((match["role"], recipe, match["body"]))
    return found


def rewritten(page: str) -> str:
    """The page with every text block as it must be."""
    recipe = ""

    def replace(match: re.Match[str]) -> str:
        nonlocal recipe
        if match["kind"] == "yaml":
            recipe = match["body"]
            return match[0]
        return f"<!-- {match['role']} -->\n```text\n{shown(match['role'], recipe, page)}```"

    return _FENCE.sub(replace, page)


TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = examples(TEXT)


def test_the_example_model_is_found():
    assert len(example_model(TEXT)) == 6
    assert sum(role == "error" for role, _, _ in EXAMPLES) >= 10


@pytest.mark.parametrize(("role", "recipe", "text"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_what_the_page_shows_is_real(role, recipe, text):
    assert role in ("error", "stacks", "skipped")
    assert text == shown(role, recipe, TEXT)


def test_recipes_without_an_error_block_are_legal():
    wrong = {recipe for role, recipe, _ in EXAMPLES if role == "error"}
    legal = [m["body"] for m in _FENCE.finditer(TEXT) if m["kind"] == "yaml" and m["body"] not in wrong]
    assert len(legal) >= 5
    for recipe in legal:
        planned(recipe, TEXT)


def test_every_key_is_described():
    from stackc.recipe.parse import RECIPE_KEYS, STAGE_KEYS

    for key in (*RECIPE_KEYS, *STAGE_KEYS):
        assert f"| `{key}` |" in TEXT


def test_globs_of_the_table_match_as_described():
    from stackc.util.patterns import matches

    assert matches(["*.weight"], ["a.weight"], "scores")
    assert not matches(["*.weight"], ["a.bias"], "")
    assert matches(["*/scores"], ["a"], "values/scores")
    assert matches(["*/values/scores"], ["a"], "values/scores")
    assert not matches(["*/values/scores"], ["a"], "scores")
    assert not matches(["*/{basis,scores}"], ["a"], "")
    assert not matches(["!*LayerNorm*", "*.weight"], ["LayerNorm.weight"], "")
    assert matches(["!*LayerNorm*"], ["a.weight"], "")
    assert matches(["b"], ["a", "b"], "")


if __name__ == "__main__":
    PAGE.write_text(rewritten(TEXT), encoding="utf-8")
