"""Code that a recipe names runs when somebody who may say so has said so, and never before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import stackc
from stackc.recipe.model import open_model
from stackc.recipe.parse import recipe_from
from stackc.recipe.recipe import Recipe
from stackc.runs.runner import LOCK_NAME
from stackc.util.errors import ModelError, RecipeError
from tests.cli.conftest import Invoke
from tests.helpers.models import weights_file

MODULE = "a_strangers_module"
CODE = f"{MODULE}:make"
REFUSED = f"opening '{CODE}' would import the Python module {MODULE} and call make.*--allow-code"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module beside a recipe; the path exists as soon as the module has run."""
    (tmp_path / f"{MODULE}.py").write_text(
        "import pathlib, torch\npathlib.Path('ran').touch()\ndef make():\n    return torch.nn.LayerNorm(4)\n"
    )
    (tmp_path / "r.yaml").write_text(f"model: {CODE}\nstages: [zstd]\n")
    (tmp_path / "teacher.yaml").write_text(
        f"model: m.safetensors\nstages: [int8, {{use: heal, teacher: '{CODE}'}}, zstd]\n"
    )
    weights_file(tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path / "ran"


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("recipe", ["r.yaml", "teacher.yaml"])
def test_the_command_line_refuses_and_says_what_would_run(stackc: Invoke, ran: Path, command: str, recipe: str) -> None:
    result = stackc(command, recipe)
    assert result.exit_code == 1
    assert CODE in result.stderr
    assert "--allow-code" in result.stderr
    assert "bug" not in result.stderr
    assert not ran.exists()
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize(
    "words", [("--allow-code",), ("--model", CODE), ("--set", f"model={CODE}")], ids=lambda words: words[0]
)
def test_a_word_on_the_command_line_allows_it(stackc: Invoke, ran: Path, words: tuple[str, ...]) -> None:
    result = stackc("check", "r.yaml", *words)
    assert result.exit_code == 0, result.stderr
    assert ran.exists()


def test_a_model_of_the_user_does_not_allow_the_teacher_of_the_recipe(stackc: Invoke, ran: Path) -> None:
    for words in (("--model", "m.safetensors"), ("--set", "model=m.safetensors"), ("--set", "stages[1].epochs=2")):
        assert stackc("check", "teacher.yaml", *words).exit_code == 1
    assert stackc("check", "teacher.yaml", "--set", f"stages[1].teacher={CODE}").exit_code == 0
    assert stackc("check", "teacher.yaml", "--allow-code").exit_code == 0
    assert not ran.exists()  # to plan a recipe, nobody asks its teacher


def test_a_lock_file_is_a_recipe_like_any_other(ran: Path) -> None:
    finished = stackc.run("r.yaml", output="first", allow_code=True)
    lock = finished.folder / LOCK_NAME
    ran.unlink()
    sys.modules.pop(MODULE)
    with pytest.raises(ModelError, match=REFUSED):
        stackc.run(lock, output="again")
    assert not ran.exists()
    assert stackc.run(lock, CODE, output="again").artifact.exists()


def test_python_needs_the_word_too(ran: Path) -> None:
    with pytest.raises(ModelError, match=REFUSED):
        stackc.run("r.yaml")
    with pytest.raises(ModelError, match=rf"stages\[1\] \(heal\): .*{MODULE}"):
        stackc.run("teacher.yaml", evaluate=False)
    with pytest.raises(ModelError, match=rf"stages\[1\] \(heal\): .*{MODULE}"):
        stackc.compress("m.safetensors", "teacher.yaml")
    assert not ran.exists()
    artifact, _ = stackc.compress(CODE, {"stages": ["zstd"]})
    artifact.close()
    assert ran.exists()


def test_a_file_with_such_a_name_is_no_code(ran: Path) -> None:
    weights_file(Path(f"{CODE}.safetensors"))
    recipe = recipe_from({"model": f"{CODE}.safetensors", "stages": ["zstd"]})
    assert open_model(recipe).kind == "safetensors"
    assert not ran.exists()


def test_a_file_cannot_give_the_word_itself() -> None:
    with pytest.raises(RecipeError, match="no key 'allow_code'"):
        recipe_from({"allow_code": True, "model": CODE, "stages": ["zstd"]})


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "..", ".", "a//b", "a\\..\\b"])
def test_a_lock_names_no_folder_elsewhere(tmp_path: Path, name: str) -> None:
    """The name of a locked recipe is where its results go."""
    lock: dict[str, object] = {"versions": {}, "reference": "", "stages": ["zstd@1"], "settings": "", "name": name}
    with pytest.raises(RecipeError, match=r"lock\.name.*is no name of a recipe"):
        recipe_from({"stages": ["zstd"], "lock": lock})


@pytest.mark.parametrize("name", ["", "int8", "claim/int8", "a.b", ".a", "é"])
def test_a_lock_keeps_the_names_that_recipes_have(name: str) -> None:
    lock = {"versions": {}, "reference": "", "stages": ["zstd@1"], "settings": "", "name": name}
    parsed: Recipe = recipe_from({"stages": ["zstd"], "lock": lock})
    assert parsed.name == (name or "recipe")
