"""The price of codes and its gradient in one pass over them, compiled."""

from __future__ import annotations

import numpy as np

from stackc.util.compiled import compiled


# Sums may be taken in any order, so that they are taken many at a time.
@compiled(fastmath={"reassoc"})
def price_codes(codes: np.ndarray, first: np.ndarray, further: np.ndarray, slopes: np.ndarray) -> float:
    """Bits that the magnitudes of codes take; ``slopes`` becomes what one more unit of each code adds.

    All are float32 vectors of the same length.
    """
    total = 0.0
    for place in range(len(codes)):
        code = codes[place]
        size = abs(code)
        sign = np.float32(code > 0) - np.float32(code < 0)
        total += first[place] * min(size, np.float32(1)) + further[place] * max(size - np.float32(1), np.float32(0))
        slopes[place] = sign * (first[place] if size <= 1 else further[place])
    return total
