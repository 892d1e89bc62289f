"""The degradation of photographs against its steps in float64 NumPy, and its laws; the codec is tested elsewhere."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations import photographs
from datamodules.degradations.keyed_random import integers, make_key, normal_field, uniform
from datamodules.degradations.photographs import KINDS, MODES, PhotographDegradation, from_light, to_light
from tests.helpers import references


def make_keys(count: int, epoch: int = 1) -> Tensor:
    return torch.tensor([make_key(0, epoch, i) for i in range(count)])


def make_batch(n: int = 3, channels: int = 3, size: tuple[int, int] = (38, 54), point: float | None = None) -> Batch:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)
    return Batch(images, [str(i) for i in range(n)], torch.arange(n), make_keys(n), point=point)


def lr_of(pipeline: PhotographDegradation, batch: Batch) -> Tensor:
    lr = pipeline(batch).lr
    assert lr is not None
    return lr


def centroid(kernels: Tensor) -> Tensor:
    """Rows and columns [B, 2] of the centre of mass, from index floor(k/2)."""
    place = torch.arange(kernels.shape[-1], dtype=torch.float64) - kernels.shape[-1] // 2
    planes = kernels[:, 0].double()
    return torch.stack([planes.sum(2) @ place, planes.sum(1) @ place], 1)


def decode(stored: np.ndarray) -> np.ndarray:
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def encode(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def reduce(plane: np.ndarray, scale: int, mode: str) -> np.ndarray:
    """Means of blocks, a triangle as wide as two blocks (cut at the border), or MATLAB's imresize."""
    height, width = plane.shape
    if mode == "area":
        return plane.reshape(height // scale, scale, width // scale, scale).mean((1, 3))
    if mode == "bicubic":
        return references.imresize(plane, 1 / scale)
    sides = []
    for n in plane.shape:
        centre = (np.arange(n // scale) + 0.5) * scale - 0.5
        weights = np.clip(1 - np.abs(np.arange(n) - centre[:, None]) / scale, 0, None)
        sides.append(weights / weights.sum(1, keepdims=True))
    return sides[0] @ plane @ sides[1].T


def grain(keys: Tensor, shape: tuple[int, int, int]) -> np.ndarray:
    """What the noise of one sample [C, h, w] is before its level: mixed, then smoothed, the image wrapped round."""
    common = float(uniform(keys, "photographs/common", (), 0, 0.6))
    sigma = float(uniform(keys, "photographs/smooth", (), 0.2, 0.6))
    field = normal_field(keys, "photographs/grain", (1 + shape[0], *shape[1:]))[0].double().numpy()
    field = math.sqrt(common) * field[:1] + math.sqrt(1 - common) * field[1:]
    kernel = references.gaussian(sigma, 7)
    return np.stack([references.convolve(plane, kernel / np.linalg.norm(kernel), "wrap") for plane in field])


@pytest.mark.many
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scale", "size"), [(1, (23, 31)), (2, (38, 54)), (3, (33, 39))])
def test_equals_its_steps(monkeypatch: pytest.MonkeyPatch, scale: int, size: tuple[int, int], channels: int) -> None:
    """Over twelve samples: every kind of blur, every resize."""
    monkeypatch.setattr(photographs, "jpeg", lambda images, quality: images)
    pipeline = PhotographDegradation(scale)
    batch = make_batch(12, channels, size)
    lr, kernels = lr_of(pipeline, batch), pipeline.draw_blur(batch.key).double().numpy()
    assert lr.shape == (12, channels, size[0] // scale, size[1] // scale)
    kinds, modes = pipeline.draw_kind(batch.key), integers(batch.key, "photographs/mode", low=0, high=3)
    assert set(kinds.tolist()) == set(range(len(KINDS)))
    assert set(modes.tolist()) == set(range(len(MODES)))
    for i in range(12):
        light = decode(batch.hr[i].double().numpy() / 255)
        light = [reduce(references.convolve(x, kernels[i, 0], "reflect"), scale, MODES[modes[i]]) for x in light]
        stored = encode(np.stack(light).clip(0, 1))
        shot, read = (
            float(uniform(batch.key[i : i + 1], f"photographs/{name}", (), 0, high)) / 255
            for name, high in (("shot", 5), ("read", 3))
        )
        noise = grain(batch.key[i : i + 1], stored.shape) * np.sqrt(read**2 + shot**2 * stored)
        assert np.abs(lr[i].numpy() - (stored + noise).clip(0, 1)).max() < 2e-5


def test_srgb_by_hand() -> None:
    stored = torch.tensor([[[[0.0, 0.04045, 0.5, 1.0]]]], dtype=torch.float64)
    light = torch.tensor([0.0, 0.04045 / 12.92, 0.21404114, 1.0], dtype=torch.float64)
    assert (to_light(stored) - light).abs().max() < 1e-8
    levels = torch.arange(256).view(1, 1, 1, 256) / 255
    assert (from_light(to_light(levels)) - levels).abs().max() < 1e-6


def test_a_lamp_stays_bright_when_it_is_smeared() -> None:
    """Five pixels share the light of one: 0.2 of it is stored as 0.48, where stored values would give 0.2."""
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, :, 20] = 1
    pipeline = PhotographDegradation(1, shot=(0, 0), read=(0, 0), jpeg_quality=(100, 100))
    row = torch.zeros(1, 1, 25, 25)
    row[..., 12, 10:15] = 0.2
    pipeline.draw_blur = lambda keys, point: row  # type: ignore[method-assign]
    lr = lr_of(pipeline, Batch(image, ["x"], torch.arange(1), make_keys(1)))
    assert (lr[0, 0, 20, 18:23] - 0.4845).abs().max() < 0.01


def test_kernels_are_centred_and_keep_the_light() -> None:
    """Their mass lies on the centre pixel, so that `lr` lies where `hr` does."""
    keys = make_keys(400)
    pipeline = PhotographDegradation()
    kernels, kinds = pipeline.draw_blur(keys), pipeline.draw_kind(keys)
    assert kernels.min() >= 0
    assert (kernels.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    for kind in range(4):
        assert centroid(kernels[kinds == kind]).abs().max() < 1e-4
    assert kernels[kinds == KINDS.index("sharp"), 0, 12, 12].min() > 0.6


def test_degraded_images_lie_where_sharp_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The centre of a spot in linear light, by every kind of blur and resize; the target of the branch too."""
    monkeypatch.setattr(photographs, "jpeg", lambda images, quality: images)
    # On a gray ground: nothing that a bicubic reduction makes is below 0 or above 1, which storing would cut off.
    light = torch.full((14, 1, 60, 66), 0.3, dtype=torch.float64)
    # As much of the spot in even as in odd rows: means of blocks keep the centre of the whole, not of each row. It is
    # 30.5 and 33.5, and at half the size (30.5 + 0.5) / 2 - 0.5 and (33.5 + 0.5) / 2 - 0.5.
    light[:, :, 29:33, 33:35] = 0.8
    ground = from_light(light[:1, :, :1, :1])
    batch = Batch(from_light(light), [""] * 14, torch.arange(14), make_keys(14))
    out = PhotographDegradation(shot=(0, 0), read=(0, 0))(batch)
    assert out.lr is not None
    assert out.lr_sharp is not None
    for spots in (to_light(out.lr) - 0.3, out.lr_sharp - ground):
        planes = spots[:, 0].double()
        planes = planes / planes.sum((1, 2), keepdim=True)
        rows, columns = (planes.sum(axis) @ torch.arange(n).double() for axis, n in ((2, 30), (1, 33)))
        assert (rows - 15).abs().max() < 1e-3
        assert (columns - 16.5).abs().max() < 1e-3


def test_disk_of_defocus_against_supersampling() -> None:
    pipeline = PhotographDegradation(shares=(0, 1, 0, 0), defocus=(2.3, 2.3))
    fine = (np.arange(7 * 200) + 0.5) / 200 - 3.5
    inside = (fine[:, None] ** 2 + fine**2 <= 2.3**2).reshape(7, 200, 7, 200).mean((1, 3))
    expected = np.pad(inside / (math.pi * 2.3**2), 9)
    assert np.abs(pipeline.draw_blur(make_keys(2)).numpy() - expected).max() < 2e-5


def test_kinds_follow_their_shares() -> None:
    drawn = PhotographDegradation().draw_kind(make_keys(4000))
    found = torch.bincount(drawn, minlength=4) / 4000
    assert (found - torch.tensor([0.45, 0.2, 0.2, 0.15])).abs().max() < 4.5 * (0.25 / 4000) ** 0.5
    assert PhotographDegradation(shares=(0, 0, 1, 0)).draw_kind(make_keys(100)).unique().tolist() == [2]


@pytest.mark.parametrize("value", [0.0, 0.25, 0.81])
def test_noise_has_the_variance_of_its_formula(value: float) -> None:
    """read^2 + shot^2 y, however it is smoothed and up to the border; its correlation between channels is g."""
    pipeline = PhotographDegradation(shot=(4, 4), read=(3, 3), common=(0.5, 0.5), grain=(0.6, 0.6))
    images = torch.full((8, 3, 63, 65), value)
    noise = (pipeline.noisy(images, make_keys(8)) - images).double()
    expected = (3**2 + 4**2 * value) / 255**2
    # Smoothed by a Gaussian of 0.6, some 5 pixels count as one.
    assert abs(noise.var().item() / expected - 1) < 4.5 * (2 * 5 * 1.5 / noise.numel()) ** 0.5
    border = noise[:, :, [0, -1]]
    assert abs(border.var().item() / expected - 1) < 4.5 * (2 * 5 * 1.5 / border.numel()) ** 0.5
    together = (noise[:, 0] * noise[:, 2]).mean().item() / expected
    assert abs(together - 0.5) < 4.5 * (5 / noise[:, 0].numel()) ** 0.5
    beside = (noise[..., 1:] * noise[..., :-1]).mean().item() / expected
    line = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 0.6**2))
    assert abs(beside - (line[1:] * line[:-1]).sum() / (line**2).sum()) < 0.03


def test_no_noise_is_none() -> None:
    images = torch.rand(2, 3, 8, 9)
    assert torch.equal(PhotographDegradation(shot=(0, 0), read=(0, 0)).noisy(images, make_keys(2)), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(38, 54), (66, 50)])
def test_a_sample_depends_on_its_key_alone(channels: int, size: tuple[int, int]) -> None:
    pipeline = PhotographDegradation()
    whole = make_batch(7, channels, size)
    together = lr_of(pipeline, whole)
    assert torch.equal(together, lr_of(pipeline, whole))
    for i in range(7):
        one = slice(i, i + 1)
        alone = Batch(whole.hr[one], ["x"], torch.zeros(1, dtype=torch.int64), whole.key[one], group=i)
        assert torch.equal(lr_of(pipeline, alone)[0], together[i])
    other = Batch(whole.hr, whole.name, whole.index, make_keys(7, epoch=2))
    assert (lr_of(pipeline, other) != together).flatten(1).any(1).all()


def test_output_is_an_8_bit_image_with_a_clean_target() -> None:
    batch = make_batch(9)
    out = PhotographDegradation()(batch)
    assert out.lr is not None
    assert out.lr_sharp is not None
    assert out.lr.shape == out.lr_sharp.shape == (9, 3, 19, 27)
    assert (255 * out.lr - (255 * out.lr).round()).abs().max() < 1e-4
    assert out.lr.min() >= 0
    assert out.lr.max() <= 1
    assert out.scale == 2
    assert torch.equal(out.hr, batch.hr.float() / 255)
    expected = references.imresize(batch.hr[8].double().permute(1, 2, 0).numpy() / 255, 0.5)
    assert np.abs(out.lr_sharp[8].permute(1, 2, 0).numpy() - expected).max() < 1e-5
    assert out.kernel is out.noise_level is None


def test_gray_images_stay_gray() -> None:
    """Three equal channels, as gray files come, keep their luma; the noise may be coloured, blur and resize are not."""
    batch = make_batch(4, 1)
    three = Batch(batch.hr.expand(-1, 3, -1, -1), batch.name, batch.index, batch.key)
    pipeline = PhotographDegradation(shot=(0, 0), read=(0, 0), jpeg_quality=(95, 95))
    gray, coloured = lr_of(pipeline, batch), lr_of(pipeline, three)
    assert (coloured - gray).abs().max() < 3.1 / 255


def test_a_point_goes_from_mild_to_severe(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every sample the same extents, of whatever kind its blur is."""
    found: list[Tensor] = []
    monkeypatch.setattr(photographs, "jpeg", lambda images, quality: found.append(quality) or images)
    pipeline = PhotographDegradation(sigma=(1, 3), defocus=(1, 5), shake=(2, 12))
    assert pipeline.has_points
    for point, quality in ((0.0, 95), (0.5, 72), (1.0, 50)):
        pipeline(make_batch(5, point=point))
        assert found[-1].tolist() == [quality] * 5
    place = torch.arange(25) - 12.0
    distance = (place[:, None] ** 2 + place**2).sqrt()
    keys = make_keys(40)
    kinds = pipeline.draw_kind(keys)
    for point in (0.0, 0.25, 1.0):
        kernels = pipeline.draw_blur(keys, point)[:, 0]
        reach = torch.where(kernels > 1e-9, distance, 0).flatten(1).amax(1)
        shaken = reach[kinds == KINDS.index("shake")]
        # Points go to their neighbours, less than a diagonal away.
        assert ((shaken - (2 + 10 * point)).abs() < 1.5).all()
        disks = kernels[kinds == KINDS.index("defocus")]
        assert torch.allclose(disks.amax((1, 2)), torch.tensor(1 / (math.pi * (1 + 4 * point) ** 2)), rtol=0.1)
        spread = (kernels * place**2).sum((1, 2))[kinds == KINDS.index("gaussian")]
        assert torch.allclose(spread, torch.tensor((1 + 2 * point) ** 2), rtol=0.01)
    flat = Batch(torch.full((5, 1, 64, 64), 0.5), [""] * 5, torch.arange(5), make_keys(5))
    low, high = (lr_of(pipeline, replace(flat, point=point)).std() for point in (0.1, 0.9))
    assert abs(high / low - 9) < 0.01
    clean = PhotographDegradation(shot=(0, 0), read=(0, 0))
    mild, severe = (lr_of(clean, make_batch(9, point=point)).flatten(1).std(1) for point in (0.0, 1.0))
    assert (severe < mild).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale is 0, expected integers of at least 1"),
        ({"kernel_size": 24}, "kernel_size is 24, expected an odd number from 3 to 255"),
        ({"kernel_size": 100001}, "kernel_size is 100001, expected an odd number from 3 to 255"),
        (
            {"shares": (0.5, 0.5)},
            r"shares is \[0.5, 0.5\], expected \[shake, defocus, gaussian, sharp\] that add",
        ),
        ({"shares": (0.5, 0.5, 0.5, 0)}, "that add up to 1"),
        ({"shares": (1.5, -0.5, 0, 0)}, "shares is"),
        ({"shake": (1, 12.5)}, r"shake is \[1, 12.5\], expected \[low, high\] with 0 <= low <= high <= 12"),
        ({"kernel_size": 21}, r"shake is \[1.0, 12.0\], .* <= 10"),
        ({"defocus": (3, 2)}, r"defocus is \[3, 2\]"),
        ({"sigma": (0, 2)}, r"sigma is \[0, 2\], expected \[low, high\] with 0.1 <= low"),
        ({"shot": (-1, 2)}, r"shot is \[-1, 2\]"),
        ({"read": (1,)}, r"read is \[1\]"),
        ({"common": (0, 1.5)}, r"common is \[0, 1.5\], .* <= 1"),
        ({"grain": (0, 1)}, r"grain is \[0, 1\], .* 0.1 <= low <= high <= 3"),
        (
            {"jpeg_quality": (95, 50)},
            r"jpeg_quality is \[95, 50\], expected \[low, high\] with 1 <= low",
        ),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhotographDegradation(**options)
