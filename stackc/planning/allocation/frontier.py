"""Points of bytes and estimated loss, and the lower convex hulls that an allocation moves along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

#: What stands for a choice in a point.
Pick = TypeVar("Pick")


class Point(NamedTuple, Generic[Pick]):
    """One way to store something: its bytes, the estimated loss, and the choices that lead there."""

    size: int
    loss: float
    picks: tuple[Pick, ...] = ()


def hull(points: Iterable[Point[Pick]]) -> list[Point[Pick]]:
    """The points that are best for some price of a byte, fewest bytes first (Andrew's monotone chain).

    Examples
    --------
    >>> [point.size for point in hull([Point(1, 9.0), Point(2, 8.0), Point(3, 1.0), Point(4, 2.0)])]
    [1, 3]
    """
    chain: list[Point[Pick]] = []
    for point in sorted(points, key=lambda p: (p.size, p.loss)):
        if chain and point.loss >= chain[-1].loss:
            continue
        while len(chain) > 1 and slope(chain[-2], point) >= slope(chain[-2], chain[-1]):
            chain.pop()
        chain.append(point)
    return chain


def slope(first: Point[Pick], second: Point[Pick]) -> float:
    """Decrease of the loss per byte from one point to a larger one."""
    return (first.loss - second.loss) / (second.size - first.size)


def best(points: Sequence[Point[Pick]], price: float) -> int:
    """Number of the point of a hull with the smallest sum of loss and price times bytes; of equal ones the smallest.

    Examples
    --------
    >>> chain = [Point(1, 9.0), Point(3, 1.0)]
    >>> best(chain, 5.0), best(chain, 3.0)
    (0, 1)
    """
    index = 0
    while index + 1 < len(points) and slope(points[index], points[index + 1]) > price:
        index += 1
    return index


def total(parts: Sequence[Sequence[Point[Pick]]], base: Point[Pick]) -> list[Point[Pick]]:
    """The hull of all sums of one point from each hull, on top of ``base``; losses of the parts are counted from it.

    That the parts' losses add up is an estimate: their errors are taken as independent.
    """
    chosen = [0] * len(parts)
    edges = sorted(
        (
            (-slope(part[step], part[step + 1]), number)
            for number, part in enumerate(parts)
            for step in range(len(part) - 1)
        ),
    )
    sums = [_sum(parts, chosen, base)]
    for _, number in edges:  # within one hull slopes fall, so its edges come in order
        chosen[number] += 1
        sums.append(_sum(parts, chosen, base))
    return hull(sums)


def _sum(parts: Sequence[Sequence[Point[Pick]]], chosen: Sequence[int], base: Point[Pick]) -> Point[Pick]:
    points = [part[index] for part, index in zip(parts, chosen, strict=True)]
    return Point(
        base.size + sum(point.size for point in points),
        base.loss + sum(point.loss - base.loss for point in points),
        base.picks + tuple(pick for point in points for pick in point.picks),
    )
