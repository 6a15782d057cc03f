"""``stackc eval`` measures what the report of the run says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stackc.reporting.report import read_report
from tests.cli.conftest import Invoke
from tests.helpers.tiny import VOCABULARY, tiny_classifier


def test_the_score_is_that_of_the_run(stackc: Invoke, artifact: Path, classifier: Path, reviews: Path) -> None:
    result = stackc("eval", artifact, "--task", reviews, "--reference", classifier, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    report = read_report(artifact.with_name("report.json"))
    assert report.final.score is not None
    assert report.reference_score is not None
    for key in ("value", "low", "high", "rows", "retention", "retention_low", "agreement", "verdict"):
        assert found["score"][key] == getattr(report.final.score, key)
    assert found["score"]["kl"] == pytest.approx(report.final.score.kl)
    assert found["reference"]["value"] == report.reference_score.value
    assert found["task"]["rows"] == 60


def test_the_text_compares_with_the_reference(stackc: Invoke, artifact: Path, classifier: Path, reviews: Path) -> None:
    lines = stackc("eval", artifact, "--task", reviews, "--reference", classifier).stdout.splitlines()
    assert lines[0].startswith(f"{artifact}: accuracy ")
    assert lines[1].startswith(f"{classifier}: accuracy 65.0 % (95 % interval ")
    assert "of the reference's accuracy" in lines[2]
    assert "KL divergence" in lines[2]


def test_alone_nothing_is_compared(stackc: Invoke, artifact: Path, reviews: Path) -> None:
    found = json.loads(stackc("eval", artifact, "--task", reviews, "--json").stdout)
    assert found["reference"] is None
    assert not {"retention", "agreement", "kl", "verdict"} & set(found["score"])
    assert "frequent class" in stackc("eval", artifact, "--task", reviews).stdout


def test_a_folder_is_evaluated_too(stackc: Invoke, classifier: Path, reviews: Path) -> None:
    task = f"{{name: text-classification, data: {reviews}, limit: 30}}"
    found = json.loads(stackc("eval", classifier, "--task", task, "--json").stdout)
    assert found["score"]["rows"] == 30


def test_without_a_tokenizer_one_must_be_given(stackc: Invoke, classifier: Path, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("stages: [zstd]\n")
    out = tmp_path / "out"
    assert stackc("run", tmp_path / "r.yaml", "--model", classifier, "--output", out, "--quiet").exit_code == 0
    refused = stackc("eval", out / "model.stackc", "--task", reviews)
    assert refused.exit_code == 1
    assert "--tokenizer" in refused.stderr
    given = stackc("eval", out / "model.stackc", "--task", reviews, "--tokenizer", classifier, "--json")
    assert given.exit_code == 0, given.output
    assert json.loads(given.stdout)["score"]["value"] == 0.65


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("none", "measures nothing"),
        ("missing.tsv", "there is no file 'missing.tsv'"),
        ("{name: text-classification, data: x.tsv, limt: 3}", "limt"),
        ("{data: x.tsv}", "name"),
    ],
)
def test_wrong_tasks_are_one_sentence(stackc: Invoke, classifier: Path, task: str, words: str) -> None:
    result = stackc("eval", classifier, "--task", task)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_folder_of_a_run_is_its_file(stackc: Invoke, artifact: Path, classifier: Path, reviews: Path) -> None:
    folder = artifact.parent
    whole = stackc("eval", artifact, "--task", reviews, "--json")
    found = stackc("eval", folder, "--task", reviews, "--reference", classifier, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["score"]["value"] == json.loads(whole.stdout)["score"]["value"]
    other = stackc("eval", classifier, "--task", reviews, "--reference", folder, "--tokenizer", folder, "--json")
    assert other.exit_code == 0, other.output
    assert json.loads(other.stdout)["reference"]["value"] == json.loads(whole.stdout)["score"]["value"]


def test_a_model_without_a_classification_head_is_told_so(stackc: Invoke, tmp_path: Path, reviews: Path) -> None:
    import transformers

    from stackc.models.building import quiet_transformers

    named = tmp_path / "named.tsv"
    named.write_text(reviews.read_text().replace("\t1\n", "\tpositive\n").replace("\t0\n", "\tnegative\n"))
    small = {"vocab_size": len(VOCABULARY), "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 24}
    with quiet_transformers():
        folder = tiny_classifier(tmp_path / "causal")
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**small)).save_pretrained(folder)
    (tmp_path / "r.yaml").write_text(f"task: {{name: text-classification, data: {named}}}\nstages: [zstd]\n")
    for arguments in (
        ("eval", folder, "--task", named),
        ("run", tmp_path / "r.yaml", "-m", folder, "-o", tmp_path / "o"),
    ):
        refused = stackc(*arguments)
        assert refused.exit_code == 1
        assert "GPT2LMHeadModel has no classification head: it is a language model" in refused.stderr
        assert "LABEL_0" not in refused.stderr
    assert stackc("run", tmp_path / "r.yaml", "-m", folder, "-o", tmp_path / "o", "--no-eval").exit_code == 0
