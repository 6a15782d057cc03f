"""Globs over tensors and planes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.recipe.document import parse_document
from stackc.recipe.parse import parse_recipe
from stackc.util.errors import RecipeError
from stackc.util.patterns import expand_braces, is_literal, matches, matches_one


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a", ["a"]),
        ("{a,b}", ["a", "b"]),
        ("x{a,b}y", ["xay", "xby"]),
        ("{a,b}{c,d}", ["ac", "ad", "bc", "bd"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"]),
        ("*/{basis,scores}", ["*/basis", "*/scores"]),
        ("{a/x,b}", ["a/x", "b"]),
        ("{a}", ["{a}"]),
        ("{a,}", ["a", ""]),
        ("{a", ["{a"]),
    ],
)
def test_braces(pattern: str, expanded: list[str]) -> None:
    assert sorted(expand_braces(pattern)) == sorted(expanded)


@pytest.mark.parametrize(
    ("pattern", "tensor", "path", "selected"),
    [
        ("a.weight", "a.weight", "", True),
        ("a.weight", "a.weight", "values/codes", True),
        ("a.weight", "a.weights", "", False),
        ("a.weight", "aXweight", "", False),
        ("*.weight", "b.c.weight", "", True),
        ("*weight", "weight", "", True),
        ("*.weight", "weight", "", False),
        ("layer.?.w", "layer.3.w", "", True),
        ("layer.[0-3].w", "layer.7.w", "", False),
        ("layer.[!7].w", "layer.3.w", "", True),
        ("*/codes", "a", "codes", True),
        ("*/codes", "a", "values/codes", True),
        ("*/values/codes", "a", "values/codes", True),
        ("*/values/*", "a", "values/codes", True),
        ("*/values", "a", "values/codes", False),
        ("*/codes", "a", "", False),
        ("*/*", "a", "codes", True),
        ("*/*", "a", "", False),
        ("a/{codes,scale}", "a", "scale", True),
        ("a/{codes,scale}", "a", "mask", False),
        ("{a,b}.weight", "b.weight", "", True),
        ("A.weight", "a.weight", "", False),
        # a name is its own glob
        ("layers[0].w", "layers[0].w", "", True),
        ("layers[0].w", "layers0.w", "", True),
        ("layers[0].w", "layers[1].w", "", False),
        ("layers[0].w/codes", "layers[0].w", "values/codes", True),
        ("layers[0].w/codes", "layers[0].w", "values/scale", False),
        ("{a,b}.w", "{a,b}.w", "", True),
        ("a/b[0]/codes", "a/b[0]", "codes", True),
        # names of tensors may hold slashes
        ("encoder/w", "encoder/w", "", True),
        ("encoder/w/codes", "encoder/w", "codes", True),
        ("encoder/*", "encoder/w", "", True),
        ("*/codes", "encoder/w", "values/codes", True),
        ("encoder/w", "encoder", "w", True),
    ],
)
def test_one_glob(pattern: str, tensor: str, path: str, selected: bool) -> None:
    assert matches_one(pattern, tensor, path) == selected


@pytest.mark.parametrize(
    ("patterns", "names", "path", "selected"),
    [
        ([], ["a"], "x/y", True),
        (["b", "a"], ["a"], "", True),
        (["!a"], ["a"], "", False),
        (["!a"], ["b"], "", True),
        (["!*/codes"], ["a"], "codes", False),
        (["!*/codes"], ["a"], "", True),
        (["*.weight", "!*Norm*"], ["x.LayerNorm.weight"], "", False),
        (["!*Norm*", "*.weight"], ["x.LayerNorm.weight"], "", False),
        (["decoder"], ["embedding", "decoder"], "", True),
        (["embedding", "!decoder"], ["embedding", "decoder"], "", False),
    ],
)
def test_patterns_select_by_any_name_and_exclusion_wins(
    patterns: list[str], names: list[str], path: str, selected: bool
) -> None:
    assert matches(patterns, names, path) == selected


@pytest.mark.parametrize("pattern", ["*", "a?", "a[0]", "{a,b}", "!a"])
def test_wild_patterns_are_not_literal(pattern: str) -> None:
    assert not is_literal(pattern)
    assert is_literal("a.b/c")


@given(st.text(st.sampled_from(list("ab.[]{},*?!/0-")), min_size=1, max_size=12).filter(lambda name: name[0] != "!"))
def test_every_name_selects_its_tensor(name: str) -> None:
    assert matches([name], [name], "")
    assert matches([f"{name}/codes"], [name], "codes")
    assert not matches(["*", f"!{name}"], [name], "")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (40 * "{a,b}", "more than 1,024 globs"),
        (11 * "{,a}", "more than 1,024 globs"),
        (1000 * "{a," + "b" + 1000 * "}", "more than 1,024 globs"),
        ("{" + ",".join(map(str, range(1025))) + "}", "more than"),
        (1000 * "a/", "too many ways"),
        (5000 * "[", "5,000 characters"),
        (100_000 * "{", "100,000 characters"),
    ],
    ids=lambda text: text[:12],
)
def test_a_glob_that_would_take_for_ever_is_refused_at_once(pattern: str, problem: str) -> None:
    begin = time.process_time()
    for selects in (matches_one, lambda glob, *where: matches(["*", f"!{glob}"], *where)):
        with pytest.raises(RecipeError, match=problem) as caught:
            selects(pattern, ["a.weight"] if selects is not matches_one else "a.weight", "codes")
        assert len(str(caught.value)) < 300
    with pytest.raises(RecipeError, match=rf"stages\[0\]\.on \(line 1 of r\.yaml\): the glob .*{problem}"):
        parse_recipe(parse_document(f"stages: [{{use: zstd, on: '!{pattern}'}}]", "r.yaml"))
    assert time.process_time() - begin < 2


def test_a_thousand_alternatives_are_no_hardship() -> None:
    names = [f"layer.{number}.weight" for number in range(100)]
    glob = f"{{{','.join(names)}}}/{{codes,scale}}"
    assert matches_one(glob, "layer.99.weight", "codes")
    assert len(expand_braces(10 * "{a,b}")) == 1024
    begin = time.process_time()
    assert matches_one("{" + ",".join(f"{letter}/" for letter in 200 * "abcde") + "}codes", "a", "codes")
    assert time.process_time() - begin < 2
