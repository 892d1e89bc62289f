"""The second-order degradation of practical super-resolution: blur, resize, noise and JPEG, twice over."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import Batch, as_float
from datamodules.degradations.base import Degradation
from datamodules.degradations.blur import convolve
from datamodules.degradations.kernels import anisotropic_gaussian
from datamodules.degradations.keyed_random import bits, integers, uniform
from datamodules.degradations.noise import add_gaussian_noise, jpeg, sample_jpeg_quality, to_eight_bit_levels
from networks.ops.options import check_kernel_size, check_range

MODES = ("area", "bilinear", "bicubic")
Range = Sequence[float]


class SecondOrderDegradation(Degradation):
    """Real-ESRGAN's degradation, D(D(x)) with D(x) = JPEG(resize(x * k) + n), each round with parameters of its own.

    Kernels, noise levels and JPEG qualities are drawn for every sample. Factor and mode of the two resizes and the
    final order are drawn for every batch, from `batch.group`, as sizes within a batch must agree. The first resize acts
    on the sharp size H x W, the second starts from H/scale x W/scale: its factor says how far it lands from there. Then
    the last resize to exactly H/scale x W/scale and the second JPEG follow, in either order. Fills `lr` (8 bit levels)
    and `scale`; there is no one kernel or noise level that explains the result, so neither is filled.

    Left out of the original: sinc filters (as blur in either round and at the end), Poisson noise (all noise is
    Gaussian) and the generalised and plateau-shaped Gaussians (plain ones of the same symmetry instead, hence the share
    of isotropic kernels). Differences: shrinking by "bilinear" and "bicubic" is anti-aliased, which OpenCV's is not;
    the second blur is left out for each sample, not batch; qualities are whole numbers; `noise.jpeg` is kornia's codec.

    Source: Wang, Xie, Dong, Shan, "Real-ESRGAN", ICCV workshops 2021, section 3, and its public training options.

    Args:
        scale: ratio of H to the height of `lr`.
        kernel_size: largest side of the Gaussians' support in pixels, odd; smaller ones are padded to it with zeros.
        smallest_kernel: smallest such side, odd; one of the odd sides is drawn for every sample and round.
        isotropic_prob: probability of an isotropic kernel.
        sigma, sigma2: ranges of the standard deviations in pixels, first and second round.
        blur2_prob: probability of the second round's blur.
        resize_prob, resize_prob2: probabilities of enlarging, reducing and keeping the size, sum 1.
        resize_range, resize_range2: factor's range [low, high], low <= 1 <= high: [1, high] to enlarge, [low, 1] to
            reduce.
        noise, noise2: ranges of the noise's standard deviation, in levels of 0 ... 255.
        gray_noise_prob: probability that the noise is the same in all channels.
        jpeg_quality, jpeg_quality2: lowest and highest quality, both included.
        jpeg_last_prob: probability that the second JPEG follows the last resize, not the other way round.
    """

    provides = ("hr", "lr", "scale")

    def __init__(
        self,
        scale: int = 4,
        kernel_size: int = 21,
        smallest_kernel: int = 7,
        isotropic_prob: float = 0.69,
        sigma: Range = (0.2, 3.0),
        sigma2: Range = (0.2, 1.5),
        blur2_prob: float = 0.8,
        resize_prob: Range = (0.2, 0.7, 0.1),
        resize_prob2: Range = (0.3, 0.4, 0.3),
        resize_range: Range = (0.15, 1.5),
        resize_range2: Range = (0.3, 1.2),
        noise: Range = (1.0, 30.0),
        noise2: Range = (1.0, 25.0),
        gray_noise_prob: float = 0.4,
        jpeg_quality: Sequence[int] = (30, 95),
        jpeg_quality2: Sequence[int] = (30, 95),
        jpeg_last_prob: float = 0.5,
    ) -> None:
        super().__init__(scale)
        if not (1 <= smallest_kernel <= kernel_size and smallest_kernel % 2 == 1 == kernel_size % 2):
            raise ValueError(
                f"smallest_kernel is {smallest_kernel} and kernel_size {kernel_size}, expected odd numbers, "
                "1 <= smallest_kernel <= kernel_size"
            )
        check_kernel_size(kernel_size=kernel_size)
        self.kernel_size, self.smallest_kernel = kernel_size, smallest_kernel
        self.sigmas = [check_range("sigma", sigma, 0, above=True), check_range("sigma2", sigma2, 0, above=True)]
        self.noises = [check_range("noise", noise, 0), check_range("noise2", noise2, 0)]
        self.resize_probs = [_shares("resize_prob", resize_prob), _shares("resize_prob2", resize_prob2)]
        ranges = (("resize_range", resize_range), ("resize_range2", resize_range2))
        self.resize_ranges = [check_range(name, value, 0, above=True) for name, value in ranges]
        for low, high in self.resize_ranges:
            if not low <= 1 <= high:
                raise ValueError(f"resize_range is [{low:g}, {high:g}], expected low <= 1 <= high")
        self.qualities: list[tuple[int, int]] = []
        for name, quality in (("jpeg_quality", jpeg_quality), ("jpeg_quality2", jpeg_quality2)):
            check_range(name, quality, 1, 100)
            self.qualities.append((quality[0], quality[1]))
        self.isotropic_prob = _probability("isotropic_prob", isotropic_prob)
        self.blur_probs = (1.0, _probability("blur2_prob", blur2_prob))
        self.gray_noise_prob = _probability("gray_noise_prob", gray_noise_prob)
        self.jpeg_last_prob = _probability("jpeg_last_prob", jpeg_last_prob)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        hr = as_float(batch.hr)
        height, width = hr.shape[-2] // self.scale, hr.shape[-1] // self.scale
        # Every round has keys of its own, or both would draw the same noise.
        keys = bits(batch.key, "second_order/round", (2,))
        x = convolve(hr, self.draw_blur(keys[:, 0], 0), "reflect")
        x = self._noisy(_resize(x, *self.resize(batch.group, 0, (hr.shape[-2], hr.shape[-1]))), keys[:, 0], 0)
        x = jpeg(x, sample_jpeg_quality(keys[:, 0], *self.qualities[0]))

        x = convolve(x, self.draw_blur(keys[:, 1], 1), "reflect")
        x = self._noisy(_resize(x, *self.resize(batch.group, 1, (height, width))), keys[:, 1], 1)
        quality = sample_jpeg_quality(keys[:, 1], *self.qualities[1])
        last = self.last_mode(batch.group)
        if self.jpeg_last(batch.group):
            x = jpeg(_resize(x, (height, width), last), quality)
        else:
            x = to_eight_bit_levels(_resize(jpeg(x, quality), (height, width), last))
        return replace(batch, hr=hr, lr=x, scale=self.scale)

    def draw_blur(self, keys: Tensor, turn: int) -> Tensor:
        """Kernels [B, 1, k, k] of round 0 or 1: Gaussians cut to their own odd side, or an impulse for no blur."""
        draws = uniform(keys, "second_order/blur", (5,))
        low, high = self.sigmas[turn]
        sigma = low + (high - low) * draws[:, :2]
        isotropic = (draws[:, 2] < self.isotropic_prob)[:, None]
        variances = torch.where(isotropic, sigma[:, :1], sigma) ** 2
        kernel = anisotropic_gaussian(variances, torch.pi * draws[:, 3], self.kernel_size)
        sides = (self.kernel_size - self.smallest_kernel) // 2 + 1
        radius = self.smallest_kernel // 2 + integers(keys, "second_order/side", low=0, high=sides)
        radius = torch.where(draws[:, 4] < self.blur_probs[turn], radius, 0)
        offset = (torch.arange(self.kernel_size, device=keys.device) - self.kernel_size // 2).abs()
        kept = offset <= radius[:, None]
        kernel = kernel * (kept[:, None, :, None] & kept[:, None, None, :])
        return kernel / kernel.sum((2, 3), keepdim=True)

    def resize(self, group: int, turn: int, base: tuple[int, int]) -> tuple[tuple[int, int], str]:
        """Size and mode that round 0 or 1 resizes the whole batch to; `base` is the size for factor 1."""
        key = _group_key(group)
        kind, share = uniform(key, f"second_order/resize{turn}", (2,)).double()[0].tolist()
        up, down, _ = self.resize_probs[turn]
        low, high = self.resize_ranges[turn]
        factor = 1.0
        if kind < up:
            factor = 1 + (high - 1) * share
        elif kind < up + down:
            factor = low + (1 - low) * share
        mode = MODES[int(integers(key, f"second_order/mode{turn}", low=0, high=len(MODES)))]
        return (max(1, int(factor * base[0])), max(1, int(factor * base[1]))), mode

    def last_mode(self, group: int) -> str:
        """Mode of the resize to the size of `lr`."""
        return MODES[int(integers(_group_key(group), "second_order/last_mode", low=0, high=len(MODES)))]

    def jpeg_last(self, group: int) -> bool:
        """Whether the second JPEG comes after the last resize."""
        return bool(uniform(_group_key(group), "second_order/jpeg_last") < self.jpeg_last_prob)

    def _noisy(self, images: Tensor, keys: Tensor, turn: int) -> Tensor:
        """White Gaussian noise, in each channel or the same in all, clipped to [0, 1]."""
        draws = uniform(keys, "second_order/noise", (2,))
        low, high = self.noises[turn]
        level = (low + (high - low) * draws[:, :1, None, None]) / 255
        gray = images + add_gaussian_noise(torch.zeros_like(images[:, :1]), level, keys)
        colour = add_gaussian_noise(images, level, keys)
        return torch.where((draws[:, 1] < self.gray_noise_prob)[:, None, None, None], gray, colour).clamp(0, 1)


def _group_key(group: int) -> Tensor:
    """On the CPU, wherever the batch is: sizes are needed there."""
    return torch.tensor([group], dtype=torch.int64)


def _resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if images.shape[-2:] == size:
        return images
    if mode == "area":
        return F.interpolate(images, size, mode=mode)
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True)


def _shares(name: str, value: Range) -> tuple[float, float, float]:
    if len(value) != 3 or min(value) < 0 or abs(sum(value) - 1) > 1e-6:
        raise ValueError(f"{name} is {list(value)}, expected [enlarge, reduce, keep] that add up to 1")
    return float(value[0]), float(value[1]), float(value[2])


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a probability from 0 to 1")
    return float(value)
