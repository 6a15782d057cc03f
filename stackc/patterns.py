"""Globs over tensors and planes: ``"*.weight"``, ``"*/{basis,scores}"``, ``"!*LayerNorm*"``."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence

_WILD = re.compile(r"[*?\[{]")


def expand_braces(pattern: str) -> list[str]:
    """All alternatives of ``{a,b}`` groups; they may be nested.

    Examples
    --------
    >>> expand_braces("*/{basis,scores}")
    ['*/basis', '*/scores']
    """
    match = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    alternatives = [full for part in match[1].split(",") for full in expand_braces(before + part + after)]
    return list(dict.fromkeys(alternatives))


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[tuple[re.Pattern[str], re.Pattern[str] | None], ...]:
    """Globs for the tensor and the plane, for every way to read the pattern: names of tensors may hold slashes too."""
    compiled: list[tuple[re.Pattern[str], re.Pattern[str] | None]] = []
    # A glob that is the name of a tensor, letter for letter, means it: `layers[0].w` is no set of characters to people.
    literal = pattern.split("/")
    for cut in range(1, len(literal)):
        tensor, plane = "/".join(literal[:cut]), "/".join(literal[cut:])
        compiled.append((re.compile(re.escape(tensor) + r"\Z"), re.compile(fnmatch.translate(plane))))
    compiled.append((re.compile(re.escape(pattern) + r"\Z"), None))
    for alternative in expand_braces(pattern):
        parts = alternative.split("/")
        for cut in range(1, len(parts)):
            tensor, plane = "/".join(parts[:cut]), "/".join(parts[cut:])
            compiled.append((re.compile(fnmatch.translate(tensor)), re.compile(fnmatch.translate(plane))))
        compiled.append((re.compile(fnmatch.translate(alternative)), None))
    return tuple(compiled)


def matches_one(pattern: str, tensor: str, path: str) -> bool:
    """Whether one glob, without ``!``, matches the plane at ``path`` of a tensor.

    The name of a tensor matches that tensor, whatever it is made of. The part behind the slash is held against the whole path and against its last name. Without a slash the glob
    matches every plane of the tensor.

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
