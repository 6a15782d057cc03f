"""`Table`: rows of one source by column. Every complaint about a row says where it stands, so that it can be mended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stackc.errors import DataError
from stackc.nearest import nearest

#: Names that columns of texts and of labels usually have.
TEXT_COLUMNS = ("sentence", "text", "review")
LABEL_COLUMNS = ("label", "labels", "target")

_INTEGER = re.compile(r"-?[0-9]+")


class Table(NamedTuple):
    """Rows of one source by column.

    Attributes
    ----------
    source : str
        File or data set, for messages.
    unit : str
        What `places` counts: ``line``, ``item`` or ``row``.
    places : sequence of int
        Where each row stands in the source, from 1.
    columns : mapping
        Values of every column; None where a row has none.
    class_names : tuple of str or None
        Names of the classes that integer labels stand for, where the source says so.
    """

    source: str
    unit: str
    places: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    class_names: tuple[str, ...] | None = None

    def place(self, row: int) -> str:
        """Where a row stands, for messages: ``reviews.csv, line 7``."""
        return f"{self.source}, {self.unit} {self.places[row]}"

    def texts(self, column: str | None) -> list[str]:
        """The texts of all rows.

        Parameters
        ----------
        column : str, optional
            Name of the column; guessed from `TEXT_COLUMNS` if not given.

        Raises
        ------
        DataError
            If there is no such column, or a text is missing, empty or not a string.
        """
        name = choose_column(self.columns, column, "text", TEXT_COLUMNS, self.source)
        texts = list(self.columns[name])
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                problem = "is empty" if text is None or isinstance(text, str) else f"is not a string but {text!r:.40}"
                raise DataError(f"{self.place(row)}: the text (column {name!r}) {problem}; mend or remove the row")
        return texts

    def labels(self, column: str | None) -> list[int | str]:
        """The labels of all rows: class numbers, or names of classes.

        Parameters
        ----------
        column : str, optional
            Name of the column; guessed from `LABEL_COLUMNS` if not given.

        Raises
        ------
        DataError
            If there is no such column, or a label is missing, hidden (-1), or neither an integer nor a name.
        """
        name = choose_column(self.columns, column, "label", LABEL_COLUMNS, self.source)
        return [self._label(value, row, name) for row, value in enumerate(self.columns[name])]

    def _label(self, value: Any, row: int, name: str) -> int | str:
        label: int | str | None = None
        if isinstance(value, str):
            stripped = value.strip()
            label = int(stripped) if _INTEGER.fullmatch(stripped) else stripped or None
        elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            label = int(value)
        elif value is not None:
            raise DataError(
                f"{self.place(row)}: the label (column {name!r}) {value!r:.40} is neither an integer nor a name"
            )
        if label is None:
            raise DataError(f"{self.place(row)}: the label (column {name!r}) is missing; mend or remove the row")
        if isinstance(label, int) and label < 0:
            raise DataError(
                f"{self.place(row)}: the label is {label}, as in splits whose labels are hidden; choose a labelled split"
            )
        return label


def choose_column(columns: Iterable[str], wanted: str | None, key: str, guesses: Sequence[str], source: str) -> str:
    """The wanted column, or the only one with a usual name.

    Raises
    ------
    DataError
        If it is not there, or the guess is not unique; the message lists the columns.

    Examples
    --------
    >>> choose_column(["review", "stars", "label"], None, "label", LABEL_COLUMNS, "reviews.csv")
    'label'
    """
    present = list(columns)
    listed = ", ".join(repr(column) for column in present[:12]) + (" ..." if len(present) > 12 else "")
    if wanted is not None:
        if wanted in present:
            return wanted
        raise DataError(f"{source} has no column {wanted!r}{nearest(wanted, present) or ';'} its columns are {listed}")
    found = [guess for guess in guesses if guess in present]
    if len(found) == 1:
        return found[0]
    problem = (
        f"both {found[0]!r} and {found[1]!r}" if found else f"no column {', '.join(guesses[:-1])} or {guesses[-1]}"
    )
    raise DataError(f"{source} has {problem}: name the column with '{key}: ...'; its columns are {listed}")
