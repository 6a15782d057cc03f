"""Controls are chosen by name, and refused before any work where they cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec
import pytest
from torch import nn

from stackc.healing.settings import Heal
from stackc.models import ModuleReference, open_reference
from stackc.recipe.controls import CONTROL_NAMES
from stackc.recipe.document import parse_document
from stackc.recipe.lock import lock_document, settings_fingerprint
from stackc.recipe.parse import parse_recipe, recipe_from
from stackc.recipe.recipe import Stage
from stackc.runs.controls.choose import require_controls, with_controls
from stackc.tasks import find_task
from stackc.util.errors import DependencyError, ModelError, RecipeError, StackcError


def recipe(**keys: Any):
    return recipe_from({"stages": ["int8", "zstd"], **keys})


def test_keys_of_a_recipe() -> None:
    assert recipe().controls == ()
    assert recipe().seeds == 1
    found = recipe(controls=["linear", "random-init", "linear"], seeds=3)
    assert found.controls == ("linear", "random-init")
    assert found.seeds == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "controls: [random-int]",
            r"controls\[0\] \(line 1 of r.yaml\): there is no control 'random-int', did you mean",
        ),
        ("controls: linear", r"controls \(line 1 of r.yaml\): expected 'array'"),
        ("seeds: 0", r"seeds \(line 1 of r.yaml\): expected 'int' >= 1 \(it is 0\)"),
        ("seed: 1\nseads: 3", r"a recipe has no key 'seads', did you mean 'seeds'"),
    ],
)
def test_wrong_keys_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(parse_document(f"{text}\nstages: [zstd]", "r.yaml"))


def test_neither_decides_the_bytes_and_both_are_in_the_lock() -> None:
    plain, more = recipe(), recipe(controls=["linear"], seeds=3)
    assert settings_fingerprint(plain) == settings_fingerprint(more)
    text = lock_document(more, task={"name": "none"}, reference="0", weights={}, choices={}, artifact="0")
    again = parse_recipe(parse_document(text, "recipe.lock.yaml"))
    assert (again.controls, again.seeds) == (("linear",), 3)
    assert "controls" not in lock_document(
        plain, task={"name": "none"}, reference="0", weights={}, choices={}, artifact="0"
    )


def test_options_go_before_keys() -> None:
    given = recipe(controls=["linear"], seeds=3)
    assert with_controls(given) == given
    assert with_controls(given, [], 1).controls == ()
    assert with_controls(given, ["random-init"]).controls == ("random-init",)
    assert with_controls(given, ["all"]).controls == ("random-init", "linear")
    healed = msgspec.structs.replace(given, stages=(*given.stages, Stage("heal", Heal(steps=1))))
    assert with_controls(healed, ["all"]).controls == CONTROL_NAMES
    with pytest.raises(RecipeError, match="there is no control 'lineer', did you mean 'linear'"):
        with_controls(given, ["lineer"])
    with pytest.raises(RecipeError, match="--seeds 0"):
        with_controls(given, None, 0)


def test_what_cannot_be_had_is_refused_early(tiny_model: Path, tiny_task, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, task = open_reference(tiny_model), find_task(tiny_task)

    def refused(kind: type[StackcError], match: str, *controls: str, **options: Any) -> None:
        with pytest.raises(kind, match=match):
            require_controls(
                recipe(controls=list(controls)),
                options.pop("reference", reference),
                options.pop("task", task),
                **options,
            )

    refused(RecipeError, "the recipe has none: add 'task", "linear", task=find_task("none"))
    refused(RecipeError, "no --no-eval", "linear", evaluate=False)
    refused(RecipeError, "no-heal leaves out the heal stages, and the recipe has none", "no-heal")
    refused(
        ModelError, "a bare weights file", "random-init", reference=open_reference(tiny_model / "model.safetensors")
    )

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.scale = nn.Parameter(self.inner.bias.detach().clone())

    own = ModuleReference.of(Scaled())
    refused(
        ModelError, "it is a Scaled, which has parameters and no method reset_parameters", "random-init", reference=own
    )
    require_controls(recipe(controls=["random-init", "linear"]), reference, task)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(DependencyError, r"pip install 'stackc\[controls\]'", "linear")
