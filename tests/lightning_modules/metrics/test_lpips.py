"""LPIPS against torchmetrics' own network, both with random weights in torchvision's layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics.functional.image.lpips as published
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.metrics.lpips import LPIPS, SMALLEST


def alexnet() -> nn.Sequential:
    """`features` of torchvision's model, written again."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
    )


def state() -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in alexnet().state_dict().items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({**state(), "classifier.1.bias": torch.zeros(4096)}, path)
    return path


def images(channels: int, height: int, width: int, seed: int) -> Tensor:
    """Whole 8-bit levels: what is rounded before it is measured stays as it is."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, channels, height, width), generator=random) / 255


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 71), (SMALLEST, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_equals_the_library(
    channels: int, height: int, width: int, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_get_net", "_get_tv_model_features"):  # of torchmetrics before 1.8, and since
        monkeypatch.setattr(published, name, lambda *_: alexnet(), raising=False)
    library: Any = published._LPIPS(net="alex")
    one, other = images(channels, height, width, 0), images(channels, height, width, 1)
    with torch.no_grad():
        wanted = library(one.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1), normalize=True).flatten()
    found = LPIPS(str(weights))(one, other)
    assert found.shape == (2,)
    assert wanted.min() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


def test_it_measures_what_a_file_would_hold(weights: Path) -> None:
    metric, one = LPIPS(str(weights)), images(3, 64, 64, 0)
    assert metric(one, one).tolist() == [0, 0]
    assert metric(one + 0.4 / 255, one).tolist() == [0, 0]
    assert torch.equal(metric(one * 2, images(3, 64, 64, 1)), metric((one * 2).clamp(0, 1), images(3, 64, 64, 1)))


def test_images_that_are_too_small(weights: Path) -> None:
    small = images(3, SMALLEST - 1, 50, 0)
    with pytest.raises(ValueError, match=f"50x{SMALLEST - 1} is too small for LPIPS"):
        LPIPS(str(weights))(small, small)


def test_files_that_are_not_alexnet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.pth: no such file; expected torchvision's AlexNet .*7be5be79.pth"):
        LPIPS(str(tmp_path / "gone.pth"))
    torch.save({**state(), "features.12.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"it holds 'features.12.weight', which AlexNet has not"):
        LPIPS(str(tmp_path / "a.pth"))
    torch.save({**state(), "features.3.weight": torch.zeros(192, 64, 3, 3)}, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"features.3.weight is \[192, 64, 3, 3\], AlexNet has \[192, 64, 5, 5\]"):
        LPIPS(str(tmp_path / "b.pth"))
