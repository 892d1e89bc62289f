"""Times USRNet against a plain transcription of the paper's formulas, with the same weights, on one CPU thread.

    python -m tests.helpers.plain_usrnet [--models tiny full] [--rounds 5]

Three parts: the data step alone, restoring one image, and a training step (forward and backward) on patches of 96
pixels. Printed are milliseconds, median with the spread, and the ratio of the medians. The plain way computes the data
step with full complex spectra of high-resolution size and the convolutions in the memory format the input comes in.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.timing import in_turns, machine, spread
from networks.ops.fourier import otf
from networks.usrnet import DataStep, USRNet

TINY: dict[str, Any] = {"n_iter": 6, "widths": (16, 32, 64, 64), "hyper_width": 32}
MODELS: dict[str, tuple[dict[str, Any], int]] = {"tiny": (TINY, 4), "full": ({}, 2)}  # options, batch of training
HR = 96  # side of a training patch
Ways = dict[str, Callable[[], Tensor]]


class PlainDataStep:
    """The data step as published: aliases folded and spectra tiled at high resolution, divided by alpha."""

    def __init__(self, y: Tensor, kernel: Tensor, scale: int) -> None:
        h, w = y.shape[-2:]
        self.scale = scale
        self.otf = otf(kernel, (scale * h, scale * w))
        self.conjugate = self.otf.conj()
        self.power = self.fold(self.otf.real**2 + self.otf.imag**2)
        spread = y.new_zeros(*y.shape[:2], scale * h, scale * w)
        spread[..., ::scale, ::scale] = y
        self.y = self.conjugate * torch.fft.fft2(spread)

    def fold(self, spectrum: Tensor) -> Tensor:
        """Mean over the aliases: the scale x scale contiguous blocks of the spectrum."""
        rows, columns = (side // self.scale for side in spectrum.shape[-2:])
        return spectrum.unflatten(-1, (self.scale, columns)).unflatten(-3, (self.scale, rows)).mean((-4, -2))

    def __call__(self, x: Tensor, alpha: Tensor) -> Tensor:
        right = self.y + torch.fft.fft2(alpha * x)
        low = self.fold(self.otf * right) / (self.power + alpha)
        spectrum = (right - self.conjugate * low.repeat(1, 1, self.scale, self.scale)) / alpha
        return torch.fft.ifft2(spectrum).real


def plain_prior(net: USRNet, z: Tensor, beta: Tensor) -> Tensor:
    """The prior's sequence of layers as function calls on its weights."""
    weights = dict(net.prior.named_parameters())

    def block(name: str, x: Tensor) -> Tensor:
        hidden = F.relu(F.conv2d(x, weights[f"{name}.body.0.weight"], padding=1))
        return x + F.conv2d(hidden, weights[f"{name}.body.2.weight"], padding=1)

    def down(name: str, x: Tensor) -> Tensor:
        x = block(f"{name}.1", block(f"{name}.0", x))
        return F.conv2d(x, weights[f"{name}.2.weight"], stride=2)

    def up(name: str, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(x, weights[f"{name}.0.weight"], stride=2)
        return block(f"{name}.2", block(f"{name}.1", x))

    h, w = z.shape[-2:]
    x = torch.cat([z, beta.expand(-1, -1, h, w)], 1)
    x = F.pad(x, (0, -w % 8, 0, -h % 8), mode="replicate")
    x1 = F.conv2d(x, weights["head.weight"], padding=1)
    x2 = down("down1", x1)
    x3 = down("down2", x2)
    x4 = down("down3", x3)
    x = block("body.1", block("body.0", x4))
    x = up("up3", x + x4)
    x = up("up2", x + x3)
    x = up("up1", x + x2)
    return F.conv2d(x + x1, weights["tail.weight"], padding=1)[..., :h, :w]


def plain_forward(net: USRNet, lr: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Tensor:
    """USRNet with two blocks at each resolution by the published formulas, on the weights of `net`."""
    parameters = net.hyper(noise_level, scale)
    step = PlainDataStep(lr, kernel, scale)
    x = lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    for i in range(net.n_iter):
        x = plain_prior(net, step(x, parameters[:, i, None]), parameters[:, net.n_iter + i, None])
    return x


def random_input(batch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """LR images of side x side, kernels of 25 x 25, noise levels."""
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(batch, 3, side, side, generator=generator)
    kernel = torch.rand(batch, 1, 25, 25, generator=generator)
    level = torch.rand(batch, 1, 1, 1, generator=generator) / 10
    return lr, kernel / kernel.sum((-2, -1), keepdim=True), level


def data_steps(batch: int, side: int, scale: int) -> Ways:
    """One application of the data step, without what is computed once an image."""
    lr, kernel, level = random_input(batch, side)
    x = lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1).requires_grad_()
    ours, plain = DataStep(lr, kernel, scale), PlainDataStep(lr, kernel, scale)
    return {"ours": lambda: ours(x, level), "plain": lambda: plain(x, level)}


def networks(model: str, batch: int, side: int, scale: int) -> Ways:
    torch.manual_seed(0)
    net = USRNet(**MODELS[model][0])
    lr, kernel, level = random_input(batch, side)
    return {
        "ours": lambda: net(lr, kernel, scale, level).sr,
        "plain": lambda: plain_forward(net, lr, kernel, scale, level),
    }


def backward(way: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: way().square().mean().backward()


def show(title: str, ways: Ways, rounds: int, gradient: bool) -> None:
    run = {name: backward(way) if gradient else torch.no_grad()(way) for name, way in ways.items()}
    times = in_turns(run, rounds)
    ratio = statistics.median(times["plain"]) / statistics.median(times["ours"])
    title += ", forward + backward" if gradient else ", forward"
    print(f"{title:52}{spread(times['ours']):>28}{spread(times['plain']):>28}{ratio:>7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of the networks; of the data step four times as many")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine('cpu')}, float32, ms\n{'':52}{'ours':>28}{'plain':>28}{'ratio':>7}")
    sizes = [(1, 256, 1), (1, 64, 2), (1, 64, 4), (1, 67, 4), (1, 256, 2), (1, 256, 4)]
    for batch, side, scale in [*sizes, *((8, HR // scale, scale) for scale in (1, 2, 3, 4))]:
        for gradient in (False, True):
            title = f"data step, batch {batch}, LR {side}, x{scale}"
            show(title, data_steps(batch, side, scale), 4 * args.rounds, gradient)
    for model in args.models:
        show(f"{model}, batch 1, LR 64, x4", networks(model, 1, 64, 4), args.rounds, gradient=False)
        batch = MODELS[model][1]
        for scale in (1, 2, 3, 4):
            title = f"{model}, batch {batch}, LR {HR // scale}, x{scale}"
            show(title, networks(model, batch, HR // scale, scale), args.rounds, gradient=True)


if __name__ == "__main__":
    main()
