"""Noise and nothing else: what denoisers are trained and measured on."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from datamodules.batch import Batch, as_float
from datamodules.degradations.base import Degradation
from datamodules.degradations.keyed_random import uniform
from datamodules.degradations.noise import add_gaussian_noise


class NoiseDegradation(Degradation):
    """White Gaussian noise on the sharp image, not clipped. Fills `lr`, `noise_level` (exact) and `scale` = 1.

    Source: Zhang et al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021, by its public training
    code: levels 0 to 50 of 255.

    Args:
        noise: standard deviation on the [0, 1] scale, or the range [low, high] it is drawn from, evenly, for every
            image.
    """

    provides = ("hr", "lr", "noise_level", "scale")

    def __init__(self, noise: float | Sequence[float] = (0.0, 50 / 255)) -> None:
        super().__init__()
        limits = [noise, noise] if isinstance(noise, int | float) else list(noise)
        if len(limits) != 2 or not 0 <= limits[0] <= limits[1]:
            raise ValueError(
                f"noise is {noise}, expected a standard deviation >= 0 on the [0, 1] scale, or a range [low, high]"
            )
        self.low, self.high = map(float, limits)
        self.has_points = self.low < self.high

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        noise_level = uniform(batch.key, "denoising/noise_level", (), self.low, self.high, batch.point)
        noise_level = noise_level.view(-1, 1, 1, 1)
        lr = add_gaussian_noise(hr, noise_level, batch.key)
        return replace(batch, hr=hr, lr=lr, noise_level=noise_level, scale=1)
