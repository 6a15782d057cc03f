"""Teachers are asked once for every row, and a kept answer is the answer or is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackc.healing import teacher as module
from stackc.healing.ragged import Ragged
from stackc.healing.row_cache import Entries, RowCache, row_key, row_keys
from stackc.healing.teacher import Labelled, teacher_cache, teacher_logits
from stackc.models import ModuleReference, Reference, open_reference
from stackc.util.errors import DataError, ModelError
from stackc.util.progress import Advance, Progress
from tests.helpers.tiny import tiny_classifier

ROWS = [[2, *range(5 + row % 7, 8 + row % 7 + row % 5), 3] for row in range(30)]
DISTINCT = len({tuple(row) for row in ROWS})


class _Count(Progress):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.done = 0

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        self.told.append((description, total))

        def advance(steps: int) -> None:
            self.done += steps

        yield advance


@pytest.fixture(scope="module")
def teacher(tiny_model: Path) -> Reference:
    return open_reference(str(tiny_model))


def _ask(teacher: Reference, ids: list[list[int]], size: int = 4) -> Labelled:
    return teacher_logits(teacher, ids, batch_size=size, progress=Progress())


def test_logits_are_the_teachers_in_the_order_of_the_rows(teacher: Reference):
    found = _ask(teacher, ROWS)
    model = teacher.build()
    with torch.inference_mode():
        alone = torch.cat([model(input_ids=torch.tensor([row])).logits for row in ROWS])
    torch.testing.assert_close(found.logits, alone, rtol=1e-5, atol=1e-5)
    assert found.logits.dtype == torch.float32
    assert (found.computed, found.cached) == (DISTINCT, 0)


def test_what_is_known_is_not_computed_again(teacher: Reference, cache: Path, monkeypatch):
    progress = _Count()
    first = teacher_logits(teacher, ROWS[:10], progress=progress)
    both = teacher_logits(teacher, ROWS[::-1], progress=progress)
    known = len({tuple(row) for row in ROWS[:10]})
    assert (both.computed, both.cached) == (DISTINCT - known, known)
    assert torch.equal(both.logits.flip(0)[:10], first.logits)
    assert progress.told == [("label rows with the teacher", known), ("label rows with the teacher", DISTINCT - known)]
    assert progress.done == DISTINCT
    monkeypatch.setattr(type(teacher), "build", lambda self: pytest.fail("the teacher is not needed"))
    again = _ask(teacher, ROWS)
    assert torch.equal(again.logits, both.logits.flip(0))
    assert (again.computed, again.cached) == (0, DISTINCT)
    assert [path.parent for path in cache.rglob("*.*")] == [cache / "teacher"]


def test_two_teachers_do_not_mix(teacher: Reference, tmp_path: Path):
    other = open_reference(str(tiny_classifier(tmp_path / "other", seed=5)))
    bent = dataclasses.replace(teacher, config={**(teacher.config or {}), "hidden_act": "relu"})
    answers = [_ask(each, ROWS) for each in (teacher, other, bent)]
    assert [answer.cached for answer in answers] == [0, 0, 0]
    assert not torch.equal(answers[0].logits, answers[1].logits)
    assert not torch.equal(answers[0].logits, answers[2].logits)
    mine, theirs = teacher_cache(teacher), teacher_cache(other)
    assert mine is not None
    assert theirs is not None
    theirs.path.write_bytes(mine.path.read_bytes())  # renamed by hand
    assert torch.equal(_ask(other, ROWS).logits, answers[1].logits)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "longer", "text", "folder"])
def test_a_damaged_file_is_computed_again(teacher: Reference, damage: str):
    expected = _ask(teacher, ROWS)
    file = teacher_cache(teacher)
    assert file is not None
    data = file.path.read_bytes()
    match damage:
        case "cut":
            file.path.write_bytes(data[:-5])
        case "empty":
            file.path.write_bytes(b"")
        case "flipped":
            file.path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
        case "longer":
            file.path.write_bytes(data + b"\0")
        case "text":
            file.path.write_text("no file of logits")
        case "folder":
            file.path.unlink()
            file.path.mkdir()
    found = _ask(teacher, ROWS)
    assert torch.equal(found.logits, expected.logits)
    assert found.computed == DISTINCT
    assert _ask(teacher, ROWS).cached == (DISTINCT if damage != "folder" else 0)


def test_no_flipped_bit_gives_a_wrong_number(tmp_path: Path):
    cache = RowCache(tmp_path / "rows", "teacher")
    cache.add(_entries({b"a" * 16: 1.0, b"b" * 16: 2.0}))
    data, expected = cache.path.read_bytes(), cache.read()
    for place in range(len(data)):
        cache.path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        found = cache.read()
        assert not len(found.keys) or all(map(numpy.array_equal, found, expected))


def test_an_interrupted_labelling_goes_on_to_the_same_numbers(teacher: Reference, cache: Path, monkeypatch):
    expected = _ask(teacher, ROWS)
    for path in (cache / "teacher").iterdir():
        path.unlink()
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
    real, calls = module._logits, []

    def killed(model, inputs):
        calls.append(None)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(model, inputs)

    monkeypatch.setattr(module, "_logits", killed)
    with pytest.raises(KeyboardInterrupt):
        _ask(teacher, ROWS)
    monkeypatch.setattr(module, "_logits", real)
    found = _ask(teacher, ROWS)
    assert (found.computed, found.cached) == (DISTINCT - 12, 12)
    assert torch.equal(found.logits, expected.logits)


def test_answers_are_written_while_the_labelling_runs(teacher: Reference, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
    real, known = module._logits, []
    file = teacher_cache(teacher)
    assert file is not None

    def watched(model, inputs):
        known.append(len(file.read().keys))
        return real(model, inputs)

    monkeypatch.setattr(module, "_logits", watched)
    _ask(teacher, ROWS)
    assert known == [4 * batch for batch in range(len(known))]


def test_what_another_process_wrote_meanwhile_is_kept(teacher: Reference, monkeypatch):
    file = teacher_cache(teacher)
    assert file is not None
    other = _entries({b"another row's key"[:16]: 1.0}, columns=2)
    real = module._logits

    def meanwhile(model, inputs):
        file.add(other)
        return real(model, inputs)

    monkeypatch.setattr(module, "_logits", meanwhile)
    _ask(teacher, ROWS)
    assert len(file.read().keys) == DISTINCT + 1
    assert (file.read().find(other.keys) >= 0).all()


def test_a_cache_that_cannot_be_written_is_no_error(teacher: Reference, tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STACKC_CACHE", str(tmp_path / "file"))
    assert _ask(teacher, ROWS).computed == _ask(teacher, ROWS).computed == DISTINCT


def test_teachers_that_do_not_fit_say_so(teacher: Reference, tmp_path: Path):
    with pytest.raises(
        DataError,
        match=r"the training rows hold the token id 9999, and BertForSequenceClassification has embeddings for",
    ):
        _ask(teacher, [[2, 9999, 3]])
    with pytest.raises(DataError, match="a text has 65 tokens, the model 64 positions"):
        _ask(teacher, [[2] * 65])
    with pytest.raises(DataError, match="row 1 has no tokens"):
        _ask(teacher, [[]])

    class Sum(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(factor))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            summed = (input_ids * attention_mask).sum(-1) * self.factor
            return summed if self.factor == 0 else torch.stack([summed, -summed], -1)

    with pytest.raises(ModelError, match="Sum gives no logits per class"):
        _ask(ModuleReference.of(Sum(0.0)), [[1]])
    with pytest.raises(ModelError, match="Sum gives logits that are not finite"):
        _ask(ModuleReference.of(Sum(float("inf"))), [[1]])
    # What a module without a config computes is not known from its weights.
    for _ in range(2):
        found = _ask(ModuleReference.of(Sum(2.0)), [[1, 2], [4], [1, 2]])
        assert found.logits.tolist() == [[6.0, -6.0], [8.0, -8.0], [6.0, -6.0]]
        assert (found.computed, found.cached) == (2, 0)


IDS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=20)


@given(IDS)
def test_keys_tell_rows_apart(ids):
    keys = row_keys(Ragged.of(ids))
    assert [bytes(key).ljust(16, b"\0") for key in keys] == [row_key(row) for row in ids]
    assert len(set(keys)) == len({tuple(row) for row in ids})


def test_the_key_of_a_row_never_changes():
    assert row_key([101, 7592, 102]).hex() == "702448e2493059d5c9de4092f08fb9b3"


# Keys that end in zero bytes, too: numpy leaves these out of what it shows.
KEYS = st.integers(0, 12).map(lambda number: bytes([number // 4]) * 15 + bytes([number % 4]))
FOUND = st.dictionaries(KEYS, st.floats(-9, 9, width=32))


def _entries(found: dict[bytes, float], columns: int = 1) -> Entries:
    keys = sorted(found)
    values = numpy.array([[found[key]] * columns for key in keys], numpy.float32).reshape(len(keys), columns)
    return Entries(numpy.frombuffer(b"".join(keys), "S16"), values)


@given(FOUND, FOUND, st.lists(KEYS))
def test_entries_are_a_dictionary(tmp_path_factory, first, second, wanted):
    cache = RowCache(tmp_path_factory.getbasetemp() / "entries.safetensors", "teacher")
    cache.path.unlink(missing_ok=True)
    cache.add(_entries(first))
    cache.add(_entries(second))
    found = cache.read()
    places = found.find(numpy.frombuffer(b"".join(wanted), "S16"))
    expected = {**second, **first}
    assert len(found.keys) == len(expected)
    assert [None if place < 0 else found.values[place, 0] for place in places] == [expected.get(key) for key in wanted]
