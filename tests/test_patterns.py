"""Globs over tensors and planes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackc.patterns import expand_braces, is_literal, matches, matches_one


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
