"""The compiled loop of `calibrated_codes`: one block of columns, row by row."""

from __future__ import annotations

import numpy

from stackc.util.compiled import compiled


@compiled
def round_block(
    todo: numpy.ndarray,
    factor: numpy.ndarray,
    scale: numpy.ndarray,
    lo: numpy.ndarray,
    hi: numpy.ndarray,
    shift: float,
    importance: numpy.ndarray,
    row_importance: numpy.ndarray,
    price: numpy.ndarray,
    codes: numpy.ndarray,
    errors: numpy.ndarray,
) -> None:
    """Round the columns of a block one after another, handing the error of each on to those that follow.

    Parameters
    ----------
    todo : numpy.ndarray
        float64, shape ``(rows, width)``: the block; what its columns were to become when their turn came, afterwards.
    factor : numpy.ndarray
        float64, shape ``(width, width)``: the block of the upper triangular factor on the diagonal.
    scale, lo, hi : numpy.ndarray
        float64, shape ``(rows or 1, width)``: the grid.
    shift : float
        Added to codes before they are scaled.
    importance : numpy.ndarray
        float64, shape ``(width,)``: weight of the squared error of each column against the price.
    row_importance : numpy.ndarray
        float64, shape ``(rows or 1,)``: the same of each row.
    price : numpy.ndarray
        float64, odd length: price of the codes from ``-reach`` to ``reach``; of length 1, all codes cost the same and
        the nearest is chosen.
    codes : numpy.ndarray
        int32, shape ``(rows, width)``: receives the codes.
    errors : numpy.ndarray
        float64, shape ``(rows, width)``: receives the errors, each divided by its place on the diagonal of the factor.
    """
    rows, width = todo.shape
    reach = price.shape[0] // 2
    for row in range(rows):
        of_scale = row if scale.shape[0] > 1 else 0
        of_lo = row if lo.shape[0] > 1 else 0
        of_hi = row if hi.shape[0] > 1 else 0
        of_row = row_importance[row if row_importance.shape[0] > 1 else 0]
        for j in range(width):
            unit = scale[of_scale, j]
            place = todo[row, j] / unit - shift
            best = min(max(numpy.rint(place), lo[of_lo, j]), hi[of_hi, j])
            if reach > 0 and best != 0.0:
                weight = importance[j] * of_row
                nearer = best - numpy.sign(best)
                cheapest = (place - best) ** 2 * weight + price[_index(best, reach)]
                for candidate in (nearer, 0.0):
                    cost = (place - candidate) ** 2 * weight + price[_index(candidate, reach)]
                    if cost < cheapest:
                        cheapest = cost
                        best = candidate
            codes[row, j] = int(best)
            error = (todo[row, j] - (best + shift) * unit) / factor[j, j]
            errors[row, j] = error
            for k in range(j + 1, width):
                todo[row, k] -= error * factor[j, k]


@compiled
def _index(code: float, reach: int) -> int:
    """Where the price of a code stands; codes beyond the outermost cost as much as that."""
    return int(min(max(code, -reach), reach)) + reach
