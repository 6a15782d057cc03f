"""YAML as recipes read it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.recipe.document import dump_document, parse_document, parse_value, read_document
from stackc.util.errors import RecipeError


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_document(text, "r.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("1e-3", 1e-3),
        ("1E6", 1e6),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10),
        ("-7", -7),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("<<", "<<"),
        ("=", "="),
        (".inf", ".inf"),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("-", [None]),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_value(text)
    assert (type(read), read) == (type(value), value)


def test_keys_may_be_words_that_yaml_1_1_takes_for_booleans() -> None:
    assert parse_document("on: a\nno: b\ny: c", "r.yaml").value == {"on": "a", "no": "b", "y": "c"}


def test_every_value_has_its_line() -> None:
    document = parse_document("a: 1\nb:\n  - c\n  -\n    d: 2\n", "r.yaml")
    assert document.lines["b", 1, "d"] == 5
    assert document.where(("b", 0)) == "b[0] (line 3 of r.yaml)"
    assert document.where(("b", 1, "unknown")) == "b[1].unknown (line 5 of r.yaml)"
    assert document.where(()) == "the recipe (line 1 of r.yaml)"


@pytest.mark.parametrize(
    ("text", "place", "first"),
    [
        ("stages: [raw]\nseed: 1\nstages: [zstd]\n", "stages (line 3 of r.yaml)", 1),
        ("stages:\n  - use: int\n    bits: 4\n    bits: 8\n", "stages[0].bits (line 4 of r.yaml)", 3),
        ("stages: [{use: int,\n use: raw}]", "stages[0].use (line 2 of r.yaml)", 1),
        ("a: 1\n'a': 2", "a (line 2 of r.yaml)", 1),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(text: str, place: str, first: int) -> None:
    assert refusal(text) == f"{place} is given twice, first on line {first}; keep one"


def test_aliases_stand_for_copies() -> None:
    value = parse_document("a: &x [1, 2]\nb: *x", "r.yaml").value
    assert value == {"a": [1, 2], "b": [1, 2]}
    assert value["a"] is not value["b"]


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: {c: *x}}", "&x [*x]"])
def test_an_alias_to_itself_is_refused(text: str) -> None:
    assert "refers to itself through an alias" in refusal(text)


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "longer than" in refusal("\n".join(lines))


def test_deep_nesting_is_refused() -> None:
    assert "nested too deeply" in refusal("[" * 5000 + "]" * 5000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["r.yaml is empty"]),
        ("# only a comment\n", ["r.yaml is empty"]),
        ("a: [", ["line 1 of r.yaml is not YAML"]),
        ("a: [\n", ["r.yaml is not YAML"]),
        ("a:\n\t- b", ["line 2 of r.yaml is not YAML"]),
        ("a: 'x", ["line 1 of r.yaml is not YAML"]),
        ("a: 1\n---\nb: 2", ["expected a single document"]),
        ("a: b: c", ["line 1 of r.yaml is not YAML"]),
        ("a: \x00", ["r.yaml is not YAML"]),
        ("a: \x07", ["r.yaml is not YAML"]),
        ("on: *.weight", ["line 1 of r.yaml", "quote globs that begin with *"]),
        ("stages:\n- use: int\n  on: {a,b}.weight", ["line 3 of r.yaml", "quote globs"]),
        ("on: !*Norm*", ["on (line 1 of r.yaml)", "'!*Norm*'"]),
        ("stages: !new {a: 1}", ["stages (line 1 of r.yaml) has the tag '!new'"]),
        ("stages: !!set {a}", ["stages (line 1 of r.yaml) has the tag"]),
        ("a: !!python/name:os.system", ["a (line 1 of r.yaml)", "do not take"]),
        ("a: !!binary aGk=", ["a (line 1 of r.yaml) is a bytes"]),
        ("a: !!timestamp 2024-01-02", ["a (line 1 of r.yaml) is a date"]),
        ("a: !!int x", ["a (line 1 of r.yaml)", "do not take"]),
        ("a: " + "9" * 5000, ["a (line 1 of r.yaml)", "do not take"]),
        ("1: a", ["the recipe (line 1 of r.yaml) has the key 1; keys are words"]),
        ("a: {true: 1}", ["a (line 1 of r.yaml) has the key True"]),
        ("? [a]\n: 1", ["a list or mapping as key"]),
    ],
)
def test_what_is_not_a_recipe_is_refused_with_its_line(text: str, words: list[str]) -> None:
    message = refusal(text)
    for word in words:
        assert word in message


def test_files_that_are_not_text(tmp_path) -> None:
    binary = tmp_path / "r.yaml"
    binary.write_bytes(b"stages: [raw]\n\xff\xfe")
    with pytest.raises(RecipeError, match=r"not UTF-8 text \(byte 14\)"):
        read_document(binary)
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_document(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfstages:\r\n  - raw\r\n")
    assert read_document(path).value == {"stages": ["raw"]}


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(
    st.recursive(
        PLAIN | st.sampled_from(["on", "no", "1e3", "010", "+1e5", "~", "*.weight", "!a", "0x1F", "1:30", "null"]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_what_is_dumped_reads_back_the_same(value: object) -> None:
    text = dump_document([value])
    assert parse_value(text) == [value]


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    message = ""
    try:
        parse_document(text, "r.yaml")
    except RecipeError as error:
        message = str(error)
    assert "\n" not in message
