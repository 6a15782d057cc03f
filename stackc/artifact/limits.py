"""What a file may ask of its reader, given its size.

A file may come from anywhere, so what opening and decoding it costs must be in proportion to its bytes. Each limit is an
amount that any reader can afford, however small the file, plus a multiple of the file's bytes that honest files stay far
below. ``docs/format.md`` has the table; all of them hold before anything large is allocated.
"""

from __future__ import annotations

from typing import NamedTuple, Self

#: Bytes of a manifest. Names with numbers in them shrink to a hundredth, but tensors bring bytes of their own.
FREE_MANIFEST_BYTES = 1 << 20
MANIFEST_EXPANSION = 64

#: Tensors, beyond one for every byte of the file; and their further names, beyond one for every tensor.
FREE_TENSORS = 1 << 16
FREE_TIES = 1 << 14

#: Packed planes of one tensor, and bundled files.
MAX_STORED_PLANES = 1024
MAX_BUNDLED = 256

#: Models outside of the file that its planes may lie in, and shared planes on a chain of references.
MAX_BASES = 64
MAX_CHAIN = 32

#: Numbers, texts, lists and maps in a config. That of a model with 100,000 labels has 400,000.
FREE_CONFIG_ITEMS = 1 << 16
CONFIG_ITEMS_PER_BYTE = 8
MAX_CONFIG_DEPTH = 64

#: The same for one stack. A path has 32 nodes at most, each a list in a list.
MAX_STACK_ITEMS = 1 << 14
MAX_STACK_DEPTH = 80

#: Bytes that all tensors decode to. The smallest models of this project, at a thousandth, use a fifth of it.
FREE_BYTES = 64 << 20
MAX_EXPANSION = 4096

#: Bytes that tensors may have beyond this for every byte of the base models that the file refers to.
BASE_EXPANSION = 4

#: Bytes of decoded shared planes that a reader keeps: a part of what all tensors take, and some for small models. Where they
#: are more than this, a plane may be evaluated once for every user, and counts as often.
FREE_KEPT_BYTES = 64 << 20
KEPT_SHARE = 4

#: Bytes of all planes on the way to the tensors, for every byte that these may have.
MAX_INNER_PLANES = 4

#: Multiplications, for the file and for every byte that its tensors may have beyond the free ones.
FREE_WORK = 1 << 33
WORK_PER_BYTE = 512


def manifest_limit(file_bytes: int) -> int:
    """Bytes that the manifest of a file of so many bytes may have.

    Examples
    --------
    >>> manifest_limit(2107)
    1183424
    """
    return FREE_MANIFEST_BYTES + MANIFEST_EXPANSION * file_bytes


def kept_limit(tensor_bytes: int) -> int:
    """Bytes of decoded shared planes that are kept for tensors of so many bytes.

    Examples
    --------
    >>> kept_limit(0) == FREE_KEPT_BYTES, kept_limit(1 << 40) == 1 << 38
    (True, True)
    """
    return max(FREE_KEPT_BYTES, tensor_bytes // KEPT_SHARE)


class Budget(NamedTuple):
    """What decoding a file may take.

    Parameters
    ----------
    tensors : int
        Bytes of all decoded tensors, tied ones counted once.
    bundle : int
        Bytes of all bundled files.
    planes : int
        Bytes of all planes that the tensors are made from, those in the middle of a stack included.
    work : int
        Multiplications, as `stackc.core.stack.cost` counts them.
    """

    tensors: int
    bundle: int
    planes: int
    work: int

    @classmethod
    def of(cls, file_bytes: int, max_bytes: int | None, base_bytes: int = 0) -> Self:
        """The budget of a file; a caller who allows more bytes allows the planes and the work that go with them.

        Parameters
        ----------
        file_bytes : int
            Bytes of the file.
        max_bytes : int, optional
            Bytes that the caller allows for tensors.
        base_bytes : int
            Bytes of the tensors of base models that it refers to.

        Examples
        --------
        >>> Budget.of(1000, None).tensors, Budget.of(1000, 50_000).tensors
        (71204864, 50000)
        >>> Budget.of(1000, 50_000).work == Budget.of(1000, None).work < Budget.of(1000, 10**9).work
        True
        """
        usual = FREE_BYTES + MAX_EXPANSION * file_bytes + BASE_EXPANSION * base_bytes
        ample = max(usual, max_bytes or 0)
        work = FREE_WORK + WORK_PER_BYTE * (ample - FREE_BYTES)
        return cls(usual if max_bytes is None else max_bytes, ample, MAX_INNER_PLANES * ample, work)
