"""Degradation pipelines: callables that complete a `Batch` on its device.

A pipeline states the `scale` between `hr` and `lr` and the batch fields it `provides`; the config check compares both
with what the network and the loss ask for.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from datamodules.batch import Batch, as_float
from datamodules.degradations.blur import Boundary, convolve
from datamodules.degradations.kernels import isotropic_gaussian
from datamodules.degradations.random import uniform
from datamodules.degradations.resample import bicubic_resize


class EDDSRNDegradation:
    """ED-DSRN's degradation: bicubic reduction first, then an isotropic Gaussian blur at low resolution.

    Fills `lr` = blur(lr_sharp), `lr_sharp` = bicubic(hr), `kernel`, `scale`. No noise, no clipping.
    Source: Zhang et al., ICASSP 2018, section 3.1. The kernel size and the border rule are not stated there: 21 pixels
    hold more than five standard deviations, and the border is repeated.

    Args:
        scale: reduction factor.
        sigma: range of the blur's standard deviation in low-resolution pixels, drawn uniformly for every sample.
        kernel_size: side of the square kernel in pixels.
        boundary: see `datamodules.degradations.blur.convolve`.
        eight_bit: round the degraded input to 8 bit, as if it had been stored as an image file.

    Raises:
        ValueError: if the range is empty or not positive.
    """

    provides = ("hr", "lr", "lr_sharp", "kernel", "scale")

    def __init__(
        self,
        scale: int = 4,
        sigma: Sequence[float] = (1.0, 2.0),
        kernel_size: int = 21,
        boundary: Boundary = "replicate",
        eight_bit: bool = False,
    ) -> None:
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"sigma is {list(sigma)}, expected [low, high] with 0 < low <= high")
        if scale < 1 or kernel_size < 1:
            raise ValueError(f"scale is {scale} and kernel_size {kernel_size}, expected both at least 1")
        self.scale = scale
        self.sigma = (float(sigma[0]), float(sigma[1]))
        self.kernel_size = kernel_size
        self.boundary: Boundary = boundary
        self.eight_bit = eight_bit

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Complete `batch`; `hr` must have sides divisible by `scale`. The same keys give the same result."""
        hr = as_float(batch.hr)
        lr_sharp = bicubic_resize(hr, self.scale, down=True)
        kernel = isotropic_gaussian(uniform(batch.key, "ed_dsrn/sigma", (), *self.sigma), self.kernel_size)
        lr = convolve(lr_sharp, kernel, self.boundary)
        if self.eight_bit:
            lr = lr.mul(255).round().clamp(0, 255).div(255)
        return replace(batch, hr=hr, lr=lr, lr_sharp=lr_sharp, kernel=kernel, scale=self.scale)
