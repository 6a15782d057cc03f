"""Zstandard frames in a file: how large a window a reader accepts, since the decoder allocates it."""

from __future__ import annotations


def largest_window(size: int, least: int) -> int:
    """Bytes of the largest window that a frame with this much content may ask for.

    The least power of two that holds the content, or ``least`` if that is more; but never more than Zstandard can have
    (2 GiB, or 1 GiB where addresses have 32 bits), however large the content is. Writers stay far below that: no level
    uses a window above 128 MiB.

    Parameters
    ----------
    size : int
        Bytes of the content.
    least : int
        A window that is always accepted.

    Examples
    --------
    >>> largest_window(5000, least=1024), largest_window(3, least=1024)
    (8192, 1024)
    >>> largest_window(3 << 30, least=1024) <= 2 << 30
    True
    """
    import zstandard

    return min(max(least, 1 << max(size - 1, 0).bit_length()), 1 << zstandard.WINDOWLOG_MAX)
