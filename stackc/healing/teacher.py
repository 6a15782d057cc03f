"""What a teacher answers to every training row, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stackc.healing.ragged import Ragged
from stackc.healing.row_cache import Entries, RowCache, row_key, row_keys
from stackc.models.forward import forward_pass, padding_token, require_tokens
from stackc.util.cache import cache_folder
from stackc.util.errors import ModelError
from stackc.util.lazy import numpy, torch
from stackc.util.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from stackc.models import Reference

__all__ = ["Labelled", "row_key", "row_keys", "teacher_cache", "teacher_logits"]

#: An interrupted labelling loses what it computed in so many seconds.
FLUSH_SECONDS = 120.0


class Labelled(NamedTuple):
    """Answers of a teacher.

    Attributes
    ----------
    logits : Tensor
        float32, shape ``(rows, classes)``.
    computed, cached : int
        Different rows that the teacher was run on, and that were on disk.
    """

    logits: Tensor
    computed: int
    cached: int


def teacher_cache(teacher: Reference, folder: Path | None = None) -> RowCache | None:
    """The file that keeps a teacher's logits; None if there is no folder for it, or no config.

    Without a config, weights alone do not say what is computed.

    Parameters
    ----------
    teacher : Reference
        Its weights and its config name the file.
    folder : Path, optional
        Where the file is; the folder ``teacher`` of `stackc.util.cache.cache_folder` if not given.
    """
    if folder is None and (kept := cache_folder()) is not None:
        folder = kept / "teacher"
    if teacher.config is None or folder is None:
        return None
    digest = hashlib.sha256(teacher.fingerprint().encode())
    digest.update(msgspec.json.encode(teacher.config, order="deterministic"))
    identity = digest.hexdigest()
    return RowCache(folder / f"{identity[:32]}.safetensors", identity)


def teacher_logits(
    teacher: Reference,
    ids: Sequence[Sequence[int]],
    *,
    batch_size: int = 32,
    progress: Progress,
    cache: Path | None = None,
) -> Labelled:
    """Logits of a teacher for rows of token ids.

    Rows that are the same are run once. A run that was interrupted goes on with the batches that it would have had, so
    that its numbers are the same to the bit.

    Parameters
    ----------
    teacher : Reference
        A classifier.
    ids : sequence of sequence of int
        Token ids of every row, special tokens included.
    batch_size : int
        Rows per forward pass; 1 is used if the teacher has no token for padding.
    progress : Progress
        Told of the rows that are computed.
    cache : Path, optional
        Folder of the files that logits are kept in; the folder ``teacher`` of `stackc.util.cache.cache_folder` if not given.

    Raises
    ------
    DataError
        If there are no rows, or one of them has no tokens.
    ModelError
        If the teacher cannot be built, does not take the rows, or gives no finite logits per class.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from stackc.models import open_reference
    >>> teacher = open_reference("demo/bert-tiny-reviews")
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> found = teacher_logits(teacher, [[101, 2307, 102], [101, 102]], progress=Progress(), cache=folder)
    >>> found.logits.shape, found.computed, found.cached
    (torch.Size([2, 2]), 2, 0)
    >>> teacher_logits(teacher, [[101, 102]], progress=Progress(), cache=folder).cached
    1
    """
    rows = Ragged.of(ids)
    keys, first, copies = numpy.unique(row_keys(rows), return_index=True, return_inverse=True)
    file = teacher_cache(teacher, cache)
    kept = Entries.none() if file is None else file.read()
    places = kept.find(keys)
    missing = int((places < 0).sum())
    if missing:
        model = teacher.build().eval()
        require_tokens(model, int(rows.lengths.max()), int(rows.tokens.max()), "the training rows")
        pad = padding_token(model, getattr(teacher.tokenizer(), "pad_token_id", None))
        # Models without a padding token cannot tell where a padded text ends.
        batches = _batches(rows.lengths[first], places < 0, batch_size if pad is not None else 1)
        labels = _Labels(keys, missing, file)
        try:
            with progress.task("label rows with the teacher", missing) as advance, torch.inference_mode():
                for batch in batches:
                    labels.add(batch, _logits(model, rows.padded(first[batch], pad or 0)))
                    advance(len(batch))
        finally:
            labels.flush()
        kept = kept.merged(labels.entries())
        places = kept.find(keys)
    logits = torch.from_numpy(kept.values[places[copies.reshape(-1)]])
    return Labelled(logits, missing, len(keys) - missing)


class _Labels:
    """Logits as they come, written now and then."""

    def __init__(self, keys: NDArray[numpy.bytes_], count: int, file: RowCache | None) -> None:
        self._keys = keys
        self._file = file
        self._rows = numpy.empty(count, numpy.int64)
        self._values: NDArray[numpy.float32] | None = None
        self._done = self._written = 0
        self._since = time.monotonic()

    def add(self, rows: NDArray[numpy.int64], logits: NDArray[numpy.float32]) -> None:
        """Take the logits of one batch."""
        if self._values is None:
            self._values = numpy.empty((len(self._rows), logits.shape[1]), numpy.float32)
        end = self._done + len(rows)
        self._rows[self._done : end] = rows
        self._values[self._done : end] = logits
        self._done = end
        if time.monotonic() - self._since >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._file is not None and self._written < self._done:
            self._file.add(self.entries(self._written))
        self._written = self._done
        self._since = time.monotonic()

    def entries(self, start: int = 0) -> Entries:
        """The logits from the ``start``-th row on."""
        assert self._values is not None
        rows = self._rows[start : self._done]
        order = numpy.argsort(rows)  # as the keys are sorted
        return Entries(self._keys[rows[order]], self._values[start : self._done][order])


def _batches(lengths: NDArray[numpy.int64], missing: NDArray[numpy.bool_], size: int) -> Iterator[NDArray[numpy.int64]]:
    """Rows to compute together, of about the same length, longest first.

    Sums come out differently in their last bits when a row has other company. Batches are therefore cut from all rows,
    whether computed before or not; those of which some rows are there already are filled up from one another at the end.
    """
    order = numpy.argsort(-lengths, kind="stable")
    left: list[NDArray[numpy.int64]] = []
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        absent = batch[missing[batch]]
        if len(absent) == len(batch):
            yield batch
        elif len(absent):
            left.append(absent)
    rest = numpy.concatenate(left) if left else order[:0]
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> NDArray[numpy.float32]:
    remedy = "; it is the teacher of heal: give one with the reference's tokenizer, or a smaller max_length"
    with forward_pass(model, "the training rows", inputs, remedy):
        output: Any = model(**inputs)
    logits = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if logits is None or logits.dim() != 2:
        raise ModelError(
            f"the teacher {type(model).__name__} gives no logits per class: healing needs one with a "
            "sequence-classification head"
        )
    found: NDArray[numpy.float32] = logits.to("cpu", torch.float32).numpy()
    if not numpy.isfinite(found).all():
        raise ModelError(f"the teacher {type(model).__name__} gives logits that are not finite: choose another one")
    return found
