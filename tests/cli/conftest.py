"""A runner for the command line, tiny models, and one finished run that many tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stackc.cli import app
from stackc.models.building import quiet_transformers
from tests.helpers.tiny import tiny_classifier, tiny_reviews

Invoke = Callable[..., Result]

#: Every kind of stage, in the order in which people use them.
RECIPE = """\
# Everything at once.
model: {model}
task: {{name: text-classification, data: {data}}}
bundle: [tokenizer]
stages:
  - {{use: prune, on: "*word_embeddings.weight", rows: 0.5}}
  - {{use: seed, on: "*word_embeddings.weight", rank: 4}}
  - {{use: int, bits: 4}}
  - {{use: ans, on: "*/codes"}}
  - zstd
"""


@pytest.fixture(scope="session")
def stackc() -> Invoke:
    """Call the command line in this process, with output as wide as it likes."""
    runner = CliRunner()

    def invoke(*arguments: object, columns: int = 400) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})

    return invoke


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier with its tokenizer."""
    with quiet_transformers():
        return tiny_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BART classifier, whose embeddings are tied."""
    with quiet_transformers():
        return tiny_classifier(tmp_path_factory.mktemp("models") / "tied", tied=True)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled reviews for the classifiers."""
    return tiny_reviews(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, classifier: Path, reviews: Path) -> Path:
    """A recipe with five stages."""
    path = tmp_path_factory.mktemp("recipes") / "five.yaml"
    path.write_text(RECIPE.format(model=classifier, data=reviews))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, stackc: Invoke, recipe: Path) -> tuple[Path, Result]:
    """Folder and output of a run of the recipe."""
    folder = tmp_path_factory.mktemp("runs") / "five"
    result = stackc("run", recipe, "--output", folder)
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture
def artifact(finished: tuple[Path, Result]) -> Path:
    """The file of the finished run."""
    return finished[0] / "model.stackc"
