"""Blind deblurring by the dark channel prior: nothing learned, nothing to train.

J. Pan, D. Sun, H. Pfister, M.-H. Yang, "Blind image deblurring using dark channel prior", CVPR 2016. Constants as in
the authors' published code. The kernel is estimated on the gray image from coarse to fine, by alternating an image
step (`networks.ops.l0_deconvolution`) with a kernel step (`networks.ops.kernel_estimation`); with it, every channel is
deconvolved under total variation, and ringing is taken off: that is the smooth part of what total variation has and the
L0 prior has not (J. Pan, Z. Hu, Z. Su, M.-H. Yang, "Deblurring text images via L0-regularized intensity and gradient
prior", CVPR 2014).

What differs from the published code: the order of windows in the image step (see `dark_channel_deconvolution`); the
prefilter of the pyramid has sum 1; the bilateral filter compares colours in RGB, not in Lab; an image without edges
comes back as it is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.base import RestorationNetwork
from networks.ops.fourier import good_size, work_dtype
from networks.ops.kernel_estimation import (
    clean_kernel,
    enlarge_kernel,
    fit_kernel,
    gradient_threshold,
    gradients,
    recentre,
    strong_gradients,
)
from networks.ops.l0_deconvolution import (
    bilateral_filter,
    dark_channel_deconvolution,
    l0_deconvolution,
    tv_deconvolution,
)
from networks.ops.options import LARGEST_KERNEL
from networks.ops.resize import bicubic_resize
from networks.ops.wraparound import wrap_extend
from networks.restored import Restored

RATIO = math.sqrt(0.5)  # between the levels of the pyramid
ALTERNATIONS = 5  # at each level
DECAY, LEAST_LAMBDA = 1.1, 1e-4


def kernel_sizes(finest: int) -> list[int]:
    """Odd kernel sizes of all levels of the pyramid, finest first: 21, 15, 11, 9, 7."""
    levels = max(math.floor(math.log(5 / finest) / math.log(RATIO)), 0) + 1
    sizes = [math.ceil(finest * RATIO**i - 1e-9) for i in range(levels)]
    return [size + (size + 1) % 2 for size in sizes]


def shrink(x: Tensor, ratio: float) -> Tensor:
    """Reduce [H, W] by a Gaussian prefilter and bilinear sampling at a pitch of 1/ratio pixels, from the first one.

    The Gaussian has a standard deviation of 1/(2 ratio) pixels, without the tails of 5 % on either side; pixels whose
    window leaves the image are dropped.
    """
    if ratio == 1:
        return x
    n = torch.arange(-50, 51, dtype=torch.float64)
    weights = torch.exp(-0.5 * (2 * n * ratio) ** 2)
    weights = weights / weights.sum()
    cumulated = weights.cumsum(0)
    weights = weights[torch.minimum(cumulated, cumulated.flip(0)) > 0.05]
    weights = (weights / weights.sum()).to(x)
    x = F.conv2d(F.conv2d(x[None, None], weights[None, None, :, None]), weights[None, None, None])[0, 0]
    for dim in (0, 1):
        last = x.shape[dim] - 1
        at = torch.arange(math.floor(last * ratio + 1e-9) + 1, dtype=torch.float64) / ratio
        before = at.floor().clamp(max=last)
        share = (at - before).to(x)
        share = share[:, None] if dim == 0 else share
        first, second = before.long().to(x.device), (before + 1).clamp(max=last).long().to(x.device)
        x = torch.lerp(x.index_select(dim, first), x.index_select(dim, second), share)
    return x


def _extended(x: Tensor, kernel_size: int) -> Tensor:
    """[C, H, W] continued to a size that transforms fast and keeps opposite borders a kernel apart."""
    h, w = (good_size(n + kernel_size - 1) for n in x.shape[-2:])
    return wrap_extend(x[None], (h, w))[0]


def estimate_kernel(gray: Tensor, kernel_size: int, lambda_dark: float, lambda_grad: float) -> Tensor:
    """The blur kernel of a gray image.

    Args:
        gray: [H, W], about [0, 1].
        kernel_size: odd side of the kernel, at least that of the blur.
        lambda_dark: weight of the dark channel; with 0 only the gradients count.
        lambda_grad: weight of the gradients.

    Returns:
        [k, k], sum 1, float64 on the CPU, its centre of mass within about a pixel of the centre.

    Raises:
        ValueError: if the image is too small for the kernel.
    """
    if min(gray.shape) < 2 * kernel_size:  # then every level of the pyramid is larger than its kernel
        h, w = gray.shape
        raise ValueError(
            f"an image of {w}x{h} is too small to find a kernel of {kernel_size}x{kernel_size} in it: its sides have "
            f"to be at least {2 * kernel_size}, choose a smaller kernel_size"
        )
    sizes = kernel_sizes(kernel_size)
    levels = [shrink(gray, RATIO**i) for i in range(len(sizes))]
    kernel = torch.zeros(sizes[-1], sizes[-1], dtype=torch.float64)
    middle = sizes[-1] // 2
    kernel[middle - 1, middle - 1 : middle + 1] = 0.5  # a first guess that is no delta
    start = gradient_threshold(levels[-1], sizes[-1])
    for blurred, size in zip(reversed(levels), reversed(sizes), strict=True):
        if len(kernel) != size:
            kernel = enlarge_kernel(kernel, 1 / RATIO, size)
        h, w = blurred.shape
        extended, blurred_gradients, threshold = _extended(blurred[None], size), gradients(blurred), start
        for _ in range(ALTERNATIONS):
            if lambda_dark:
                latent = dark_channel_deconvolution(extended, kernel, lambda_grad, lambda_dark)
            else:
                latent = l0_deconvolution(extended, kernel, lambda_grad)
            gx, gy, threshold = strong_gradients(latent[0, :h, :w], threshold)
            kernel = clean_kernel(fit_kernel(blurred_gradients, (gx, gy), size))
            lambda_grad = max(lambda_grad / DECAY, LEAST_LAMBDA)
            lambda_dark = max(lambda_dark / DECAY, LEAST_LAMBDA) if lambda_dark else 0.0
        kernel = recentre(kernel)
    kernel = kernel.masked_fill(kernel < kernel.max() / 20, 0)
    return kernel / kernel.sum()


def deconvolve(blurred: Tensor, kernel: Tensor, lambda_tv: float, lambda_l0: float, weight_ring: float) -> Tensor:
    """The sharp image for a known kernel: total variation, without the ringing.

    Args:
        blurred: [C, H, W], about [0, 1].
        kernel: [k, k], sum 1, centre at floor(k/2).
        lambda_tv: weight of the total variation.
        lambda_l0: weight of the L0 gradients of the image without ringing.
        weight_ring: how much of the ringing to take off; 0 leaves all.

    Returns:
        [C, H, W], not clamped.
    """
    h, w = blurred.shape[-2:]
    extended = _extended(blurred, max(kernel.shape))
    restored = tv_deconvolution(extended, kernel, lambda_tv)[:, :h, :w]
    if weight_ring:
        difference = restored - l0_deconvolution(extended, kernel, lambda_l0)[:, :h, :w]
        restored = restored - weight_ring * bilateral_filter(difference, sigma=3, sigma_range=0.1)
    return restored


class DarkChannel(RestorationNetwork):
    """Dark channel deblurring, then bicubic enlargement; image by image, no parameters.

    Input `lr` [B, C, h, w], C = 1 or 3, about [0, 1]. Outputs `kernel` [B, 1, k, k], the estimated kernel of `lr` (also
    for scale > 1: of the low resolution), sum 1; `deblurred` [B, C, h, w]; `sr` [B, C, scale*h, scale*w], which for
    scale 1 is `deblurred`. Neither is clamped.

    Args:
        kernel_size: odd side of the kernel in low-resolution pixels, not smaller than the blur; much larger is slow,
            and wrong in small images. The sides of the images have to be at least twice as long.
        scale: of the enlargement.
        lambda_dark: weight of the dark channel prior at the start; 0 (ablation) leaves it out.
        lambda_grad: weight of the gradient prior at the start. Both are divided by 1.1 in every round, down to 1e-4.
        lambda_tv: weight of the total variation in the final deconvolution, 1e-3 (sharp) to 1e-2 (noisy input).
        lambda_l0: weight of the L0 gradients in the removal of ringing, 1e-4 to 2e-3.
        weight_ring: how much of the ringing to remove, 0 to 1.
    """

    outputs = ("sr", "deblurred", "kernel")
    whole_image = True

    def __init__(
        self,
        kernel_size: int,
        scale: int = 4,
        lambda_dark: float = 4e-3,
        lambda_grad: float = 4e-3,
        lambda_tv: float = 3e-3,
        lambda_l0: float = 5e-4,
        weight_ring: float = 1.0,
    ) -> None:
        super().__init__()
        if not 3 <= kernel_size <= LARGEST_KERNEL or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}, expected an odd number from 3 to {LARGEST_KERNEL}")
        for name, value in (("lambda_grad", lambda_grad), ("lambda_tv", lambda_tv), ("lambda_l0", lambda_l0)):
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected a positive weight")
        for name, value in (("lambda_dark", lambda_dark), ("weight_ring", weight_ring)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected a weight of at least 0")
        self.scale, self.kernel_size = scale, kernel_size
        self.kernel_side, self.smallest_side = kernel_size, 2 * kernel_size
        self.lambda_dark, self.lambda_grad = lambda_dark, lambda_grad
        self.lambda_tv, self.lambda_l0, self.weight_ring = lambda_tv, lambda_l0, weight_ring

    def with_known_kernel(self) -> "DarkChannelDeconvolution":
        return DarkChannelDeconvolution(self)

    @torch.no_grad()
    def forward(self, lr: Tensor) -> Restored:
        if lr.shape[1] not in (1, 3):
            raise ValueError(f"lr has {lr.shape[1]} channels, expected 1 or 3")
        if not lr.isfinite().all():
            raise ValueError("lr has values that are not finite")
        with torch.autocast(lr.device.type, enabled=False):
            images = [self._restore(image) for image in lr.to(work_dtype(lr))]
        kernel = torch.stack([kernel for kernel, _ in images])[:, None].to(lr)
        deblurred = torch.stack([image for _, image in images]).to(lr.dtype)
        return Restored(sr=bicubic_resize(deblurred, self.scale), deblurred=deblurred, kernel=kernel)

    def _restore(self, image: Tensor) -> tuple[Tensor, Tensor]:
        gray = (
            image[0] if len(image) == 1 else torch.einsum("chw,c->hw", image, image.new_tensor([0.2989, 0.587, 0.114]))
        )
        kernel = estimate_kernel(gray, self.kernel_size, self.lambda_dark, self.lambda_grad)
        return kernel, deconvolve(image, kernel, self.lambda_tv, self.lambda_l0, self.weight_ring)


class DarkChannelDeconvolution(RestorationNetwork):
    """The second half of `DarkChannel`: its deconvolution with a kernel [B, 1, k, k] that is known."""

    inputs = ("lr", "kernel")
    outputs = ("sr", "deblurred")
    whole_image = True

    def __init__(self, network: DarkChannel) -> None:
        super().__init__()
        self.scale = network.scale
        self.options = (network.lambda_tv, network.lambda_l0, network.weight_ring)

    def forward(self, lr: Tensor, kernel: Tensor) -> Restored:
        with torch.autocast(lr.device.type, enabled=False):
            pairs = zip(lr.to(work_dtype(lr)), kernel[:, 0], strict=True)
            images = [deconvolve(image, of_image.cpu().double(), *self.options) for image, of_image in pairs]
        deblurred = torch.stack(images).to(lr.dtype)
        return Restored(sr=bicubic_resize(deblurred, self.scale), deblurred=deblurred)
