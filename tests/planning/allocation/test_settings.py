"""Targets in recipes, on the command line and in Python; what is refused, and how."""

from __future__ import annotations

import pytest

from stackc.recipe.allocation import AllocateSettings
from stackc.recipe.parse import recipe_from
from stackc.recipe.targets import open_choices, require_target, targeted
from stackc.util.errors import RecipeError
from stackc.util.humanise import parse_size

_AUTO = {"use": "int", "step": "auto"}


def recipe(*stages, **keys):
    return recipe_from({"stages": list(stages), **keys})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("400000", 400_000),
        ("400kB", 400_000),
        ("400 KB", 400_000),
        ("1.5MB", 1_500_000),
        ("400KiB", 409_600),
        ("2B", 2),
    ],
)
def test_sizes_parse(text, count):
    assert parse_size(text) == count
    assert recipe(_AUTO, allocate={"bytes": text}).allocate.budget(1) == count


@pytest.mark.parametrize("text", ["", "kB", "400 apples", "-3kB", "1.5.2MB", "5iB", "0.2B", "0"])
def test_other_text_is_no_size(text):
    with pytest.raises(ValueError, match=r"is no size; write for example 400kB|is less than one byte"):
        parse_size(text)


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        ({"ratio": 0}, "allocate.ratio (it is 0)|> 0"),
        ({"ratio": 40, "bytes": 3}, "give exactly one of ratio and bytes, not both"),
        ({}, "give exactly one of ratio and bytes, not neither"),
        ({"bytes": "many"}, "'many' is no size; write for example 400kB"),
        ({"ratio": 40, "sensitivity": "fischer"}, "did you mean 'fisher'"),
        ({"rati": 40}, "allocate has no field 'rati', did you mean 'ratio'"),
    ],
)
def test_bad_targets_are_refused(allocate, message):
    with pytest.raises(RecipeError) as refusal:
        recipe(_AUTO, allocate=allocate)
    assert any(part in str(refusal.value) for part in message.split("|"))


def test_choices_without_a_target_are_refused():
    with pytest.raises(
        RecipeError, match=r"stages\[1\] \(int\) leaves step: auto to the rate allocation.*allocate: {ratio"
    ):
        require_target(recipe("fp16", _AUTO))


def test_a_target_without_choices_is_refused():
    with pytest.raises(RecipeError, match="no stage with something to choose: write 'step: auto'"):
        require_target(recipe({"use": "int", "bits": 4}, allocate={"ratio": 4}))


def test_open_choices_are_found_in_all_stages():
    stages = [{"use": "prune", "rows": "auto"}, {"use": "seed", "rank": "auto"}, _AUTO, "zstd"]
    assert open_choices(recipe(*stages)) == [0, 1, 2]


def test_a_target_from_outside_takes_the_place_of_the_recipes():
    given = recipe(_AUTO, allocate={"ratio": 40, "sensitivity": "weight-error"})
    assert targeted(given, None, "3kB").allocate == AllocateSettings(bytes="3kB", sensitivity="weight-error")
    assert targeted(given, 8.0, None).allocate == AllocateSettings(ratio=8.0, sensitivity="weight-error")
    assert targeted(given, None, "3000").allocate.bytes == 3000
    assert targeted(given) is given


@pytest.mark.parametrize(
    ("ratio", "size", "message"),
    [
        (4.0, "3kB", "--target-ratio 4.0 and --target-bytes 3kB: give exactly one"),
        (-1.0, None, "--target-ratio -1.0: expected 'float' > 0"),
        (None, "three", "--target-bytes three: 'three' is no size"),
        (None, "0", "--target-bytes 0: "),
    ],
)
def test_bad_targets_from_outside_are_refused(ratio, size, message):
    with pytest.raises(RecipeError) as refusal:
        targeted(recipe(_AUTO), ratio, size)
    assert message in str(refusal.value)
