"""The inner loops of k-means, compiled: IEEE operations in a fixed order, so that every machine finds the same."""

from __future__ import annotations

import numpy as np

from stackc.util.compiled import compiled


@compiled
def assign(points, lengths, columns, codes, errors):  # type: ignore[no-untyped-def]
    """Write the number of the nearest centroid of every point, the first of equal ones, and its squared distance.

    Parameters
    ----------
    points : ndarray
        Shape ``(n, dims)``.
    lengths : ndarray
        How many of its coordinates each point has, int64, shape ``(n,)``; the others do not count.
    columns : ndarray
        Centroids by coordinate, shape ``(dims, entries)``, dtype of the points.
    codes, errors : ndarray
        Shape ``(n,)``, int32 and the dtype of the points.
    """
    entries = columns.shape[1]
    distances = np.empty(entries, points.dtype)
    for i in range(points.shape[0]):
        x = points[i, 0]
        for k in range(entries):
            apart = x - columns[0, k]
            distances[k] = apart * apart
        for j in range(1, lengths[i]):
            x = points[i, j]
            for k in range(entries):
                apart = x - columns[j, k]
                distances[k] += apart * apart
        best = 0
        least = distances[0]
        for k in range(1, entries):
            if distances[k] < least:
                least = distances[k]
                best = k
        codes[i] = best
        errors[i] = least


@compiled
def accumulate(points, lengths, weights, codes, sums, totals):  # type: ignore[no-untyped-def]
    """Add every point to its centroid's weighted sum and total weight, by coordinate; float64 ``(entries, dims)``."""
    for i in range(points.shape[0]):
        k = codes[i]
        for j in range(lengths[i]):
            sums[k, j] += weights[i] * points[i, j]
            totals[k, j] += weights[i]


@compiled
def spread(points, lengths, weights, draws):  # type: ignore[no-untyped-def]
    """Points far from each other: each is drawn in proportion to its weighted squared distance from those before it.

    Source: k-means++ (Arthur and Vassilvitskii 2007).

    Parameters
    ----------
    points, lengths : ndarray
        As for `assign`.
    weights : ndarray
        Of the points, float64, not all zero.
    draws : ndarray
        Uniform float64 numbers in ``[0, 1)``, one per point wanted.

    Returns
    -------
    ndarray
        Positions of the points; fewer than wanted if all others have distance or weight zero.
    """
    count = points.shape[0]
    chosen = np.empty(draws.shape[0], np.int64)
    nearest = np.full(count, np.inf)
    shares = weights.copy()
    for k in range(draws.shape[0]):
        total = 0.0
        for i in range(count):
            total += shares[i]
        if not total > 0.0:
            return chosen[:k]
        target = draws[k] * total
        at = 0
        reached = 0.0
        for i in range(count):
            if shares[i] > 0.0:
                at = i  # the last candidate, should rounding leave the target out of reach
                reached += shares[i]
                if reached > target:
                    break
        chosen[k] = at
        for i in range(count):
            distance = 0.0
            for j in range(min(lengths[i], lengths[at])):
                apart = np.float64(points[i, j]) - np.float64(points[at, j])
                distance += apart * apart
            if distance < nearest[i]:
                nearest[i] = distance
                shares[i] = weights[i] * distance
    return chosen


@compiled
def best_stretches(weights, sums, squares, entries):  # type: ignore[no-untyped-def]
    """Cut a line of cells into stretches so that the squared error from the mean of each stretch is smallest: exact.

    Source: dynamic programming (Fisher 1958), where the best last cut never moves back as the line grows, so that
    halving the candidates finds it (Grønlund et al. 2017, "Fast exact k-means, k-medians and Bregman divergence
    clustering in 1D"): ``entries * cells * log(cells)`` steps.

    Parameters
    ----------
    weights, sums, squares : ndarray
        Cumulative weight, weighted sum and weighted sum of squares of the values in sorted cells, each beginning with 0;
        float64, shape ``(cells + 1,)``.
    entries : int
        Number of stretches, at most the number of cells.

    Returns
    -------
    ndarray
        Where the stretches begin, and the number of cells; shape ``(entries + 1,)``.
    """
    cells = weights.shape[0] - 1
    before = np.zeros(cells + 1)
    for end in range(1, cells + 1):
        before[end] = squares[end] - sums[end] * sums[end] / weights[end]
    cuts = np.zeros((entries, cells + 1), np.int32)
    stack = np.empty((2 * 64, 4), np.int64)
    for layer in range(1, entries):
        costs = np.full(cells + 1, np.inf)
        stack[0] = layer + 1, cells, layer, cells - 1
        depth = 1
        while depth:
            depth -= 1
            first, last, low, high = stack[depth]
            if first > last:
                continue
            end = (first + last) // 2
            least, at = np.inf, low
            for cut in range(low, min(high, end - 1) + 1):
                total = sums[end] - sums[cut]
                cost = before[cut] + squares[end] - squares[cut] - total * total / (weights[end] - weights[cut])
                if cost < least:
                    least, at = cost, cut
            costs[end] = least
            cuts[layer, end] = at
            stack[depth] = first, end - 1, low, at
            stack[depth + 1] = end + 1, last, at, high
            depth += 2
        before = costs
    edges = np.empty(entries + 1, np.int64)
    edges[entries] = cells
    for layer in range(entries - 1, -1, -1):
        edges[layer] = cuts[layer, edges[layer + 1]]
    return edges
