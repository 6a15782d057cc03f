"""From what data say about the class of a row to the number of a class of the model.

A label can be read as the name of a class and as its number: ``1`` is the first class of a model that calls its classes
``1`` to ``5``, and the second one of a model without names. A wrong reading gives a wrong accuracy and no error, so a label
with two readings is refused, with both of them named, until the recipe says which one is meant.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from stackc.tasks.data.table import Label, integer
from stackc.util.errors import DataError
from stackc.util.nearest import nearest

#: What a recipe can say about labels: how to read them, or the number or name of the class for each of them.
Reading = Literal["names", "numbers"] | Mapping[str, int | str]

#: Characters of a label that messages show.
_LONGEST = 40

_MISSING = frozenset({"nan", "none", "null", "na", "n/a", "<na>", "#n/a", "nat"})


class _Names:
    """Numbers of classes by name: as it is written, or else without spaces around it, or else without case.

    Whole numbers that are written as floats, ``1.0``, count as spellings of the whole number.
    """

    def __init__(self, pairs: Iterable[tuple[str, int, str]]) -> None:
        self.all: dict[str, None] = {}
        self._found: list[dict[str, dict[int, str]]] = [{} for _ in _SPELLINGS]
        for name, number, reason in pairs:
            self.all[name] = None
            for found, spelling in zip(self._found, _SPELLINGS, strict=True):
                found.setdefault(spelling(name), {}).setdefault(number, reason)

    def find(self, text: str) -> dict[int, str]:
        """The classes that a text can mean, each with the reason; empty if none has such a name."""
        for found, spelling in zip(self._found, _SPELLINGS, strict=True):
            if (classes := found.get(spelling(text))) is not None:
                return classes
        return {}


def _folded(text: str) -> str:
    number = integer(text)
    return unicodedata.normalize("NFC", text.strip().casefold()) if number is None else str(number)


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.strip, _folded)


def class_numbers(
    labels: Sequence[Label], place: Callable[[int], str], config: Any, reading: Reading | None = None
) -> list[int]:
    """Numbers of the model's classes for the labels of some rows.

    Without a ``reading`` a label means the class of that name, or else of that number. Names that the data set itself
    gives to its numbers go first where the model knows all of them: two data sets of one task can number their classes
    differently.

    Parameters
    ----------
    labels : sequence of Label
        Of every row.
    place : callable
        Where a row stands, for messages.
    config : transformers.PretrainedConfig or None
        The model's config: ``num_labels``, ``id2label`` and ``label2id``.
    reading : "names", "numbers" or mapping, optional
        What the recipe says. The mapping gives each label a class number, or the name of a class.

    Raises
    ------
    DataError
        If a label means no class of the model, or could mean two.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> stars = SimpleNamespace(num_labels=5, id2label={number: str(number + 1) for number in range(5)})
    >>> labels = [Label.of(text) for text in ("1", "4", "5")]
    >>> class_numbers(labels, "row {}".format, stars)
    [0, 3, 4]
    >>> class_numbers(labels[:2], "row {}".format, stars)
    Traceback (most recent call last):
        ...
    stackc.util.errors.DataError: row 0: the label '1' is the name of class 0 of the model and the number of class 1, which it \
calls '2'; say in the recipe which it is, with 'labels: names', 'labels: numbers', or the class of every label as in \
'labels: {"1": 0}'
    """
    rows: dict[Label, int] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, row)
    classes = _Classes(config)
    match reading:
        case None:
            numbers = classes.read(rows, place)
        case "names":
            numbers = {label: classes.by_name(label, place(row)) for label, row in rows.items()}
        case "numbers":
            numbers = {label: classes.by_number(label, place(row)) for label, row in rows.items()}
        case _:
            given = _Names(
                (text, classes.given(text, meant), f"'labels' says so of {text!r}") for text, meant in reading.items()
            )
            numbers = {label: _given(given, label, place(row)) for label, row in rows.items()}
    return [numbers[label] for label in labels]


class _Classes:
    """The classes of a model, and their names."""

    def __init__(self, config: Any) -> None:
        count = getattr(config, "num_labels", None)
        self._count: int | None = count if isinstance(count, int) else None
        self._of_number = _entries(getattr(config, "id2label", None), "id2label", flipped=True)
        self._of_name = _entries(getattr(config, "label2id", None), "label2id", flipped=False)
        self._names = _Names(
            [
                *((name, number, f"class {number} ({name!r}) by id2label") for name, number in self._of_number),
                *((name, number, f"class {number} ({name!r}) by label2id") for name, number in self._of_name),
            ]
        )

    def read(self, rows: Mapping[Label, int], place: Callable[[int], str]) -> dict[Label, int]:
        """Class numbers of labels of which nobody has said how they are to be read."""
        names = {label: self._named(label.text, f"{place(row)}: the label") for label, row in rows.items()}
        if all(number is not None for number in names.values()):
            decided = all(label.named for label in rows) or not all(map(self._has, (label.number for label in rows)))
        else:
            decided = False
        numbers: dict[Label, int] = {}
        for label, row in rows.items():
            name, number = names[label], label.number
            if name is not None and number is not None and self._has(number) and name != number and not decided:
                called = next((f", which it calls {text!r}" for text, of in self._of_number if of == number), "")
                raise DataError(
                    f"{place(row)}: the label {_shown(label.text)} is the name of class {name} of the model and the number of "
                    f"class {number}{called}; say in the recipe which it is, with 'labels: names', 'labels: numbers', or the "
                    f"class of every label as in {_example(label.text)}"
                )
            numbers[label] = self.by_number(label, place(row)) if name is None else name
        self._require_agreement(
            number for label, number in names.items() if number is not None and number != label.number
        )
        return numbers

    def by_name(self, label: Label, place: str) -> int:
        """The class that has this name."""
        number = self._named(label.text, f"{place}: the label")
        if number is None:
            raise DataError(
                f"{place}: the label {_shown(label.text)} is not a class name of the model ({self._listed})"
            )
        self._require_agreement([number])
        return number

    def by_number(self, label: Label, place: str) -> int:
        """The class that has this number."""
        number = label.number
        if number is None:
            if label.text.strip().casefold() in _MISSING:
                problem = "looks like a missing value; mend or remove the row"
            else:
                problem = (
                    f"is not a class name of the model ({self._listed}); write numbers {self._span}, name the classes in "
                    "id2label of the model's config.json, or give the class of every label in the recipe as in "
                    f"{_example(label.text)}"
                )
            raise DataError(f"{place}: the label {_shown(label.text)} {problem}")
        if number < 0:
            raise DataError(
                f"{place}: the label is {number}, as in splits whose labels are hidden; choose a labelled split"
            )
        if not self._has(number):
            raise DataError(f"{place}: the label {number} is not a class of the model, which has {self._span}")
        return number

    def given(self, text: str, meant: int | str) -> int:
        """The class that a recipe gives to a label."""
        if isinstance(meant, int):
            if not self._has(meant):
                raise DataError(f"labels.{text}: {meant} is not a class of the model, which has {self._span}")
            return meant
        number = self._named(meant, f"labels.{text}:")
        if number is None:
            hint = nearest(meant, self._names.all) or ""
            raise DataError(f"labels.{text}: {meant!r} is not a class name of the model{hint} ({self._listed})")
        return number

    def _has(self, number: int | None) -> bool:
        return number is not None and number >= 0 and (self._count is None or number < self._count)

    def _named(self, text: str, what: str) -> int | None:
        """The class of a name; None if there is no such name."""
        found = self._names.find(text)
        if len(found) > 1:
            readings = " and ".join(found.values())
            raise DataError(
                f"{what} {_shown(text)} is {readings} of the model's config.json; mend the config, or give the class number "
                f"of every label in the recipe as in {_example(text)}"
            )
        number = next(iter(found), None)
        if number is not None and not self._has(number):
            raise DataError(
                f"{what} {_shown(text)} is {found[number]} of the model's config.json, which is not a class of the model: it has "
                f"{self._span}"
            )
        return number

    def _require_agreement(self, used: Iterable[int]) -> None:
        """Refuse a config of which nobody can say what a class is called: its two maps have nothing in common there."""
        for number in sorted(set(used)):
            spellings = [
                {_folded(name): name for name, of in pairs if of == number and _folded(name) != f"label_{number}"}
                for pairs in (self._of_number, self._of_name)
            ]
            if spellings[0] and spellings[1] and not spellings[0].keys() & spellings[1].keys():
                one, other = (next(iter(names.values())) for names in spellings)
                raise DataError(
                    f"class {number} of the model is {one!r} by id2label and {other!r} by label2id of its config.json; mend "
                    f"the config, or give the class number of every label in the recipe as in {_example(one)}"
                )

    @property
    def _span(self) -> str:
        return f"0 to {self._count - 1}" if self._count else "from 0"

    @property
    def _listed(self) -> str:
        known = list(self._names.all)
        more = f" and {len(known) - 12} more" if len(known) > 12 else ""
        return f"it has {', '.join(known[:12]) or 'none'}{more}"


def _given(given: _Names, label: Label, place: str) -> int:
    """The class that a recipe's mapping gives to a label."""
    found = given.find(label.text)
    if not found and label.number is not None:
        found = given.find(str(label.number))
    if not found:
        raise DataError(
            f"{place}: 'labels' of the recipe does not say what {_shown(label.text)} means; it has {', '.join(given.all)}"
        )
    if len(found) > 1:
        raise DataError(
            f"{place}: the label {_shown(label.text)} is class {' and class '.join(map(str, found))} by 'labels'"
        )
    return next(iter(found))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _example(text: str) -> str:
    """What a recipe says about a label; in quotes, since keys of a recipe are words."""
    return f"'labels: {{{json.dumps(text[:_LONGEST].strip(), ensure_ascii=False)}: 0}}'"


def _entries(found: object, key: str, *, flipped: bool) -> list[tuple[str, int]]:
    """Names and numbers of a map of the config."""
    pairs = []
    for one, other in found.items() if isinstance(found, Mapping) else ():
        name, number = (other, one) if flipped else (one, other)
        try:
            pairs.append((str(name), int(number)))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{key} of the model's config.json gives {name!r} the number {number!r}, which is none; mend the config"
            ) from error
    return pairs
