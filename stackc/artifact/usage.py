"""What decoding all of a file takes, with planes that many tensors share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stackc.artifact.limits import kept_limit
from stackc.core.spec import PlaneSpec
from stackc.core.stack import ELEMENT_WORK, Cost, SharedUse


class Needs(NamedTuple):
    """What one tensor or shared plane needs.

    Attributes
    ----------
    nbytes : int
        Bytes that it decodes to.
    cost : Cost
        Planes and work of its own.
    uses : Counter
        Shared planes by number, with how often it refers to each.
    missing : bool
        Whether it lies in a base model that was not given.
    """

    nbytes: int
    cost: Cost
    uses: Counter[int]
    missing: bool = False

    @classmethod
    def of(cls, spec: PlaneSpec, cost: Cost, uses: Sequence[SharedUse], numbers: Mapping[str, int]) -> Needs:
        """From what is known of a stack."""
        return cls(spec.nbytes, cost, Counter(numbers[use.plane] for use in uses))

    @classmethod
    def nothing(cls, spec: PlaneSpec) -> Needs:
        """Those of something that does not decode."""
        return cls(spec.nbytes, Cost(0, 0), Counter())

    @classmethod
    def outside(cls, spec: PlaneSpec, *, missing: bool) -> Needs:
        """Those of a tensor of a base model."""
        return cls(spec.nbytes, Cost(0, ELEMENT_WORK * spec.numel), Counter(), missing)


class Usage(NamedTuple):
    """How a file uses its shared planes. What needs a base model that was not given is not decoded, and costs nothing.

    Attributes
    ----------
    users : list of int
        How often each shared plane is referred to by tensors and by other shared planes.
    chains : list of int
        How many planes the longest chain of references has that begins with each.
    blocked : list of bool
        Whether each needs a base model that was not given.
    nbytes : int
        Bytes of all tensors.
    cost : Cost
        What decoding all tensors takes.
    """

    users: list[int]
    chains: list[int]
    blocked: list[bool]
    nbytes: int
    cost: Cost


def usage(tensors: Sequence[tuple[Needs, int]], shared: Sequence[Needs]) -> Usage:
    """Add up what a file needs.

    Parameters
    ----------
    tensors : sequence
        What tensors need, with how many there are of each kind.
    shared : sequence of Needs
        What shared planes need, by number; each only those with larger numbers.
    """
    users, chains, blocked = [0] * len(shared), [1] * len(shared), [False] * len(shared)
    for needs, count in (*tensors, *((needs, 1) for needs in shared)):
        for number, uses in needs.uses.items():
            users[number] += count * uses
    for number in reversed(range(len(shared))):
        needs = shared[number]
        chains[number] += max((chains[other] for other in needs.uses), default=0)
        blocked[number] = needs.missing or any(blocked[other] for other in needs.uses)
    decoded = [(needs, count) for needs, count in tensors if not any(blocked[number] for number in needs.uses)]
    nbytes = sum(count * needs.nbytes for needs, count in decoded)
    kept = sum(needs.nbytes for needs, count in zip(shared, users, strict=True) if count > 1) <= kept_limit(nbytes)
    evaluated = [1] * len(shared) if kept else _evaluated(decoded, shared)
    planes = sum(count * needs.cost.planes for needs, count in decoded)
    work = sum(count * needs.cost.work for needs, count in decoded)
    for needs, count, never in zip(shared, evaluated, blocked, strict=True):
        if not never:
            planes += count * (needs.nbytes + needs.cost.planes)
            work += count * needs.cost.work
    return Usage(users, chains, blocked, nbytes, Cost(planes, work))


def _evaluated(tensors: Sequence[tuple[Needs, int]], shared: Sequence[Needs]) -> list[int]:
    """How often each shared plane is evaluated if none is kept."""
    times = [0] * len(shared)
    for needs, count in tensors:
        for number, uses in needs.uses.items():
            times[number] += count * uses
    for user, needs in enumerate(shared):
        times[user] = max(times[user], 1)
        for number, uses in needs.uses.items():
            times[number] += times[user] * uses
    return times
