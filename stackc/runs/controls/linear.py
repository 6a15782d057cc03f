"""The control ``linear``: a hashed n-gram linear model, trained on the same texts towards the same teacher, of the same bytes.

It is a stackc file like any other: the weights as codes of a step size, entropy-coded. Hashing needs no
vocabulary, so the file is all that a reader needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stackc.artifact.reader import Artifact
from stackc.util.errors import DataError, DependencyError
from stackc.util.lazy import numpy, torch
from stackc.util.progress import Advance, Progress
from stackc.util.statistics import mean_kl

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

#: Words of one letter too: "n't" is two of them, and turns a sentence round.
_WORDS = r"(?u)\b\w+\b"

#: Hashes before they are folded to the number of features; collisions among so many are rare.
_HASHES = 1 << 30

#: Numbers of columns that are tried. More of them hash fewer n-grams together and make each kept weight dearer to place.
_COLUMNS = (1 << 16, 1 << 18, 1 << 20)

#: With so many columns for each n-gram that occurs, more would keep none apart.
_ROOMY = 8

#: Bits for the value of each kept weight that are tried: few fine ones, or many coarse ones.
_BITS_PER_WEIGHT = (2.5, 3.5, 5.0, 7.0)

#: Weights of the ridge penalty that are tried, for rows of unit length; and by how much more once few columns are left.
_PENALTIES = (0.4, 2.0, 8.0)
_RAISED = (1.0, 4.0)

#: Words in a row that two texts share if they are pieces of one sentence.
_SHARED_WORDS = 4

#: A step finer than this part of the largest weight changes no prediction, and codes have 16 bits at most.
_FINEST = 1 / 4000

#: Header, manifest, offsets and tables of a small file, in bytes: where the search for the step begins.
_OVERHEAD = 300

_ITERATIONS = 60
_SEARCH = 24
_PACKINGS = 8


class LinearFit(NamedTuple):
    """A fitted linear control.

    ``bytes`` is the size of its file, ``columns`` the number of hashes, ``features`` the number of weights that are not
    zero, ``divergence`` the mean KL from the teacher on the held-out rows, by which everything was chosen.
    """

    bytes: int
    columns: int
    features: int
    signed: bool
    penalty: float
    divergence: float


class _Counts(NamedTuple):
    """Rows of hashed n-grams as a CSR matrix before folding; ``values`` have the signs of a signed hash."""

    starts: NDArray[Any]
    hashes: NDArray[Any]
    values: NDArray[Any]

    def matrix(self, columns: int, *, signed: bool) -> Any:
        """The matrix with so many columns."""
        from scipy.sparse import csr_matrix

        values = self.values if signed else numpy.abs(self.values)
        return csr_matrix((values, self.hashes % columns, self.starts), shape=(len(self.starts) - 1, columns))

    def rows(self, kept: NDArray[Any]) -> _Counts:
        """Only these rows."""
        from scipy.sparse import csr_matrix

        matrix = csr_matrix((self.values, self.hashes, self.starts), shape=(len(self.starts) - 1, _HASHES))[kept]
        return _Counts(matrix.indptr, matrix.indices, matrix.data)


class _Settings(NamedTuple):
    """How a model is fitted: everything that is chosen on held-out rows."""

    columns: int
    signed: bool
    penalty: float
    kept: int
    raised: float


class _Model(NamedTuple):
    """Weights of the columns that are kept, shape ``(outputs, kept)``; all others are zero."""

    columns: int
    signed: bool
    kept: NDArray[Any]
    weights: NDArray[Any]
    offsets: NDArray[Any]

    def dense(self) -> NDArray[Any]:
        """All weights, shape ``(outputs, columns)``."""
        weights = numpy.zeros((len(self.weights), self.columns))
        weights[:, self.kept] = self.weights
        return weights

    def rounded(self, step: float) -> _Model:
        """With weights that are multiples of a step."""
        return self._replace(weights=numpy.rint(self.weights / step) * step)

    def entropy(self, step: float) -> float:
        """Bits of the codes of all weights, zeros and all."""
        codes = numpy.unique(numpy.rint(self.weights / step), return_counts=True)
        counts = dict(zip(*codes, strict=True))
        counts[0.0] = counts.get(0.0, 0) + len(self.weights) * (self.columns - len(self.kept))
        numbers = numpy.array([count for count in counts.values() if count], numpy.float64)
        return float((numbers * (numpy.log2(numbers.sum()) - numpy.log2(numbers))).sum())

    @property
    def largest(self) -> float:
        """Magnitude of the largest weight."""
        return max(float(numpy.abs(self.weights).max(initial=0.0)), 1e-30)


def fit_linear(
    texts: Sequence[str],
    labels: Tensor,
    held_out: Sequence[str],
    held_out_labels: Tensor,
    path: Path,
    *,
    budget: int,
    progress: Progress | None = None,
) -> LinearFit:
    """Fit a hashed n-gram model to a teacher's logits and write it in at most so many bytes.

    Ridge regression of the margin of two classes, or of the centred logits of more, on hashed words and pairs of words.
    The weights that contribute most are kept and fitted again, then rounded to the finest step that the budget allows.
    Signs of the hash, penalties, and how the budget is split are chosen by the divergence on the held-out rows, with
    training rows left out that overlap them; the last fit has all training rows.

    Parameters
    ----------
    texts, held_out : sequence of str
        To train on, and to choose by.
    labels, held_out_labels : Tensor
        The teacher's logits, shape ``(rows, classes)``, two classes or more.
    path : Path
        The file to write.
    budget : int
        Most bytes that it may have.
    progress : Progress, optional
        Told of every fit.

    Raises
    ------
    DataError
        If there are fewer than two classes, or not even the smallest model fits in the budget.
    DependencyError
        If scikit-learn is not installed.
    """
    progress = progress or Progress()
    if labels.shape[1] < 2:
        raise DataError("the control linear needs a teacher with two classes or more")
    rows, choosing = count_ngrams(texts), count_ngrams(held_out)
    targets = _targets(labels)
    apart = _apart(texts, held_out)
    occurring = len(numpy.unique(rows.hashes))
    tried = [columns for columns in _COLUMNS if columns <= max(_ROOMY * occurring, _COLUMNS[0])]
    total = 2 * len(_PENALTIES) + len(tried) - 1 + len(tried) * len(_BITS_PER_WEIGHT) * len(_RAISED) + 1
    with progress.task("fit the linear control", total) as advance:
        settings = _choose(rows.rows(apart), targets[apart], choosing, held_out_labels, tried, budget, advance)
        inputs = rows.matrix(settings.columns, signed=settings.signed).tocsc()
        full, _ = _ridge(inputs, targets, settings.penalty)
        model = _refit(inputs, targets, _contributions(inputs, full), settings)
        advance(1)
    written, step = _write(model, budget, path)
    model = model.rounded(step)
    return LinearFit(
        bytes=written,
        columns=model.columns,
        features=int((model.weights != 0).any(axis=0).sum()),
        signed=model.signed,
        penalty=settings.penalty,
        divergence=_divergence(model, choosing, held_out_labels),
    )


def _choose(
    rows: _Counts,
    targets: NDArray[Any],
    choosing: _Counts,
    labels: Tensor,
    tried: Sequence[int],
    budget: int,
    advance: Advance,
) -> _Settings:
    """The settings whose rounded model is closest to the teacher on the held-out rows."""

    def full(columns: int, penalty: float, *, signed: bool) -> tuple[float, Any, NDArray[Any]]:
        inputs = rows.matrix(columns, signed=signed).tocsc()
        weights, offsets = _ridge(inputs, targets, penalty)
        advance(1)
        everything = _Model(columns, signed, numpy.arange(columns), weights, offsets)
        return _divergence(everything, choosing, labels), inputs, _contributions(inputs, weights)

    # Signs and penalty at one number of columns: they hardly depend on it, and these fits are the slow ones.
    grid = [(signed, penalty) for signed in (True, False) for penalty in _PENALTIES]
    middle = tried[len(tried) // 2]
    fits = [full(middle, penalty, signed=signed) for signed, penalty in grid]
    place = min(range(len(fits)), key=lambda index: fits[index][0])
    signed, penalty = grid[place]
    best: tuple[float, _Settings] | None = None
    for columns in tried:
        _, inputs, contributions = fits[place] if columns == middle else full(columns, penalty, signed=signed)
        for bits in _BITS_PER_WEIGHT:
            kept = _affordable(columns, targets.shape[1], bits, 8 * (budget - _OVERHEAD))
            for raised in _RAISED:
                settings = _Settings(columns, signed, penalty, kept, raised)
                model = _refit(inputs, targets, contributions, settings)
                judged = _divergence(model.rounded(_step(model, 8 * (budget - _OVERHEAD))), choosing, labels)
                advance(1)
                if best is None or judged < best[0]:
                    best = (judged, settings)
    assert best is not None
    return best[1]


def linear_logits(path: Path, texts: Sequence[str], classes: int) -> Tensor:
    """Logits that the model of a file gives for each text, shape ``(rows, classes)``; needs the file alone."""
    with Artifact(path) as artifact:
        weights = artifact["weight"].to(torch.float64).numpy()
        offsets = artifact["bias"].to(torch.float64).numpy()
        signed = bool(artifact["signed"].item())
    logits = _logits(count_ngrams(texts).matrix(weights.shape[1], signed=signed), weights, offsets)
    assert logits.shape[1] == classes
    return logits


def count_ngrams(texts: Sequence[str]) -> _Counts:
    """Hashed words and pairs of words of every text, as rows of unit length.

    Raises
    ------
    DependencyError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise DependencyError("the control linear needs scikit-learn: pip install 'stackc[controls]'") from error
    vectoriser = HashingVectorizer(ngram_range=(1, 2), n_features=_HASHES, token_pattern=_WORDS, dtype=numpy.float32)
    matrix = vectoriser.transform(texts)
    return _Counts(matrix.indptr, matrix.indices, matrix.data)


def _apart(texts: Sequence[str], held_out: Sequence[str]) -> NDArray[Any]:
    """Numbers of the rows that share no run of words with a held-out row.

    Data sets such as SST-2 hold pieces of one sentence as rows of their own; a piece of a held-out row would let the model
    with the most weights look best. All rows if nearly none were left.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    runs = HashingVectorizer(
        ngram_range=(_SHARED_WORDS, _SHARED_WORDS),
        n_features=_HASHES,
        token_pattern=_WORDS,
        norm=None,
        dtype=numpy.float32,
    )
    seen = numpy.unique(runs.transform(held_out).indices)
    matrix = runs.transform(texts)
    shared = numpy.isin(matrix.indices, seen).astype(numpy.int64)
    counts = numpy.concatenate([[0], numpy.cumsum(shared)])
    apart = numpy.flatnonzero(counts[matrix.indptr[1:]] == counts[matrix.indptr[:-1]])
    return apart if 2 * len(apart) > len(texts) else numpy.arange(len(texts))


def _affordable(columns: int, outputs: int, bits: float, room: float) -> int:
    """The most columns of which the places and the values of the weights fit in so many bits; 1 at least."""
    low, high = 1, columns
    while low < high:
        middle = (low + high + 1) // 2
        share = middle / columns
        places = 0.0 if share == 1 else -columns * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
        low, high = (middle, high) if outputs * (places + bits * middle) <= room else (low, middle - 1)
    return low


def _contributions(inputs: Any, weights: NDArray[Any]) -> NDArray[Any]:
    """How much each column moves the outputs over the training rows, squared."""
    squares = numpy.asarray(inputs.multiply(inputs).sum(axis=0), numpy.float64).reshape(-1)
    return squares * (weights**2).sum(axis=0)  # type: ignore[no-any-return]


def _refit(inputs: Any, targets: NDArray[Any], contributions: NDArray[Any], settings: _Settings) -> _Model:
    """A model of the columns that contribute most."""
    # Sorted stably, so that equal contributions give the same columns everywhere.
    kept = numpy.sort(numpy.argsort(-contributions, kind="stable")[: settings.kept])
    kept = kept[contributions[kept] > 0]
    if not len(kept):
        kept = numpy.arange(1)
    weights, offsets = _ridge(inputs[:, kept].tocsr(), targets, settings.penalty * settings.raised)
    return _Model(settings.columns, settings.signed, kept, weights, offsets)


def _targets(labels: Tensor) -> NDArray[Any]:
    logits = labels.double().numpy()
    if logits.shape[1] == 2:
        return logits[:, 1:] - logits[:, :1]  # type: ignore[no-any-return]
    return logits - logits.mean(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _divergence(model: _Model, rows: _Counts, labels: Tensor) -> float:
    return mean_kl(labels, _logits(rows.matrix(model.columns, signed=model.signed), model.dense(), model.offsets))


def _logits(inputs: Any, weights: NDArray[Any], offsets: NDArray[Any]) -> Tensor:
    values = torch.from_numpy(numpy.asarray(inputs @ weights.T + offsets, numpy.float64))
    return torch.cat([-values / 2, values / 2], dim=1) if values.shape[1] == 1 else values


def _ridge(inputs: Any, targets: NDArray[Any], penalty: float) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.linear_model import Ridge

    # LSQR starts from zero and draws nothing at random.
    model = Ridge(alpha=penalty, solver="lsqr", max_iter=_ITERATIONS, tol=1e-4)
    model.fit(inputs, targets)
    weights = numpy.asarray(model.coef_, numpy.float64).reshape(targets.shape[1], -1)
    return weights, numpy.asarray(model.intercept_, numpy.float64).reshape(-1)


def _step(model: _Model, bits: float) -> float:
    """The finest step whose codes have an entropy of at most so many bits."""
    low, high = math.log(model.largest * _FINEST), math.log(model.largest * 2.01)
    if model.entropy(math.exp(low)) <= bits:
        return math.exp(low)
    for _ in range(_SEARCH):
        middle = (low + high) / 2
        low, high = (low, middle) if model.entropy(math.exp(middle)) <= bits else (middle, high)
    return math.exp(high)


def _write(model: _Model, budget: int, path: Path) -> tuple[int, float]:
    """Pack the model with the finest step that fits, and give the size of the file and the step.

    The entropy says where to look, files decide.
    """
    bits = 8.0 * max(budget - _OVERHEAD, 0)
    fitting: float | None = None
    for _ in range(_PACKINGS):
        step = _step(model, bits)
        size = _pack(model, step, path)
        if size <= budget:
            fitting = step if fitting is None else min(step, fitting)
            if size > 0.99 * budget or step <= model.largest * _FINEST * 1.01:
                break
        bits = max(bits + 8 * (budget - size) * (1.0 if size > budget else 0.8), 0.0)
    if fitting is None:
        raise DataError(f"no linear model fits in {budget:,} bytes; the smallest file has {size:,}")
    return _pack(model, fitting, path), fitting


def _pack(model: _Model, step: float, path: Path) -> int:
    from stackc.models import ModuleReference
    from stackc.recipe.parse import recipe_from
    from stackc.runs.pipeline import compress_to_file

    module = torch.nn.Module()
    module.register_buffer("weight", torch.from_numpy(model.dense().astype(numpy.float32)))
    module.register_buffer("bias", torch.from_numpy(model.offsets.astype(numpy.float32)))
    module.register_buffer("signed", torch.tensor(model.signed))
    # Weights that are hashed to their places have no neighbours that tell of them: plain entropy coding is all there is.
    stages = [{"use": "int", "on": "weight", "step": step}, {"use": "ans", "on": "weight/codes"}, "raw"]
    recipe = recipe_from({"stages": stages}, "linear")
    done = compress_to_file(recipe, ModuleReference.of(module), path, evaluate=False, every_stage=False)
    return done.report.file.bytes
