"""Models outside of a file that planes of it lie in."""

from __future__ import annotations

from typing import NamedTuple, Self

from stackc.models.reference import Reference


class Base(NamedTuple):
    """A model that a file needs for decoding and does not hold.

    Attributes
    ----------
    sha256 : str
        Its fingerprint (`stackc.models.Reference.fingerprint`), in hexadecimal.
    hint : str
        What it was called where the file was made, for people: nothing is opened because of it.
    """

    sha256: str
    hint: str

    @classmethod
    def of(cls, reference: Reference) -> Self:
        """The base that a reference is; reads all of its weights."""
        return cls(reference.fingerprint(), reference.source)
