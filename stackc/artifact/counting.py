"""Count what a MessagePack value consists of before objects are made of it: an empty map is one byte, and 64 in memory."""

from __future__ import annotations

from stackc.util.errors import ArtifactError

#: Bytes that follow the first byte of values of fixed size.
_FIXED = {
    **dict.fromkeys([0xC0, 0xC2, 0xC3], 0),  # nil, false, true
    **{0xCA: 4, 0xCB: 8},  # floats
    **{0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},  # integers
    **{0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17},  # extensions, each after the byte of its type
}

#: Bytes of the length that follows the first byte of texts, binary data and, after that of their type, extensions.
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS = (0xC7, 0xC8, 0xC9)

#: Bytes of the number of items, and values per item, of arrays and maps.
_LISTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def require_few_items(data: bytes | memoryview, most: int, depth: int) -> None:
    """Refuse a value that consists of too many.

    Parameters
    ----------
    data : bytes
        One complete value.
    most : int
        Values that it may consist of, itself and the keys of maps included.
    depth : int
        How deep lists and maps may be nested.

    Raises
    ------
    ArtifactError
        If it consists of more, is nested deeper, or is no MessagePack.

    Examples
    --------
    >>> require_few_items(bytes.fromhex("93 01 a26869 80"), most=4, depth=2)
    >>> require_few_items(bytes.fromhex("93 01 a26869 80"), most=3, depth=2)
    Traceback (most recent call last):
        ...
    stackc.util.errors.ArtifactError: it consists of more than 3 values
    """
    view = memoryview(data)
    at, count = 0, 0
    open_lists = [1]  # how many values are still to come in each
    while open_lists:
        if not open_lists[-1]:
            open_lists.pop()
            continue
        open_lists[-1] -= 1
        count += 1
        if count > most:
            raise ArtifactError(f"it consists of more than {most:,} values")
        size, inner = _extent(view, at)
        at += size
        if inner:
            open_lists.append(inner)
            if len(open_lists) > depth + 1:
                raise ArtifactError(f"it is nested deeper than {depth} levels")


def items_of(data: bytes | memoryview) -> int:
    """How many items an array or a map announces; 0 for anything else.

    Examples
    --------
    >>> [items_of(bytes.fromhex(start)) for start in ("93 01 02 03", "81 a178 01", "dd ffffffff", "c0")]
    [3, 1, 4294967295, 0]
    """
    view = memoryview(data)
    pairs = bool(view) and (0x80 <= view[0] < 0x90 or view[0] in (0xDE, 0xDF))
    return _extent(view, 0)[1] // (2 if pairs else 1)


def _extent(view: memoryview, at: int) -> tuple[int, int]:
    """Bytes of the value at a place without the values in it, and how many these are."""
    if at >= len(view):
        raise ArtifactError("it is cut off")
    first = view[at]
    if first < 0x80 or first >= 0xE0:  # a small integer
        return 1, 0
    if first < 0x90:
        return 1, 2 * (first & 15)
    if first < 0xA0:
        return 1, first & 15
    if first < 0xC0:
        return 1 + (first & 31), 0
    if first in _FIXED:
        return 1 + _FIXED[first], 0
    if first in _SIZED:
        width = _SIZED[first]
        return 1 + width + (first in _EXTENSIONS) + int.from_bytes(view[at + 1 : at + 1 + width], "big"), 0
    if first in _LISTED:
        width, values = _LISTED[first]
        return 1 + width, values * int.from_bytes(view[at + 1 : at + 1 + width], "big")
    raise ArtifactError("it is no MessagePack")
