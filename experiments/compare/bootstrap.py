"""Does one method beat another? Paired bootstrap over the test images, and over the seeds where there are several.

Two methods see the same images, so their difference is taken image by image: what makes an image hard for both cancels.
Images of one folder, as the frames of a video, are alike: they are drawn together, as one.
Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from experiments.compare.types import Difference
from experiments.results.records import METRICS

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 20_180_415  # of the resampling: the same figures give the same interval
FEW_IMAGES = 20  # or groups: with fewer, percentile intervals come out too narrow, which a reader has to know
FEW_SEEDS = 5  # fewer than this: the spread over trainings is not in the interval (1) or far too narrow
TIE = 1e-9

Values = NDArray[np.float64]


def groups_of(names: Sequence[str]) -> list[str]:
    """What each image is drawn with: its folder (`GOPR0384_11_00/sharp/` of a frame), or itself where it has none."""
    return [name[: name.rfind("/") + 1] or name for name in names]


def differ(
    metric: str, first: tuple[str, Values], second: tuple[str, Values], groups: Sequence[str] | None = None
) -> Difference | None:
    """Compare two methods on the same images.

    Args:
        first, second: label, and values [seeds, images]; the numbers of seeds may differ.
        groups: see `interval`.

    Returns:
        None where a value is infinite (a result equal to the truth): such differences have no mean.
    """
    _, digits, sign = METRICS[metric]
    (name, a), (other, b) = first, second
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    low, high = interval(a, b, groups)
    gains = a.mean(0) - b.mean(0)
    mean = float(gains.mean())
    better = None
    if (low > 0 or high < 0) and round(mean, digits):
        better = name if sign * low > 0 else other
    ties = int((abs(gains) <= TIE).sum())
    return Difference(name, other, mean, low, high, int((sign * gains > TIE).sum()), ties, len(gains), better)


def interval(first: Values, second: Values, groups: Sequence[str] | None = None) -> tuple[float, float]:
    """95 % interval of the mean of `first` - `second`.

    Images are drawn with replacement, the same ones for both; where a method has several seeds, they are drawn too,
    for each method by itself, so that the interval holds for another training.

    Args:
        first: [seeds, images].
        second: [seeds, images] on the same images; the number of seeds may be another one.
        groups: of each image, see `groups_of`: whole groups are drawn. None: every image by itself.
    """
    of_group: dict[str, list[int]] = {}
    for image, group in enumerate(groups or map(str, range(first.shape[1]))):
        of_group.setdefault(group, []).append(image)
    chosen = list(of_group.values())
    if len(chosen) < first.shape[1]:
        first, second = (np.stack([values[:, few].mean(1) for few in chosen], 1) for values in (first, second))
    counts = _draws(len(chosen), 0) * np.array([len(few) for few in chosen])
    images = counts / counts.sum(1, keepdims=True)
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
    return np.einsum("rs,rs->r", _draws(len(values), stream) / len(values), images @ values.T)


@lru_cache(maxsize=8)
def _draws(count: int, stream: int) -> NDArray[np.int64]:
    """[resamples, count]: how often each of `count` things is drawn."""
    random = np.random.default_rng([SEED, count, stream])
    return random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
