"""What each tensor costs in a file where several share planes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stackc.artifact.reader import Artifact
from stackc.core.stack import SharedUse


class Shares(NamedTuple):
    """Bytes of the payload by who uses them; together they are all that is stored for tensors and shared planes.

    Attributes
    ----------
    tensors : dict of str to int
        For every tensor its part of the shared planes that it refers to; its own planes are not in it.
    unused : int
        Bytes of shared planes that nothing refers to.
    """

    tensors: dict[str, int]
    unused: int


def shares(artifact: Artifact) -> Shares:
    """Split the bytes of shared planes between tensors: every use of a plane bears the same part.

    A shared plane passes what it bears of others on to its own users. Where bytes do not divide, the first users bear one
    more, so that the sum is exact.

    Examples
    --------
    >>> list(_parts(10, 3))
    [4, 3, 3]
    """
    shared, users = artifact.shared, artifact.shared.usage.users
    parts: dict[str, Iterator[int]] = {}
    unused = 0

    def borne(uses: list[SharedUse]) -> int:
        return sum(next(parts[use.plane]) for use in uses)

    for name, number in reversed(shared.numbers.items()):  # what a plane refers to comes after it
        burden = sum(plane.length for plane in shared.planes(name)) + borne(shared.uses(name))
        parts[name] = _parts(burden, users[number])
        unused += 0 if users[number] else burden
    return Shares({name: borne(artifact.uses(name)) for name in artifact.specs}, unused)


def _parts(amount: int, users: int) -> Iterator[int]:
    """The parts that so many users bear of an amount, one after another."""
    return (amount // users + (user < amount % users) for user in range(users))
