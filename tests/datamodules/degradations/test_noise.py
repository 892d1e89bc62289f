"""Noise, eight-bit rounding and JPEG against hand calculations, scipy and a real codec."""

import io

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from datamodules.degradations.blur import convolve
from datamodules.degradations.keyed_random import make_key
from datamodules.degradations.noise import (
    add_gaussian_noise,
    jpeg,
    sample_jpeg_quality,
    sample_usrnet_noise_level,
    to_eight_bit_levels,
    trunc8,
)


def keys(n: int) -> Tensor:
    return torch.tensor([make_key("noise", i) for i in range(n)])


def level(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_noise_has_the_level_asked_for_and_is_white() -> None:
    clean = torch.full((3, 3, 128, 128), 0.5)
    noise = add_gaussian_noise(clean, level(0.0, 0.01, 0.6), keys(3)) - clean
    assert torch.equal(noise[0], torch.zeros(3, 128, 128))
    for image, sigma in ((noise[1], 0.01), (noise[2], 0.6)):
        count = image.numel()
        assert abs(image.mean()) < 5 * sigma / count**0.5
        assert abs(image.std() / sigma - 1) < 5 / (2 * count) ** 0.5
    assert noise[2].min() < -1.5  # not clipped
    assert noise[2].max() > 1.5
    unit = noise[2] / 0.6
    for shift in ((0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 2)):
        assert abs((unit * unit.roll(shift, (0, 1, 2))).mean()) < 5 / unit.numel() ** 0.5
    power = torch.fft.fft2(unit.double()).abs() ** 2 / 128**2
    bands = power.view(3, 8, 16, 8, 16).mean((0, 2, 4))  # 768 values each, standard deviation 1
    assert (bands - 1).abs().max() < 5 / 768**0.5


def test_noise_does_not_depend_on_the_batch() -> None:
    clean = torch.rand(8, 3, 31, 37, generator=torch.Generator().manual_seed(1))
    levels = level(*[0.01 * i for i in range(8)])
    together = add_gaussian_noise(clean, levels, keys(8))
    alone = [add_gaussian_noise(clean[i : i + 1], levels[i : i + 1], keys(8)[i : i + 1]) for i in range(8)]
    assert torch.equal(together, torch.cat(alone))
    noise = (together - clean)[1:] / levels[1:]
    assert not torch.allclose(noise[0], noise[1], atol=0.1)  # every image has its own
    double = add_gaussian_noise(clean.double(), levels, keys(8))
    assert double.dtype == torch.float64
    assert (double - together).abs().max() < 1e-6
    learned = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(add_gaussian_noise(learned, levels, keys(8)).sum(), learned)
    assert torch.equal(gradient, torch.ones_like(clean))
    assert add_gaussian_noise(clean[:0], levels[:0], keys(8)[:0]).shape == (0, 3, 31, 37)
    for wrong in (levels[:1], levels[:, 0]):
        with pytest.raises(ValueError, match="expected"):
            add_gaussian_noise(clean, wrong, keys(8))


def test_usrnet_noise_levels() -> None:
    n = 20_000
    drawn = sample_usrnet_noise_level(keys(n))
    assert drawn.shape == (n, 1, 1, 1)
    levels = drawn.flatten().double() * 255
    assert (levels - levels.round()).abs().max() < 1e-5
    counts = torch.bincount(levels.round().long(), minlength=25)
    assert len(counts) == 25
    probabilities = torch.full((25,), 8 / 225)
    probabilities[0] = 33 / 225  # 1/9 + 8/225
    assert ((counts - n * probabilities).abs() < 5 * (n * probabilities).sqrt()).all()


def test_rounding_to_eight_bit() -> None:
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 1.3], dtype=torch.float64)
    assert (to_eight_bit_levels(values) * 255).round().tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert torch.equal(to_eight_bit_levels(torch.arange(256) / 255), torch.arange(256) / 255)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truncation_by_hand(dtype: torch.dtype) -> None:
    values = torch.tensor([100.33, 100.67, 199.99, 0.0, 0.9, -0.9, -11.9, 255.0, 255.9, 277.5], dtype=torch.float64)
    levels = trunc8((values / 255).to(dtype)) * 255
    assert levels.dtype == dtype
    assert levels.round().tolist() == [100, 100, 199, 0, 0, 0, 245, 255, 255, 21]
    every = torch.arange(256, dtype=dtype) / 255
    assert torch.equal(trunc8(every), every)


def test_truncation_is_what_scipy_does_to_bytes() -> None:
    """Blur in float64 with float32 kernels + trunc8 equals scipy.ndimage on uint8 to the bit, flat areas included."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (40, 33)).astype(np.uint8)
    image[:15] = 200
    differing = 0
    for size in (1, 3, 4, 7, 12):
        kernel = np.full((size, size), 1 / size**2, np.float32)
        official = scipy.ndimage.convolve(image, kernel, mode="wrap")
        tensor = torch.from_numpy(image).double()[None, None] / 255
        for algorithm in ("spatial", "fft"):
            blurred = convolve(tensor, torch.from_numpy(kernel)[None, None], "circular", algorithm=algorithm)  # type: ignore[arg-type]
            assert np.array_equal((trunc8(blurred)[0, 0] * 255).round().numpy().astype(np.uint8), official)
        differing += int((official[7] == 199).any())
    assert 0 < differing < 5


def photographs(channels: int) -> Tensor:
    """Three photographs of 123 x 109 pixels, [3, C, H, W]."""
    crops = [
        image[100:223, 150:259] for image in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    ]
    mode = "RGB" if channels == 3 else "L"
    arrays = [np.array(Image.fromarray(crop).convert(mode)).reshape(123, 109, channels) for crop in crops]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def decibel(a: Tensor, b: Tensor) -> Tensor:
    return -10 * torch.log10(((a - b) ** 2).mean((1, 2, 3)))


def real_codec(images: Tensor, quality: int) -> Tensor:
    decoded = []
    for image in images:
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=quality)
        decoded.append(np.array(Image.open(file)).reshape(pixels.shape))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(channels: int) -> None:
    """Close to libjpeg, a little milder, better with rising quality."""
    clean = photographs(channels)
    last = torch.zeros(3)
    for quality, closeness in ((10, 36), (30, 39), (60, 41), (95, 44)):
        coded = jpeg(clean, torch.full((3,), quality))
        assert coded.shape == clean.shape
        assert torch.equal(coded, to_eight_bit_levels(coded))
        real = real_codec(clean, quality)
        assert (decibel(coded, real) > closeness).all(), decibel(coded, real)
        loss = decibel(coded, clean)
        assert (loss > last + 1).all()
        assert (loss - decibel(real, clean)).abs().max() < 2
        assert (decibel(coded, real) > loss + 3).all()  # far nearer to the codec than to the clean image
        last = loss


def test_jpeg_quality_is_per_sample() -> None:
    clean = photographs(3)
    mixed = jpeg(clean, torch.tensor([30, 60, 95]))
    for i, quality in enumerate((30, 60, 95)):
        assert (jpeg(clean[i : i + 1], torch.tensor([quality]))[0] - mixed[i]).abs().max() < 1.5 / 255
    assert jpeg(clean[:, :, :5, :3], torch.tensor([30, 60, 95])).shape == (3, 3, 5, 3)
    with pytest.raises(ValueError, match="expected 1 or 3"):
        jpeg(clean[:, :2], torch.tensor([30, 60, 95]))
    with pytest.raises(ValueError, match=r"and \[3\]"):
        jpeg(clean, torch.tensor([30]))


def test_jpeg_qualities() -> None:
    drawn = sample_jpeg_quality(keys(10_000))
    counts = torch.bincount(drawn, minlength=96)
    assert counts[:30].sum() == 0
    assert len(counts) == 96
    assert (counts[30:] - 10_000 / 66).abs().max() < 5 * (10_000 / 66) ** 0.5
    assert sample_jpeg_quality(keys(3), 50, 50).tolist() == [50, 50, 50]
    for low, high in ((0, 95), (50, 40), (30, 101)):
        with pytest.raises(ValueError, match="quality range"):
            sample_jpeg_quality(keys(3), low, high)
