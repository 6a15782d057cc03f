"""Labelled rows from .csv, .tsv, .json, .jsonl and .parquet files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from stackc.tasks.data.demo import DEMO
from stackc.tasks.data.separated import split_commas, split_tabs
from stackc.tasks.data.table import LABEL_COLUMNS, TEXT_COLUMNS, Table, choose_column
from stackc.util.errors import DataError, DependencyError
from stackc.util.nearest import nearest
from stackc.util.paths import require_regular, user_path

#: Suffixes of the files that `read_file` takes.
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")

_ACCEPTED = f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, {' or '.join(DEMO)}, or a Hugging Face data set"


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
    check_columns(existing(data), data, wanted)


def check_columns(path: Path, data: str, wanted: Mapping[str, str | None]) -> None:
    """`check_file` for a file that is known to be there."""
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise DependencyError(f"reading {data} needs pyarrow: pip install 'stackc[data]'")
    if path.suffix.lower() in (".csv", ".tsv"):
        header = next(_records(path, data), (0, []))[1]
        guesses = {"text": TEXT_COLUMNS, "label": LABEL_COLUMNS}
        for key, column in wanted.items():
            choose_column(header, column, key, guesses[key], data)


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
    path = existing(data)
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


def existing(
    data: str, suffixes: Sequence[str] = SUFFIXES, accepted: str = _ACCEPTED, names: Sequence[str] = ()
) -> Path:
    """The path of a file that is there and has one of some suffixes; ``names`` are what else may have been meant."""
    path = user_path(data)
    if not path.exists():
        hint = nearest(data, names)
        kind = "" if data.startswith("demo/") else "file "
        raise DataError(f"there is no {kind}{data!r}{f'{hint} Accepted' if hint else '; accepted'} is {accepted}")
    if path.is_dir():
        raise DataError(f"{data!r} is a folder; name a file in it: accepted is {accepted}")
    if path.suffix.lower() not in suffixes:
        raise DataError(f"the file {data!r} is of an unknown kind {path.suffix!r}; accepted is {accepted}")
    try:
        require_regular(path)
    except OSError as error:
        raise DataError(f"{data} cannot be read: {error.strerror}") from error
    return path


def _records(path: Path, source: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record that is not blank."""
    split = split_tabs if path.suffix.lower() == ".tsv" else split_commas
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from split(file)
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise DataError(f"{source}, {error}") from error


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
    names = _class_names((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    return Table(source, "row", range(1, table.num_rows + 1), table.to_pydict(), names)


class _Feature(msgspec.Struct):
    """What the package datasets writes about a column."""

    names: list[str] | None = None


class _Features(msgspec.Struct):
    features: dict[str, msgspec.Raw] = {}


class _Metadata(msgspec.Struct):
    info: _Features = msgspec.field(default_factory=_Features)


def _class_names(metadata: bytes) -> dict[str, tuple[str, ...]]:
    """Names of classes by column, from what the package datasets writes into its parquet files."""
    names: dict[str, tuple[str, ...]] = {}
    try:
        for column, feature in msgspec.json.decode(metadata, type=_Metadata).info.features.items():
            # Nested features are lists.
            if bytes(feature).lstrip()[:1] == b"{" and (found := msgspec.json.decode(feature, type=_Feature).names):
                names[column] = tuple(found)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}  # another package's idea of this key
    return names
