"""Does one method beat another? Paired bootstrap over the test images, and over the seeds where there are several.

Two methods see the same images, so their difference is taken image by image: what makes an image hard for both cancels.
Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from experiments.compare.types import Difference
from experiments.results.records import METRICS

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 20_180_415  # of the resampling: the same figures give the same interval
FEW_IMAGES = 20  # fewer than this: percentile intervals come out too narrow, which a reader has to know
FEW_SEEDS = 5  # fewer than this: the spread over trainings is not in the interval (1) or far too narrow
TIE = 1e-9

Values = NDArray[np.float64]


def differ(metric: str, first: tuple[str, Values], second: tuple[str, Values]) -> Difference | None:
    """Compare two methods on the same images.

    Args:
        first, second: label, and values [seeds, images]; the numbers of seeds may differ.

    Returns:
        None where a value is infinite (a result equal to the truth): such differences have no mean.
    """
    _, digits, sign = METRICS[metric]
    (name, a), (other, b) = first, second
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    low, high = interval(a, b)
    gains = a.mean(0) - b.mean(0)
    mean = float(gains.mean())
    better = None
    if (low > 0 or high < 0) and round(mean, digits):
        better = name if sign * low > 0 else other
    ties = int((abs(gains) <= TIE).sum())
    return Difference(name, other, mean, low, high, int((sign * gains > TIE).sum()), ties, len(gains), better)


def interval(first: Values, second: Values) -> tuple[float, float]:
    """95 % interval of the mean of `first` - `second`.

    Images are drawn with replacement, the same ones for both; where a method has several seeds, they are drawn too,
    for each method by itself, so that the interval holds for another training.

    Args:
        first: [seeds, images].
        second: [seeds, images] on the same images; the number of seeds may be another one.
    """
    images = _draws(first.shape[1], 0)
    if len(first) == len(second) == 1:
        means = images @ (first[0] - second[0])
    else:
        means = _resampled(first, images, 1) - _resampled(second, images, 2)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(values: Values, images: Values, stream: int) -> Values:
    """[resamples]: the mean of every resample of one method."""
    if len(values) == 1:
        return images @ values[0]
    return np.einsum("rs,rs->r", _draws(len(values), stream), images @ values.T)


@lru_cache(maxsize=8)
def _draws(count: int, stream: int) -> Values:
    """[resamples, count]: how often each of `count` things is drawn, divided by `count`."""
    random = np.random.default_rng([SEED, count, stream])
    return random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
