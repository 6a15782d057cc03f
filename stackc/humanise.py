"""Numbers and names as people read them, for tables and messages."""

from __future__ import annotations

import math

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


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
