"""``stackc check`` plans a recipe and says what every stage takes, leaves and makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


def test_json_holds_every_stage_and_tensor(stackc: Invoke, recipe: Path) -> None:
    result = stackc("check", recipe, "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert [stage["use"] for stage in plan["stages"]] == ["prune", "seed", "int", "ans", "zstd"]
    prune, seed, quantise, codes, rest = plan["stages"]
    assert [group["plane"] for group in prune["planes"]] == ["mask", "values", "fallback"]
    assert (seed["parameters"], seed["on"]) == ({"rank": 4}, ["*word_embeddings.weight"])
    assert {skips["planes"][0].rpartition("/")[2] for skips in seed["skipped"]} == {"mask", "fallback"}
    assert {group["plane"] for group in codes["planes"]} == {"codes"}
    assert codes["packs"]
    assert codes["matched"] + rest["matched"] == 2 * quantise["matched"] + 1  # codes and scale of each, and the mask
    assert not plan["upper_bound"]
    tensor = next(t for t in plan["tensors"] if t["name"].endswith("word_embeddings.weight"))
    assert tensor["stack"].startswith("prune(mask: zstd, values: seed(")
    assert {plane["path"] for plane in tensor["planes"]} >= {"mask", "values/scores/codes"}


def test_sizes_at_fixed_width_are_those_of_the_raw_file(stackc: Invoke, classifier: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("stages: [{use: int, bits: 3}]\n")
    plan = json.loads(stackc("check", path, "--model", classifier, "--json").stdout)
    stackc("run", path, "--model", classifier, "--output", tmp_path / "out", "--quiet")
    rows = json.loads(stackc("inspect", tmp_path / "out" / "model.stackc", "--json").stdout)["bytes"]
    stored = sum(row["bytes"] for row in rows if row["role"] in ("payload", "side"))
    assert plan["stages"][0]["fixed_width_bytes"] == stored


def test_a_choice_from_data_is_an_upper_bound(stackc: Invoke, classifier: Path) -> None:
    arguments = ("check", "prune50", "--model", classifier, "--task", "none")
    assert json.loads(stackc(*arguments, "--json").stdout)["upper_bound"]
    text = stackc(*arguments).stdout
    assert "at most" in text
    assert "upper bounds" in text


def test_the_table_groups_what_is_skipped(stackc: Invoke, recipe: Path) -> None:
    result = stackc("check", recipe)
    assert result.exit_code == 0, result.output
    assert "stages[1] (seed) does not take 1 plane (bert.embeddings.word_embeddings.weight/mask)" in result.stdout
    assert "values: seed(" not in result.stdout


def test_verbose_shows_every_stack(stackc: Invoke, recipe: Path) -> None:
    result = stackc("check", recipe, "--verbose")
    assert "prune(mask: zstd, values: seed(" in result.stdout
    assert "classifier.bias" in result.stdout


def test_ties_are_shown_with_the_tensor(stackc: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tied_model.py").write_text(
        "import torch\n"
        "def make():\n"
        "    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8, bias=False))\n"
        "    model[1].weight = model[0].weight\n"
        "    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("stages: [int8]\n")
    plan = json.loads(stackc("check", "r.yaml", "--model", "tied_model:make", "--json").stdout)
    assert [tensor["names"] for tensor in plan["tensors"]] == [["0.weight", "1.weight"]]


def test_untouched_tensors_are_named(stackc: Invoke, classifier: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text('stages: [{use: int8, on: "*.weight"}]\n')
    text = stackc("check", path, "--model", classifier).stdout
    assert "no stage takes 19 tensors: bert.embeddings.LayerNorm.bias, " in text


def test_missing_data_is_an_error_after_the_plan(stackc: Invoke, recipe: Path) -> None:
    result = stackc("check", recipe, "--set", "task.data=nowhere.tsv")
    assert result.exit_code == 1
    assert "5 stages" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "there is no file 'nowhere.tsv'" in result.stderr.splitlines()[-1]
    as_json = stackc("check", recipe, "--set", "task.data=nowhere.tsv", "--json")
    assert (as_json.exit_code, as_json.stdout) == (1, "")


def test_a_stage_that_fits_nothing_is_an_error(stackc: Invoke, recipe: Path) -> None:
    result = stackc("check", recipe, "--set", "stages[1].on=nothing.*")
    assert result.exit_code == 1
    assert "stages[1] (seed) on nothing.* matches no tensor" in result.stderr


def test_a_model_is_needed(stackc: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("stages: [zstd]\n")
    result = stackc("check", path)
    assert result.exit_code == 1
    assert "--model" in result.stderr


def test_names_in_a_narrow_table_fold_at_joints(stackc: Invoke, recipe: Path) -> None:
    result = stackc("check", recipe, "--verbose", columns=80)
    assert result.exit_code == 0, result.output
    words = {word for line in result.stdout.splitlines() for word in line.split()}
    assert {"LayerNorm.bias", "embeddings."} <= words
    assert not words & {"LayerNor", "m.bias"}


def test_controls_are_planned_and_refused(stackc: Invoke, classifier: Path, reviews: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "controlled.yaml"
    recipe.write_text(
        f"task: {{name: text-classification, data: {reviews}}}\ncontrols: [random-init]\nseeds: 3\nstages: [int8]\n"
    )
    result = stackc("check", recipe, "--model", classifier)
    assert result.exit_code == 0, result.output
    assert "compared with 1 control: random-init" in result.stdout
    assert "run under 3 seeds" in result.stdout
    refused = stackc("check", recipe, "--model", classifier, "--control", "no-heal")
    assert refused.exit_code != 0
    assert "leaves out the heal stages, and the recipe has none" in refused.stderr


def test_side_information_that_outweighs_what_it_is_for_is_named(
    stackc: Invoke, classifier: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("stages: [{use: int, bits: 4, granularity: group, group_size: 4}]\n")
    said = "at fixed width, stages[0] (int) stores more side information (scale: "
    text = " ".join(stackc("check", path, "--model", classifier).stdout.split())
    assert said in text
    assert "or a larger group_size, shares a scale among more values" in text
    assert json.loads(stackc("check", path, "--model", classifier, "--json").stdout)["stages"][0]["caution"]
    path.write_text("stages: [{use: int, bits: 4, granularity: group, group_size: 32, on: '*word_embeddings*'}]\n")
    assert "more side information" not in stackc("check", path, "--model", classifier).stdout
