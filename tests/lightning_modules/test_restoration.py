"""What tests and validations measure: protocols at the scale of the batch, kernels, optional metrics, time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules import restoration
from lightning_modules.metrics.build import build_metrics
from lightning_modules.metrics.kernel_error import kernel_error
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, ssim
from lightning_modules.restoration import RestorationModule, fitting
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


@pytest.mark.parametrize(("scale", "borders"), [(2, (2, 3)), (4, (4, 6))])
def test_protocols_are_taken_at_the_scale(scale: int, borders: tuple[int, int]) -> None:
    batch = make(scale)
    assert batch.lr is not None
    outputs = RestorationModule(Bicubic(scale), PROTOCOLS).test_step(batch, 0)
    sr = bicubic_resize(batch.lr, scale)
    wanted = [Protocol("p", "y", borders[0]), Protocol("p", "rgb", borders[1], "truncate", "volume")]
    assert list(outputs["scores"]) == ["y_shave_s", "gfn"]
    for scores, protocol in zip(outputs["scores"].values(), wanted, strict=True):
        assert list(scores) == ["psnr", "ssim"]
        assert torch.equal(scores["psnr"], psnr(sr, batch.hr, protocol))
        assert torch.equal(scores["ssim"], ssim(sr, batch.hr, protocol))
    assert outputs["seconds"] > 0


def test_kernels_are_measured_where_both_are_known() -> None:
    module = RestorationModule(Estimates(), PROTOCOLS)
    assert "kernel_error" not in module.test_step(make(2), 0)["scores"]["gfn"]
    batch = make(2, kernel=kernels(2, 7, seed=3))
    assert batch.kernel is not None
    scores = module.test_step(batch, 0)["scores"]
    for values in scores.values():
        assert torch.equal(values["kernel_error"], kernel_error(kernels(2, 5, seed=2), batch.kernel))
    assert scores["gfn"]["kernel_error"].min() > 0


def test_validation_logs_kernels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = RestorationModule(Estimates(), PROTOCOLS)
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    batch = make(2, kernel=kernels(2, 7, seed=3))
    module.on_validation_epoch_start()
    outputs = module.validation_step(batch, 0)
    module.validation_step(batch, 1)  # an image that was measured twice, by two processes, counts once
    module.on_validation_epoch_end()
    scores = module.test_step(batch, 0)["scores"]
    wanted = {f"val/{m}/{p}": scores[p][m].mean().item() for p in scores for m in ("psnr", "ssim")}
    wanted["val/kernel_error"] = scores["gfn"]["kernel_error"].mean().item()
    assert logged == pytest.approx(wanted)
    assert torch.equal(outputs["restored"].sr, bicubic_resize(batch.lr, 2))  # type: ignore[arg-type]  # it is there


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


def test_optional_metrics_stand_under_every_protocol() -> None:
    module = RestorationModule(Bicubic(2), PROTOCOLS)
    module.metrics = {"mean": lambda images, hr: (images - hr).mean((1, 2, 3))}
    batch = make(2)
    assert batch.lr is not None
    scores = module.test_step(batch, 0)["scores"]
    for values in scores.values():
        torch.testing.assert_close(values["mean"], (bicubic_resize(batch.lr, 2) - batch.hr).mean((1, 2, 3)))


def test_images_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a: image of 12x12 is too small for protocol y_shave_s: SSIM needs 11 pix"):
        fitting(PROTOCOLS[0], make(2, side=12))
    with pytest.raises(InputError, match=r"a: protocol gfn shaves 1.5s pixels, 4.5 for s = 3"):
        fitting(PROTOCOLS[1], make(3))
    batch = make(2)
    batch.scale = None
    with pytest.raises(InputError, match=r"a: protocol gfn shaves 1.5s pixels, and there is no scale"):
        fitting(PROTOCOLS[1], batch)
    np.savez(tmp_path / "model.npz", mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36))
    module = RestorationModule(Bicubic(2), PROTOCOLS)
    module.metrics = build_metrics(["niqe"], niqe_model=str(tmp_path / "model.npz"))
    with pytest.raises(InputError, match=r"a: image of 48x48 is too small for NIQE: .* take niqe out of metrics"):
        module.test_step(make(2), 0)


def test_metrics_are_built_by_name(tmp_path: Path) -> None:
    assert build_metrics([]) == {}
    with pytest.raises(ValueError, match="found 'psnr', expected lpips or niqe"):
        build_metrics(["psnr"])
    with pytest.raises(InputError, match=r"gone.npz: no such file"):
        build_metrics(["niqe"], niqe_model=str(tmp_path / "gone.npz"))
    np.savez(tmp_path / "model.npz", mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36))
    one, other = (build_metrics(["niqe"], None, str(tmp_path / "model.npz")) for _ in range(2))
    assert one["niqe"] is other["niqe"]
