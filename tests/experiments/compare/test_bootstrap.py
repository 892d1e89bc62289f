"""Paired bootstrap: exact cases, an independent computation, and how often the interval holds the truth."""

import numpy as np
import pytest
from scipy.stats import norm

from experiments.compare.bootstrap import differ, interval
from experiments.compare.types import Difference


def values(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def difference(metric: str, first: tuple[str, np.ndarray], second: tuple[str, np.ndarray]) -> Difference:
    found = differ(metric, first, second)
    assert found is not None
    return found


def test_constant_difference_has_no_width() -> None:
    b = values([20.0, 25.0, 31.0, 18.0])
    found = difference("psnr", ("a", b + 0.5), ("b", b))
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-12)
    assert (found.wins, found.ties, found.images, found.better) == (4, 0, 4, "a")


def test_equal_methods() -> None:
    b = values([20.0, 25.0, 31.0])
    found = difference("psnr", ("a", b.copy()), ("b", b))
    assert (found.mean, found.low, found.high, found.wins, found.ties, found.better) == (0, 0, 0, 0, 3, None)


def test_lower_is_better() -> None:
    found = difference("lpips", ("a", values([0.1, 0.2, 0.3])), ("b", values([0.2, 0.4, 0.4])))
    assert found.mean == pytest.approx(-0.4 / 3)
    assert (found.wins, found.better) == (3, "a")
    assert difference("lpips", ("a", values([0.2, 0.4, 0.4])), ("b", values([0.1, 0.2, 0.3]))).better == "b"


def test_two_images_by_hand() -> None:
    """Resampled means of (0, 1) are 0, 1/2, 1 with weights 1/4, 1/2, 1/4: the tails lie at the ends."""
    found = difference("psnr", ("a", values([1.0, 1.0])), ("b", values([1.0, 0.0])))
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert (found.wins, found.ties, found.better) == (1, 1, None)


def test_images_are_paired() -> None:
    """Hard and easy images 20 dB apart do not widen the interval of a steady gain."""
    hard = values([15.0, 20.0, 25.0, 30.0, 35.0] * 4)
    gains = np.tile([0.1, 0.2, 0.3], 7)[:20]
    low, high = interval(hard + gains, hard)
    assert 0.1 < low < gains.mean() < high < 0.3


def test_against_the_normal_approximation() -> None:
    """With many images the interval is mean +- 1.96 standard errors."""
    random = np.random.default_rng(3)
    first, second = random.normal(0.2, 1, (1, 400)), random.normal(0, 1, (1, 400))
    gains = (first - second)[0]
    half = norm.ppf(0.975) * gains.std() / 20
    assert interval(first, second) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.01)


def test_seeds_widen_the_interval() -> None:
    """Three seeds 1 dB apart, the same on every image: the interval is that of the mean of three draws."""
    base = np.zeros((1, 30))
    seeds = np.array([[-1.0], [0.0], [1.0]]) + base
    low, high = interval(seeds, base)
    # The mean of three draws with replacement is +-1 with probability 1/27 each, more than the tails of 1/40.
    assert (low, high) == pytest.approx((-1.0, 1.0))
    assert interval(seeds.mean(0, keepdims=True), base) == (0.0, 0.0)


def test_both_methods_have_seeds_of_their_own() -> None:
    """The same three seeds of two equal methods are not paired: an interval of no width would be a false claim."""
    seeds = np.array([[-1.0], [0.0], [1.0]]) + np.zeros((1, 30))
    low, high = interval(seeds, seeds)
    assert low < -0.5
    assert high > 0.5


def test_interval_holds_the_truth() -> None:
    """About 95 of 100 experiments with 60 images; binomially 400 trials lie within 0.91 and 0.98."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        gains = random.gamma(2.0, 0.1, (1, 60))  # skewed, mean 0.2
        low, high = interval(gains, np.zeros((1, 60)))
        held += low <= 0.2 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_same_figures_same_interval() -> None:
    first, second = values([20.0, 21.0, 25.0, 22.0]), values([20.1, 20.5, 24.0, 22.2])
    assert interval(first, second) == interval(first, second)
    assert interval(first, second) == tuple(-x for x in reversed(interval(second, first)))
