"""Photographs as cameras and telephones store them: blurred light, pixels that gather it, noise, JPEG."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Tensor

from datamodules.batch import Batch, as_float
from datamodules.degradations.base import Degradation
from datamodules.degradations.blur import convolve, convolve_separable
from datamodules.degradations.kernels import anisotropic_gaussian, disk, gaussian_line
from datamodules.degradations.keyed_random import integers, normal_field, uniform
from datamodules.degradations.noise import jpeg, sample_jpeg_quality
from datamodules.degradations.resample import bicubic_resize
from datamodules.degradations.second_order import MODES
from datamodules.degradations.trajectories import shake_of_reach
from networks.ops.options import LARGEST_KERNEL, check_range

KINDS = ("shake", "defocus", "gaussian", "sharp")
ALMOST_SHARP = (0.1, 0.5)  # standard deviation of the Gaussian that counts as none, in pixels
GRAIN_SIDE = 7
Range = Sequence[float]


class PhotographDegradation(Degradation):
    """One round of what happens to a photograph: lr = JPEG(encode(resize(decode(hr) * k)) + n).

    Everything is drawn for every sample. The kernel k is a camera shake, the disk of a lens out of focus, a Gaussian,
    or almost an impulse, its mass centred, so that `lr` lies where `hr` does. The resize is "area", "bilinear" or
    "bicubic" (anti-aliased). Blur and resize act on linear light (sRGB's curve is undone and applied again), because it
    is light that adds up while a shutter is open: a lamp draws a bright streak that a blur of stored values, which hold
    it at 1, leaves gray. Noise is added to the stored values: what a camera's own curve and denoising leave of it is
    about as strong in dark as in bright areas there.

    Noise of a stored value y in [0, 1] has the variance read^2 + shot^2 y. A share g of it is common to all channels
    (their correlation is g), and it is smoothed by a Gaussian, at unchanged variance, as demosaicing and denoising do.

    Fills `lr` (8 bit levels), `lr_sharp` (bicubic reduction of `hr`, neither blurred nor noisy) and `scale`; there is
    no one kernel or noise level that explains the result, so neither is filled. At a `point`, extents of blur, noise
    and the loss of JPEG are at that fraction of their ranges, from mild to severe; the rest is drawn all the same, but
    for Gaussians, which are isotropic.

    Args:
        scale: ratio of H to the height of `lr`.
        kernel_size: side of the kernels in pixels of `hr`, odd.
        shares: probabilities of camera shake, defocus, Gaussian and almost no blur, sum 1.
        shake: range of the camera's farthest point from the mean of its path, in pixels of `hr`: half the length of a
            straight motion.
        defocus: range of the disk's radius in pixels of `hr`.
        sigma: range of the Gaussian's standard deviations in pixels of `hr`; half of the Gaussians are isotropic.
        shot, read: ranges of the two noises' standard deviations, at y = 1, in levels of 0 ... 255.
        common: range of the share g of the noise that is the same in all channels.
        grain: range of the standard deviation of the noise's smoothing, in pixels of `lr`.
        jpeg_quality: lowest and highest quality, both included.

    Raises:
        ValueError: for an option outside of that.
    """

    provides = ("hr", "lr", "lr_sharp", "scale")
    has_points = True

    def __init__(
        self,
        scale: int = 2,
        kernel_size: int = 25,
        shares: Range = (0.45, 0.2, 0.2, 0.15),
        shake: Range = (1.0, 12.0),
        defocus: Range = (0.8, 5.0),
        sigma: Range = (0.5, 3.0),
        shot: Range = (0.0, 5.0),
        read: Range = (0.0, 3.0),
        common: Range = (0.0, 0.6),
        grain: Range = (0.2, 0.6),
        jpeg_quality: Sequence[int] = (50, 95),
    ) -> None:
        super().__init__(scale)
        if not 3 <= kernel_size <= LARGEST_KERNEL or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, expected an odd number from 3 to {LARGEST_KERNEL}")
        if len(shares) != len(KINDS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares is {list(shares)}, expected [{', '.join(KINDS)}] that add up to 1")
        check_range("jpeg_quality", jpeg_quality, 1, 100)
        half = kernel_size // 2
        self.kernel_size, self.shares, self.jpeg_quality = kernel_size, tuple(shares), tuple(jpeg_quality)
        self.shake, self.defocus = check_range("shake", shake, 0, half), check_range("defocus", defocus, 0, half)
        self.sigma, self.common = check_range("sigma", sigma, 0.1, half), check_range("common", common, 0, 1)
        self.shot, self.read = check_range("shot", shot, 0, 255), check_range("read", read, 0, 255)
        self.grain = check_range("grain", grain, 0.1, GRAIN_SIDE // 2)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        light = convolve(to_light(hr), self.draw_blur(batch.key, batch.point), "reflect")
        stored = from_light(self.reduced(light, batch.key).clamp(0, 1))
        noisy = self.noisy(stored, batch.key, batch.point)
        # In float64: sums of float32 depend on the size of the batch, and rounding would show their last bit.
        lr = jpeg(noisy.clamp(0, 1).double(), self.draw_quality(batch.key, batch.point)).to(hr.dtype)
        return replace(batch, hr=hr, lr=lr, lr_sharp=bicubic_resize(hr, self.scale, down=True), scale=self.scale)

    def draw_blur(self, keys: Tensor, point: float | None = None) -> Tensor:
        """Kernels [B, 1, k, k], sum 1, whose centre of mass is pixel floor(k/2)."""
        kind = self.draw_kind(keys)
        kernels = torch.empty(len(keys), 1, self.kernel_size, self.kernel_size, device=keys.device)
        # A kernel depends on nothing but its key: only those that are used are made.
        for number, draw in enumerate((self._shaken, self._defocused, self._gaussian, self._sharp)):
            chosen = kind == number
            if chosen.any():
                kernels[chosen] = draw(keys[chosen], point)
        return kernels

    def draw_kind(self, keys: Tensor) -> Tensor:
        """Which of `KINDS` [B], int64."""
        ends = torch.tensor(self.shares, dtype=torch.float64, device=keys.device).cumsum(0)
        return (uniform(keys, "photographs/kind").double()[:, None] >= ends[:-1]).sum(1)

    def draw_quality(self, keys: Tensor, point: float | None = None) -> Tensor:
        """JPEG qualities [B], int64."""
        low, high = self.jpeg_quality
        if point is not None:
            return torch.full_like(keys, round(high + (low - high) * point))
        return sample_jpeg_quality(keys, low, high)

    def reduced(self, images: Tensor, keys: Tensor) -> Tensor:
        """[B, C, H/scale, W/scale], each image by its own of `MODES`."""
        mode = integers(keys, "photographs/mode", low=0, high=len(MODES))
        size = (images.shape[-2] // self.scale, images.shape[-1] // self.scale)
        result = images.new_empty(*images.shape[:2], *size)
        for number, resize in enumerate((self._area, self._bilinear, self._bicubic)):
            chosen = mode == number
            if chosen.any():
                result[chosen] = resize(images[chosen])
        return result

    def noisy(self, images: Tensor, keys: Tensor, point: float | None = None) -> Tensor:
        """Images [B, C, h, w] in [0, 1] with noise; nothing is clipped."""
        shot = uniform(keys, "photographs/shot", (1, 1, 1), *self.shot, point=point) / 255
        read = uniform(keys, "photographs/read", (1, 1, 1), *self.read, point=point) / 255
        common = uniform(keys, "photographs/common", (1, 1, 1), *self.common)
        channels, height, width = images.shape[1:]
        field = normal_field(keys, "photographs/grain", (1 + channels, height, width))
        field = common.sqrt() * field[:, :1] + (1 - common).sqrt() * field[:, 1:]
        line = gaussian_line(uniform(keys, "photographs/smooth", (), *self.grain), GRAIN_SIDE)
        line = line / line.norm(dim=1, keepdim=True)  # keeps the variance of white noise
        # Wrapped round, so that the variance at the border is that of the middle.
        field = convolve_separable(field, line, "circular")
        return images + field * (read**2 + shot**2 * images).sqrt()

    def _shaken(self, keys: Tensor, point: float | None) -> Tensor:
        return shake_of_reach(keys, uniform(keys, "photographs/shake", (), *self.shake, point=point), self.kernel_size)

    def _defocused(self, keys: Tensor, point: float | None) -> Tensor:
        return disk(uniform(keys, "photographs/defocus", (), *self.defocus, point=point), self.kernel_size)

    def _gaussian(self, keys: Tensor, point: float | None) -> Tensor:
        sigma = uniform(keys, "photographs/sigma", (2,), *self.sigma, point=point)
        turn = uniform(keys, "photographs/turn", (2,))
        sigma = torch.where(turn[:, :1] < 0.5, sigma[:, :1], sigma)
        return anisotropic_gaussian(sigma**2, torch.pi * turn[:, 1], self.kernel_size)

    def _sharp(self, keys: Tensor, point: float | None) -> Tensor:
        sigma = uniform(keys, "photographs/sharp", (1,), *ALMOST_SHARP, point=point).expand(-1, 2)
        return anisotropic_gaussian(sigma**2, torch.zeros_like(sigma[:, 0]), self.kernel_size)

    def _area(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.scale)

    def _bilinear(self, images: Tensor) -> Tensor:
        size = (images.shape[-2] // self.scale, images.shape[-1] // self.scale)
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)

    def _bicubic(self, images: Tensor) -> Tensor:
        return bicubic_resize(images, self.scale, down=True)


def to_light(stored: Tensor) -> Tensor:
    """sRGB's stored values in [0, 1] as linear light in [0, 1] (IEC 61966-2-1)."""
    return _curve(rgb_to_linear_rgb, stored)


def from_light(light: Tensor) -> Tensor:
    """The inverse of `to_light`."""
    return _curve(linear_rgb_to_rgb, light)


def _curve(curve: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Kornia takes colour images alone; the curve is the same for all channels.

    In float64, for the last bit of a power depends on where in the batch a value stands.
    """
    return curve(images.double().expand(-1, 3, -1, -1))[:, : images.shape[1]].to(images.dtype)
