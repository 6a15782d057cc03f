"""Parts of other texts are found, whatever their case and spaces, and by no other rule than being a run of words."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stackc.tasks import find_task
from stackc.tasks.data import normal_form
from stackc.tasks.phrases import whole_texts, wholes_of_parts

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "B", "ab"]), min_size=1, max_size=5).map("  ".join), max_size=9)


@given(TEXTS)
def test_whole_texts_are_those_that_no_other_text_contains(texts: list[str]) -> None:
    forms = [f" {normal_form(text)} " for text in texts]
    whole = [
        text
        for text, form in zip(texts, forms, strict=True)
        if not any(form in other and form != other for other in forms)
    ]
    assert whole_texts(texts) == whole


@given(TEXTS)
def test_every_part_is_known_with_the_whole_texts_that_hold_it(texts: list[str]) -> None:
    forms = list(dict.fromkeys(map(normal_form, texts)))
    wholes = set(map(normal_form, whole_texts(texts)))
    for part, of in wholes_of_parts(forms).items():
        assert of == {whole for whole in wholes if f" {part} " in f" {whole} " and part != whole}
        assert of


def test_calibration_is_on_whole_texts(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    rows = ["the film was good", "film was good", "good", "the acting was bad", "bad"]
    for name in ("dev", "train"):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(f"{row}{name[:1]}\t1\n" for row in rows))
    task = find_task(
        {"name": "text-classification", "data": str(tmp_path / "dev.tsv"), "train": str(tmp_path / "train.tsv")}
    )
    (batch,) = task.calibration_inputs(10, AutoTokenizer.from_pretrained(tiny_model))
    assert len(batch["input_ids"]) == 2
