"""DPIR: deblurring and super-resolution with known kernel by a denoiser that was trained for noise alone.

K. Zhang, Y. Li, W. Zuo, L. Zhang, L. Van Gool, R. Timofte, "Plug-and-play image restoration with deep denoiser prior",
TPAMI 2021. Like USRNet it alternates a data step, which fits the blur model y = (x * k) down + n, with a denoiser; but
nothing is trained for the task: the denoiser is any one, and a fixed rule says how strongly it denoises.

What differs from the published code: the data step is the one of `networks.usrnet`; a kernel larger than the image is
folded onto it; and the last noise level is at least that of super-resolution for deblurring too, without which an image
without noise has none.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.base import RestorationNetwork
from networks.cascade import taken
from networks.ensemble import Orientation, turn, turn_back
from networks.ops.fourier import work_dtype
from networks.ops.options import check_choice, check_positive
from networks.ops.wraparound import room_for_kernel
from networks.restored import Restored
from networks.usrnet import DataStep

LEAST_NOISE = 0.001  # that the data step reckons with, on the [0, 1] scale
TILE_STEP = 32  # what the sides of the published code's tiles are multiples of
TILE_LIMIT = 256 * 256  # pixels of the largest image that it does not cut
# How the image is turned in the iterations, one after the other, again and again.
PERIOD = (
    Orientation(False, (False, False)),
    Orientation(True, (False, False)),
    Orientation(False, (True, False)),
    Orientation(True, (False, True)),  # by 90 degrees clockwise
    Orientation(False, (False, True)),
    Orientation(True, (True, False)),  # by 90 degrees counter-clockwise
    Orientation(False, (True, True)),
    Orientation(True, (True, True)),
)


def enlarged(y: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement [B, C, s*h, s*w] (a = -0.75) on whose grid pixel i of y [B, C, h, w] lies at s*i.

    Interpolation puts it at s*i + (s - 1) / 2: the result is moved back by that, linearly, its last pixels repeated.
    """
    if scale == 1:
        return y
    x = F.interpolate(y, scale_factor=float(scale), mode="bicubic", align_corners=False)
    whole, half = divmod(scale - 1, 2)
    for dim in (-2, -1):
        n = x.shape[dim]
        places = torch.arange(n, device=x.device) + whole
        first = x.index_select(dim, places.clamp(max=n - 1))
        x = (first + x.index_select(dim, (places + 1).clamp(max=n - 1))) / 2 if half else first
    return x


def in_quarters(
    images: Tensor, denoise: Callable[[Tensor], Tensor], step: int = TILE_STEP, limit: int = TILE_LIMIT
) -> Tensor:
    """Images of more than `limit` pixels denoised as four tiles that overlap, those of more than 4 `limit` repeatedly.

    The tiles lie in the corners, the smallest multiples of `step` larger than half the image; what is kept of them
    meets in the middle. The published code does this to save memory; seams are possible.

    Args:
        images: [B, C, H, W].
        denoise: for images of any size.
    """
    h, w = images.shape[-2:]
    if h * w <= limit:
        return denoise(images)
    height, width = (min(n, (n // 2 // step + 1) * step) for n in (h, w))
    again = h * w > 4 * limit
    rows = []
    for top in (True, False):
        band = images[..., :height, :] if top else images[..., h - height :, :]
        parts = []
        for left in (True, False):
            tile = band[..., :width] if left else band[..., w - width :]
            tile = in_quarters(tile, denoise, step, limit) if again else denoise(tile)
            parts.append(tile[..., : w // 2] if left else tile[..., width - (w - w // 2) :])
        whole = torch.cat(parts, -1)
        rows.append(whole[..., : h // 2, :] if top else whole[..., height - (h - h // 2) :, :])
    return torch.cat(rows, -2)


class DPIR(RestorationNetwork):
    """Plug-and-play restoration with a denoiser.

    Inputs: `lr` [B, C, h, w], about [0, 1], any size; `kernel` [B, 1, kh, kw] (or [B, C, kh, kw]) of any size, sum 1;
    `scale`, one of 1, 2, 3, 4 for the whole batch; `noise_level` [B, 1, 1, 1], standard deviation on the [0, 1] scale.
    Output: `sr` [B, C, scale*h, scale*w], about [0, 1], not clamped.

    In iteration i of K the image is denoised at the level sigma_i, from `sigma_start` to the noise of the image (but
    not below `scale` / 255) in equal steps of its logarithm; the data step weighs the image before it by
    alpha_i = trade_off * max(noise, 0.001)^2 / sigma_i^2.

    Its weights are those of the denoiser, which is trained by itself.

    Args:
        denoiser: a network of the suite that takes `lr`, and `noise_level` if it wants to know it, and works at scale
            1, such as `networks.drunet.DRUNet`.
        n_iter: K; None: 8 for scale 1, else 24, as published.
        sigma_start: the first level, of 255.
        trade_off: how much the denoiser counts beside the data; more is smoother.
        ensemble: "periodic" turns and flips the image otherwise in every iteration, at no cost; "none" does not.
        boundary: "circular", what leaves the image on one side enters on the other; "wrap" extends the image smoothly
            first, for real photographs (`networks.ops.wraparound`).
        tile: "official" denoises images of more than 256 x 256 pixels in the tiles of the published code, for figures
            that compare with those (`in_quarters`); None: whole.
    """

    inputs = ("lr", "kernel", "scale", "noise_level")
    scales = (1, 2, 3, 4)
    lr_sampling = "corner"  # of each scale x scale block the model keeps the upper-left pixel
    whole_image = True

    def __init__(
        self,
        denoiser: RestorationNetwork,
        n_iter: int | None = None,
        sigma_start: float = 49.0,
        trade_off: float = 0.23,
        ensemble: Literal["periodic", "none"] = "periodic",
        boundary: Literal["circular", "wrap"] = "circular",
        tile: Literal["official"] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(denoiser, RestorationNetwork):
            raise ValueError(f"denoiser is {type(denoiser).__name__}, expected a network of networks/")
        if not {*denoiser.inputs} <= {"lr", "noise_level"} or denoiser.scales != (1,):
            scales = ", x".join(map(str, denoiser.scales))
            raise ValueError(
                f"denoiser is {type(denoiser).__name__}, which takes {', '.join(denoiser.inputs)} and enlarges "
                f"x{scales}, expected a network that takes lr and noise_level and works at scale 1"
            )
        check_positive(n_iter=1 if n_iter is None else n_iter)
        for name, value in (("sigma_start", sigma_start), ("trade_off", trade_off)):
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected a positive number")
        check_choice("ensemble", ensemble, ("periodic", "none"))
        check_choice("boundary", boundary, ("circular", "wrap"))
        check_choice("tile", tile, (None, "official"))
        self.n_iter, self.sigma_start, self.trade_off = n_iter, float(sigma_start), float(trade_off)
        self.period = PERIOD if ensemble == "periodic" else PERIOD[:1]
        self.boundary, self.tile = boundary, tile
        self.periodic = boundary == "circular"
        self.channels = denoiser.channels
        self.denoiser = denoiser.requires_grad_(False)

    @property
    def learned_part(self) -> RestorationNetwork:
        return self.denoiser

    def schedule(self, noise_level: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """sigma and alpha [K, B, 1, 1, 1] of the iterations, on the [0, 1] scale, for noise levels [B, 1, 1, 1]."""
        n_iter = self.n_iter or (8 if scale == 1 else 24)
        last = noise_level.clamp(min=scale / 255).log10()
        first = torch.full_like(last, self.sigma_start / 255).log10()
        parts = torch.linspace(0, 1, n_iter, dtype=last.dtype, device=last.device).view(-1, 1, 1, 1, 1)
        sigma = 10 ** (first + (last - first) * parts)
        return sigma, self.trade_off * noise_level.clamp(min=LEAST_NOISE) ** 2 / sigma**2

    def forward(self, lr: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Restored:
        check_choice("scale", scale, self.scales)
        h, w = lr.shape[-2:]
        dtype = work_dtype(lr, kernel)
        with torch.autocast(lr.device.type, enabled=False):
            y = lr.to(dtype)
            if self.boundary == "wrap":
                y = room_for_kernel(y, kernel, scale)
            step = DataStep(y, kernel, scale)
            sigma, alpha = self.schedule(noise_level.to(dtype), scale)
            z = enlarged(y, scale)
        for i in range(len(sigma)):
            to = self.period[i % len(self.period)]
            x = turn(step(z, alpha[i]).to(lr.dtype), to)
            z = turn_back(self._denoised(x, sigma[i].to(lr.dtype)), to)
        return Restored(sr=z[..., : scale * h, : scale * w])

    def _denoised(self, images: Tensor, level: Tensor) -> Tensor:
        def denoise(part: Tensor) -> Tensor:
            return self.denoiser(**taken(self.denoiser, {"lr": part, "noise_level": level})).sr

        if self.tile is None:
            return denoise(images)
        if torch.compiler.is_exporting():
            raise ValueError("tile is official: how images are cut depends on their size, expected null for export")
        return in_quarters(images, denoise)
