"""Where row weights come from: how much each row of an embedding matters to the squared error.

A stage names its source with ``weights:``: ``token-counts``, or a file of numbers. Weights are used while encoding only;
nothing of them is stored, but their fingerprint goes into the lock file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackc.core.planes import to_bytes
from stackc.util.errors import DataError
from stackc.util.lazy import numpy, torch
from stackc.util.nearest import nearest
from stackc.util.paths import require_regular, user_path

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from stackc.tasks.task import Task

#: The source that counts the tokens of the task's training texts.
TOKEN_COUNTS = "token-counts"

_TEXTS_AT_ONCE = 4096

#: Added to every token count, so that no row is free to become anything (Jeffreys' prior of a count).
SMOOTHING = 0.5


def row_weights(source: str, *, rows: int, task: Task, tokenizer: Any) -> Tensor:
    """Importance of every row of an embedding.

    Parameters
    ----------
    source : str
        ``token-counts``: how often each token occurs in the task's training texts, as the model is fed them, plus 0.5.
        Else a file with one number per row: ``.npy``, ``.txt`` (one per line) or ``.safetensors`` (one 1-d tensor).
    rows : int
        Number of rows of the embedding.
    task : Task
        Gives the training texts.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        The reference's tokenizer.

    Returns
    -------
    Tensor
        float64, shape ``(rows,)``, finite, not negative, not all zero.

    Raises
    ------
    DataError
        If the source is unknown or missing, is not one number per row, or holds a number that cannot be a weight; if
        ``token-counts`` has no tokenizer or no training texts.

    Examples
    --------
    >>> import tempfile
    >>> from stackc.tasks.none import NoTask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "weights.txt")
    ...     _ = file.write_text("3\\n1\\n0.5\\n")
    ...     row_weights(str(file), rows=3, task=NoTask(), tokenizer=None)
    tensor([3.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    if source == TOKEN_COUNTS:
        if tokenizer is None:
            raise DataError(
                f"row weights {TOKEN_COUNTS!r} need the model's tokenizer: give a model folder that holds one"
            )
        return token_counts(task.calibration_texts(), rows, task, tokenizer).double() + SMOOTHING
    weights = _read(source)
    if weights.ndim != 1 or len(weights) != rows:
        shape = " x ".join(map(str, weights.shape)) or "one"
        raise DataError(f"row weights {source}: {rows} rows need {rows} numbers in one column, the file holds {shape}")
    tensor = torch.from_numpy(weights.astype(numpy.float64))
    bad = ~(torch.isfinite(tensor) & (tensor >= 0))
    if bad.any():
        first = int(bad.to(torch.uint8).argmax())
        raise DataError(
            f"row weights {source}: {int(bad.sum())} of {rows} numbers are negative, NaN or infinite (first {float(tensor[first])} "
            f"at row {first}); weights are finite and not negative"
        )
    if not tensor.any():
        raise DataError(f"row weights {source}: all {rows} weights are zero; at least one row must matter")
    return tensor


def fingerprint(weights: Tensor) -> str:
    """sha256 of the weights as little-endian float64, for the lock file.

    Examples
    --------
    >>> import torch
    >>> fingerprint(torch.tensor([1.0, 2.0]))[:16]
    'dc91ce9a50ddc828'
    """
    return hashlib.sha256(to_bytes(weights.to("cpu", torch.float64))).hexdigest()


def token_counts(texts: Sequence[str], rows: int, task: Task, tokenizer: Any) -> Tensor:
    """How often each token occurs in texts as a model is fed them: int64, shape ``(rows,)``.

    Raises
    ------
    DataError
        If the tokenizer gives tokens that have no row.
    """
    counts = torch.zeros(rows, dtype=torch.int64)
    # Some texts at a time: what a tokenizer returns takes far more memory than its token numbers.
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        ids = list(chain.from_iterable(task.token_ids(texts[start : start + _TEXTS_AT_ONCE], tokenizer)))
        more = torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=rows)
        counts = torch.nn.functional.pad(counts, (0, len(more) - len(counts))) + more
    if len(counts) > rows:
        raise DataError(
            f"row weights {TOKEN_COUNTS!r}: the tokenizer gives the token {len(counts) - 1}, but the tensor has {rows} rows; "
            "token counts are for the word embeddings of the tokenizer's own model"
        )
    return counts


def _read(source: str) -> np.ndarray[Any, Any]:
    path = user_path(source)
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.exists():
        problem = "is unknown" if reader is None else "is not there"
        hint = nearest(source, [TOKEN_COUNTS]) or ";"
        raise DataError(
            f"the source of row weights {source!r} {problem}{hint} accepted are {TOKEN_COUNTS} and {_FILES}"
        )
    try:
        require_regular(path)
        weights = reader(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"row weights {source} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if weights.dtype.kind not in "biuf":
        raise DataError(f"row weights {source}: weights are real numbers, not {weights.dtype}")
    return weights


def _read_npy(path: Path) -> np.ndarray[Any, Any]:
    # Mapped, so that a header that promises more than the file holds allocates nothing.
    return numpy.array(numpy.lib.format.open_memmap(path, mode="r"))


def _read_txt(path: Path) -> np.ndarray[Any, Any]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return numpy.array([float(line) for line in lines if line.strip()], numpy.float64)


def _read_safetensors(path: Path) -> np.ndarray[Any, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) != 1:
                raise ValueError(f"it holds {len(names)} tensors instead of one")
            tensor: Tensor = file.get_tensor(names[0])
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy()


_READERS: dict[str, Callable[[Path], np.ndarray[Any, Any]]] = {
    ".npy": _read_npy,
    ".txt": _read_txt,
    ".safetensors": _read_safetensors,
}
_FILES = "a .npy, .txt (one number per line) or .safetensors (one 1-d tensor) file"
