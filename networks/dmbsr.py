"""DMBSR: deblurring and super-resolution of spatially varying blur, unfolded, with one model for all scales.

C. Laroche, A. Almansa, M. Tassano, "Deep model-based super-resolution with non-uniform blur", WACV 2023 (NIMBUSR).

The blur is a sum of K ordinary ones, each weighted pixel by pixel: A x = sum_p w_p (b_p * x). It is not diagonal in the
Fourier domain, so the network unfolds linearised ADMM, which needs A and its transpose alone: a gradient step and the
learned denoiser, then a data step pixel by pixel. Denoiser and hyper-parameters are built as those of USRNet.

What differs from the published code: A is computed by Fourier transforms except in exported graphs, kernels may have
even sides, and one larger than the image is folded onto it.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.base import RestorationNetwork
from networks.ops.fourier import centre_at_origin, work_dtype
from networks.ops.meta import shapes_alone
from networks.ops.options import check_choice, check_positive, check_widths
from networks.ops.published import renamed
from networks.restored import Restored
from networks.usrnet import Hyper, Prior, initialise, official_name


class SpectralBlur:
    """A x = sum_p w_p (b_p * x) and its transpose by Fourier transforms; the convolutions are circular true ones.

    Args:
        kernels: b [B, K, kh, kw], centre at floor(k/2), any size: what is larger than the image is folded onto it.
        weights: w [B, K, H, W], or [B, K, 1, 1] where they are the same everywhere.
        size: (H, W) of the images.
    """

    def __init__(self, kernels: Tensor, weights: Tensor, size: tuple[int, int]) -> None:
        self.size, self.weights = size, weights
        self.transfer = torch.fft.rfft2(centre_at_origin(kernels, size))

    def __call__(self, x: Tensor) -> Tensor:
        """A x for x [B, C, H, W]."""
        spectrum = torch.fft.rfft2(x)
        blurred = torch.zeros_like(x)
        for p in range(self.transfer.shape[1]):  # one by one, which takes less memory than all at once
            kernel, weight = self.transfer[:, p, None], self.weights[:, p, None]
            blurred = blurred + weight * torch.fft.irfft2(spectrum * kernel, s=self.size)
        return blurred

    def transposed(self, x: Tensor) -> Tensor:
        """A^T x for x [B, C, H, W]: weighted first, then correlated."""
        spectrum = torch.zeros_like(torch.fft.rfft2(x))
        for p in range(self.transfer.shape[1]):
            kernel, weight = self.transfer[:, p, None], self.weights[:, p, None]
            spectrum = spectrum + torch.fft.rfft2(weight * x) * kernel.conj()
        return torch.fft.irfft2(spectrum, s=self.size)


class SpatialBlur:
    """`SpectralBlur` in space, without a transform or a loop: what exported graphs can hold, for any K and any size.

    Each of the two is one convolution, to which the images are channels: the kernels are the diagonal of a matrix
    B x B, as grouped convolutions are not recorded for any B. That costs B times the work; graphs mostly get one image.
    """

    def __init__(self, kernels: Tensor, weights: Tensor, size: tuple[int, int]) -> None:
        diagonal = torch.eye(kernels.shape[0], dtype=kernels.dtype, device=kernels.device)
        self.weights = weights
        flipped = kernels.flip(-2, -1)[:, :, None]  # conv2d correlates
        self.blurs = (diagonal[:, None, :, None, None] * flipped).flatten(0, 1)  # B*K, B, kh, kw
        self.correlations = (diagonal[:, :, None, None, None] * kernels).flatten(1, 2)  # B, B*K, kh, kw
        self.before = [k // 2 for k in kernels.shape[-2:]]
        self.after = [k - 1 - k // 2 for k in kernels.shape[-2:]]

    def __call__(self, x: Tensor) -> Tensor:
        # By stack and unbind: for `transpose` a graph would settle for B = 1 or any other B.
        images = torch.stack(x.unbind(1))  # C, B, H, W
        blurred = F.conv2d(_wrapped(images, self.after, self.before), self.blurs)  # C, B*K, H, W
        return torch.stack((blurred.unflatten(1, (x.shape[0], -1)) * self.weights).sum(2).unbind(0), 1)

    def transposed(self, x: Tensor) -> Tensor:
        shares = (torch.stack(x.unbind(1))[:, :, None] * self.weights).flatten(1, 2)  # C, B*K, H, W
        return torch.stack(F.conv2d(_wrapped(shares, self.before, self.after), self.correlations).unbind(0), 1)


def _wrapped(images: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Images [..., H, W] continued periodically; unlike `F.pad`, as often round as it takes."""
    for dim, left, right in zip((-2, -1), before, after, strict=True):
        n = images.shape[dim]
        length = torch.arange(n, n + 1, device=images.device)  # ONNX divides by tensors alone
        images = images.index_select(dim, torch.arange(-left, n + right, device=images.device) % length)
    return images


def kept_pixels(size: tuple[int, int], scale: int, like: Tensor) -> Tensor:
    """1 at the upper-left pixel of each scale x scale block, else 0: [H, W]."""
    rows, columns = (torch.arange(n, device=like.device) % scale == 0 for n in size)
    return (rows[:, None] & columns).to(like.dtype)


def data_step(t: Tensor, y: Tensor, kept: Tensor, alpha: Tensor) -> Tensor:
    """z that minimises ||z - y||^2 + alpha ||z - t||^2 where pixels are kept, and is t elsewhere.

    Args:
        t: [B, C, H, W].
        y: the degraded image enlarged by repetition [B, C, H, W].
        kept: `kept_pixels`.
        alpha: [B, 1, 1, 1]; 0 where there is no noise: z = y.
    """
    return t + kept * (y - t) / (1 + alpha)


class DMBSR(RestorationNetwork):
    """DMBSR; the defaults have 17.017 M parameters, of which the prior shared by all iterations has all but 6,107.

    Inputs: `lr` [B, 3, h, w], about [0, 1], any size; `kernels` [B, K, kh, kw], any K and any size, sum 1 each;
    `weights` [B, K, scale*h, scale*w], or [B, K, 1, 1] for the same everywhere, sum 1 over K; `scale`, one of 1, 2, 3,
    4 for the whole batch; `noise_level` [B, 1, 1, 1], standard deviation on the [0, 1] scale, 0 too.
    Output: `sr` [B, 3, scale*h, scale*w], about [0, 1], not clamped. The blur model is circular.

    Args:
        n_iter: T, iterations of gradient step, prior and data step; a last gradient step and the prior follow.
        widths: channels of the prior at resolutions 1, 1/2, 1/4, 1/8.
        n_blocks: residual blocks at each resolution and direction.
        hyper_width: channels of the two hidden layers that predict the hyper-parameters.

    Raises:
        ValueError: if the maps of weights have neither the size of the result nor 1x1, or are not K.
    """

    inputs = ("lr", "kernels", "weights", "scale", "noise_level")
    scales = (1, 2, 3, 4)
    size_multiple = Prior.size_multiple
    lr_sampling = "corner"  # of each scale x scale block the model keeps the upper-left pixel
    periodic = whole_image = True

    def __init__(
        self,
        n_iter: int = 8,
        widths: Sequence[int] = (64, 128, 256, 512),
        n_blocks: int = 2,
        hyper_width: int = 64,
    ) -> None:
        super().__init__()
        check_widths(widths, 4)
        check_positive(n_iter=n_iter, n_blocks=n_blocks, hyper_width=hyper_width)
        self.n_iter = n_iter
        self.prior = Prior(widths, n_blocks)
        self.hyper = Hyper(3 * (n_iter + 1), hyper_width)
        initialise(self)

    def forward(self, lr: Tensor, kernels: Tensor, weights: Tensor, scale: int, noise_level: Tensor) -> Restored:
        check_choice("scale", scale, self.scales)
        size = (scale * lr.shape[-2], scale * lr.shape[-1])
        exporting = torch.compiler.is_exporting()
        if exporting:  # else the graph takes care that none of the lengths is 1, as they might be broadcast
            for length, other in zip(weights.shape, (lr.shape[0], kernels.shape[1], *size), strict=True):
                torch._check(length == other)
            for field in (kernels, noise_level):
                torch._check(field.shape[0] == lr.shape[0])
        if not exporting and (weights.shape[1] != kernels.shape[1] or (*weights.shape[2:],) not in (size, (1, 1))):
            raise ValueError(
                f"weights have shape {list(weights.shape)}, expected {[len(lr), kernels.shape[1], *size]}: one map of "
                "the size of the result for each kernel"
            )
        dtype = work_dtype(lr, kernels, weights)
        without_autocast = torch.autocast(lr.device.type, enabled=False)
        with without_autocast:
            hyper = self.hyper(noise_level.to(lr.dtype), scale)[..., None].chunk(3, 1)
            alpha, beta, gamma = hyper[0] * (noise_level[:, None] > 0), hyper[1], hyper[2]
            blur = (SpatialBlur if exporting else SpectralBlur)(kernels.to(dtype), weights.to(dtype), size)
            y = F.interpolate(lr.to(dtype), scale_factor=float(scale), mode="nearest")
            kept = kept_pixels(size, scale, y)
            x = z = y
            h, u = blur(x), torch.zeros_like(x)
        for i in range(self.n_iter + 1):
            with without_autocast:
                v = x - beta[:, i] * blur.transposed(h - z + u)
            x = self.prior(v.to(lr.dtype), gamma[:, i]).to(dtype)
            if i == self.n_iter:
                break
            with without_autocast:
                h = blur(x)
                t = h + u
                z = data_step(t, y, kept, alpha[:, i])
                u = t - z
        return Restored(sr=x.to(lr.dtype))


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors' code (DMBSR, or NIMBUSR as it was called) under the names used here.

    Raises:
        ValueError: if a parameter is missing or not theirs, or the file is one of USRNet, which has the same names.
    """
    with shapes_alone():
        own_names = DMBSR(n_iter=1, widths=(1, 1, 1, 1), hyper_width=1).state_dict()
    found = renamed(state, {official_name(name): name for name in own_names}, "official DMBSR")
    count = len(found["hyper.mlp.4.bias"])
    if count % 3:
        raise ValueError(f"{count} hyper-parameters, expected 3 for each iteration: such weights are of model=usrnet")
    return found
