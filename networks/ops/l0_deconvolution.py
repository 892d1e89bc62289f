"""Deconvolution with known kernel under sparse priors: L0 norms of gradients and of the dark channel, and TV.

All by half-quadratic splitting: the prior's variables are thresholded, the image then solves a quadratic problem, which
is diagonal in the Fourier domain. The images are periodic (`networks.ops.wraparound` makes them so).

Sources: J. Pan, D. Sun, H. Pfister, M.-H. Yang, "Blind image deblurring using dark channel prior", CVPR 2016, section 4
(image step); L. Xu, C. Lu, Y. Xu, J. Jia, "Image smoothing via L0 gradient minimization", SIGGRAPH Asia 2011 (the
splitting of the gradients); D. Krishnan, R. Fergus, "Fast image deconvolution using hyper-Laplacian priors", NIPS 2009
(the splitting of the total variation). The constants are those of the code published with the first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.ops.fourier import centre_at_origin

WINDOW = 35  # side of the dark channel's window
LARGEST_DARK_WEIGHT = 8.0
LARGEST_GRADIENT_WEIGHT = 1e5
LEAST_TV_WEIGHT = 1e-3


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences of periodic images [..., H, W] to the right and down."""
    return x.roll(-1, -1) - x, x.roll(-1, -2) - x


def adjoint_differences(h: Tensor, v: Tensor) -> Tensor:
    """The transpose of `differences`."""
    return h.roll(1, -1) - h + v.roll(1, -2) - v


def difference_power(size: tuple[int, int], like: Tensor) -> Tensor:
    """|Dx|^2 + |Dy|^2 of the forward differences over the spectrum: [H, W]."""
    rows, columns = (
        2 - 2 * torch.cos(2 * torch.pi * torch.arange(n, dtype=like.dtype, device=like.device) / n) for n in size
    )
    return rows[:, None] + columns


class Quadratic:
    """min_x ||x * k - b||^2 + weight ||D x - g||^2 + pull_weight ||x - u||^2 for one blurred image and many weights.

    Args:
        blurred: b [C, H, W], periodic.
        kernel: k [kh, kw], centre at floor(k/2).
    """

    def __init__(self, blurred: Tensor, kernel: Tensor) -> None:
        self.size = (blurred.shape[-2], blurred.shape[-1])
        transfer = torch.fft.rfft2(centre_at_origin(kernel.to(blurred), self.size))
        self.fixed = transfer.conj() * torch.fft.rfft2(blurred)
        self.power = transfer.real**2 + transfer.imag**2
        self.difference_power = difference_power(self.size, blurred)[:, : self.size[1] // 2 + 1]

    def solve(self, target: Tensor, weight: float, pull: Tensor | None = None, pull_weight: float = 0.0) -> Tensor:
        """x [C, H, W]; `target` is the transposed difference of g, `pull` the half spectrum of u."""
        right = torch.fft.rfft2(target).mul_(weight).add_(self.fixed)
        if pull is not None:
            right.add_(pull, alpha=pull_weight)
        return torch.fft.irfft2(right.div_(self.power + weight * self.difference_power + pull_weight), s=self.size)


def _sparse_gradients(
    x: Tensor, problem: Quadratic, lambda_grad: float, pull: Tensor | None = None, pull_weight: float = 0.0
) -> Tensor:
    """Alternate hard-thresholded gradients, of all channels jointly, with the quadratic problem."""
    weight = 2 * lambda_grad
    while weight < LARGEST_GRADIENT_WEIGHT:
        h, v = differences(x)
        strong = ((h * h + v * v).sum(-3, keepdim=True) >= lambda_grad / weight).to(x.dtype)
        x = problem.solve(adjoint_differences(h * strong, v * strong), weight, pull, pull_weight)
        weight *= 2
    return x


def l0_deconvolution(blurred: Tensor, kernel: Tensor, lambda_grad: float) -> Tensor:
    """min_x ||x * k - b||^2 + lambda_grad ||grad x||_0 for a periodic image [C, H, W] and a kernel [kh, kw]."""
    return _sparse_gradients(blurred, Quadratic(blurred, kernel), lambda_grad)


def dark_pixels(x: Tensor, window: int = WINDOW) -> Tensor:
    """Where the smallest value of some window x window neighbourhood lies, windows cut off at the border.

    The values of these pixels are the dark channel. Where a window holds its smallest value several times, one of them
    is taken; in images with continuous values that does not happen.

    Args:
        x: [H, W].
        window: an odd number of pixels.

    Returns:
        bool [H, W].
    """
    half = window // 2
    # Max-pooling ignores what it pads with, as repeating the border does. Rows first, then columns of the results.
    value, row = F.max_pool2d(-x[None, None], (window, 1), 1, (half, 0), return_indices=True)
    _, column = F.max_pool2d(value, (1, window), 1, (0, half), return_indices=True)
    darkest = row.flatten()[column.flatten()]
    return torch.zeros(x.numel(), dtype=torch.bool, device=x.device).index_fill_(0, darkest, True).view_as(x)


def otsu_threshold(values: Tensor) -> float:
    """Otsu's threshold of values clamped to [0, 1], in 256 levels; 0 if all fall in one level.

    Source: N. Otsu, "A threshold selection method from gray-level histograms", IEEE TSMC 1979.
    """
    counts = torch.bincount((values.clamp(0, 1) * 255).round().long().flatten(), minlength=256).cpu()
    below, mass = counts.cumsum(0).double(), (counts * torch.arange(256)).cumsum(0).double()  # exact: integers
    total, total_mass = below[-1], mass[-1]
    between = (total_mass * below - mass * total) ** 2 / (below * (total - below)).clamp(min=1)
    if between.max() == 0:
        return 0.0
    return (between == between.max()).nonzero().double().mean().item() / 255


def dark_channel_deconvolution(blurred: Tensor, kernel: Tensor, lambda_grad: float, lambda_dark: float) -> Tensor:
    """The image step: min_x ||x * k - b||^2 + lambda_grad ||grad x||_0 + lambda_dark ||dark channel of x||_0.

    The dark channel's pixels that are nearly black are set to zero, the others and all pixels half a window from the
    border keep their values; the image is pulled there, with a weight that doubles until it is 8. The published
    program goes through the windows one after the other and leaves out a window that an earlier one gave a zero, which
    depends on the order; here every window has its pixel, as in the paper.

    Args:
        blurred: periodic gray image [1, H, W], about [0, 1].
        kernel: [kh, kw], centre at floor(k/2).
        lambda_grad: weight > 0 of the gradients.
        lambda_dark: weight > 0 of the dark channel.

    Returns:
        [1, H, W], not clamped. A blurred image whose squares fall into a single one of 256 levels comes back as it is.
    """
    threshold = otsu_threshold(blurred**2)
    if threshold == 0:
        return blurred
    half, problem, x = WINDOW // 2, Quadratic(blurred, kernel), blurred
    weight = lambda_dark / threshold
    while weight < LARGEST_DARK_WEIGHT:
        black = dark_pixels(x[0]) & (x[0] ** 2 < lambda_dark / weight)
        u = x.clone()
        inside = slice(half, -half)
        u[0, inside, inside] = x[0, inside, inside].masked_fill(black[inside, inside], 0)
        x = _sparse_gradients(x, problem, lambda_grad, torch.fft.rfft2(u), weight)
        weight *= 2
    return x


def tv_deconvolution(blurred: Tensor, kernel: Tensor, lambda_tv: float) -> Tensor:
    """min_x ||x * k - b||^2 + lambda_tv (|Dx x|_1 + |Dy x|_1), channel by channel, one pass of the published weights.

    Args:
        blurred: periodic image [C, H, W].
        kernel: [kh, kw], centre at floor(k/2).
        lambda_tv: weight > 0.
    """
    problem, x = Quadratic(blurred, kernel), blurred
    slack = 1 / lambda_tv  # of the split gradients; halved until they agree with those of the image
    while slack > LEAST_TV_WEIGHT:
        h, v = (F.softshrink(d, slack * lambda_tv) for d in differences(x))
        x = problem.solve(adjoint_differences(h, v), 1 / (2 * slack))
        slack /= 2
    return x


def bilateral_filter(x: Tensor, sigma: float, sigma_range: float) -> Tensor:
    """Bilateral filter with Gaussian weights of distance and of difference, border repeated.

    Args:
        x: [C, H, W].
        sigma: of the distance in pixels; the window reaches ceil(3 sigma) pixels.
        sigma_range: of the root mean square difference over the channels.

    Returns:
        [C, H, W].

    Source: C. Tomasi, R. Manduchi, "Bilateral filtering for gray and color images", ICCV 1998.
    """
    radius = -int(-3 * sigma // 1)
    c, h, w = x.shape
    padded = F.pad(x[None], (radius,) * 4, mode="replicate")[0]
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:1])
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            other = padded[:, radius + dy : radius + dy + h, radius + dx : radius + dx + w]
            squares = (x - other).square_().sum(0, keepdim=True)
            near = (dy * dy + dx * dx) / (2 * sigma**2)
            weight = squares.mul_(-1 / (2 * c * sigma_range**2)).sub_(near).exp_()
            total.addcmul_(weight, other)
            weights += weight
    return total / weights
