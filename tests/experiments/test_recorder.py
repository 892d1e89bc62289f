"""What a test measures, and how often."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.batch import Batch
from experiments.evaluate import Recorder
from lightning_modules.callbacks import sheets
from lightning_modules.callbacks.sheets import TestSheets as Sheets
from lightning_modules.metrics import Protocol, psnr, ssim
from networks.resize import bicubic_resize
from networks.restored import Restored

PROTOCOLS = [Protocol("y_shave4", "y", 4), Protocol("rgb_shave0", "rgb", 0)]


@pytest.mark.parametrize("scale", [1, 4])
def test_everything_is_measured_once(scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    hr, sr = torch.rand(2, 2, 3, 48, 64, generator=random)
    lr = torch.rand(2, 3, 48 // scale, 64 // scale, generator=random)
    batch = Batch(hr, ["a", "b"], torch.arange(2), torch.arange(2), lr=lr, scale=scale)
    scores = {p.name: {"psnr": psnr(sr, hr, p), "ssim": ssim(sr, hr, p)} for p in PROTOCOLS}
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        function = getattr(sheets, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    for name in ("psnr", "ssim", "bicubic_resize"):
        monkeypatch.setattr(sheets, name, counted(name))
    recorder = Recorder(PROTOCOLS, Sheets(tmp_path, PROTOCOLS[0], "net"))
    outputs = {"restored": Restored(sr), "scores": scores}
    recorder.on_test_batch_end(None, None, outputs, batch, 0)  # type: ignore[arg-type]  # neither is looked at
    assert calls == {"psnr": 2, "ssim": 2, "bicubic_resize": 1}  # the baseline by both protocols, the result by none
    baseline = bicubic_resize(lr, scale)
    for i, name in enumerate(batch.name):
        for p in PROTOCOLS:
            assert recorder.network[p.name][name] == (
                scores[p.name]["psnr"][i].item(),
                scores[p.name]["ssim"][i].item(),
            )
            expected = (psnr(baseline, hr, p)[i].item(), ssim(baseline, hr, p)[i].item())
            assert recorder.bicubic[p.name][name] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_sr.png", "b.png", "b_sr.png"]


def test_without_a_baseline_only_the_network_is_recorded(tmp_path: Path) -> None:
    hr = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    batch = Batch(hr, ["a"], torch.arange(1), torch.arange(1), lr=hr[..., :11, :16], scale=4)
    scores = {PROTOCOLS[0].name: {"psnr": torch.ones(1), "ssim": torch.ones(1)}}
    recorder = Recorder(PROTOCOLS[:1], Sheets(tmp_path, PROTOCOLS[0], "net"))
    recorder.on_test_batch_end(None, None, {"restored": Restored(hr), "scores": scores}, batch, 0)  # type: ignore[arg-type]
    assert recorder.bicubic == {"y_shave4": {}}
    assert recorder.network == {"y_shave4": {"a": (1.0, 1.0)}}
