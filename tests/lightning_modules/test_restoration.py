"""What validations measure, and how the time of a restoration is taken."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from lightning_modules import restoration
from lightning_modules.metrics.kernel_error import kernel_error
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, ssim
from lightning_modules.restoration import RestorationModule
from networks.base import RestorationNetwork
from networks.bicubic import Bicubic
from networks.ops.resize import bicubic_resize
from networks.restored import Restored

PROTOCOLS = [Protocol("y_shave_s", "y", "s"), Protocol("gfn", "rgb", "1.5s", "truncate", "volume")]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def kernels(count: int, size: int, seed: int) -> Tensor:
    values = random(count, 1, size, size, seed=seed)
    return values / values.sum((2, 3), keepdim=True)


def make(scale: int, side: int = 48, **fields: Any) -> Batch:
    numbers = torch.arange(2)
    lr = random(2, 3, side // scale, side // scale, seed=1)
    return Batch(random(2, 3, side, side), ["a", "b"], numbers, numbers, lr=lr, scale=scale, **fields)


class Estimates(RestorationNetwork):
    """Bicubic, with the same kernels every time."""

    inputs = ("lr",)
    outputs = ("sr", "kernel")
    scale = 2

    def forward(self, lr: Tensor) -> Restored:
        return Restored(bicubic_resize(lr, 2), kernel=kernels(len(lr), 5, seed=2))


def test_validation_logs_kernels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = RestorationModule(Estimates(), PROTOCOLS)
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    batch = make(2, kernel=kernels(2, 7, seed=3))
    module.begin_validation(["a", "b", "c"])
    outputs = module.validation_step(batch, 0)
    module.validation_step(replace(batch, name=["c", "b"]), 1)  # one that was measured twice counts once
    module.on_validation_epoch_end()
    assert batch.lr is not None
    assert batch.kernel is not None
    order = [0, 1, 0]  # a, b and again the first image, as c
    sr = bicubic_resize(batch.lr, 2)[order]
    wanted = {"val/kernel_error": kernel_error(kernels(2, 5, seed=2)[order], batch.kernel[order]).mean().item()}
    for p in PROTOCOLS:
        wanted[f"val/psnr/{p.name}"] = psnr(sr, batch.hr[order], p.at(2)).mean().item()
        wanted[f"val/ssim/{p.name}"] = ssim(sr, batch.hr[order], p.at(2)).mean().item()
    assert logged == pytest.approx(wanted)
    assert torch.equal(outputs["restored"].sr, bicubic_resize(batch.lr, 2))


def test_the_forward_pass_alone_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything the device was given before and in it; for each image."""
    events: list[str] = []

    def clock() -> float:
        events.append("clock")
        return 3.0 * len(events)

    module = RestorationModule(Bicubic(2), PROTOCOLS)
    monkeypatch.setattr(restoration, "_wait_for", lambda device: events.append("wait"))
    monkeypatch.setattr(restoration.time, "perf_counter", clock)
    monkeypatch.setattr(module.network, "forward", lambda lr: (events.append("forward"), Restored(lr))[1])
    _, seconds = module.restore(make(2))
    assert events == ["wait", "clock", "forward", "wait", "clock"]
    assert seconds == (3.0 * 5 - 3.0 * 2) / 2
