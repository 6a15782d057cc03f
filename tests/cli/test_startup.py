"""Commands that compute nothing load nothing heavy, and no other library talks to the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "numpy", "transformers", "scipy", "safetensors", "datasets", "constriction"}


def call(*arguments: object, program: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "STACKC_DEBUG"}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


_LIGHT = f"""
import sys
from stackc.cli import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
sys.stderr.write(f"{{code}} {{sorted(set(sys.modules) & {HEAVY!r})}}")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("list",),
        ("schema",),
        ("check", "{recipe}"),
        ("check", "{recipe}", "--model", "{model}/model.safetensors", "--json"),
    ],
    ids=lambda arguments: " ".join(arguments).partition("{")[0].strip(),
)
def test_planning_loads_nothing_heavy(arguments: tuple[str, ...], recipe: Path, classifier: Path) -> None:
    filled = [argument.format(recipe=recipe, model=classifier) for argument in arguments]
    result = call(*filled, program=_LIGHT)
    assert result.stdout
    assert result.stderr == "0 []"


def test_other_libraries_are_silent(recipe: Path, tmp_path: Path) -> None:
    """A whole run in a process of its own: stdout is JSON, stderr is empty."""
    program = "from stackc.cli import main; main()"
    result = call("run", recipe, "--output", tmp_path / "out", "--json", program=program)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert json.loads(result.stdout)["recipe"] == "five"
