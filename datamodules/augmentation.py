"""Augmentation of training crops: the symmetries of the square, and albumentations transforms that a config names.

This file is the only one that knows albumentations.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it looks up the package index

import random
from collections.abc import Sequence
from typing import Any

import albumentations as A
import numpy as np

from datamodules.errors import InputError, OptionError

_TRIES = 8  # of a transform whose draws may change the size or not
_square = A.D4()


def symmetries(flip: bool, rotate: bool) -> list[str]:
    """The symmetries of the square that a crop is given one of; a mirrored one is half of them."""
    turns = ["e", "r90", "r180", "r270"] if rotate else ["e"]
    mirrored = (["v", "hvt", "h", "t"] if rotate else ["h"]) if flip else []
    return turns + mirrored


def turned(image: np.ndarray, symmetry: str) -> np.ndarray:
    """`image` [H, W, C] under one of `symmetries`.

    The transform is applied as a plain function: Compose would add half a millisecond a crop and its own state.
    """
    return _square.apply(image, group_element=symmetry)


class Transforms:
    """Transforms of albumentations in a row, each drawing from the key of the sample and nothing else.

    Args:
        transforms: transforms or their compositions (`OneOf`, ...), from uint8 [H, W, 3] to the same shape and type.
        side: of the crops in pixels, on which every transform is tried.

    Raises:
        OptionError: for what is none of them, cannot be applied to such a crop, or changes its size or type.
    """

    def __init__(self, transforms: Sequence[Any], side: int) -> None:
        crop = np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8).reshape(side, side, 3)
        for number, transform in enumerate(transforms):
            key = f"data.transforms.{number}"
            if not isinstance(transform, A.BasicTransform | A.BaseCompose):
                found = repr(transform) if isinstance(transform, str | dict) else type(transform).__name__
                expected = "a transform of albumentations, such as {_target_: albumentations.HorizontalFlip, p: 0.5}"
                raise OptionError(key=key, found=found, expected=expected)
            try:
                for _ in range(_TRIES):
                    _check(crop, transform(image=crop, force_apply=True)["image"])
            except Exception as error:  # other people's code, and what it says of a crop that it cannot take
                reason = " ".join(str(error).split())
                raise OptionError(f"{key}: {type(transform).__name__} {reason}", key=key) from error
        self.names = ", ".join(type(transform).__name__ for transform in transforms)
        self.all = A.Compose(list(transforms), additional_targets={"degraded": "image"})

    def __call__(
        self, key: int, image: np.ndarray, degraded: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A crop and its degraded version, uint8 [H, W, 3] and [h, w, 3], both by the same draws.

        A smaller one is enlarged by repeating its pixels, transformed, and reduced by averaging them: exact for
        flips, turns and whatever is done to each pixel by itself.

        Raises:
            InputError: a draw changes the size or the type.
        """
        seed = key & 0xFFFFFFFFFFFFFFFF
        self.all.set_random_state(np.random.default_rng(seed), random.Random(seed))
        images, scale = {"image": image.copy()}, 1  # transforms may write into it
        if degraded is not None:
            scale = len(image) // len(degraded)
            images["degraded"] = degraded.repeat(scale, 0).repeat(scale, 1)
        done = self.all(**images)
        for name, before in images.items():
            try:
                _check(before, done[name])
            except ValueError as error:
                raise InputError(f"data.transforms: one of {self.names} {error}") from error
        if degraded is None:
            return done["image"], None
        height, width, channels = degraded.shape
        blocks = done["degraded"].reshape(height, scale, width, scale, channels)
        return done["image"], blocks.mean((1, 3)).round().astype(np.uint8)


def _check(before: np.ndarray, after: Any) -> None:
    """Raises `ValueError` if the shape or the type differ."""
    now = f"{tuple(after.shape)} {after.dtype}"
    if now != (was := f"{before.shape} {before.dtype}"):
        raise ValueError(f"makes {now} of a crop of {was}, expected the same size and type: leave it out")
