"""`Batches`: the batch of any optimiser step, computed when it is asked for, so that a resumed run goes on as it would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackc.healing.ragged import Ragged
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Batches whose rows are sorted by length together: enough for little padding, few enough that batches stay mixed.
WINDOW = 50

_WORD = 1 << 64


class Batch(NamedTuple):
    """Rows of one step.

    Attributes
    ----------
    rows : Tensor
        Their numbers, int64.
    inputs : dict of str to Tensor
        What the model is called with: ``input_ids`` and ``attention_mask``, int64, filled up to the longest row.
    """

    rows: Tensor
    inputs: dict[str, Tensor]


class Batches:
    """Random batches of rows of about the same length, every row once per epoch.

    An epoch's order is a function of the seed and of its number. Rows are shuffled, sorted by length inside windows of
    `WINDOW` batches and cut into batches, which are shuffled in turn. Where the rows do not divide evenly, the last batch
    of the epoch holds what is left: rows as random as all others.

    Parameters
    ----------
    ids : sequence of sequence of int
        Token ids of every row.
    batch_size : int
        Rows per batch.
    pad : int
        Token that rows are filled up with.
    seed : int
        Of the order.

    Raises
    ------
    DataError
        If there are no rows, or one of them has no tokens.

    Examples
    --------
    >>> batches = Batches([[7], [7, 8], [7, 8, 9]], batch_size=2, pad=0, seed=0)
    >>> len(batches), sorted(int(row) for step in (0, 1) for row in batches.at(step).rows)
    (2, [0, 1, 2])
    >>> [batch.rows.tolist() for batch in batches.in_order()]
    [[2, 1], [0]]
    """

    def __init__(self, ids: Sequence[Sequence[int]], batch_size: int, pad: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"a batch has at least one row, not {batch_size}")
        self._rows = Ragged.of(ids)
        self._size = batch_size
        self._pad = pad
        self._seed = seed
        self._latest: tuple[int, NDArray[numpy.int64]] | None = None

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self._rows.lengths) // self._size)

    def at(self, step: int) -> Batch:
        """The batch of an optimiser step, whatever was asked for before.

        Parameters
        ----------
        step : int
            From 0; epochs follow one another.

        Raises
        ------
        IndexError
            If the step is negative.
        """
        if step < 0:
            raise IndexError(f"steps count from 0, {step} is none")
        epoch, place = divmod(step, len(self))
        return self._batch(self._order(epoch)[place * self._size : (place + 1) * self._size])

    def met(self, steps: int) -> list[int]:
        """Numbers of the rows in the first so many batches, ascending."""
        parts = [
            self._order(epoch)[: (steps - epoch * len(self)) * self._size] for epoch in range(-(-steps // len(self)))
        ]
        return numpy.unique(numpy.concatenate(parts)).tolist() if parts else []

    def in_order(self) -> Iterator[Batch]:
        """Every row once, longest first, for evaluation."""
        order = numpy.argsort(-self._rows.lengths, kind="stable")
        for start in range(0, len(order), self._size):
            yield self._batch(order[start : start + self._size])

    def _batch(self, rows: NDArray[numpy.int64]) -> Batch:
        return Batch(torch.from_numpy(rows.copy()), self._rows.padded(rows, self._pad))

    def _order(self, epoch: int) -> NDArray[numpy.int64]:
        """Row numbers of an epoch, batch after batch; that of the latest epoch is kept."""
        latest = self._latest
        if latest is None or latest[0] != epoch:
            self._latest = latest = (epoch, self._shuffled(epoch))
        return latest[1]

    def _shuffled(self, epoch: int) -> NDArray[numpy.int64]:
        # random_raw is documented to stay as it is; shuffle and permutation of numpy's generators are not.
        source = numpy.random.Philox(key=self._seed % _WORD + epoch % _WORD * _WORD)
        count = len(self._rows.lengths)
        shuffled = numpy.argsort(source.random_raw(count), kind="stable")
        whole, left = numpy.split(shuffled, [count - count % self._size])
        window = numpy.arange(len(whole)) // (self._size * WINDOW)
        batches = whole[numpy.lexsort((self._rows.lengths[whole], window))].reshape(-1, self._size)
        order = numpy.argsort(source.random_raw(len(batches)), kind="stable")
        return numpy.concatenate([batches[order].reshape(-1), left])
