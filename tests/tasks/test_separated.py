"""Records are those of Python's csv module, whatever stands in their fields, and of any length."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.tasks.data.separated import split_commas, split_tabs

#: Mostly what matters to a splitter.
TEXT = st.text(st.sampled_from(list('ab ",\t\r\n')), max_size=8)


def lines_of(text: str) -> list[str]:
    """Lines as a file opened with ``newline=""`` gives them."""
    return list(io.StringIO(text, newline=""))


@given(st.lists(st.lists(TEXT, min_size=2, max_size=3), max_size=4), st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_csv_writes_is_read(rows: list[list[str]], end: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=end).writerows(rows)
    assert [fields for _, fields in split_commas(lines_of(file.getvalue()))] == rows


@given(st.text(st.sampled_from(list('a",\r\n')), max_size=30))
def test_any_text_is_read_or_refused_as_by_csv(text: str) -> None:
    def read() -> list[tuple[int, list[str]]]:
        reader = csv.reader(lines_of(text), strict=True)
        return [(reader.line_num, fields) for fields in reader if fields]

    try:
        expected = read()
    except csv.Error:
        with pytest.raises(ValueError, match="line "):
            list(split_commas(lines_of(text)))
    else:
        assert list(split_commas(lines_of(text))) == expected


@given(st.text(st.sampled_from(list('a"\t\r\n')), max_size=30))
def test_tabs_are_split_as_by_csv_without_quotes(text: str) -> None:
    reader = csv.reader(lines_of(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    expected = [(reader.line_num, fields) for fields in reader if fields]
    assert list(split_tabs(lines_of(text))) == expected
