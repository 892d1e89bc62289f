"""USRNet: unfolded optimisation for non-blind deblurring and super-resolution with one model for all scales.

K. Zhang, L. Van Gool, R. Timofte, "Deep unfolding network for image super-resolution", CVPR 2020. The small
configuration (USRNet-tiny) is that of the authors' published code.

The network alternates a data step, which fits the blur model y = (x * k) down + n in closed form, with a learned
denoiser. What differs from the published code: the data step is solved in the equivalent low-resolution form (see
`DataStep`), and a kernel larger than the image is folded onto it instead of being refused.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.ops.convolution import ResidualBlock
from networks.ops.fourier import centre_at_origin, work_dtype
from networks.ops.meta import shapes_alone
from networks.ops.options import check_choice, check_positive, check_widths
from networks.ops.published import renamed
from networks.ops.resize import pad_to_multiple
from networks.restored import Restored


def conv(inputs: int, outputs: int, size: int = 3, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


def phases(images: Tensor, scale: int) -> Tensor:
    """The pixels at each place of the scale x scale blocks: [B, C, s*h, s*w] -> [B, C, s*s, h, w]."""
    h, w = images.shape[-2] // scale, images.shape[-1] // scale
    blocks = images.unflatten(-1, (w, scale)).unflatten(-3, (h, scale))  # B, C, h, s, w, s
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(2, 3)


def interleave(parts: Tensor, scale: int) -> Tensor:
    """The inverse of `phases`."""
    return parts.unflatten(2, (scale, scale)).permute(0, 1, 4, 2, 5, 3).flatten(-2).flatten(2, 3)


class DataStep:
    """Closed form of min_z ||y - S K z||^2 + alpha ||z - x||^2: K blurs circularly, S keeps the upper-left pixels.

    By the matrix inversion lemma z = x + K'S' (S K K'S' + alpha)^-1 (y - S K x), with ' the transpose. Decimation makes
    S K a sum of ordinary low-resolution convolutions, one for each phase of the high-resolution grid, so all transforms
    are real ones of low-resolution size and nothing has to be folded between spectra. Unlike the published form it does
    not divide by alpha, which in float32 costs digits when alpha is small.

    Computed in float32, float64 if any argument is float64, also under autocast. Differentiable in all arguments.

    Args:
        y: degraded images [B, C, h, w].
        kernel: [B, 1, kh, kw], or one for each channel [B, C, kh, kw]; any size, centre at floor(k/2), sum 1.
        scale: ratio of the sides of x to those of y.
    """

    def __init__(self, y: Tensor, kernel: Tensor, scale: int) -> None:
        self.dtype, self.scale = work_dtype(y, kernel), scale
        self.size = (y.shape[-2], y.shape[-1])
        with torch.autocast(y.device.type, enabled=False):
            canvas = centre_at_origin(kernel.to(self.dtype), (scale * self.size[0], scale * self.size[1]))
            mirrored = canvas.flip(-2, -1).roll((1, 1), (-2, -1))  # K' convolves with k[-m]
            self.spread = torch.fft.rfft2(phases(mirrored, scale))  # K'S', phase by phase [B, 1, s*s, h, w//2 + 1]
            self.gather = self.spread.conj().resolve_conj()  # S K
            self.power = (self.spread.real**2 + self.spread.imag**2).sum(2)  # S K K'S'
            self.y = torch.fft.rfft2(y.to(self.dtype))

    def __call__(self, x: Tensor, alpha: Tensor) -> Tensor:
        """z [B, C, s*h, s*w] for x of that shape and alpha > 0 [B, 1, 1, 1]."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.dtype)
            residual = self.y - (self.gather * torch.fft.rfft2(phases(x, self.scale))).sum(2)
            weighted = residual / (self.power + alpha.to(self.dtype))
            return x + interleave(torch.fft.irfft2(self.spread * weighted[:, :, None], s=self.size), self.scale)


def res_blocks(width: int, n_blocks: int) -> list[nn.Module]:
    return [ResidualBlock(conv(width, width), nn.ReLU(inplace=True), conv(width, width)) for _ in range(n_blocks)]


def down(inputs: int, outputs: int, n_blocks: int) -> nn.Sequential:
    return nn.Sequential(*res_blocks(inputs, n_blocks), nn.Conv2d(inputs, outputs, 2, stride=2, bias=False))


def up(inputs: int, outputs: int, n_blocks: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), *res_blocks(outputs, n_blocks))


def initialise(network: nn.Module) -> None:
    """Give all convolutions orthogonal weights of gain 0.2 and biases of 0, as the authors' training code does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.orthogonal_(layer.weight, 0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Prior(nn.Module):
    """The denoiser: a U-Net without biases on images [B, channels, h, w] and a map of their noise beta [B, 1, 1, 1].

    Args:
        widths: channels at resolutions 1, 1/2, 1/4, 1/8.
        n_blocks: residual blocks at each resolution and direction.
        channels: of the images.
        multiple: what images are padded to a multiple of inside, itself one of `size_multiple`.
    """

    size_multiple = 8

    def __init__(self, widths: Sequence[int], n_blocks: int, channels: int = 3, multiple: int = size_multiple) -> None:
        super().__init__()
        self.multiple = multiple
        c0, c1, c2, c3 = widths
        self.head = conv(channels + 1, c0)
        self.down1 = down(c0, c1, n_blocks)
        self.down2 = down(c1, c2, n_blocks)
        self.down3 = down(c2, c3, n_blocks)
        self.body = nn.Sequential(*res_blocks(c3, n_blocks))
        self.up3 = up(c3, c2, n_blocks)
        self.up2 = up(c2, c1, n_blocks)
        self.up1 = up(c1, c0, n_blocks)
        self.tail = conv(c0, channels)

    def forward(self, z: Tensor, beta: Tensor) -> Tensor:
        h, w = z.shape[-2:]
        z = pad_to_multiple(z, self.multiple)
        x = torch.cat([z, beta.expand(-1, 1, *z.shape[-2:])], 1)
        if x.device.type == "cpu" and x.dtype != torch.float64:
            x = x.contiguous(memory_format=torch.channels_last)  # oneDNN, which leaves float64 out, is faster in it
        x1 = self.head(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up3(self.body(x4) + x4)
        x = self.up2(x + x3)
        x = self.up1(x + x2)
        # Cut by padding: a slice would be of size min(h, ...) to torch.export, and the loop nests these.
        return F.pad(self.tail(x + x1), (0, w - z.shape[-1], 0, h - z.shape[-2]))


class Hyper(nn.Module):
    """Parameters of all iterations [B, count, 1, 1], positive: from noise level and scale, or constants."""

    def __init__(self, count: int, width: int, learned: bool = True) -> None:
        super().__init__()
        if learned:
            self.mlp = nn.Sequential(
                *(conv(2, width, 1, bias=True), nn.ReLU(inplace=True)),
                *(conv(width, width, 1, bias=True), nn.ReLU(inplace=True)),
                conv(width, count, 1, bias=True),
            )
        else:
            self.constants = nn.Parameter(torch.zeros(1, count, 1, 1))
        self.learned = learned

    def forward(self, noise_level: Tensor, scale: int) -> Tensor:
        if self.learned:
            raw = self.mlp(torch.cat([noise_level, torch.full_like(noise_level, scale)], 1))
        else:
            raw = self.constants.expand(noise_level.shape[0], -1, -1, -1)
        return F.softplus(raw) + 1e-6


class USRNet(RestorationNetwork):
    """USRNet; the defaults have 17.016 M parameters, of which the prior shared by all iterations has all but 5,392.

    Inputs: `lr` [B, 3, h, w], about [0, 1], any size; `kernel` [B, 1, k, k] (or [B, 3, k, k]) of any size, sum 1;
    `scale`, one of 1, 2, 3, 4 for the whole batch; `noise_level` [B, 1, 1, 1], standard deviation on the [0, 1] scale.
    Output: `sr` [B, 3, scale*h, scale*w], about [0, 1]. The blur model is circular: what leaves the image on one side
    enters on the other.

    Args:
        n_iter: iterations of data step and prior.
        widths: channels of the prior at resolutions 1, 1/2, 1/4, 1/8.
        n_blocks: residual blocks at each resolution and direction.
        hyper_width: channels of the two hidden layers that predict alpha and beta.
        hyper: "learned" predicts alpha and beta of all iterations from noise level and scale, as published; "fixed"
            (ablation) learns them as constants, which start near the published ones, at softplus(0).
    """

    inputs = ("lr", "kernel", "scale", "noise_level")
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
        hyper: Literal["learned", "fixed"] = "learned",
    ) -> None:
        super().__init__()
        check_widths(widths, 4)
        check_positive(n_iter=n_iter, n_blocks=n_blocks, hyper_width=hyper_width)
        check_choice("hyper", hyper, ("learned", "fixed"))
        self.n_iter = n_iter
        self.prior = Prior(widths, n_blocks)
        self.hyper = Hyper(2 * n_iter, hyper_width, hyper == "learned")
        initialise(self)

    def forward(self, lr: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Restored:
        check_choice("scale", scale, self.scales)
        with torch.autocast(lr.device.type, enabled=False):  # few numbers, on which every pixel depends
            alpha, beta = self.hyper(noise_level.to(lr.dtype), scale)[..., None].chunk(2, 1)
        step = DataStep(lr, kernel, scale)
        x = F.interpolate(lr, scale_factor=float(scale), mode="nearest")
        for i in range(self.n_iter):
            z = step(x, alpha[:, i])
            x = self.prior(z.to(lr.dtype), beta[:, i])
        return Restored(sr=x)


def official_name(own: str) -> str:
    """How the authors' code calls a parameter of the prior or of `Hyper`."""
    own = own.replace("prior.", "p.m_").replace("hyper.mlp.", "h.mlp.")
    # "body" is a part of the prior as well as of a block: only the block's is called "res".
    return re.sub(r"(?<=\d)\.body\.", ".res.", own)


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of the authors' code (USRNet, USRGAN or their tiny versions) under the names used here."""
    with shapes_alone():
        own_names = USRNet(n_iter=1, widths=(1, 1, 1, 1), hyper_width=1).state_dict()
    return renamed(state, {official_name(name): name for name in own_names}, "official USRNet")
