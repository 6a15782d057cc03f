"""`Table`: rows of one source by column. Every complaint about a row says where it stands, so that it can be mended."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from stackc.util.errors import DataError
from stackc.util.nearest import nearest

#: Names that columns of texts and of labels usually have.
TEXT_COLUMNS = ("sentence", "text", "review")
LABEL_COLUMNS = ("label", "labels", "target")

# Longer ones are no numbers of classes. 1.0 is how pandas writes a whole number of a column in which others are missing.
_INTEGER = re.compile(r"(-?[0-9]{1,15})(\.0*)?")

_LARGEST = 10**15


class Label(NamedTuple):
    """What a source says about the class of a row.

    Attributes
    ----------
    text : str
        The label as it is written, or the name that the source gives to its number.
    number : int or None
        The label as a whole number, if it can be read as one.
    named : bool
        Whether ``text`` is the name that the source gives to ``number``.

    Examples
    --------
    >>> Label.of(" 1.0"), Label.of("good")
    (Label(text=' 1.0', number=1, named=False), Label(text='good', number=None, named=False))
    """

    text: str
    number: int | None
    named: bool = False

    @classmethod
    def of(cls, value: str | float, names: Sequence[str] = ()) -> Label:
        """The label for what stands in a table.

        Parameters
        ----------
        value : str, bool, int or float
            Floats are whole numbers.
        names : sequence of str
            Names that the source gives to numbers from 0.
        """
        if isinstance(value, str):
            return cls(value, integer(value))
        number = int(value)
        if 0 <= number < len(names):
            return cls(names[number], number, True)
        return cls(str(value), number)

    @property
    def key(self) -> int | str:
        """The number, or else the text without spaces around it: what rows have in common that say the same."""
        return self.text.strip() if self.number is None else self.number


def integer(text: str) -> int | None:
    """The whole number that a text is, or None.

    Examples
    --------
    >>> integer("-1"), integer(" 2.0 "), integer("2.5"), integer("two")
    (-1, 2, None, None)
    """
    match = _INTEGER.fullmatch(text.strip())
    return None if match is None else int(match[1])


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
    class_names : mapping
        By column, names of the classes that its numbers stand for from 0, where the source says so.
    """

    source: str
    unit: str
    places: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, tuple[str, ...]] = MappingProxyType({})

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

    def labels(self, column: str | None) -> list[Label]:
        """The labels of all rows.

        Parameters
        ----------
        column : str, optional
            Name of the column; guessed from `LABEL_COLUMNS` if not given.

        Raises
        ------
        DataError
            If there is no such column, or a label is missing, or neither a whole number nor a name.
        """
        name = choose_column(self.columns, column, "label", LABEL_COLUMNS, self.source)
        names = self.class_names.get(name, ())
        return [self._label(value, row, name, names) for row, value in enumerate(self.columns[name])]

    def _label(self, value: Any, row: int, name: str, names: Sequence[str]) -> Label:
        if (
            value is None
            or (isinstance(value, float) and math.isnan(value))
            or (isinstance(value, str) and not value.strip())
        ):
            raise DataError(f"{self.place(row)}: the label (column {name!r}) is missing; mend or remove the row")
        whole = isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST
        if not (whole or isinstance(value, str | int)):
            raise DataError(
                f"{self.place(row)}: the label (column {name!r}) {value!r:.40} is neither an integer nor a name"
            )
        return Label.of(value, names)


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
