"""What a heal stage trains on: the task's training rows and further text without labels, free of what is evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from stackc.healing.augment import recombined
from stackc.healing.holdout import hold_out
from stackc.tasks.calibration import spread
from stackc.tasks.data import check_texts, normal_form, read_texts
from stackc.tasks.task import Task
from stackc.util.errors import DataError

#: Name of the first source, and of what is made from it.
TASK_ROWS, RECOMBINED = "training rows of the task", "training rows recombined"


class Source(msgspec.Struct, frozen=True):
    """How much one source gave.

    Parameters
    ----------
    name : str
        `TASK_ROWS`, `RECOMBINED`, or the entry of ``data``.
    rows : int
        Its texts that are trained on.
    dropped : int
        Rows left out because they are, but for case and spaces, evaluation rows, held-out rows or parts of held-out rows.
    """

    name: str
    rows: int
    dropped: int


class TrainingTexts(NamedTuple):
    """Texts to train on, and others to choose by.

    Attributes
    ----------
    texts : list of str
        No two are the same, but for case and spaces.
    held_out : list of str
        Training rows of the task that are in no form among the texts, nor is a part that only they have; with
        ``augmented`` also about as many texts recombined from them.
    sources : tuple of Source
        Where the texts come from, in their order.
    """

    texts: list[str]
    held_out: list[str]
    sources: tuple[Source, ...]

    @property
    def dropped(self) -> int:
        """Rows of all sources that were left out because they are evaluated or held out."""
        return sum(source.dropped for source in self.sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the texts and of the held-out ones, in their order, in hexadecimal; files may be called otherwise.

        Examples
        --------
        >>> TrainingTexts(["a fine film"], ["a bleak film"], ()).fingerprint[:16]
        'ee5787da9353aa2f'
        """
        return hashlib.sha256(msgspec.json.encode((self.texts, self.held_out))).hexdigest()


def check_sources(data: Sequence[str]) -> None:
    """Find out cheaply whether the sources of further text can be there.

    Parameters
    ----------
    data : sequence of str
        As for `training_texts`.

    Raises
    ------
    DataError
        If a file or data set is missing or of an unknown kind; the message says what is accepted.
    DependencyError
        If an optional package is needed.

    Examples
    --------
    >>> check_sources(["sentences.docx"])
    Traceback (most recent call last):
        ...
    stackc.util.errors.DataError: there is no file 'sentences.docx'; accepted is a .txt, .csv, .tsv, .json, .jsonl or .parquet \
file, or demo/imdb-sentences
    """
    for name in data:
        check_texts(name)


def training_texts(
    task: Task, data: Sequence[str], rows: int | None, holdout: int, augmented: int = 0
) -> TrainingTexts:
    r"""Read what is trained on and what is held out.

    Rows are held out as `stackc.healing.holdout.hold_out` says, so that they are the same on every machine, and stay, but
    for a few, when rows are added or reordered.

    Parameters
    ----------
    task : Task
        Gives the training rows, and the evaluation rows that nothing is trained on.
    data : sequence of str
        Further sources: .txt files with one text a line, other files with a column of texts, or
        ``demo/imdb-sentences``.
    rows : int, optional
        At most so many rows of ``data``, spread evenly over all of them before any is dropped.
    holdout : int
        Training rows of the task to hold out.
    augmented : int
        Texts to make from training rows that are part of no other, by `stackc.healing.augment.recombined`; those that
        are made twice are trained on once. Held-out rows are recombined too, and held out beside themselves.

    Raises
    ------
    DataError
        If the task has no training rows, or not more than ``holdout``; if a source is missing or malformed.
    DependencyError
        If reading a source needs a package that is not installed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from stackc.tasks import find_task
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "dev.csv").write_text("text,label\na fine film,1\na bleak film,0\n")
    >>> _ = (folder / "train.csv").write_text("text\nso warm\nso dull\nA fine  film\n")
    >>> _ = (folder / "more.txt").write_text("the camera moves\n\nSo WARM\nso dull\na bleak film\n")
    >>> names = {"data": str(folder / "dev.csv"), "train": str(folder / "train.csv")}
    >>> task = find_task({"name": "text-classification", **names})
    >>> found = training_texts(task, [str(folder / "more.txt")], rows=None, holdout=1)
    >>> found.texts, found.held_out
    (['so warm', 'the camera moves'], ['so dull'])
    >>> [(source.rows, source.dropped) for source in found.sources]
    [(1, 1), (1, 2)]
    """
    evaluated = set(map(normal_form, task.evaluation_texts()))
    own = task.training_texts()
    distinct = {form: text for text, form in _distinct(own) if form not in evaluated}
    if not distinct:
        raise DataError("the task has no training rows that are not evaluation rows too: healing needs others")
    held_out = hold_out(list(distinct), holdout)
    forbidden = evaluated | held_out.rows | held_out.parts
    # The rows that are held out are not counted as dropped, other copies of them are.
    made = recombined([distinct[form] for form in held_out.others], augmented) if augmented else []
    parts = [(TASK_ROWS, own), *([(RECOMBINED, made)] if augmented else []), *_further(data, rows)]
    taken: set[str] = set()
    texts: list[str] = []
    sources: list[Source] = []
    for name, part in parts:
        before, dropped = len(texts), 0
        for text in part:
            form = normal_form(text)
            if form in forbidden:
                dropped += 1
            elif form not in taken:
                taken.add(form)
                texts.append(text)
        sources.append(Source(name, len(texts) - before, dropped - (holdout if name == TASK_ROWS else 0)))
    rows_held_out = [text for form, text in distinct.items() if form in held_out.rows]
    if augmented:
        # What teacher and reference were trained on themselves tells little of how they answer to anything else.
        unseen = {normal_form(text): text for text in recombined(rows_held_out, holdout)}
        rows_held_out += [text for form, text in unseen.items() if form not in taken | forbidden]
    return TrainingTexts(texts, rows_held_out, tuple(sources))


def _further(data: Sequence[str], rows: int | None) -> Iterator[tuple[str, list[str]]]:
    """The rows of every source that are taken."""
    check_sources(data)  # before the first is read
    parts = [read_texts(name) for name in data]
    count = sum(map(len, parts))
    taken = spread(range(count), count if rows is None else rows)
    first = 0
    for name, part in zip(data, parts, strict=True):
        yield name, [part[place - first] for place in taken if first <= place < first + len(part)]
        first += len(part)


def _distinct(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every text that differs from those before it, with its normal form."""
    seen: set[str] = set()
    for text in texts:
        form = normal_form(text)
        if form not in seen:
            seen.add(form)
            yield text, form
