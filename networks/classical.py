"""Classical deconvolution with known kernel, extended to super-resolution: references without learning.

Both take the model of USRNet, y = (x * k) down + n: circular convolution, then the upper left pixel of every
scale x scale block, so that they stand beside it in the same tables. Nothing to train.
"""

from typing import Literal

import torch
from torch import Tensor

from networks.base import RestorationNetwork
from networks.ops.fourier import otf, work_dtype
from networks.ops.l0_deconvolution import difference_power
from networks.ops.options import check_choice, check_positive
from networks.ops.wraparound import room_for_kernel
from networks.restored import Restored

Boundary = Literal["circular", "wrap"]


class Degrade:
    """A: circular convolution of [B, C, s*h, s*w] with kernels [B, 1 or C, kh, kw], then every s-th pixel.

    Args:
        kernel: any size, centre at floor(k/2), sum 1.
        size: (h, w) of the low resolution.
        scale: s.
    """

    def __init__(self, kernel: Tensor, size: tuple[int, int], scale: int) -> None:
        self.size, self.scale = size, scale
        self.full = (scale * size[0], scale * size[1])
        self.transfer = otf(kernel, self.full)[..., : self.full[1] // 2 + 1]  # half a spectrum: images are real

    def __call__(self, x: Tensor) -> Tensor:
        blurred = torch.fft.irfft2(self.transfer * torch.fft.rfft2(x), s=self.full)
        return blurred[..., :: self.scale, :: self.scale]

    def transpose(self, y: Tensor) -> Tensor:
        """The exact adjoint: zeros between the pixels, then correlation with the kernels."""
        spread = y.new_zeros(*y.shape[:-2], *self.full)
        spread[..., :: self.scale, :: self.scale] = y
        return torch.fft.irfft2(self.transfer.conj() * torch.fft.rfft2(spread), s=self.full)


def spectrum_level(power: Tensor, shape: Tensor, noise: Tensor, iterations: int = 50) -> Tensor:
    """The most likely c of Gaussian data with the power spectrum c * shape + noise; the mean is left out.

    Every step minimises an upper bound of the negative log-likelihood, from a c that is too large: c stays positive and
    converges also where the noise is less than said, as in photographs.

    Args:
        power: |Y|^2 / (h w) [B, C, h, w].
        shape: [B, 1 or C, h, w].
        noise: [B, 1, 1, 1], positive.

    Returns:
        [B, C, 1, 1], positive.

    Sources: P. Whittle, "Estimation and information in stationary time series", Arkiv för Matematik 1953; C.
    Févotte, J. Idier, "Algorithms for nonnegative matrix factorization with the beta-divergence", Neural Computation
    2011 (the steps).
    """

    def total(values: Tensor) -> Tensor:
        return values.sum((-2, -1), keepdim=True)

    shape = shape.clone()
    shape[..., 0, 0] = 0
    power = power.clone()
    power[..., 0, 0] = 0
    level = (total(power) / total(shape).clamp(min=1e-12)).clamp(min=1e-12)
    for _ in range(iterations):
        expected = level * shape + noise
        step = total(shape * power / expected**2) / total(shape / expected).clamp(min=1e-12)
        level = (level * step.sqrt()).clamp(min=1e-12)
    return level


class _Classical(RestorationNetwork):
    """Checks, number format and boundary, common to both methods."""

    inputs = ("lr", "kernel", "scale", "noise_level")
    scales = (1, 2, 3, 4)
    lr_sampling = "corner"  # of each scale x scale block the model keeps the upper-left pixel
    whole_image = True

    def __init__(self, boundary: Boundary) -> None:
        super().__init__()
        check_choice("boundary", boundary, ("circular", "wrap"))
        self.boundary = boundary
        self.periodic = boundary == "circular"

    def forward(self, lr: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Restored:
        check_choice("scale", scale, self.scales)
        h, w = lr.shape[-2:]
        dtype = work_dtype(lr, kernel)
        y = lr.to(dtype)
        with torch.autocast(lr.device.type, enabled=False):
            if self.boundary == "wrap":
                y = room_for_kernel(y, kernel, scale)
            x = self.restore(y, kernel.to(dtype), scale, noise_level.to(dtype))
        return Restored(sr=x[..., : scale * h, : scale * w].to(lr.dtype))

    def restore(self, y: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Tensor:
        raise NotImplementedError


class Wiener(_Classical):
    """The Wiener filter: the best linear estimate for images of the power spectrum of natural ones, c / f^2.

    Inputs: `lr` [B, C, h, w], about [0, 1], any size; `kernel` [B, 1, kh, kw] (or [B, C, kh, kw]) of any size, sum 1;
    `scale`, one of 1, 2, 3, 4 for the whole batch; `noise_level` [B, 1, 1, 1], standard deviation on the [0, 1] scale.
    Output: `sr` [B, C, scale*h, scale*w], about [0, 1], not clamped.

    With A blur and decimation, P the signal's circulant covariance and m the mean of y,
    x = m + P A' (A P A' + n)^-1 (y - m). A P A' is diagonal in the Fourier domain of the low resolution: there it is
    the mean of |K|^2 P over the scale^2 frequencies that decimation folds onto one. So this is exact for every scale;
    for scale 1 it is the usual conj(K) Y / (|K|^2 + n / P). P is c / (|Dx|^2 + |Dy|^2), D the forward difference: the
    same as a quadratic penalty on gradients. c is the most likely one, for every channel of every image.
    n is `balance` times the variance of the noise: noise_level^2 plus that of rounding to 8 bit, 1/12 level^2, which
    also bounds the filter at noise level 0.

    Sources: N. Wiener, "Extrapolation, interpolation, and smoothing of stationary time series", 1949; D. J. Field,
    "Relations between the statistics of natural images and the response properties of cortical cells", JOSA A 1987 (the
    spectrum).

    Args:
        balance: factor on the noise; 1 is the best linear estimate if the model holds, more is smoother.
        boundary: "circular", what leaves the image on one side enters on the other; "wrap" extends the image smoothly
            first, for real photographs (`networks.ops.wraparound`).
    """

    def __init__(self, balance: float = 1.0, boundary: Boundary = "circular") -> None:
        super().__init__(boundary)
        if not balance > 0:
            raise ValueError(f"balance is {balance}, expected a positive factor")
        self.balance = balance

    def restore(self, y: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Tensor:
        (h, w), (full_h, full_w) = y.shape[-2:], (scale * y.shape[-2], scale * y.shape[-1])
        noise = noise_level**2 + 1 / (12 * 255**2)
        mean = y.mean((-2, -1), keepdim=True)
        transfer = otf(kernel, (full_h, full_w))
        curvature = difference_power((full_h, full_w), y)
        curvature[0, 0] = torch.inf  # the mean is known
        shape = 1 / curvature
        seen = (transfer.real**2 + transfer.imag**2) * shape
        folded = seen.unflatten(-1, (scale, w)).unflatten(-3, (scale, h)).mean((-4, -2))
        data = torch.fft.fft2(y - mean)
        level = spectrum_level((data.real**2 + data.imag**2) / (h * w), folded, noise)
        weighted = data / (level * folded + self.balance * noise)
        spectrum = transfer.conj() * (level * shape) * weighted.repeat(1, 1, scale, scale)
        return mean + torch.fft.ifft2(spectrum).real


class RichardsonLucy(_Classical):
    """Richardson-Lucy deconvolution: x <- x * A'(y / A x) / A'1 from a constant image, A blur and decimation.

    Inputs and output as for `Wiener`; negative input counts as 0, the output is not negative and not clamped above. The
    true noise level ends the iterations of an image as soon as mean((y - A x)^2) <= noise_level^2: more would only fit
    the noise. Without noise all iterations are done. Pixels that no input pixel sees keep the mean.

    Sources: W. H. Richardson, JOSA 1972; L. B. Lucy, Astronomical Journal 1974; V. A. Morozov, "On the solution of
    functional equations by the method of regularization", Soviet Math. Doklady 1966 (when to stop).

    Args:
        iterations: the most to do.
        boundary: see `Wiener`.
    """

    def __init__(self, iterations: int = 30, boundary: Boundary = "circular") -> None:
        super().__init__(boundary)
        check_positive(iterations=iterations)
        self.iterations = iterations

    def restore(self, y: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Tensor:
        y = y.clamp(min=0)
        degrade = Degrade(kernel, (y.shape[-2], y.shape[-1]), scale)
        weight = degrade.transpose(torch.ones_like(y))
        unseen, least = weight < 1e-6, 1e-6
        weight = weight.masked_fill(unseen, 1)
        x = y.mean((-2, -1), keepdim=True).expand(*y.shape[:2], *degrade.full)
        for _ in range(self.iterations):
            degraded = degrade(x)
            done = (y - degraded).square().mean((1, 2, 3), keepdim=True) <= noise_level**2
            if done.all():
                break
            factor = (degrade.transpose(y / degraded.clamp(min=least)) / weight).clamp(min=0).masked_fill(unseen, 1)
            x = torch.where(done, x, x * factor)
        return x
