"""Texts without labels: from files, from the demo; and when two of them count as the same."""

from __future__ import annotations

from stackc.tasks.data.demo import DEMO_TEXTS, need_demo
from stackc.tasks.data.files import SUFFIXES, check_columns, existing, read_file
from stackc.util.errors import DataError
from stackc.util.paths import user_path

#: Suffixes of the files that `read_texts` takes.
TEXT_SUFFIXES = (".txt", *SUFFIXES)

_ACCEPTED = f"a {', '.join(TEXT_SUFFIXES[:-1])} or {TEXT_SUFFIXES[-1]} file, or {' or '.join(DEMO_TEXTS)}"


def check_texts(data: str) -> None:
    """Whether unlabelled texts can be read, from their name and a header line.

    Parameters
    ----------
    data : str
        A file with one of `TEXT_SUFFIXES`, or one of `DEMO_TEXTS`.

    Raises
    ------
    DataError
        If there is no such file or data set, or a table lacks a column of texts.
    DependencyError
        If reading it needs pyarrow, which is not installed.

    Examples
    --------
    >>> check_texts("demo/imdb-sentence")
    Traceback (most recent call last):
        ...
    stackc.util.errors.DataError: there is no 'demo/imdb-sentence', did you mean 'demo/imdb-sentences'? Accepted is a .txt, \
.csv, .tsv, .json, .jsonl or .parquet file, or demo/imdb-sentences
    """
    if data in DEMO_TEXTS:
        need_demo(data)
        return
    path = existing(data, TEXT_SUFFIXES, _ACCEPTED, DEMO_TEXTS)
    if path.suffix.lower() != ".txt":
        check_columns(path, data, {"text": None})


def read_texts(data: str) -> list[str]:
    """Unlabelled texts: one a line of a .txt file, the column of texts of a table, or a data set of the demo.

    Empty lines of a .txt file are skipped, and so are spaces around a line.

    Raises
    ------
    DataError
        If they are missing, malformed or none; the message names the line.
    DependencyError
        If it is a .parquet file and pyarrow is not installed.
    """
    check_texts(data)
    if data in DEMO_TEXTS:
        from stackc.models.demo import reviews

        return reviews.imdb_sentences()
    path = user_path(data)
    if path.suffix.lower() != ".txt":
        return read_file(data).texts(None)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{data} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror or error}") from error
    texts = [line.strip() for line in content.split("\n") if line.strip()]
    if not texts:
        raise DataError(f"{data} holds no texts; write one a line")
    return texts


def normal_form(text: str) -> str:
    """What two texts have in common that count as the same: all but case and spaces.

    Examples
    --------
    >>> normal_form(" A  fine Film")
    'a fine film'
    """
    return " ".join(text.casefold().split())
