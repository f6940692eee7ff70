"""Intervals and tests by what they promise: coverage, error rates, bias, in simulations of their own procedure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from kd_tune import influence, statistics


def answers(random: np.random.RandomState, seeds: int, images: np.ndarray, seed_effect: float) -> np.ndarray:
    """`[S, N]`: every training has an effect of its own on all images, in log odds."""
    effects = seed_effect * random.standard_normal((seeds, 1))
    right: np.ndarray = random.random_sample((seeds, len(images))) < special.expit(images + effects)
    return right


def difficulties(random: np.random.RandomState, num_images: int) -> np.ndarray:
    """`[N]` log odds that a typical training gets an image right."""
    values: np.ndarray = 2.0 + 3.0 * random.standard_normal(num_images)
    return values


def true_accuracy(seed_effect: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    expected = special.expit(2.0 + math.hypot(3.0, seed_effect) * nodes)
    return float(expected @ weights / weights.sum())


@pytest.mark.parametrize("seed_effect", [0.0, 0.2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_hold_the_truth_and_identical_arms_are_rarely_called_different(
    seeds: int, seed_effect: float
) -> None:
    """Bounds: the promised 93 to 97 % and 5 %, and two standard errors of 800 runs. `benchmarks/` has the whole."""
    random, runs = np.random.RandomState(0), 800
    truth, held, equal, wrong = true_accuracy(seed_effect), 0, 0, 0
    for _ in range(runs):
        images = difficulties(random, 500)
        arms = [answers(random, seeds, images, seed_effect) for _ in range(3)]
        interval = statistics.accuracy(arms[0])
        held += interval.low <= truth <= interval.high
        differences = [statistics.difference(arms[0], other) for other in arms[1:]]
        equal += differences[0].low <= 0 <= differences[0].high
        wrong += min(statistics.holm([found.p_value for found in differences])) < 0.05
    assert 0.93 - 0.015 < held / runs < 0.97 + 0.015
    assert 0.93 - 0.015 < equal / runs < 0.97 + 0.015
    assert wrong / runs < 0.05 + 0.015


@pytest.mark.parametrize("seed", [2, 7, 10])
def test_where_arms_differ_by_their_seeds_alone_the_test_is_welchs(seed: int) -> None:
    random = np.random.default_rng(seed)  # such that images differ from each other no more than by chance
    difficulty = random.random(2000)
    first, second = (random.random((4, 2000)) < difficulty for _ in range(2))
    expected = stats.ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    assert statistics.difference(first, second).p_value == pytest.approx(expected.pvalue)


def test_intervals_hold_though_one_of_three_was_chosen_by_the_same_trainings() -> None:
    """The luck of seeds is passed on whole, as if validation images were without end. Bounds as above, but for the
    difference's interval, which is too wide: the best of three means varies less than a mean."""
    random, runs, seeds, seed_effect = np.random.RandomState(6), 800, 5, 0.2
    truth, held, equal, wrong, bias = true_accuracy(seed_effect), 0, 0, 0, 0.0
    for _ in range(runs):
        images, effects = difficulties(random, 500), seed_effect * random.standard_normal((3, 3, seeds))
        chosen = [max(arm, key=lambda candidate: float(candidate.mean())) for arm in effects]
        arms = [random.random_sample((seeds, 500)) < special.expit(images + one[:, None]) for one in chosen]
        interval = statistics.accuracy(arms[0])
        held += interval.low <= truth <= interval.high
        bias += (interval.value - truth) / runs
        differences = [statistics.difference(arms[0], other) for other in arms[1:]]
        equal += differences[0].low <= 0 <= differences[0].high
        wrong += min(statistics.holm([found.p_value for found in differences])) < 0.05
    assert 0.93 - 0.015 < held / runs < 0.97 + 0.015
    assert equal / runs > 0.93 - 0.015
    assert wrong / runs < 0.05 + 0.015
    assert 0.003 < bias < 0.015  # 0.85 standard errors of a mean over five seeds


def test_without_an_effect_of_images_the_difference_is_students_t_test() -> None:
    """Every image alike: what is left is the spread over seeds, and a classical test of it."""
    random = np.random.RandomState(1)
    rates = [0.7 + 0.1 * random.standard_normal((4, 1)), 0.6 + 0.05 * random.standard_normal((6, 1))]
    first, second = (random.random_sample((len(rate), 20_000)) < rate for rate in rates)
    found = statistics.difference(first, second)
    welch = stats.ttest_ind(first.mean(1), second.mean(1), equal_var=False)
    assert found.p_value == pytest.approx(welch.pvalue, rel=0.01)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval(0.95)), rel=0.02)


def test_pairing_images_narrows_the_interval_of_a_difference() -> None:
    random = np.random.RandomState(2)
    images = difficulties(random, 2000)
    first, second = answers(random, 5, images, 0.0), answers(random, 5, images, 0.0)
    paired, unpaired = statistics.difference(first, second), statistics.difference(first, np.roll(second, 1000, 1))
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_a_difference_is_antisymmetric_and_its_p_value_agrees_with_its_interval() -> None:
    random = np.random.RandomState(3)
    images = difficulties(random, 1000)
    for shift in (0.0, 0.1, 0.2, 0.4):
        first, second = answers(random, 3, images + shift, 0.1), answers(random, 3, images, 0.1)
        there, back = statistics.difference(first, second), statistics.difference(second, first)
        assert (there.value, there.low, there.p_value) == pytest.approx((-back.value, -back.high, back.p_value))
        assert (there.p_value < 0.05) == (there.low > 0 or there.high < 0)


def test_the_parts_are_those_of_an_infinite_crossed_bootstrap() -> None:
    """The variance of means of seeds and images drawn again, in closed form, from the parts (Owen 2007)."""
    random = np.random.RandomState(4)
    right = answers(random, 4, difficulties(random, 60), 0.5)
    counts = [random.multinomial(count, np.full(count, 1 / count), 40_000) for count in right.shape]
    drawn = np.einsum("bs,sn,bn->b", *[counts[0] / 4.0, right.astype(float), counts[1] / 60.0], optimize=True)
    by_seed, by_image, mean = right.mean(1), right.mean(0), right.mean()
    left = right - by_seed[:, None] - by_image + mean
    closed = by_seed.var() / 4 + by_image.var() / 60 + left.var() / (4 * 60)
    assert drawn.var() == pytest.approx(closed, rel=0.03)  # two standard errors
    assert influence.take_apart([right.astype(float)], 1.0).interaction * right.size == pytest.approx(
        (left**2).sum() / (3 * 59)
    )


@pytest.mark.parametrize("always", [True, False])
def test_answers_that_are_all_alike_still_leave_doubt(always: bool) -> None:
    right = np.full((3, 100), always)
    found = statistics.accuracy(right)
    # Clopper and Pearson's exact bound of 100 successes in 100 trials.
    bound = float(stats.binomtest(100, 100).proportion_ci(0.95).low)
    assert (found.low, found.high) == pytest.approx((bound, 1.0) if always else (0.0, 1 - bound))
    same = statistics.difference(right, right)
    assert same.low < 0 < same.high
    assert same.p_value == 1.0


def test_a_difference_beyond_doubt_has_the_smallest_p_value() -> None:
    first, second = np.ones((3, 5000), bool), np.zeros((3, 5000), bool)
    assert statistics.difference(first, second).p_value == influence.SMALLEST_P


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.6]) == [1.0, 1.0]
    assert statistics.holm([0.04]) == [0.04]
    assert statistics.holm([]) == []


def test_the_shrunken_maximum_is_nearly_unbiased_where_the_raw_one_is_not() -> None:
    """32 configurations that differ by a point, 500 validation images: luck adds 1.8 points to the largest."""
    random, runs, half = np.random.RandomState(5), 1000, 250
    true = 0.7 + 0.01 * random.standard_normal((runs, 32))
    even, odd = random.binomial(half, true) / half, random.binomial(half, true) / half
    both = (even + odd) / 2
    winners = np.take_along_axis(true, both.argmax(1)[:, None], 1)[:, 0]
    raw = float((both.max(1) - winners).mean())
    shrunken = np.mean([statistics.shrunken_maximum(*pair) for pair in zip(even, odd, strict=True)])
    assert raw > 0.02
    assert abs(float(shrunken - winners.mean())) < 0.004


def test_seeds_that_agree_by_luck_leave_a_quarter_of_the_variance_that_images_say() -> None:
    """Images alike, three seeds right equally often: without a least width, three trainings would settle anything."""
    random, seeds, num_images = np.random.RandomState(8), 3, 2000
    half_right = np.arange(num_images) < num_images / 2
    first, second = (np.stack([random.permutation(half_right) for _ in range(seeds)]) for _ in range(2))
    by_image = first.mean(0) - second.mean(0)
    found = statistics.difference(first, second)
    assert found.value == 0
    assert found.high == pytest.approx(1.96 * math.sqrt(by_image.var(ddof=1) / num_images / 4), rel=1e-3)
    assert found.low == -found.high


def test_no_difference_is_larger_than_all_there_is() -> None:
    first, second = np.zeros((2, 40), bool), np.ones((2, 40), bool)
    first[0, :30] = True  # seeds that differ by 75 points, one degree of freedom
    found = statistics.difference(first, second)
    assert (found.low, found.high) == (-1.0, 1.0)
