"""Compiled loops of the Viterbi search of `tcq`; only the encoder runs them.

Every code is of one of four classes: quantiser times 2 plus parity. `forward8` and `forward4` are the machines of
``_trellis.NEXT_STATE`` written out, since local variables stay in registers where small arrays do not. Two states lead to
each state, ``2 m`` and ``2 m + 1``, and the bit that is kept for it says which one. Plain IEEE arithmetic in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

#: Cost of a state that cannot be reached, far above every cost between two renormalisations.
_UNREACHABLE = np.float32(1e30)

#: The smallest cost is taken off all of them whenever this many values have been read, so that float32 is enough.
_RENORMALISE = 64


@njit(nogil=True, cache=True, inline="always")
def _costs(a: Any, weight: Any, table: Any, zero: Any) -> Any:
    """Cost of the best code of each class for a value ``a``, in steps and not negative."""
    j = int(a)
    square = weight * (a * a)
    d = a - table[j, 0]
    e0 = min(weight * (d * d) + table[j, 4], square + zero[0])
    d = a - table[j, 1]
    e1 = weight * (d * d) + table[j, 5]
    d = a - table[j, 2]
    e2 = min(weight * (d * d) + table[j, 6], square + zero[1])
    d = a - table[j, 3]
    e3 = weight * (d * d) + table[j, 7]
    return e0, e1, e2, e3


@njit(nogil=True, cache=True)
def forward8(x: Any, step: Any, largest: Any, weights: Any, table: Any, zero: Any, decisions: Any) -> Any:
    """Cheapest way into each of 8 states after every value; returns the state with the cheapest way in the end.

    Parameters
    ----------
    x : float32 array
        The values.
    step, largest : float32
        Step, and the magnitude in steps beyond which values are taken for smaller.
    weights : float32 array
        Factor of the squared error: one per value, or one for all.
    table, zero : float32 arrays
        As `candidates` makes them.
    decisions : uint8 array
        Written: bit ``s`` of element ``t`` says which of its two predecessors state ``s`` has after value ``t``.
    """
    each = 1 if weights.size > 1 else 0
    c0 = np.float32(0)
    c1 = c2 = c3 = c4 = c5 = c6 = c7 = _UNREACHABLE
    for t in range(x.size):
        e0, e1, e2, e3 = _costs(min(abs(x[t]) / step, largest), weights[t * each], table, zero)
        low, high = c0 + e0, c1 + e1
        b0, n0 = high < low, min(low, high)
        low, high = c0 + e1, c1 + e0
        b2, n2 = high < low, min(low, high)
        low, high = c2 + e0, c3 + e1
        b4, n4 = high < low, min(low, high)
        low, high = c2 + e1, c3 + e0
        b6, n6 = high < low, min(low, high)
        low, high = c4 + e2, c5 + e3
        b5, n5 = high < low, min(low, high)
        low, high = c4 + e3, c5 + e2
        b7, n7 = high < low, min(low, high)
        low, high = c6 + e2, c7 + e3
        b1, n1 = high < low, min(low, high)
        low, high = c6 + e3, c7 + e2
        b3, n3 = high < low, min(low, high)
        decisions[t] = b0 | b1 << 1 | b2 << 2 | b3 << 3 | b4 << 4 | b5 << 5 | b6 << 6 | b7 << 7
        c0, c1, c2, c3, c4, c5, c6, c7 = n0, n1, n2, n3, n4, n5, n6, n7
        if t % _RENORMALISE == _RENORMALISE - 1:
            least = min(min(min(c0, c1), min(c2, c3)), min(min(c4, c5), min(c6, c7)))
            c0, c1, c2, c3 = c0 - least, c1 - least, c2 - least, c3 - least
            c4, c5, c6, c7 = c4 - least, c5 - least, c6 - least, c7 - least
    return np.argmin(np.array([c0, c1, c2, c3, c4, c5, c6, c7]))


@njit(nogil=True, cache=True)
def forward4(x: Any, step: Any, largest: Any, weights: Any, table: Any, zero: Any, decisions: Any) -> Any:
    """`forward8` for 4 states."""
    each = 1 if weights.size > 1 else 0
    c0 = np.float32(0)
    c1 = c2 = c3 = _UNREACHABLE
    for t in range(x.size):
        e0, e1, e2, e3 = _costs(min(abs(x[t]) / step, largest), weights[t * each], table, zero)
        low, high = c0 + e0, c1 + e1
        b0, n0 = high < low, min(low, high)
        low, high = c0 + e1, c1 + e0
        b2, n2 = high < low, min(low, high)
        low, high = c2 + e2, c3 + e3
        b1, n1 = high < low, min(low, high)
        low, high = c2 + e3, c3 + e2
        b3, n3 = high < low, min(low, high)
        decisions[t] = b0 | b1 << 1 | b2 << 2 | b3 << 3
        c0, c1, c2, c3 = n0, n1, n2, n3
        if t % _RENORMALISE == _RENORMALISE - 1:
            least = min(min(c0, c1), min(c2, c3))
            c0, c1, c2, c3 = c0 - least, c1 - least, c2 - least, c3 - least
    return np.argmin(np.array([c0, c1, c2, c3]))


@njit(nogil=True, cache=True)
def backward(
    x: Any,
    step: Any,
    largest: Any,
    weights: Any,
    table: Any,
    zero: Any,
    magnitudes: Any,
    decisions: Any,
    predecessors: Any,
    state: Any,
    codes: Any,
) -> None:
    """Codes on the cheapest way that ends in a state.

    Parameters
    ----------
    x, step, largest, weights, table, zero, decisions
        As `forward8` had and wrote them.
    magnitudes : int16 array
        Magnitude of the code of each class, as `candidates` makes it.
    predecessors : int64 array
        For each state the two ways in: ``predecessor * 2 + parity``.
    state : int
        What `forward8` returned.
    codes : int8 or int16 array
        Written.
    """
    each = 1 if weights.size > 1 else 0
    upper = predecessors.shape[0] // 2
    for t in range(x.size - 1, -1, -1):
        way = predecessors[state, np.int64(decisions[t]) >> state & 1]
        state = way >> 1
        parity = way & 1
        quantiser = 1 if state >= upper else 0
        which = 2 * quantiser + parity
        a = min(abs(x[t]) / step, largest)
        j = int(a)
        magnitude = magnitudes[j, which]
        if parity == 0:
            weight = weights[t * each]
            d = a - table[j, which]
            if weight * (a * a) + zero[quantiser] < weight * (d * d) + table[j, 4 + which]:
                magnitude = 0
        codes[t] = magnitude if x[t] >= 0 else -magnitude


@njit(nogil=True, cache=True)
def count(codes: Any, next_state: Any, counts: Any) -> None:
    """Add up how often each magnitude occurs in each quantiser.

    Parameters
    ----------
    codes : int8 or int16 array
        Codes in order, from state 0.
    next_state : int64 array
        ``_trellis.NEXT_STATE``, shape ``(states, 2)``.
    counts : int64 array
        Shape ``(2, magnitudes)``; added to.
    """
    upper = next_state.shape[0] // 2
    state = 0
    for t in range(codes.size):
        code = int(codes[t])
        counts[1 if state >= upper else 0, abs(code)] += 1
        state = next_state[state, code & 1]
