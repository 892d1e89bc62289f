"""Degradation pipelines: callables that complete a `Batch` on its device.

A pipeline states what `datamodules.degradations.base` asks of it; the config check compares that with what the network
and the loss ask for. Kernels come from a callable `keys -> [B, 1, k, k]` that the config chooses.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from datamodules.batch import Batch, as_float
from datamodules.degradations.base import Degradation, Kernels
from datamodules.degradations.blur import Boundary, blur_decimate, convolve, convolve_separable
from datamodules.degradations.kernels import gaussian_line, isotropic_gaussian
from datamodules.degradations.keyed_random import uniform
from datamodules.degradations.noise import (
    add_gaussian_noise,
    sample_usrnet_noise_level,
    to_eight_bit_levels,
    trunc8,
)
from datamodules.degradations.resample import bicubic_kernel, bicubic_resize
from datamodules.errors import InputError
from networks.ops.options import check_choice, check_kernel_size, check_range


class EDDSRNDegradation(Degradation):
    """ED-DSRN's degradation: bicubic reduction first, then an isotropic Gaussian blur at low resolution.

    Fills `lr` = blur(lr_sharp), `lr_sharp` = bicubic(hr), `kernel`, `scale`. No noise, no clipping.
    Source: Zhang et al., ICASSP 2018, section 3.1. The kernel size and the border rule are not stated there: 21 pixels
    hold more than five standard deviations, and the border is repeated.

    Args:
        scale: reduction factor.
        sigma: positive range of the blur's standard deviation in low-resolution pixels, drawn for every sample.
        kernel_size: side of the square kernel in pixels.
        boundary: see `datamodules.degradations.blur.convolve`.
        eight_bit: round the degraded input to 8 bit, as if it had been stored as an image file.
    """

    provides = ("hr", "lr", "lr_sharp", "kernel", "scale")
    has_points = True

    def __init__(
        self,
        scale: int = 4,
        sigma: Sequence[float] = (1.0, 2.0),
        kernel_size: int = 21,
        boundary: Boundary = "replicate",
        eight_bit: bool = False,
    ) -> None:
        self.sigma = check_range("sigma", sigma, 0, above=True)
        check_kernel_size(kernel_size=kernel_size)
        super().__init__(scale)
        self.kernel_size = kernel_size
        self.boundary: Boundary = boundary
        self.eight_bit = eight_bit

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        lr_sharp = bicubic_resize(hr, self.scale, down=True)
        sigma = uniform(batch.key, "ed_dsrn/sigma", (), *self.sigma, point=batch.point)
        kernel = isotropic_gaussian(sigma, self.kernel_size)
        lr = convolve_separable(lr_sharp, gaussian_line(sigma, self.kernel_size), self.boundary)
        if self.eight_bit:
            lr = to_eight_bit_levels(lr)
        return replace(batch, hr=hr, lr=lr, lr_sharp=lr_sharp, kernel=kernel, scale=self.scale)


class ClassicalDegradation(Degradation):
    """The classical model: blur, then reduction, then noise: y = (x * k) down + n.

    With the options of the configs it is the degradation of USRNet (circular blur, every s-th pixel), of DAN (reflected
    border, bicubic reduction, 8 bit) and of USRNet+DAN. Fills `lr`, `kernel`, `noise_level`, `scale`.
    Sources: Zhang, Van Gool, Timofte, CVPR 2020, eq. 1; Luo et al., NeurIPS 2020, section 4.1.

    Args:
        kernels: one kernel for every random key.
        scale: reduction factor, or several: then one is drawn for each batch, the same on every process.
        reduction: "decimate" keeps the upper-left pixel of every block, "bicubic" is MATLAB's imresize.
        boundary: how the sharp image continues outside its frame.
        noise: standard deviation on the [0, 1] scale, or "usrnet" for USRNet's training law.
        storage: what holds the reduced image before noise: "float", "eight_bit" (rounded), or "trunc8" (truncated, as
            the official USRNet data code does it).
        multiple: cut sharp images to multiples of this as well; USRNet's tables are measured with 8.
    """

    provides: tuple[str, ...] = ("hr", "lr", "kernel", "noise_level", "scale")
    kernels: Kernels

    def __init__(
        self,
        kernels: Kernels,
        scale: int | Sequence[int] = 4,
        reduction: Literal["decimate", "bicubic"] = "decimate",
        boundary: Boundary = "circular",
        noise: float | Literal["usrnet"] = 0.0,
        storage: Literal["float", "eight_bit", "trunc8"] = "float",
        multiple: int = 1,
    ) -> None:
        super().__init__(scale, multiple)
        if noise != "usrnet" and not (isinstance(noise, int | float) and noise >= 0):
            raise ValueError(f"noise is {noise!r}, expected a standard deviation >= 0 on the [0, 1] scale, or usrnet")
        check_choice("reduction", reduction, ("decimate", "bicubic"))
        check_choice("storage", storage, ("float", "eight_bit", "trunc8"))
        self.take(kernels)
        self.reduction, self.boundary, self.noise, self.storage = reduction, boundary, noise, storage

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        scale = self.scales[batch.group % len(self.scales)]
        kernel = self.draw(batch)
        lr, noise_level = self.stored_and_noisy(batch, hr, lambda x: self._reduced(x, kernel.to(x), scale))
        return replace(batch, hr=hr, lr=lr, kernel=kernel, noise_level=noise_level, scale=scale)

    def stored_and_noisy(self, batch: Batch, hr: Tensor, reduced: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """`lr` and `noise_level` of sharp images, which `reduced` blurs and reduces, in whatever dtype they are."""
        if self.storage == "trunc8":
            lr = self._of_bytes(hr, reduced)
        else:
            lr = reduced(hr)
            lr = to_eight_bit_levels(lr) if self.storage == "eight_bit" else lr
        if self.noise == "usrnet":
            noise_level = sample_usrnet_noise_level(batch.key)
        else:
            noise_level = torch.full((len(hr), 1, 1, 1), float(self.noise), device=hr.device)
        if self.noise:
            lr = add_gaussian_noise(lr, noise_level, batch.key)
        return lr, noise_level

    def _reduced(self, hr: Tensor, kernel: Tensor, scale: int) -> Tensor:
        if self.reduction == "decimate":
            return blur_decimate(hr, kernel, scale, self.boundary)
        return bicubic_resize(convolve(hr, kernel, self.boundary), scale, down=True)

    @staticmethod
    def _of_bytes(hr: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
        """As the official code: whole levels, blurred in float64 by kernels whose sums are not quite 1, and cut off."""
        device = "cpu" if hr.device.type == "mps" else hr.device  # Apple's GPU has no float64
        levels = hr.to(device).double().mul(255).round()
        return trunc8(reduced(levels / 255)).to(hr)


class BicubicDegradation(Degradation):
    """Bicubic reduction only, super-resolution without blur. Fills `lr`, `kernel`, `noise_level`, `scale`.

    `kernel` is the exact equivalent for blur and decimation (`resample.bicubic_kernel`), for non-blind methods.

    Args:
        scale: reduction factor, or several: then one is drawn for each batch, the same on every process.
        eight_bit: round the result to 8 bit.
        kernel_size: side of `kernel` in pixels, which has to hold that of the largest scale.
    """

    provides = ("hr", "lr", "kernel", "noise_level", "scale")

    def __init__(self, scale: int | Sequence[int] = 4, eight_bit: bool = False, kernel_size: int = 25) -> None:
        check_kernel_size(kernel_size=kernel_size)
        super().__init__(scale)
        self.eight_bit = eight_bit
        self.equivalents = {scale: bicubic_kernel(scale, kernel_size) for scale in self.scales}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        scale = self.scales[batch.group % len(self.scales)]
        lr = bicubic_resize(hr, scale, down=True)
        if self.eight_bit:
            lr = to_eight_bit_levels(lr)
        kernel = self.equivalents[scale].to(hr.device).expand(len(hr), -1, -1, -1)
        noise_level = torch.zeros(len(hr), 1, 1, 1, device=hr.device)
        return replace(batch, hr=hr, lr=lr, kernel=kernel, noise_level=noise_level, scale=scale)


class CooperativeDegradation(Degradation):
    """Cooperative-Learning Deblur-SR's inputs: reduced x1/4 and enlarged again, so that `lr` has the size of `hr`.

    With D the bicubic reduction, U the enlargement and B the blur, "old" is B(U(D(x))), "new" U(B(D(x))) with the
    kernel at low resolution, "released" (the published data writer) U(D(B(x))). Fills `lr`, `lr_sharp` = U(D(x)),
    `kernel`, and `scale` = 1.
    Source: Liu et al., J. Real-Time Image Processing 2020, and the repository's README and generate_mod.m.

    Args:
        kernels: one blur kernel for every random key.
        order: "old", "new" or "released".
        factor: of the reduction and enlargement.
        boundary: of the blur.
    """

    provides = ("hr", "lr", "lr_sharp", "kernel", "scale")
    kernels: Kernels

    def __init__(
        self,
        kernels: Kernels,
        order: Literal["old", "new", "released"] = "old",
        factor: int = 4,
        boundary: Boundary = "replicate",
    ) -> None:
        check_choice("order", order, ("old", "new", "released"))
        super().__init__(1, factor)
        self.take(kernels)
        self.order, self.factor, self.boundary = order, factor, boundary

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        kernel = self.draw(batch)
        blur = partial(convolve, kernels=kernel, boundary=self.boundary)
        down = partial(bicubic_resize, scale=self.factor, down=True)
        up = partial(bicubic_resize, scale=self.factor)
        lr_sharp = up(down(hr))
        if self.order == "old":
            lr = blur(lr_sharp)
        else:
            lr = up(blur(down(hr))) if self.order == "new" else up(down(blur(hr)))
        return replace(batch, hr=hr, lr=lr, lr_sharp=lr_sharp, kernel=kernel, scale=1)


class ReducedPairs(Degradation):
    """Starts from pairs of sharp and blurred files of equal size, such as GOPRO, and reduces the blurred one.

    LR-GOPRO (`enlarge` off): `lr` = D(blurred), `lr_sharp` = D(sharp), both x1/`factor`; the published Cooperative data
    writer (`enlarge` on): `lr` = U(D(blurred)) and `lr_sharp` = U(D(sharp)), at full size.
    Sources: Zhang et al. (GFN), BMVC 2018, section 4.1; the Cooperative repository's generate_mod.m.

    Args:
        factor: of the bicubic reduction.
        enlarge: bring the result back to full size.
    """

    inputs = ("hr", "lr")
    provides = ("hr", "lr", "lr_sharp", "scale")

    def __init__(self, factor: int = 4, enlarge: bool = False) -> None:
        super().__init__(1 if enlarge else factor, factor)
        self.factor, self.enlarge = factor, enlarge

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Complete `batch`. Raises `ValueError` if the batch has no blurred image of the size of the sharp one."""
        if batch.lr is None or batch.lr.shape != batch.hr.shape:
            raise ValueError("pairs of equal size are needed: use data=gopro or data=paired_folder")
        hr = as_float(batch.hr)
        lr = bicubic_resize(as_float(batch.lr), self.factor, down=True)
        lr_sharp = bicubic_resize(hr, self.factor, down=True)
        if self.enlarge:
            lr, lr_sharp = bicubic_resize(lr, self.factor), bicubic_resize(lr_sharp, self.factor)
        return replace(batch, hr=hr, lr=lr, lr_sharp=lr_sharp, scale=self.scale)


class AsStored(Degradation):
    """Leaves a batch of paired data as the files have it: `hr`, `lr` and `scale`, nothing else.

    Args:
        scale: ratio of the files' sizes; the configs take it from the source.
    """

    inputs = ("hr", "lr")
    provides: tuple[str, ...] = ("hr", "lr", "scale")

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self.file_scale = scale

    def __call__(self, batch: Batch) -> Batch:
        """Returns `batch`. Raises `InputError` if it has no degraded images."""
        if batch.lr is None:
            raise InputError(
                "degradation: the one chosen leaves images as they are, but the data hold sharp images only: choose "
                "another degradation, or data with degraded images such as data=paired_folder"
            )
        return batch


class StoredWithSharp(AsStored):
    """As `AsStored`, and fills `lr_sharp`, the target of a deblurring branch: D(hr), rounded to 8 bit like a file.

    For pairs whose degraded files were reduced bicubically, such as those of REDS.
    """

    provides = ("hr", "lr", "lr_sharp", "scale")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        batch = super().__call__(batch)
        hr = as_float(batch.hr)
        return replace(batch, hr=hr, lr_sharp=to_eight_bit_levels(bicubic_resize(hr, self.scale, down=True)))
