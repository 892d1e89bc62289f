"""Which panels a sheet has and what is written below them, for every kind of network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch
from lightning_modules.callbacks import sheets
from lightning_modules.callbacks.sheets import Measured, Sheets, enlarged, measured, save_pictures
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, ssim
from lightning_modules.plots.kernels import kernel_tiles
from lightning_modules.plots.regions import pick_zoom_box
from lightning_modules.plots.sheet import Tile, result_rows, to_image
from networks.ops.resize import bicubic_resize, bilinear_shrink
from networks.restored import Restored

Y = Protocol("y", "y", 4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def kernels(count: int, size: int) -> Tensor:
    values = noise(count, 1, size, size)
    return values / values.sum((2, 3), keepdim=True)


def make(scale: int, channels: int = 3, count: int = 1, **fields: Any) -> Batch:
    numbers = torch.arange(count)
    hr, lr = noise(count, channels, 96, 120), noise(count, channels, 96 // scale, 120 // scale, seed=1)
    return Batch(hr, [f"set/image{i}" for i in range(count)], numbers, numbers, lr=lr, scale=scale, **fields)


def scores(images: Tensor, truth: Tensor, i: int = 0) -> str:
    return f"{psnr(images, truth, Y)[i].item():.2f} dB   {ssim(images, truth, Y)[i].item():.4f}"


def tiles(restored: Restored, batch: Batch, protocol: Protocol, label: str, i: int = 0) -> list[Tile]:
    return Sheets(protocol, label).tiles(restored, batch, i, *both(restored, batch, protocol))


def both(restored: Restored, batch: Batch, protocol: Protocol) -> tuple[Measured, Measured | None]:
    images = enlarged(batch)
    baseline = None if images is None else measured(images, batch.hr, protocol, batch.scale)
    return measured(restored.sr, batch.hr, protocol, batch.scale), baseline


def test_ed_dsrn_and_gfn() -> None:
    batch = make(4, lr_sharp=noise(1, 3, 24, 30, seed=2))
    restored = Restored(noise(1, 3, 96, 120, seed=3), deblurred=noise(1, 3, 24, 30, seed=4))
    assert batch.lr is not None
    assert batch.lr_sharp is not None
    assert restored.deblurred is not None
    found = tiles(restored, batch, Y, "net")
    assert [(tile.title, tile.caption) for tile in found] == [
        ("input", "30 x 24"),
        ("bicubic", scores(bicubic_resize(batch.lr, 4), batch.hr)),
        ("deblurred branch", scores(restored.deblurred, batch.lr_sharp)),
        ("truth of deblurred", "30 x 24"),
        ("net", scores(restored.sr, batch.hr)),
        ("ground truth", "120 x 96   (y)"),
    ]
    images = (batch.lr, bicubic_resize(batch.lr, 4), restored.deblurred, batch.lr_sharp, restored.sr, batch.hr)
    for tile, image in zip(found, images, strict=True):
        assert tile.picture == to_image(image[0])
    batch.lr_sharp = None
    assert [tile.title for tile in tiles(restored, batch, Y, "net")][2:4] == ["deblurred branch", "net"]
    assert tiles(restored, batch, Y, "net")[2].caption == "30 x 24"


def test_deblurring_shows_the_scores_of_the_input() -> None:
    batch = make(1)
    result = noise(1, 3, 96, 120, seed=3)
    pyramid = [bilinear_shrink(result, 4), bilinear_shrink(result, 2), result]
    assert batch.lr is not None
    found = tiles(Restored(result, pyramid=pyramid), batch, Y, "srn")
    assert [tile.title for tile in found] == ["input", "srn at 1/4", "srn at 1/2", "srn", "ground truth"]
    assert found[0].caption == scores(batch.lr, batch.hr) + "\n120 x 96"
    assert [tile.title for tile in tiles(Restored(result), batch, Y, "coop")] == ["input", "coop", "ground truth"]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_noise_is_given_in_levels(scale: int) -> None:
    level = torch.tensor([2.55, 7.65]).view(2, 1, 1, 1) / 255
    batch = make(scale, count=2, noise_level=level, kernel=kernels(2, 25))
    restored = Restored(noise(2, 3, 96, 120, seed=3))
    captions = [tiles(restored, batch, Y, "usrnet", i)[0].caption.splitlines()[-1] for i in (0, 1)]
    assert captions == [f"{120 // scale} x {96 // scale}, noise sigma {level}/255" for level in ("2.55", "7.65")]


@pytest.mark.parametrize("channels", [1, 3])
def test_kernels_stand_below(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def watched(*found: Tensor | None) -> Any:
        given.append(found)
        return kernel_tiles(*found)

    monkeypatch.setattr(sheets, "kernel_tiles", watched)
    batch = make(2, channels, count=2)
    restored = Restored(noise(2, channels, 96, 120, seed=3))
    without = Sheets(Y, "net").draw(restored, batch, 1, *both(restored, batch, Y))
    batch.kernel = kernels(2, 25)
    true = Sheets(Y, "net").draw(restored, batch, 1, *both(restored, batch, Y))
    restored.kernel = kernels(2, 21)
    two = Sheets(Y, "net").draw(restored, batch, 1, *both(restored, batch, Y))
    assert without.height < true.height < two.height
    assert [[None if k is None else tuple(k.shape) for k in pair] for pair in given] == [
        [None, None],
        [None, (1, 25, 25)],
        [(1, 21, 21), (1, 25, 25)],
    ]
    torch.testing.assert_close(given[-1][0], restored.kernel[1])
    np.testing.assert_array_equal(np.asarray(two)[: without.height - 30], np.asarray(without)[:-30])


def test_the_baseline_is_not_drawn_twice() -> None:
    batch = make(4)
    images = enlarged(batch)
    assert images is not None
    found = tiles(Restored(images), batch, Y, "bicubic")
    assert [tile.title for tile in found] == ["input", "bicubic", "ground truth"]


@pytest.mark.parametrize("scale", [2, 4])
def test_the_border_is_that_of_the_scale(scale: int) -> None:
    batch, restored = make(scale), Restored(noise(1, 3, 96, 120, seed=3))
    relative, fixed, whole = (
        [tile.caption for tile in tiles(restored, batch, Protocol("y", "y", shave), "net")] for shave in ("s", scale, 0)
    )
    assert relative == fixed != whole


def test_small_images_have_no_scores() -> None:
    small = noise(1, 3, 18, 30)
    assert measured(small, small, Y, 4).caption(0) == "30 x 18"
    assert measured(noise(1, 3, 19, 30), noise(1, 3, 19, 30), Y, 4).caption(0) == "inf dB   1.0000"


def test_there_is_no_sheet_without_an_input() -> None:
    batch = make(4)
    batch.lr = None
    assert enlarged(batch) is None
    with pytest.raises(ValueError, match="no 'lr'"):
        tiles(Restored(batch.hr), batch, Y, "net")


def test_an_input_that_does_not_fit_is_no_baseline() -> None:
    batch = make(4)
    batch.hr = batch.hr[..., :-2]
    assert enlarged(batch) is None
    assert [p.title for p in tiles(Restored(batch.hr), batch, Y, "net")] == ["input", "net", "ground truth"]


def test_every_test_image_is_written_with_the_scores_that_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a batch of several; nothing is measured or enlarged again."""
    batch = make(4, channels=1, count=2)
    sr = noise(2, 1, 96, 120, seed=3)
    captions: list[str] = []
    drawn: list[Any] = []

    def watched(shown: list[Tile], zoom_box: Any, title: str) -> list[Image.Image]:
        captions.extend(tile.caption for tile in shown)
        drawn.append((title, zoom_box))
        return result_rows(shown, zoom_box, title)

    def never(*arguments: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(sheets, "result_rows", watched)
    for name in ("psnr", "ssim", "bicubic_resize"):
        monkeypatch.setattr(sheets, name, never)
    given = {"psnr": torch.tensor([21.0, 22.0]), "ssim": torch.tensor([0.1, 0.2])}
    baseline = Measured(1 - batch.hr, {"psnr": torch.tensor([11.0, 12.0]), "ssim": torch.tensor([0.3, 0.4])})
    Sheets(Y, "net").save(tmp_path / "images", Restored(sr), batch, Measured(sr, given), baseline)
    save_pictures(tmp_path / "images", Restored(sr), batch, baseline.images)
    assert captions[1:3] == ["11.00 dB   0.3000", "21.00 dB   0.1000"]
    assert captions[5:7] == ["12.00 dB   0.4000", "22.00 dB   0.2000"]
    assert drawn == [(name, pick_zoom_box(hr)) for name, hr in zip(batch.name, batch.hr, strict=True)]
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"set_image{i}{kind}.png" for i in (0, 1) for kind in ("", "_hr", "_input", "_sr")]
    for kind, pictures in {"sr": sr, "hr": batch.hr, "input": baseline.images}.items():
        with Image.open(tmp_path / "images" / f"set_image1_{kind}.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), np.floor(pictures[1, 0].numpy() * 255 + 0.5))
