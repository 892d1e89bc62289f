"""Data sets over the decoded cache: training crops and whole evaluation images, as uint8 tensors.

A training item is addressed by (epoch, index) and depends on nothing else but the seed, so the data set has no state
and any loader, on any rank, in any order, gets the same crop for the same address.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.augmentation import Transforms, symmetries, turned
from datamodules.batch import Batch
from datamodules.cache import ImageCache
from datamodules.degradations.keyed_random import bits, make_key


@dataclass(frozen=True, slots=True)
class Item:
    """One sample as a worker ships it: uint8 image [3, H, W], what identifies it, and of paired data the input.

    Where the data say so, also the kernel [1, k, k] and the noise level of the input.
    """

    image: Tensor
    name: str
    index: int
    key: int
    degraded: Tensor | None = None
    point: float | None = None
    group: int = 0
    kernel: Tensor | None = None
    noise_level: float | None = None
    gray: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """Degraded images that come with the sharp ones: number i of `cache` belongs to sharp image i.

    Attributes:
        cache: decoded images, `scale` times smaller than the sharp ones in both directions.
        scale: whole number from 1.
        kernels: [N, 1, k, k], of their blur, or None.
        noise_levels: standard deviations of their noise on the [0, 1] scale, N of them, or None.
    """

    cache: ImageCache
    scale: int = 1
    kernels: Tensor | None = None
    noise_levels: Sequence[float] | None = None

    def known(self, number: int) -> dict[str, Any]:
        """What an `Item` holds besides of the image of that number."""
        return {
            "kernel": None if self.kernels is None else self.kernels[number],
            "noise_level": None if self.noise_levels is None else self.noise_levels[number],
        }


def collate(items: Sequence[Item]) -> Batch:
    """Stack items of equal size into a `Batch` that holds uint8 `hr`, and uint8 `lr` if the data are paired."""
    degraded = [item.degraded for item in items if item.degraded is not None]
    kernels = [item.kernel for item in items if item.kernel is not None]
    levels = [item.noise_level for item in items if item.noise_level is not None]
    return Batch(
        hr=torch.stack([item.image for item in items]),
        name=[item.name for item in items],
        index=torch.tensor([item.index for item in items]),
        key=torch.tensor([item.key for item in items]),
        lr=torch.stack(degraded) if degraded else None,
        kernel=torch.stack(kernels) if kernels else None,
        noise_level=torch.tensor(levels).view(-1, 1, 1, 1) if levels else None,
        point=items[0].point,
        group=items[0].group,
        gray=all(item.gray for item in items),
    )


@lru_cache(maxsize=2)  # so short an epoch lies in two passes at most
def _order_of_pass(seed: int, number: int, images: int) -> np.ndarray:
    """A permutation of so many images, a function of (seed, number of the pass)."""
    return bits(torch.tensor([make_key("pass", seed, number)]), "pass/order", (images,))[0].argsort().numpy()


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


@dataclass(eq=False)
class TrainingCrops(Dataset[Item]):
    """Random square crops, flipped and rotated by multiples of 90 degrees.

    Attributes:
        cache: decoded images.
        numbers: which of them to use; none may be smaller than `patch`.
        patch: side of the crop in pixels.
        length: samples per epoch; the images are passed through evenly, epoch after epoch. Where an epoch sees only
            some of them, each pass has an order of its own: files lie beside those of the same scene.
        seed: run seed.
        flip: mirror every second crop on average.
        rotate: rotate by a random multiple of 90 degrees.
        permute_channels: shuffle the colour channels of every crop, which multiplies the colours of a small data set.
        inputs: degraded images; they are cut at the same window, which starts at a multiple of their scale, and turned
            by the same symmetry.
        transforms: what else is done to crops, to both images of a pair alike, before the channels are shuffled.
    """

    cache: ImageCache
    numbers: Sequence[int]
    patch: int
    length: int
    seed: int
    flip: bool = True
    rotate: bool = True
    inputs: Inputs | None = None
    permute_channels: bool = False
    transforms: Transforms | None = None

    def __post_init__(self) -> None:
        self.symmetries = symmetries(self.flip, self.rotate)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, address: tuple[int, int, int]) -> Item:
        epoch, index, batch = address
        pass_, place = divmod(epoch * self.length + index, len(self.numbers))
        if self.length < len(self.numbers):
            place = int(_order_of_pass(self.seed, pass_, len(self.numbers))[place])
        number = self.numbers[place]
        key = make_key(self.seed, epoch, index)
        rng = np.random.default_rng(key & 0xFFFFFFFFFFFFFFFF)
        image = self.cache[number]
        step = self.inputs.scale if self.inputs else 1
        top, left = (step * int(rng.integers((side - self.patch) // step + 1)) for side in image.shape[:2])
        symmetry = self.symmetries[rng.integers(len(self.symmetries))]
        order = rng.permutation(3) if self.permute_channels else slice(None)
        crop, degraded = self._crop(image, top, left, self.patch, symmetry), None
        if self.inputs:
            image = self.inputs.cache[number]
            degraded = self._crop(image, top // step, left // step, self.patch // step, symmetry)
        if self.transforms:
            crop, degraded = self.transforms(make_key("transforms", key), crop, degraded)
        partner = None if degraded is None else _to_tensor(degraded)[order]
        group = make_key("batch", self.seed, epoch, batch)
        known = self.inputs.known(number) if self.inputs else {}
        return Item(_to_tensor(crop)[order], self.cache.names[number], index, key, partner, group=group, **known)

    def _crop(self, image: np.ndarray, top: int, left: int, side: int, symmetry: str) -> np.ndarray:
        return turned(image[top : top + side, left : left + side], symmetry)


@dataclass(eq=False)
class WholeImages(Dataset[Item]):
    """Whole images, cut at the bottom and right to multiples of `multiple` (modcrop).

    The random key depends on (suite seed, image name) only, so every method ever compared gets the same degradation.
    Degraded images that come with the sharp ones are cut alike; `multiple` is then a multiple of their scale.

    Attributes:
        points: every image comes at each of them (`Batch.point`), named `NAME@POINT`; `numbers` then count them
            so: of n images, i at point p is number p * n + i.
    """

    cache: ImageCache
    numbers: Sequence[int]
    multiple: int
    suite_seed: int
    inputs: Inputs | None = None
    points: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Item:
        turn, number = divmod(self.numbers[index], len(self.cache))
        point = self.points[turn] if self.points else None
        image = self.cache[number]
        height, width = (side - side % self.multiple for side in image.shape[:2])
        name = self.cache.names[number]
        degraded, known = None, self.inputs.known(number) if self.inputs else {}
        if self.inputs:
            scale = self.inputs.scale
            degraded = _to_tensor(self.inputs.cache[number][: height // scale, : width // scale])
        key = make_key("suite", self.suite_seed, name)
        shown = numbered_name(self.cache, self.numbers[index], self.points)
        sharp, gray = _to_tensor(image[:height, :width]), self.cache.gray[number]
        return Item(sharp, shown, index, key, degraded, point, group=key, gray=gray, **known)


def numbered_name(cache: ImageCache, number: int, points: Sequence[float]) -> str:
    """The name of image `number` of `WholeImages`."""
    turn, place = divmod(number, len(cache))
    return f"{cache.names[place]}@{points[turn]:g}" if points else cache.names[place]
