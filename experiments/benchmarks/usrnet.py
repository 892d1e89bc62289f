"""Times USRNet against a plain transcription of the paper's formulas, with the same weights.

    python -m experiments.benchmarks.usrnet [--device cpu] [--threads 1] [--rounds 5] [--json FILE]

Three parts: the data step alone, restoring one image, and a training step (forward and backward) on patches of 96
pixels. Both ways run in turns, so that other load on the machine meets them alike; median, spread and the ratio of the
medians are printed. The plain way computes the data step with full complex spectra of high-resolution size and the
convolutions in the memory format the input comes in.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.ops.fourier import otf
from networks.usrnet import DataStep, USRNet

TINY: dict[str, Any] = {"n_iter": 6, "widths": (16, 32, 64, 64), "hyper_width": 32}
MODELS: dict[str, dict[str, Any]] = {"tiny": TINY, "full": {}}
SLOW = {"full": 2}  # rounds of the large network


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


def compare(ways: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of every way, in turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(rounds + 1):
        for name, way in ways.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            if count:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def with_gradient(way: Callable[[], Tensor], net: nn.Module | None = None) -> Callable[[], None]:
    def run() -> None:
        if net is not None:
            net.zero_grad()
        way().square().mean().backward()

    return run


def without_gradient(way: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return torch.no_grad()(way)


def random_input(batch: int, side: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """LR images of side x side, kernels of 25 x 25, noise levels."""
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(batch, 3, side, side, generator=generator)
    kernel = torch.rand(batch, 1, 25, 25, generator=generator)
    level = torch.rand(batch, 1, 1, 1, generator=generator) / 10
    return lr.to(device), (kernel / kernel.sum((-2, -1), keepdim=True)).to(device), level.to(device)


def data_steps(batch: int, side: int, scale: int, device: str) -> dict[str, dict[str, Callable[[], object]]]:
    """One application of the data step, what is computed once an image left out."""
    lr, kernel, level = random_input(batch, side, device)
    x = lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1).requires_grad_()
    ours, plain = DataStep(lr, kernel, scale), PlainDataStep(lr, kernel, scale)
    ways: dict[str, Callable[[], Tensor]] = {"ours": lambda: ours(x, level), "plain": lambda: plain(x, level)}
    title = f"data step, batch {batch}, LR {side}, x{scale}"
    return {
        f"{title}, forward": {name: without_gradient(way) for name, way in ways.items()},
        f"{title}, forward + backward": {name: with_gradient(way) for name, way in ways.items()},
    }


def networks(model: str, batch: int, side: int, scale: int, training: bool, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    net = USRNet(**MODELS[model]).to(device)
    lr, kernel, level = random_input(batch, side, device)
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: net(lr, kernel, scale, level).sr,
        "plain": lambda: plain_forward(net, lr, kernel, scale, level),
    }
    run = {name: with_gradient(way, net) if training else without_gradient(way) for name, way in ways.items()}
    what = "forward + backward" if training else "forward"
    return {f"{model}, batch {batch}, LR {side}, x{scale}, {what}": run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="patches of the training step; half of it for full")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {options.threads} thread(s), torch {torch.__version__}, float32, ms: median (min to max)")
    print(f"{'':48}{'ours':>28}{'plain':>28}{'ratio':>7}")
    result: dict[str, Any] = {"options": {k: str(v) for k, v in vars(options).items()}, "device": name, "ms": {}}

    def show(cases: dict[str, Any], rounds: int) -> None:
        for title, ways in cases.items():
            times = compare(ways, rounds, options.device)
            middle = {way: statistics.median(values) for way, values in times.items()}
            cells = (f"{middle[way]:.1f} ({min(values):.1f} to {max(values):.1f})" for way, values in times.items())
            print(f"{title:48}{''.join(f'{cell:>28}' for cell in cells)}{middle['plain'] / middle['ours']:>7.2f}")
            result["ms"][title] = times

    for batch, side, scale in ((1, 256, 1), (1, 64, 2), (1, 64, 4), (1, 67, 4), (1, 256, 2), (1, 256, 4)):
        show(data_steps(batch, side, scale, options.device), 4 * options.rounds)
    for scale in (1, 2, 3, 4):
        show(data_steps(8, 96 // scale, scale, options.device), 4 * options.rounds)
    for model in options.models:
        rounds = SLOW.get(model, options.rounds)
        batch = options.batch // 2 if model in SLOW else options.batch
        show(networks(model, 1, 64, 4, False, options.device), rounds)
        for scale in (1, 2, 3, 4):
            show(networks(model, batch, 96 // scale, scale, True, options.device), rounds)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
