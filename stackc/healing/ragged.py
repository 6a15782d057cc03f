"""`Ragged`: rows of token ids of different lengths in one flat array, so that no work is done token by token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from stackc.util.errors import DataError
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class Ragged(NamedTuple):
    """Rows of token ids.

    Attributes
    ----------
    tokens : numpy.ndarray
        Ids of all rows one after another, int32, little-endian.
    starts, lengths : numpy.ndarray
        Where each row starts in `tokens`, and how many tokens it has; int64, shape ``(rows,)``.
    """

    tokens: NDArray[numpy.int32]
    starts: NDArray[numpy.int64]
    lengths: NDArray[numpy.int64]

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]]) -> Ragged:
        """Copy rows of ids.

        Raises
        ------
        DataError
            If there are no rows, or one of them has no tokens.

        Examples
        --------
        >>> Ragged.of([[5, 6, 7], [8]]).starts.tolist()
        [0, 3]
        """
        lengths = numpy.fromiter(map(len, ids), numpy.int64, len(ids))
        if not len(ids):
            raise DataError("there are no rows of token ids: give at least one text")
        if not lengths.all():
            raise DataError(
                f"row {int(lengths.argmin()) + 1} has no tokens: leave out that text, or let the tokenizer add its special "
                "tokens"
            )
        ends = lengths.cumsum()
        tokens = numpy.fromiter(itertools.chain.from_iterable(ids), "<i4", int(ends[-1]))
        return cls(tokens, ends - lengths, lengths)

    def padded(self, rows: NDArray[numpy.int64], pad: int) -> dict[str, Tensor]:
        """Some rows as a model is called with them, filled up on the right to the longest of them.

        Parameters
        ----------
        rows : numpy.ndarray
            Numbers of the rows, int64.
        pad : int
            Token that fills up.

        Returns
        -------
        dict of str to Tensor
            ``input_ids`` and ``attention_mask``, int64, shape ``(rows, longest)``; the mask is 1 on tokens.

        Examples
        --------
        >>> import numpy
        >>> inputs = Ragged.of([[5, 6, 7], [8]]).padded(numpy.array([1, 0]), pad=0)
        >>> inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()
        ([[8, 0, 0], [5, 6, 7]], [[1, 0, 0], [1, 1, 1]])
        """
        lengths = self.lengths[rows]
        places = numpy.arange(lengths.max(initial=0))
        present = places < lengths[:, None]
        filled = numpy.full(present.shape, pad, numpy.int64)
        filled[present] = self.tokens[(self.starts[rows][:, None] + places)[present]]
        return {"input_ids": torch.from_numpy(filled), "attention_mask": torch.from_numpy(present.astype(numpy.int64))}
