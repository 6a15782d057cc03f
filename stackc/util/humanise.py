"""Numbers and names as people read them, for tables and messages."""

from __future__ import annotations

import math
import re

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")

#: Where a name may go on in the next line; a dot or comma before a digit may be part of a number.
_JOINT = re.compile(r"(?<=[_/(])|(?<=[.,])(?![\d.])")

#: A number, an SI prefix and an i if it is a binary one.
_SIZE = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*(?:([kKMGT])(i?)B?|B)?")

#: Metrics that are shares of 1 and are shown in per cent.
_SHARES = frozenset({"accuracy"})

#: Stands for the middle of a word; in ASCII because not every terminal and pipe takes more.
_ELLIPSIS = "..."


def three_digits(value: float) -> str:
    """Round a number to three significant digits, without an exponent.

    Examples
    --------
    >>> three_digits(7.8349), three_digits(1023.4), three_digits(0.04567), three_digits(0.0)
    ('7.83', '1,020', '0.0457', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    # Rounding can carry into a digit more: 9.996 is 10.0, not 10.00.
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(digits, 0)}f}"


def size_text(count: float) -> str:
    """Bytes in decimal units, to three significant digits.

    Examples
    --------
    >>> size_text(852), size_text(17_512), size_text(-17_547_000), size_text(999_999)
    ('852 B', '17.5 kB', '-17.5 MB', '1.00 MB')
    """
    power = 0
    scaled = abs(count)
    while scaled >= 999.5 and power < len(_UNITS) - 1:
        scaled /= 1000
        power += 1
    number = f"{scaled:.0f}" if power == 0 else three_digits(scaled)
    return f"{'-' if count < 0 else ''}{number} {_UNITS[power]}"


def parse_size(text: str) -> int:
    """Bytes from text as people write it, with decimal (kB, MB) or binary (KiB, MiB) units.

    Raises
    ------
    ValueError
        If it is no size, or less than a byte.

    Examples
    --------
    >>> parse_size("400kB"), parse_size("1.5 MB"), parse_size("400KiB"), parse_size("400_000")
    (400000, 1500000, 409600, 400000)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write for example 400kB, 1.5MB, 400KiB or 400000")
    number, prefix, binary = float(match[1].replace("_", "")), (match[2] or "").upper(), bool(match[3])
    size = int(number * (1024 if binary else 1000) ** (" KMGT".index(prefix) if prefix else 0))
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return size


def seconds_text(seconds: float) -> str:
    """Seconds: two decimals below ten, one below a hundred, none above.

    Examples
    --------
    >>> seconds_text(0.1234), seconds_text(12.34), seconds_text(3600)
    ('0.12', '12.3', '3,600')
    """
    decimals = 2 if seconds < 9.995 else 1 if seconds < 99.95 else 0
    return f"{seconds:,.{decimals}f}"


def percent_text(share: float) -> str:
    """A share in per cent, with one decimal and without the sign.

    Examples
    --------
    >>> percent_text(0.8324)
    '83.2'
    """
    return f"{100 * share:.1f}"


def metric_text(metric: str, value: float) -> str:
    """A value of a metric, in per cent where it is a share.

    Examples
    --------
    >>> metric_text("accuracy", 0.8324), metric_text("perplexity", 12.345)
    ('83.2 %', '12.3')
    """
    return f"{percent_text(value)} %" if metric in _SHARES else three_digits(value)


def metric_difference(metric: str, difference: float) -> str:
    """A difference of two values of a metric, without its unit: percentage points where the metric is a share.

    Examples
    --------
    >>> metric_difference("accuracy", 0.0312), metric_difference("accuracy", -0.0001), metric_difference("perplexity", -1.25)
    ('3.1', '0.0', '-1.25')
    """
    if metric not in _SHARES:
        return three_digits(difference)
    return f"{round(100 * difference, 1) + 0.0:.1f}"  # a zero loses its sign


def metric_is_share(metric: str) -> bool:
    """Whether values of a metric are shares of 1, shown in per cent, and differences in percentage points."""
    return metric in _SHARES


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Examples
    --------
    >>> plural(1, "plane"), plural(1200, "plane")
    ('1 plane', '1,200 planes')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Text without control characters: names in a file may hold sequences that steer a terminal.

    Examples
    --------
    >>> printable("layer.weight"), printable("a" + chr(27) + "[31mb")
    ('layer.weight', 'a\\\\x1b[31mb')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def name_pieces(name: str) -> list[str]:
    """Cut a name at its joints: after dots, commas, underscores, slashes and opening brackets, but not inside numbers.

    Examples
    --------
    >>> name_pieces("layer.0.word_embeddings"), name_pieces("-128..127")
    (['layer.0.', 'word_', 'embeddings'], ['-128..127'])
    """
    return [piece for piece in _JOINT.split(name) if piece]


def fold_names(text: str, width: int) -> list[str]:
    """Fold text to a width between its words, and at the joints of names that are wider; lines that go on keep the indent.

    A piece of a name that is still wider than a line loses its middle, but one with a digit in it is cut and goes on: a
    shape or a number that lost its middle would be another one.

    Parameters
    ----------
    text : str
        May have several lines.
    width : int
        Characters in a line, at least 1.

    Examples
    --------
    >>> fold_names("bert.embeddings.word_embeddings.weight", 24)
    ['bert.embeddings.word_', 'embeddings.weight']
    >>> fold_names("extraordinarily", 9), fold_names("30522x1024", 6)
    (['ext...ily'], ['30522x', '1024'])
    """
    return [line for whole in text.split("\n") for line in _fold_line(whole, max(width, 1))]


def _fold_line(text: str, width: int) -> list[str]:
    words = text.split()
    indent = " " * min(len(text) - len(text.lstrip(" ")), width - 1)
    room = width - len(indent)
    lines = [""]
    for word in words:
        blank = " " if lines[-1] else ""
        if len(lines[-1] + blank + word) <= room:
            lines[-1] += blank + word
        elif len(word) <= room:
            lines.append(word)
        else:
            _fold_word(word, room, lines)
    return [indent + line for line in lines]


def _fold_word(word: str, room: int, lines: list[str]) -> None:
    """Add a word that is wider than a line to the lines, beginning with a new one."""
    if lines[-1]:
        lines.append("")
    for piece in name_pieces(word):
        if len(lines[-1] + piece) <= room:
            lines[-1] += piece
        else:
            parts = _parts(piece, room)
            lines[len(lines) - (not lines[-1]) :] = parts


def _parts(word: str, width: int) -> list[str]:
    if len(word) <= width:
        return [word]
    if width < len(_ELLIPSIS) + 2 or any(character.isdigit() for character in word):
        return [word[start : start + width] for start in range(0, len(word), width)]
    kept = width - len(_ELLIPSIS)
    tail = kept // 2
    return [word[: kept - tail] + _ELLIPSIS + word[len(word) - tail :]]
