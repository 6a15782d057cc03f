"""Every statistic is held against its definition, worked out another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackc.core.entropy import entropy_bits
from stackc.util.statistics import (
    Interval,
    PairedCounts,
    agreement,
    control_sentence,
    difference_interval,
    mcnemar_p,
    mean_and_deviation,
    mean_kl,
    retention_interval,
    retention_sentence,
    skill_retention,
    verdict,
    wilson_interval,
)

# No deadline: the first call of a test imports scipy.
QUICK = settings(deadline=None, max_examples=30)
COUNTS = st.builds(PairedCounts, *[st.integers(0, 60)] * 4).filter(lambda counts: counts.rows > 0)


@QUICK
@given(st.integers(1, 5000), st.data())
def test_wilson_interval_is_the_set_of_proportions_that_the_score_test_keeps(rows: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, rows))
    low, high = wilson_interval(successes, rows)
    assert 0 <= low <= successes / rows <= high <= 1
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            z = abs(successes / rows - bound) / math.sqrt(bound * (1 - bound) / rows)
            assert z == pytest.approx(1.959964, rel=1e-5)


def test_wilson_interval_refuses_more_successes_than_rows() -> None:
    with pytest.raises(ValueError, match="k"):
        wilson_interval(5, 4)


@QUICK
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_sums_the_binomial_tails(worse: int, better: int) -> None:
    flips = worse + better
    tail = sum(math.comb(flips, k) for k in range(min(worse, better) + 1)) / 2**flips
    assert mcnemar_p(PairedCounts(10, worse, better, 3)) == pytest.approx(min(1.0, 2 * tail))


def test_counts_are_those_of_the_rows() -> None:
    reference = torch.tensor([1, 1, 1, 0, 0, 1], dtype=torch.bool)
    compressed = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)
    counts = PairedCounts.of(reference, compressed)
    assert counts == (2, 2, 1, 1)
    assert counts.rows == 6
    assert counts.retention == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match="shapes"):
        PairedCounts.of(reference, compressed[:5])


def test_retention_interval_is_that_of_resampled_rows() -> None:
    generator = np.random.default_rng(3)
    reference = generator.random(400) < 0.85
    compressed = np.where(generator.random(400) < 0.1, generator.random(400) < 0.5, reference)
    rows = generator.integers(0, 400, size=(20_000, 400))
    ratios = compressed[rows].sum(1) / reference[rows].sum(1)
    interval = retention_interval(PairedCounts.of(torch.from_numpy(reference), torch.from_numpy(compressed)))
    assert interval is not None
    assert interval == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=2e-3)


@QUICK
@given(COUNTS, st.integers(0, 2**32))
def test_retention_interval_is_seeded_and_never_nan(counts: PairedCounts, seed: int) -> None:
    interval = retention_interval(counts, seed=seed, resamples=300)
    assert interval == retention_interval(counts, seed=seed, resamples=300)
    if counts.both + counts.reference_only == 0:
        assert interval is None
        assert counts.retention is None
    else:
        assert interval is not None
        assert 0 <= interval.low <= interval.high


def test_retention_interval_covers_the_truth_about_95_times_in_100() -> None:
    truth = np.array([0.80, 0.06, 0.03, 0.11])
    target = (truth[0] + truth[2]) / (truth[0] + truth[1])
    draws = np.random.default_rng(0).multinomial(800, truth, size=300)
    intervals = [
        retention_interval(PairedCounts(*draw.tolist()), seed=i, resamples=1000) for i, draw in enumerate(draws)
    ]
    hits = sum(interval is not None and interval.low <= target <= interval.high for interval in intervals)
    assert 270 <= hits <= 298


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (PairedCounts(700, 60, 10, 100), "worse than the reference"),
        (PairedCounts(700, 10, 60, 100), "better than the reference"),
        (PairedCounts(700, 30, 28, 100), "not significantly different from the reference"),
        (PairedCounts(870, 0, 0, 2), "not significantly different from the reference"),
        (PairedCounts(0, 0, 4, 6), "not comparable: the reference is right on no row"),
    ],
)
def test_sentence_claims_only_what_the_rows_show(counts: PairedCounts, words: str) -> None:
    assert retention_sentence(counts).endswith(words)


def test_four_flips_in_one_direction_are_no_evidence_although_the_bootstrap_excludes_one() -> None:
    counts = PairedCounts(95, 0, 4, 1)
    interval = retention_interval(counts)
    assert interval is not None
    assert interval.low > 1
    assert verdict(interval, mcnemar_p(counts)) == "not significantly different from the reference"


@QUICK
@given(COUNTS)
def test_sentence_agrees_with_the_interval(counts: PairedCounts) -> None:
    sentence, interval = retention_sentence(counts), retention_interval(counts)
    if "better" in sentence:
        assert interval is not None
        assert interval.low > 1
    if "worse" in sentence:
        assert interval is not None
        assert interval.high < 1


def test_verdict_needs_the_interval_too() -> None:
    assert verdict(Interval(0.99, 1.2), 0.001) == "not significantly different from the reference"


def test_skill_retention_is_zero_for_the_majority_and_one_for_the_reference() -> None:
    assert skill_retention(0.5, 0.9, 0.5) == 0
    assert skill_retention(0.9, 0.9, 0.5) == 1
    assert skill_retention(0.4, 0.9, 0.5) == pytest.approx(-0.25)
    assert skill_retention(0.9, 0.5, 0.5) is None


def test_agreement_counts_equal_predictions() -> None:
    assert agreement(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2])) == pytest.approx(2 / 3)


@QUICK
@given(st.integers(0, 10_000))
def test_kl_is_the_expected_log_ratio_and_ignores_a_shift(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 7, 3, generator=generator) * 3
    p, q = (x.double().softmax(1).numpy() for x in (a, b))
    assert mean_kl(a, b) == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=1e-9, abs=1e-12)
    assert mean_kl(a, b + 2) == pytest.approx(mean_kl(a, b), rel=1e-4, abs=1e-6)
    assert mean_kl(a, a) == 0


def test_kl_of_broken_logits_is_not_finite() -> None:
    assert not math.isfinite(mean_kl(torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])))


def entropy_by_sorting(values: np.ndarray) -> float:
    """Entropy in bits from numpy's unique."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("span", [1, 5, 120])
def test_entropy_of_integers_counts_values(dtype: torch.dtype, span: int) -> None:
    low = 0 if dtype == torch.uint8 else -span
    plane = torch.randint(low, span, (40, 50), generator=torch.Generator().manual_seed(span)).to(dtype)
    assert entropy_bits(plane) == pytest.approx(entropy_by_sorting(plane.numpy()))
    assert entropy_bits(plane.t()) == pytest.approx(entropy_bits(plane))


def test_entropy_of_a_wide_range_does_not_allocate_it() -> None:
    plane = torch.tensor([-(2**62), 2**62, 0, 0])
    assert entropy_bits(plane) == pytest.approx(6.0)


def test_entropy_of_masks_and_of_nothing() -> None:
    assert entropy_bits(torch.tensor([True, False, True, False])) == pytest.approx(4.0)
    assert entropy_bits(torch.zeros(100, dtype=torch.int8)) == 0
    assert entropy_bits(torch.zeros(0, dtype=torch.int32)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_entropy_of_reals_adds_up_the_byte_positions(dtype: torch.dtype) -> None:
    plane = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    columns = plane.view(torch.uint8).reshape(plane.numel(), -1).numpy().T
    assert entropy_bits(plane) == pytest.approx(sum(map(entropy_by_sorting, columns)))


def score_statistic(counts: PairedCounts, difference: float) -> float:
    """Tango's statistic with the most likely nuisance parameter found by trying many."""
    rows, gained, lost = counts.rows, counts.compressed_only, counts.reference_only
    # Shares of lost rows that leave no share negative.
    tried = np.linspace(max(0.0, -difference), (1 - difference) / 2, 200_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = np.where(gained, gained * np.log(tried + difference), 0.0)
        likelihood += np.where(lost, lost * np.log(tried), 0.0)
        likelihood += np.where(rows - gained - lost, (rows - gained - lost) * np.log(1 - 2 * tried - difference), 0.0)
    best = tried[np.nanargmax(likelihood)]
    return (gained - lost - rows * difference) / math.sqrt(rows * (2 * best + difference * (1 - difference)))


@QUICK
@given(COUNTS)
def test_a_difference_has_the_interval_that_the_score_test_keeps(counts: PairedCounts) -> None:
    low, high = difference_interval(counts)
    observed = (counts.compressed_only - counts.reference_only) / counts.rows
    assert -1 <= low <= observed <= high <= 1
    for bound, sign in ((low, 1), (high, -1)):
        if abs(bound) < 0.999:
            assert score_statistic(counts, bound) == pytest.approx(sign * 1.959964, rel=2e-3)


@QUICK
@given(COUNTS)
def test_the_difference_changes_sign_with_the_order(counts: PairedCounts) -> None:
    low, high = difference_interval(counts)
    swapped = difference_interval(
        PairedCounts(counts.both, counts.compressed_only, counts.reference_only, counts.neither)
    )
    assert swapped == pytest.approx((-high, -low), abs=1e-9)


def test_a_difference_of_the_literature() -> None:
    # Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence intervals for paired binomial proportions".
    low, high = difference_interval(PairedCounts(both=1, reference_only=7, compressed_only=1, neither=12))
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_an_interval_has_a_width_where_no_row_differs_and_stays_in_range() -> None:
    low, high = difference_interval(PairedCounts(100, 0, 0, 0))
    assert low == pytest.approx(-high)
    assert high == pytest.approx(1.959964**2 / (100 + 1.959964**2))
    assert difference_interval(PairedCounts(0, 0, 7, 0)).high == 1
    with pytest.raises(ValueError, match="at least one row"):
        difference_interval(PairedCounts(0, 0, 0, 0))


def test_the_interval_covers() -> None:
    generator = np.random.default_rng(0)
    shares = np.array([0.7, 0.06, 0.11, 0.13])
    draws = generator.multinomial(300, shares, size=400)
    intervals = [difference_interval(PairedCounts(*map(int, draw))) for draw in draws]
    covered = np.mean([low <= 0.05 <= high for low, high in intervals])
    assert 0.92 < covered < 0.98


@QUICK
@given(COUNTS)
def test_a_control_is_beaten_only_where_interval_and_test_say_so(counts: PairedCounts) -> None:
    interval, p = difference_interval(counts), mcnemar_p(counts)
    observed = (counts.compressed_only - counts.reference_only) / counts.rows
    sentence = control_sentence("linear", "accuracy", observed, interval, p)
    assert sentence.startswith("beats its linear control by") == (interval.low > 0 and p < 0.05)
    assert ("which is better" in sentence) == (interval.high < 0 and p < 0.05)


def test_other_metrics_have_no_points() -> None:
    assert control_sentence("linear", "f1", 0.25, Interval(0.125, 0.5)) == (
        "beats its linear control by 0.250 of f1 (95 %: 0.125 to 0.500)"
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_the_deviation_is_that_of_a_sample(values: list[float]) -> None:
    mean, deviation = mean_and_deviation(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_one_value_has_no_deviation() -> None:
    with pytest.raises(ValueError, match="two values"):
        mean_and_deviation([1.0])
