"""Compiled loops of the Viterbi search of `tcq`; only the encoder runs them.

Every code is of one of four classes: quantiser times 2 plus parity. `forward8` and `forward4` are the machines of
``_trellis.NEXT_STATE`` written out, since local variables stay in registers where small arrays do not. Two states lead to
each state, ``2 m`` and ``2 m + 1``, and the bit that is kept for it says which one. Plain IEEE arithmetic in a fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stackc.util.compiled import compiled

#: Cost of a state that cannot be reached, far above every cost between two renormalisations.
_UNREACHABLE = np.float32(1e30)

#: Values that are searched at a time; then the smallest cost is taken off all of them, so that float32 is enough.
_BLOCK = 64


@compiled(inline="always")
def _less(a: Any, b: Any) -> Any:
    """The smaller one; unlike `min` without a thought of NaN."""
    return a if a < b else b


@compiled
def _class_costs(
    x: Any,
    begin: Any,
    step: Any,
    largest: Any,
    weights: Any,
    table: Any,
    zero: Any,
    inputs: Any,
    costs: Any,
    count: Any,
) -> None:
    """Costs of the best code of each class, ``costs[class, t]`` for the value ``begin + t``; one class after another,
    since such a loop becomes one of vector instructions.
    """
    steps, factors = inputs[0], inputs[1]
    for t in range(count):
        steps[t] = _less(abs(x[begin + t]) / step, largest)
    if weights.size > 1:
        factors[:count] = weights[begin : begin + count]
    else:
        factors[:count] = weights[0]
    for which in range(4):
        even, at_zero = which % 2 == 0, zero[which >> 1]
        reconstruction, bits, out = table[which], table[4 + which], costs[which]
        for t in range(count):
            a, weight = steps[t], factors[t]
            j = _row(a)
            d = a - reconstruction[j]
            cost = weight * (d * d) + bits[j]
            out[t] = _less(cost, weight * (a * a) + at_zero) if even else cost


@compiled(inline="always")
def _row(a: Any) -> Any:
    """Where the table has a magnitude in steps; without a sign, which numba would ask for at every look into it."""
    return np.int64(np.int32(a)) & 0xFFFF


@compiled
def forward8(x: Any, step: Any, largest: Any, weights: Any, table: Any, zero: Any, decisions: Any) -> Any:
    """Cheapest way into each of 8 states after every value; returns the state with the cheapest way in the end.

    Parameters
    ----------
    x : float32 array
        The values.
    step, largest : float32
        Step, and the magnitude in steps beyond which values are taken for smaller; below 65536.
    weights : float32 array
        Factor of the squared error: one per value, or one for all.
    table, zero : float32 arrays
        As `candidates` makes them.
    decisions : uint8 array
        Written: bit ``s`` of element ``t`` says which of its two predecessors state ``s`` has after value ``t``.
    """
    inputs, costs = np.empty((2, _BLOCK), np.float32), np.empty((4, _BLOCK), np.float32)
    c0 = np.float32(0)
    c1 = c2 = c3 = c4 = c5 = c6 = c7 = _UNREACHABLE
    for begin in range(0, x.size, _BLOCK):
        count = min(_BLOCK, x.size - begin)
        _class_costs(x, begin, step, largest, weights, table, zero, inputs, costs, count)
        for t in range(count):
            e0, e1, e2, e3 = costs[0, t], costs[1, t], costs[2, t], costs[3, t]
            l0, h0 = c0 + e0, c1 + e1
            l1, h1 = c6 + e2, c7 + e3
            l2, h2 = c0 + e1, c1 + e0
            l3, h3 = c6 + e3, c7 + e2
            l4, h4 = c2 + e0, c3 + e1
            l5, h5 = c4 + e2, c5 + e3
            l6, h6 = c2 + e1, c3 + e0
            l7, h7 = c4 + e3, c5 + e2
            low = (h0 < l0) | (h1 < l1) << 1 | (h2 < l2) << 2 | (h3 < l3) << 3
            decisions[begin + t] = low | (h4 < l4) << 4 | (h5 < l5) << 5 | (h6 < l6) << 6 | (h7 < l7) << 7
            c0, c1, c2, c3 = _less(h0, l0), _less(h1, l1), _less(h2, l2), _less(h3, l3)
            c4, c5, c6, c7 = _less(h4, l4), _less(h5, l5), _less(h6, l6), _less(h7, l7)
        if count == _BLOCK:
            least = min(min(min(c0, c1), min(c2, c3)), min(min(c4, c5), min(c6, c7)))
            c0, c1, c2, c3 = c0 - least, c1 - least, c2 - least, c3 - least
            c4, c5, c6, c7 = c4 - least, c5 - least, c6 - least, c7 - least
    return np.argmin(np.array([c0, c1, c2, c3, c4, c5, c6, c7]))


@compiled
def forward4(x: Any, step: Any, largest: Any, weights: Any, table: Any, zero: Any, decisions: Any) -> Any:
    """`forward8` for 4 states."""
    inputs, costs = np.empty((2, _BLOCK), np.float32), np.empty((4, _BLOCK), np.float32)
    c0 = np.float32(0)
    c1 = c2 = c3 = _UNREACHABLE
    for begin in range(0, x.size, _BLOCK):
        count = min(_BLOCK, x.size - begin)
        _class_costs(x, begin, step, largest, weights, table, zero, inputs, costs, count)
        for t in range(count):
            e0, e1, e2, e3 = costs[0, t], costs[1, t], costs[2, t], costs[3, t]
            l0, h0 = c0 + e0, c1 + e1
            l1, h1 = c2 + e2, c3 + e3
            l2, h2 = c0 + e1, c1 + e0
            l3, h3 = c2 + e3, c3 + e2
            decisions[begin + t] = (h0 < l0) | (h1 < l1) << 1 | (h2 < l2) << 2 | (h3 < l3) << 3
            c0, c1, c2, c3 = _less(h0, l0), _less(h1, l1), _less(h2, l2), _less(h3, l3)
        if count == _BLOCK:
            least = min(min(c0, c1), min(c2, c3))
            c0, c1, c2, c3 = c0 - least, c1 - least, c2 - least, c3 - least
    return np.argmin(np.array([c0, c1, c2, c3]))


@compiled
def backward(decisions: Any, ways: Any, class_of: Any, state: Any) -> None:
    """Replace decisions by the classes of the codes on the cheapest way that ends in a state.

    Parameters
    ----------
    decisions : uint8 array
        What `forward8` wrote.
    ways : int64 array
        The two ways into each state, ``predecessor * 2 + parity``; shape ``(2 * states,)``.
    class_of : uint8 array
        Class of the code that goes each way; shape ``(2 * states,)``.
    state : int
        What `forward8` returned.
    """
    for t in range(decisions.size - 1, -1, -1):
        way = ways[2 * state + (np.int64(decisions[t]) >> state & 1)]
        decisions[t] = class_of[way]
        state = way >> 1


@compiled
def codes_of(
    x: Any, step: Any, largest: Any, weights: Any, table: Any, zero: Any, magnitudes: Any, classes: Any, codes: Any
) -> None:
    """The best code of a given class for each value.

    Parameters
    ----------
    x, step, largest, weights, table, zero
        As `forward8` had them.
    magnitudes : int16 array
        Magnitude of the code of each class, as `candidates` makes it.
    classes : uint8 array
        What `backward` made of the decisions.
    codes : int8 or int16 array
        Written.
    """
    each = 1 if weights.size > 1 else 0
    for t in range(x.size):
        which = np.int64(classes[t])
        weight = weights[t * each]
        a = _less(abs(x[t]) / step, largest)
        j = _row(a)
        d = a - table[which, j]
        at_zero = weight * (a * a) + zero[which >> 1] < weight * (d * d) + table[4 + which, j]
        # masks instead of branches, which would be mispredicted
        kept = 0 if at_zero and which & 1 == 0 else -1
        negative = -1 if x[t] < 0 else 0
        codes[t] = ((np.int64(magnitudes[which, j]) & kept) ^ negative) - negative


@compiled
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
