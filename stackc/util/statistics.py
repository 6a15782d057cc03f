"""How sure a measured number is: intervals, paired tests, and the entropy that a packer is held against.

scipy's tests are imported where they are used: importing them takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

from stackc.util.humanise import metric_difference, metric_is_share
from stackc.util.lazy import numpy, torch

if TYPE_CHECKING:
    from torch import Tensor

#: Level of every interval and test of this module.
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


class PairedCounts(NamedTuple):
    """Rows by whether the reference and the compressed model are right on them; or any two other models.

    Everything that a paired comparison of two accuracies can say is in these four numbers.
    """

    both: int
    reference_only: int
    compressed_only: int
    neither: int

    @classmethod
    def of(cls, reference: Tensor, compressed: Tensor) -> PairedCounts:
        """Count two correctness vectors.

        Parameters
        ----------
        reference, compressed : Tensor
            bool, shape ``(rows,)``, in the same order of rows.

        Raises
        ------
        ValueError
            If the vectors differ in length.

        Examples
        --------
        >>> import torch
        >>> PairedCounts.of(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        PairedCounts(both=1, reference_only=1, compressed_only=0, neither=1)
        """
        if reference.shape != compressed.shape or reference.dim() != 1:
            raise ValueError(f"paired vectors of shapes {tuple(reference.shape)} and {tuple(compressed.shape)}")
        outcome = (~reference.bool()).to(torch.uint8) * 2 + (~compressed.bool()).to(torch.uint8)
        return cls(*torch.bincount(outcome, minlength=4).tolist())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self)

    @property
    def retention(self) -> float | None:
        """Accuracy divided by the reference's accuracy; None if the reference is right nowhere."""
        right = self.both + self.reference_only
        return (self.both + self.compressed_only) / right if right else None


def wilson_interval(successes: int, rows: int) -> Interval:
    """95 % interval of a proportion, by Wilson's score method (Wilson 1927, without continuity correction).

    Parameters
    ----------
    successes, rows : int
        ``0 <= successes <= rows`` and ``rows >= 1``.

    Returns
    -------
    Interval
        As fractions of 1.

    Raises
    ------
    ValueError
        If the numbers are out of range.

    Examples
    --------
    >>> low, high = wilson_interval(758, 872)
    >>> f"{low:.4f} {high:.4f}"
    '0.8453 0.8900'
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, rows).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def mcnemar_p(counts: PairedCounts) -> float:
    """Exact two-sided McNemar p-value: how surprising the flips are if either direction is as likely (McNemar 1947).

    Examples
    --------
    >>> mcnemar_p(PairedCounts(both=90, reference_only=5, compressed_only=0, neither=5))
    0.0625
    """
    from scipy.stats import binomtest

    flips = counts.reference_only + counts.compressed_only
    return float(binomtest(counts.compressed_only, flips, 0.5).pvalue) if flips else 1.0


def retention_interval(counts: PairedCounts, *, seed: int = 0, resamples: int = 20_000) -> Interval | None:
    """95 % interval of the retention, by the paired percentile bootstrap (Efron 1979).

    Drawing rows with replacement makes the four paired counts multinomial, so the counts are drawn directly: the same
    distribution, at a cost that does not depend on the number of rows.

    Parameters
    ----------
    counts : PairedCounts
        Observed rows.
    seed : int
        Of the draws.
    resamples : int
        Number of draws.

    Returns
    -------
    Interval or None
        Bounds of accuracy over reference accuracy; the upper one is infinite if more than 2.5 % of the draws hold no
        row that the reference gets right. None if the reference is right nowhere.

    Examples
    --------
    >>> interval = retention_interval(PairedCounts(both=740, reference_only=45, compressed_only=10, neither=77))
    >>> interval.high < 1
    True
    """
    if counts.retention is None:
        return None
    observed = numpy.asarray(counts, numpy.float64)
    generator = numpy.random.Generator(numpy.random.Philox(seed))
    draws = generator.multinomial(counts.rows, observed / counts.rows, size=resamples)
    compressed = (draws[:, 0] + draws[:, 2]).astype(numpy.float64)
    reference = draws[:, 0] + draws[:, 1]
    fallback = numpy.where(compressed > 0, numpy.inf, 1.0)
    ratio = numpy.divide(compressed, reference, out=fallback, where=reference > 0)
    tail = (1 - CONFIDENCE) / 2
    # Without interpolation: a bound is a ratio that occurs, and infinity cannot turn into NaN.
    low, high = numpy.quantile(ratio, [tail, 1 - tail], method="inverted_cdf")
    return Interval(float(low), float(high))


def difference_interval(counts: PairedCounts) -> Interval:
    """95 % interval of the compressed model's accuracy minus the reference's, on the same rows, by Tango's score method.

    It holds the differences that a score test of the paired counts does not reject (Tango 1998, "Equivalence test and
    confidence interval for the difference in proportions for the paired-sample design"), so it is deterministic, stays
    within -1 and 1, and has a width even where the two models are right on the same rows.

    Parameters
    ----------
    counts : PairedCounts
        Of any two models; at least one row.

    Returns
    -------
    Interval
        As fractions of 1.

    Raises
    ------
    ValueError
        If there are no rows.

    Examples
    --------
    >>> low, high = difference_interval(PairedCounts(both=700, reference_only=40, compressed_only=67, neither=65))
    >>> f"{low:.4f} {high:.4f}"
    '0.0078 0.0548'
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    rows, gained, lost = counts.rows, counts.compressed_only, counts.reference_only
    if not rows:
        raise ValueError("an interval needs at least one row")
    z = float(norm.ppf(1 - (1 - CONFIDENCE) / 2))
    observed = (gained - lost) / rows
    if not gained and not lost:  # the statistic has a zero at the observed difference too
        bound = z * z / (rows + z * z)
        return Interval(-bound, bound)

    def excess(difference: float) -> float:
        """Squared score statistic above its bound, times its variance: it has no pole where the variance vanishes."""
        # The share of lost rows that is most likely if this is the difference: the larger root of a x^2 + b x + c.
        a, b = 2.0 * rows, (2.0 * rows - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        lost_share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = rows * (2 * lost_share + difference * (1 - difference))
        return (gained - lost - rows * difference) ** 2 - z * z * max(variance, 0.0)

    low = -1.0 if observed == -1.0 or excess(-1.0) <= 0 else brentq(excess, -1.0, observed)
    high = 1.0 if observed == 1.0 or excess(1.0) <= 0 else brentq(excess, observed, 1.0)
    return Interval(min(float(low), observed), max(float(high), observed))


def verdict(interval: Interval | None, p: float) -> str:
    """What may be said about a compressed model beside its reference.

    Both the interval of the retention and the exact test must exclude equality: with four flips, all in one direction,
    the bootstrap alone excludes 1 although the exact p-value is 0.125.

    Parameters
    ----------
    interval : Interval or None
        Of the retention; see `retention_interval`.
    p : float
        Exact McNemar p-value; see `mcnemar_p`.

    Examples
    --------
    >>> verdict(Interval(0.97, 1.01), 0.4)
    'not significantly different from the reference'
    >>> verdict(Interval(0.91, 0.97), 0.001)
    'worse than the reference'
    """
    if interval is None:
        return "not comparable: the reference is right on no row"
    if p < 1 - CONFIDENCE:
        if interval.low > 1:
            return "better than the reference"
        if interval.high < 1:
            return "worse than the reference"
    return "not significantly different from the reference"


def retention_sentence(counts: PairedCounts, *, seed: int = 0) -> str:
    """One sentence on what a compressed model keeps of its reference's accuracy, with the interval and the test.

    Examples
    --------
    >>> retention_sentence(PairedCounts(both=90, reference_only=5, compressed_only=5, neither=0))
    "keeps 100.0 % of the reference's accuracy (95 % interval 93.8 to 106.6 %, McNemar p = 1): not significantly different from the reference"
    """
    p, interval = mcnemar_p(counts), retention_interval(counts, seed=seed)
    conclusion = verdict(interval, p)
    if interval is None or counts.retention is None:
        return conclusion
    return (
        f"keeps {100 * counts.retention:.1f} % of the reference's accuracy (95 % interval {100 * interval.low:.1f} to "
        f"{100 * interval.high:.1f} %, McNemar p = {p:.2g}): {conclusion}"
    )


def control_sentence(control: str, metric: str, difference: float, interval: Interval, p: float | None = None) -> str:
    """Whether a result beats a control, in one sentence that claims no more than the interval shows.

    Parameters
    ----------
    control : str
        Name of the control.
    metric : str
        A metric whose larger values are better.
    difference : float
        Result minus control.
    interval : Interval
        Of the difference, 95 %.
    p : float, optional
        Exact McNemar p-value. A difference is only called one if this excludes chance as well, as in `verdict`.

    Examples
    --------
    >>> control_sentence("random-init", "accuracy", 0.031, Interval(0.012, 0.050))
    'beats its random-init control by 3.1 points (95 %: 1.2 to 5.0)'
    >>> control_sentence("random-init", "accuracy", 0.003, Interval(-0.010, 0.016))
    'does not beat its random-init control: 0.3 points (95 %: -1.0 to 1.6)'
    >>> control_sentence("linear", "accuracy", -0.021, Interval(-0.035, -0.007))
    'does not beat its linear control, which is better: -2.1 points (95 %: -3.5 to -0.7)'
    >>> control_sentence("no-heal", "accuracy", 0.04, Interval(0.001, 0.09), p=0.125)
    'does not beat its no-heal control: 4.0 points (95 %: 0.1 to 9.0; McNemar p = 0.12)'
    """
    unit = " points" if metric_is_share(metric) else f" of {metric}"
    value, low, high = (metric_difference(metric, number) for number in (difference, *interval))
    sure = p is None or p < 1 - CONFIDENCE
    test = "" if sure or interval.low <= 0 <= interval.high else f"; McNemar p = {p:.2g}"
    bounds = f"(95 %: {low} to {high}{test})"
    if sure and interval.low > 0:
        return f"beats its {control} control by {value}{unit} {bounds}"
    better = ", which is better" if sure and interval.high < 0 else ""
    return f"does not beat its {control} control{better}: {value}{unit} {bounds}"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1) of two values or more.

    Raises
    ------
    ValueError
        If there are fewer.

    Examples
    --------
    >>> mean_and_deviation([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    if len(values) < 2:
        raise ValueError("a standard deviation needs two values or more")
    return mean(values), stdev(values)


def skill_retention(accuracy: float, reference: float, majority: float) -> float | None:
    """Share of the reference's advantage over always naming the most frequent class that is kept.

    Parameters
    ----------
    accuracy, reference, majority : float
        Accuracy of the compressed model, of the reference, and of the most frequent class, as fractions of 1.

    Returns
    -------
    float or None
        None if the reference has no such advantage.

    Examples
    --------
    >>> round(skill_retention(0.80, 0.83, 0.50), 3)
    0.909
    >>> skill_retention(0.52, 0.48, 0.51) is None
    True
    """
    return (accuracy - majority) / (reference - majority) if reference > majority else None


def agreement(reference: Tensor, compressed: Tensor) -> float:
    """Share of rows on which two vectors of predicted classes are equal.

    Examples
    --------
    >>> import torch
    >>> agreement(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]))
    0.75
    """
    return float((reference == compressed).double().mean())


def mean_kl(reference: Tensor, compressed: Tensor) -> float:
    """Mean Kullback-Leibler divergence ``KL(reference || compressed)`` of the class probabilities, in nats per row.

    Parameters
    ----------
    reference, compressed : Tensor
        Logits, shape ``(rows, classes)``.

    Returns
    -------
    float
        Not negative; not finite if a logit is not.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> mean_kl(logits, logits + 5), round(mean_kl(logits, torch.zeros(1, 2)), 4)
    (0.0, 0.3278)
    """
    target = torch.log_softmax(reference.double(), dim=1)
    predicted = torch.log_softmax(compressed.double(), dim=1)
    divergence = torch.nn.functional.kl_div(predicted, target, reduction="batchmean", log_target=True)
    return float(divergence.clamp(min=0))  # the sum of rounded terms can be a little below zero; clamp keeps NaN
