"""State machines of trellis-coded quantisation: which of two quantisers a code belongs to.

Codes are read in C order. The machine starts in state 0; a code is in quantiser ``QUANTISER[states][state]``, and its
parity then leads to ``NEXT_STATE[states][state][code & 1]``. The two quantisers reconstruct a code ``k`` as
``step * (2 * k - sign(k) * quantiser)``: even multiples of the step, or odd ones and zero.

Both machines are linear over GF(2), so the quantiser of every code follows from running parities (see `tcq`):

* 4 states, that of VVC (ITU-T H.266, 8.7.3): ``q[t] = q[t-2] ^ p[t-1]``, parity-check polynomials ``1 + D^2, D``.
* 8 states, that of Ungerboeck (1982, table I): ``q[t] = q[t-1] ^ q[t-3] ^ p[t-2]``, ``1 + D + D^3, D^2``.
"""

from __future__ import annotations

#: ``NEXT_STATE[states][state][parity]``.
NEXT_STATE = {
    4: ((0, 2), (2, 0), (1, 3), (3, 1)),
    8: ((0, 2), (2, 0), (4, 6), (6, 4), (5, 7), (7, 5), (1, 3), (3, 1)),
}

#: ``QUANTISER[states][state]``: 0 for even multiples of the step, 1 for odd ones and zero.
QUANTISER = {4: (0, 0, 1, 1), 8: (0, 0, 0, 0, 1, 1, 1, 1)}
