"""The matrix product of ``seed``, compiled: IEEE operations in a fixed order, so that every machine finds the same."""

from __future__ import annotations

from stackc.util.compiled import compiled


# Without fastmath neither the order changes nor do a product and a sum become one operation; several elements of a row at
# once do no harm, since no sum runs along a row. As the inner loop goes along rows, it is as fast as a BLAS.
@compiled
def add_up(scores, basis, mean, out):  # type: ignore[no-untyped-def]
    """Write ``mean + scores @ basis``, each sum from the first component to the last and then the mean.

    Parameters
    ----------
    scores : ndarray
        Shape ``(rows, rank)``, float32 or float64.
    basis : ndarray
        Shape ``(rank, columns)``, dtype of the scores; ``rank`` is at least 1.
    mean : ndarray
        Shape ``(1, columns)``, or ``(0, columns)`` for none.
    out : ndarray
        Shape ``(rows, columns)``, dtype of the scores.
    """
    rank, columns = basis.shape
    for i in range(scores.shape[0]):
        score = scores[i, 0]
        for j in range(columns):
            out[i, j] = score * basis[0, j]
        for k in range(1, rank):
            score = scores[i, k]
            for j in range(columns):
                out[i, j] += score * basis[k, j]
        if mean.shape[0]:
            for j in range(columns):
                out[i, j] += mean[0, j]
