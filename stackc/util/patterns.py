"""Globs over tensors and planes: ``"*.weight"``, ``"*/{basis,scores}"``, ``"!*LayerNorm*"``."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence

from stackc.util.errors import RecipeError

_WILD = re.compile(r"[*?\[{]")

#: The innermost groups of alternatives.
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")

#: Bounds of what one glob may cost: forty pairs in braces would be 2^40 globs.
_LONGEST = 4096
_MOST_ALTERNATIVES = 1024
_MOST_CHARACTERS = 1 << 18

#: Characters of a glob in a message.
_SHOWN = 80


def expand_braces(pattern: str) -> list[str]:
    """All alternatives of ``{a,b}`` groups; they may be nested.

    Raises
    ------
    RecipeError
        If there are more than a thousand, or the pattern is longer than any name.

    Examples
    --------
    >>> expand_braces("*/{basis,scores}")
    ['*/basis', '*/scores']
    """
    if len(pattern) > _LONGEST:
        raise _too_much(pattern, f"has {len(pattern):,} characters, more than {_LONGEST:,}")
    done: list[str] = []
    left = [pattern]
    while left:
        current = left.pop()
        match = _BRACES.search(current)
        if match is None:
            done.append(current)
            continue
        before, after = current[: match.start()], current[match.end() :]
        parts = match[1].split(",")
        if len(done) + len(left) + len(parts) > _MOST_ALTERNATIVES:
            raise _too_much(
                pattern, f"stands for more than {_MOST_ALTERNATIVES:,} globs, as every group in braces multiplies them"
            )
        left += [before + part + after for part in reversed(parts)]
    return list(dict.fromkeys(done))


def _too_much(pattern: str, problem: str) -> RecipeError:
    shown = pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}..."
    return RecipeError(f"the glob {shown!r} {problem}; use wildcards, or a list of globs")


def check_glob(pattern: str) -> None:
    """Refuse a glob that would take for ever.

    Raises
    ------
    RecipeError
        If it is too long, or stands for too many globs.

    Examples
    --------
    >>> check_glob(20 * "{a,b}")
    Traceback (most recent call last):
        ...
    stackc.util.errors.RecipeError: the glob '{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}...' \
stands for more than 1,024 globs, as every group in braces multiplies them; use wildcards, or a list of globs
    """
    _compiled(pattern)


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[tuple[re.Pattern[str], re.Pattern[str] | None], ...]:
    """Globs for the tensor and the plane, for every way to read the pattern: names of tensors may hold slashes too."""
    compiled: list[tuple[re.Pattern[str], re.Pattern[str] | None]] = []
    alternatives = expand_braces(pattern)
    if sum((1 + alternative.count("/")) * len(alternative) for alternative in alternatives) > _MOST_CHARACTERS:
        raise _too_much(pattern, "can be read in too many ways, as names of tensors may hold slashes too")
    for alternative in alternatives:
        parts = alternative.split("/")
        for cut in range(1, len(parts)):
            tensor, plane = "/".join(parts[:cut]), "/".join(parts[cut:])
            compiled.append((re.compile(fnmatch.translate(tensor)), re.compile(fnmatch.translate(plane))))
        compiled.append((re.compile(fnmatch.translate(alternative)), None))
    return tuple(compiled)


def matches_one(pattern: str, tensor: str, path: str) -> bool:
    """Whether one glob, without ``!``, matches the plane at ``path`` of a tensor.

    The name of a tensor matches that tensor, whatever it is made of. The part behind the slash is held against the whole
    path and against its last name. Without a slash the glob matches every plane of the tensor.

    Examples
    --------
    >>> matches_one("*/scores", "a.weight", "values/scores"), matches_one("a.*", "a.weight", "values/scores")
    (True, True)
    >>> matches_one("*/scores", "a.weight", "")
    False
    >>> matches_one("layers[0].w", "layers[0].w", ""), matches_one("layers[01].w", "layers0.w", "")
    (True, True)
    """
    name = path.rpartition("/")[2]
    # A glob that is the name of a tensor, letter for letter, means it: `layers[0].w` is no set of characters to people.
    if pattern == tensor:
        return True
    if path and pattern.startswith(f"{tensor}/"):
        plane = pattern[len(tensor) + 1 :]
        if fnmatch.fnmatchcase(path, plane) or fnmatch.fnmatchcase(name, plane):
            return True
    for tensor_glob, plane_glob in _compiled(pattern):
        if tensor_glob.match(tensor) and (
            plane_glob is None or (path and (plane_glob.match(path) or plane_glob.match(name)))
        ):
            return True
    return False


def matches(patterns: Sequence[str], tensors: Iterable[str], path: str) -> bool:
    """Whether globs select the plane at ``path`` of a tensor with these (tied) names.

    No pattern at all selects everything, and so do patterns that only exclude. A pattern with ``!`` wins over all others.

    Examples
    --------
    >>> matches(["*.weight", "!*Norm*"], ["a.weight"], ""), matches(["*.weight", "!*Norm*"], ["Norm.weight"], "")
    (True, False)
    """
    names = list(tensors)
    include = [pattern for pattern in patterns if not pattern.startswith("!")]
    exclude = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    if any(matches_one(pattern, name, path) for pattern in exclude for name in names):
        return False
    return not include or any(matches_one(pattern, name, path) for pattern in include for name in names)


def names_planes(patterns: Sequence[str]) -> bool:
    """Whether a pattern that includes says which planes of a tensor it means.

    Examples
    --------
    >>> names_planes(["*.weight/scores"]), names_planes(["*.weight", "!*/mask"])
    (True, False)
    """
    return any("/" in pattern for pattern in patterns if not pattern.startswith("!"))


def is_literal(pattern: str) -> bool:
    """Whether a pattern names one plane, or all planes of one tensor, without a wildcard.

    Examples
    --------
    >>> is_literal("a.weight/codes"), is_literal("*.weight"), is_literal("!a.weight")
    (True, False, False)
    """
    return not (_WILD.search(pattern) or pattern.startswith("!"))
