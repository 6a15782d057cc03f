"""The claim's replay: what it stores, what it begins with, what it trains on, and that all of it runs."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stackc
from stackc.models import open_reference
from stackc.util.statistics import wilson_interval

FOLDER = Path(__file__).parents[2] / "benchmarks" / "claim"
MODULES = ("assembly", "decode_time", "claim_table")


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script's names; its modules are imported as Python does for a script, and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield runpy.run_path(str(FOLDER / "run.py"))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def state(tiny_model: Path) -> dict[str, torch.Tensor]:
    reference = open_reference(str(tiny_model))
    return {name: reference.tensor(name) for name in reference.specs}


def moments(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.tensor([[x.mean(), x.std(correction=0)] for x in state.values()])


def test_statistics_are_stored_and_restored(claim, tiny_model: Path, state, tmp_path) -> None:
    statistics = claim["store_statistics"](state, tmp_path / "statistics.stackc")
    assert torch.allclose(torch.tensor(list(statistics.values())), moments(state), atol=1e-6)
    components = claim["store"](str(tiny_model), "claim/assembly", tmp_path / "assembly.stackc")
    with stackc.open(tmp_path / "assembly.stackc") as artifact:
        assert torch.equal(artifact["classifier.weight"], components["classifier.weight"])
    reference = open_reference(str(tiny_model))
    arms = {arm: claim["initial_weights"](arm, components, statistics, reference, 0) for arm in claim["ARMS"]}
    for weights in arms.values():
        assert {name: weights[name].shape for name in state} == {name: x.shape for name, x in state.items()}
        reference.build(weights)
    assert not torch.allclose(moments(components), moments(state), atol=1e-3)
    assert torch.allclose(moments(arms["PCA and statistics"]), moments(state), atol=1e-5)
    assert all(torch.equal(arms["PCA only"][name], components[name]) for name in state)
    large = [name for name in state if state[name].numel() > 500]
    assert large
    for name in large:
        drawn, x = arms["statistics only"][name], state[name]
        assert abs(float(drawn.std() / x.std()) - 1) < 0.2
        assert abs(float(torch.corrcoef(torch.stack([drawn.flatten(), x.flatten()]))[0, 1])) < 0.2
    assert torch.equal(arms["neither"]["bert.embeddings.LayerNorm.weight"], torch.ones(16))
    with pytest.raises(ValueError, match="there is no arm 'both'; there are PCA and statistics, PCA only"):
        claim["initial_weights"]("both", components, statistics, reference, 0)


def test_what_is_drawn_follows_the_seed_alone(claim, tiny_model: Path, state, tmp_path) -> None:
    statistics = claim["store_statistics"](state, tmp_path / "statistics.stackc")
    reference = open_reference(str(tiny_model))
    for arm in ("statistics only", "neither"):
        first, again, other = (claim["initial_weights"](arm, {}, statistics, reference, seed) for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in state)
        assert any(not torch.equal(first[name], other[name]) for name in state)


def test_an_untrained_head_leaves_the_encoder_alone(claim, tiny_model: Path, state) -> None:
    model = claim["with_untrained_head"](open_reference(str(tiny_model)), 3)
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, state[name])}
    assert changed == {"classifier.weight"}  # biases of the tiny model are zero, as those of a new head


def test_rows_of_decode_time(claim, reviews: Path, tmp_path) -> None:
    train = tmp_path / "train.tsv"
    evaluated = reviews.read_text().splitlines()[1]
    train.write_text(f"{reviews.with_name('reviews-train.tsv').read_text()}{evaluated.upper()}\n")
    rows = claim["read_rows"](train, reviews)
    assert len(rows.texts) == 90  # the evaluated text is gone, whatever its case
    held_out, training = claim["hold_out"](rows, 20)
    assert len(held_out.texts) == 20
    assert all(len(text.split()) >= 8 for text in held_out.texts)
    assert not set(held_out.texts) & set(training.texts)
    drawn = claim["draw"](training, 30, 0)
    assert drawn == claim["draw"](training, 30, 0) != claim["draw"](training, 30, 1)
    listing = drawn.listing()
    lines = train.read_text().splitlines()
    assert [lines[line - 1] for line in listing["lines"]] == drawn.content.decode().splitlines()
    assert 0 < listing["charged bytes"] < listing["bytes"] == len(drawn.content)


def test_fine_tuning_comes_out_the_same_again_and_learns(claim, tiny_model: Path, reviews: Path) -> None:
    reference = open_reference(str(tiny_model))
    rows = claim["read_rows"](reviews.with_name("reviews-train.tsv"), reviews)
    before = torch.random.get_rng_state()

    def trained(epochs: int, *, dropout: bool) -> dict[str, torch.Tensor]:
        model = reference.build()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) and not dropout:
                module.p = 0.0  # from so wide an initialisation the tiny model learns nothing with dropout
        return claim["fine_tune"](model, rows, reference.tokenizer(), rate=3e-3, seed=0, epochs=epochs).state_dict()

    first, again = trained(2, dropout=True), trained(2, dropout=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    first = trained(15, dropout=False)
    inputs = reference.tokenizer()(list(rows.texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        right = reference.build(first)(**inputs).logits.argmax(1) == torch.tensor(rows.labels)
    assert right.double().mean() > 0.9


def test_a_whole_replay(claim, tiny_model: Path, reviews: Path, tmp_path, monkeypatch, capsys) -> None:
    train = reviews.with_name("reviews-train.tsv")
    arguments = ["--model", tiny_model, "--data", reviews, "--train", train, "--output", tmp_path]
    small = [
        "--seeds",
        "1",
        "--heads",
        "1",
        "--choice-seeds",
        "1",
        "--rows",
        "16",
        "--first",
        "30",
        "--held-out",
        "20",
        "--epochs",
        "1",
    ]
    monkeypatch.setattr("sys.argv", ["run.py", *map(str, arguments), *small])
    monkeypatch.setitem(claim["main"].__globals__, "RATES", (1e-3,))
    claim["main"]()
    page = (tmp_path / "results.md").read_text()
    assert capsys.readouterr().out.endswith(f"{page}\n")
    text = (tmp_path / "results.json").read_text()
    results = json.loads(text)
    # Names of files only: results are published.
    assert str(tiny_model.parent) not in text + page
    assert str(reviews.parent) not in text + page
    assert results["data"]["rows"] == 60
    assert {row["label"] for row in results["stacks"]} >= {
        "original",
        "int8",
        "prune 50 %",
        "seed assembly, stored part",
    }
    lossless = [row["score"] for row in results["stacks"] if "gzip -9" in row["label"] or "zstd" in row["label"]]
    assert {score["agreement"] for score in lossless[:2]} == {1.0}
    arms = {(row["source"], row["arm"], row["training"]) for row in results["fine-tuned"]}
    assert len(arms) == len(results["fine-tuned"]) == 3 * 7
    control = next(row for row in results["fine-tuned"] if row["arm"] == "neither")
    assert control["scores"]["all rows, against random"]["retention"] == 1
    assert len(results["decode-time rows"]["0"]["lines"]) == 16
    monkeypatch.setattr("sys.argv", ["run.py", *map(str, arguments), "--redraw"])
    claim["main"]()
    assert (tmp_path / "results.md").read_text().split() == page.split()


def test_the_published_page_is_that_of_the_published_figures(claim) -> None:
    results = json.loads((FOLDER / "results.json").read_text())
    assert claim["claim_table"].page(results) == (FOLDER / "results.md").read_text()


def test_figures_of_the_page_are_the_measured_ones() -> None:
    root = FOLDER.parents[1]
    text, measured = (root / "docs" / "claim.md").read_text(), (FOLDER / "results.md").read_text()
    figures = re.findall(r"\d[\d.]*(?: ± [\d.]+| %)? \[[^\]]+\]|\d[\d.]* ± \d+\.\d|\d+(?:,\d{3})+|\d+\.\d\d?x", text)
    assert len(figures) > 40
    claimed = {"1.0x", "1.1x", "4.0x", "1.7x", "11,800"}
    assert [figure for figure in figures if figure not in measured and figure not in claimed] == []
    results = json.loads((FOLDER / "results.json").read_text())
    charged = [rows["charged bytes"] for rows in results["decode-time rows"].values()]
    assert round(sum(charged) / len(charged), -2) == 11_800
    heads = [row["score"]["value"] for row in results["untrained heads"] if row["label"] == "original"]
    assert (min(heads), max(heads)) == (0.13, pytest.approx(0.857, abs=1e-3))
    for right, interval in ((48, (38.5, 57.7)), (52, (42.3, 61.5))):
        low, high = wilson_interval(right, 100)
        assert (round(100 * low, 1), round(100 * high, 1)) == interval
        assert f"{interval[0]} to {interval[1]} %" in text


def test_seed_assembly_is_worse_than_its_reference_in_every_seed() -> None:
    results = json.loads((FOLDER / "results.json").read_text())
    verdicts = [
        row["scores"]["all rows, against trained"]["verdict"]
        for row in results["fine-tuned"]
        if row["source"] == "trained reference" and row["training"] != "none"
    ]
    assert len(verdicts) == 4 * 2 * 3
    assert all(verdict.endswith("worse than the reference") for verdict in verdicts)
