"""Records of comma- and tab-separated text, with fields of any length.

Python's ``csv`` has one limit on the length of a field for the whole process. Raising it would change what other code in
the process refuses, so lines are split here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_PLAIN = re.compile(r"[^,\r\n]*")
_QUOTED = re.compile(r'[^"]*(?:""[^"]*)*')


def split_tabs(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line that is not blank; quotes are text.

    Parameters
    ----------
    lines : iterable of str
        Lines with their ends, as a file opened with ``newline=""`` gives them.

    Examples
    --------
    >>> list(split_tabs(['a "b\\t1\\r\\n', "\\n", "c\\t2"]))
    [(1, ['a "b', '1']), (3, ['c', '2'])]
    """
    for number, line in enumerate(lines, 1):
        content = line.rstrip("\r\n")
        if content:
            yield number, content.split("\t")


def split_commas(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    r"""Number of the last line and fields of every record that is not blank.

    Read as ``csv.reader(lines, strict=True)`` does: a field that begins with a quote ends with one, may hold line ends and
    commas, and a quote in it is written twice.

    Parameters
    ----------
    lines : iterable of str
        As for `split_tabs`.

    Raises
    ------
    ValueError
        If something stands behind a closing quote, or the last one is missing; the message begins with the line.

    Examples
    --------
    >>> list(split_commas(['text,label\n', '"a ""fine""\n', 'film, again",1\n']))
    [(1, ['text', 'label']), (3, ['a "fine"\nfilm, again', '1'])]
    """
    fields: list[str] = []
    quoted: list[str] | None = None  # pieces of a field whose closing quote has not come yet
    number = 0
    for number, line in enumerate(lines, 1):
        if quoted is None and not line.rstrip("\r\n"):
            continue
        place = 0
        while True:
            if quoted is None and line.startswith('"', place):
                quoted, place = [], place + 1
            piece = (_PLAIN if quoted is None else _QUOTED).match(line, place)
            assert piece is not None  # both match the empty text
            place = piece.end()
            if quoted is None:
                fields.append(piece[0])
            else:
                quoted.append(piece[0])
                if place == len(line):
                    break  # the field goes on in the next line
                fields.append("".join(quoted).replace('""', '"'))
                quoted, place = None, place + 1
            if not line.startswith(",", place):
                if line[place:].strip("\r\n"):
                    raise ValueError(f"line {number}: ',' expected after '\"'")
                yield number, fields
                fields = []
                break
            place += 1
    if quoted is not None:
        raise ValueError(f"line {number}: unexpected end of data, a quote is not closed")
