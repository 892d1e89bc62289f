"""Paired bootstrap: exact cases, an independent computation, and how often the interval holds the truth."""

import numpy as np
import pytest
from scipy.stats import norm

from experiments.compare.bootstrap import differ, groups_of, interval
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


@pytest.mark.parametrize("seeds", [(1, 1), (3, 2)])
def test_images_of_a_folder_are_drawn_together(seeds: tuple[int, int]) -> None:
    """A hundred times the same frame says no more than once."""
    random = np.random.default_rng(1)
    first, second = (random.normal(0, 1, (count, 11)) for count in seeds)
    frames = [f"clip{clip}/sharp/{frame:06d}" for clip in range(11) for frame in range(100)]
    many = [np.repeat(values, 100, axis=1) for values in (first, second)]
    once = interval(first, second)
    assert interval(*many, groups_of(frames)) == pytest.approx(once, abs=1e-9)
    low, high = interval(*many)
    assert seeds != (1, 1) or high - low < (once[1] - once[0]) / 5
    assert interval(first, second, groups_of([f"image{i}" for i in range(11)])) == once  # to the bit


def test_larger_folders_weigh_more() -> None:
    """Of a folder of three and an image, each drawn twice or both once: means 1, 0 and 3/4."""
    gains = values([1.0, 1.0, 1.0, 0.0])
    found = interval(gains, np.zeros((1, 4)), groups_of(["a/1", "a/2", "a/3", "b"]))
    assert found == (0.0, 1.0)
    assert interval(gains, np.zeros((1, 4)), groups_of(["a/1", "a/2", "a/3", "a/4"])) == (0.75, 0.75)


def test_intervals_of_images_without_folders_are_those_of_before() -> None:
    """As computed at commit 2c5f8e0, in which images were drawn one by one."""
    random = np.random.default_rng(7)
    first, second, seeds = random.normal(0.2, 1, (1, 13)), random.normal(0, 1, (1, 13)), random.normal(0, 1, (3, 13))
    assert interval(first, second) == (0.29594959414072747, 1.3311236691420365)
    assert interval(seeds, second) == (-0.036823531664850084, 1.1334011190251894)


def test_groups() -> None:
    assert groups_of(["baby", "000/00000009", "GOPR0384_11_00/sharp/000001"]) == [
        *("baby", "000/", "GOPR0384_11_00/sharp/")
    ]
