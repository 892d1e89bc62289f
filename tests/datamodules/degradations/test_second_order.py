"""The second-order degradation against its steps in float64 NumPy; the codec itself is tested with the noise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations import second_order
from datamodules.degradations.keyed_random import bits, integers, make_key, normal_field, uniform
from datamodules.degradations.second_order import MODES, SecondOrderDegradation
from tests.helpers import references


def make_batch(n: int = 3, channels: int = 3, size: tuple[int, int] = (36, 48), group: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)
    keys = torch.tensor([make_key(0, 1, i) for i in range(n)])
    return Batch(hr=images, name=[str(i) for i in range(n)], index=torch.arange(n), key=keys, group=group)


def lr_of(pipeline: SecondOrderDegradation, batch: Batch) -> Tensor:
    lr = pipeline(batch).lr
    assert lr is not None
    return lr


def kernel_value(mode: str, t: float) -> float:
    t = abs(t)
    if mode == "bilinear":
        return max(0.0, 1 - t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def resize(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Rows, then columns: means of what a pixel covers, or the kernel, widened by the reduction, cut at the border."""
    for axis, length in enumerate(size):
        n = image.shape[axis]
        weights = np.zeros((length, n))
        stretch = max(n / length, 1.0)
        for i in range(length):
            centre = (i + 0.5) * n / length - 0.5
            for j in range(n):
                if mode == "area":
                    weights[i, j] = i * n // length <= j < -(-(i + 1) * n // length)
                else:
                    weights[i, j] = kernel_value(mode, (j - centre) / stretch)
            weights[i] /= weights[i].sum()
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis) if image.shape[axis] != length else image
    return image


def blur_kernel(key: Tensor, sigma: tuple[float, float], isotropic: float, blurs: float) -> np.ndarray:
    """Of 21 x 21 pixels, cut to an odd side of 7 to 21."""
    draws = uniform(key, "second_order/blur", (5,))[0].double().tolist()
    radius = 3 + int(integers(key, "second_order/side", low=0, high=8))
    first, second = (sigma[0] + (sigma[1] - sigma[0]) * draw for draw in draws[:2])
    second = first if draws[2] < isotropic else second
    cos, sin = np.cos(np.pi * draws[3]), np.sin(np.pi * draws[3])
    kernel = np.zeros((21, 21))
    for y in range(-10, 11):
        for x in range(-10, 11):
            if max(abs(x), abs(y)) <= (radius if draws[4] < blurs else 0):
                along, across = cos * x + sin * y, cos * y - sin * x
                kernel[y + 10, x + 10] = np.exp(-(along**2) / (2 * first**2) - across**2 / (2 * second**2))
    return kernel / kernel.sum()


def reference(pipeline: SecondOrderDegradation, batch: Batch, i: int) -> np.ndarray:
    """Sample i before the last rounding, [C, h, w], with a codec that loses nothing."""
    keys = bits(batch.key[i : i + 1], "second_order/round", (2,))
    image = batch.hr[i].double().numpy() / 255
    small = (image.shape[1] // pipeline.scale, image.shape[2] // pipeline.scale)
    rounds = (((0.2, 3.0), 1.0, (1, 30), image.shape[1:]), ((0.2, 1.5), 0.8, (1, 25), small))
    for turn, (sigma, blurs, noise, base) in enumerate(rounds):
        key = keys[:, turn]
        kernel = blur_kernel(key, sigma, 0.69, blurs)
        size, mode = pipeline.resize(batch.group, turn, base)
        draws = uniform(key, "second_order/noise", (2,))[0].tolist()
        gray = draws[1] < 0.4
        grain = normal_field(key, "gaussian_noise", (1 if gray else len(image), *size))[0].double().numpy()
        image = np.stack([resize(references.convolve(plane, kernel, "reflect"), size, mode) for plane in image])
        image = (image + (noise[0] + (noise[1] - noise[0]) * draws[0]) / 255 * grain).clip(0, 1)
    return np.stack([resize(plane, small, pipeline.last_mode(batch.group)) for plane in image])


@pytest.mark.many
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scale", "size"), [(1, (23, 31)), (3, (33, 39)), (4, (36, 48))])
def test_equals_its_steps(monkeypatch: pytest.MonkeyPatch, scale: int, size: tuple[int, int], channels: int) -> None:
    """Over ten batches: every mode, both orders, larger and smaller sizes."""
    monkeypatch.setattr(second_order, "jpeg", lambda images, quality: images)
    pipeline = SecondOrderDegradation(scale)
    seen = set()
    for group in range(10):
        batch = make_batch(2, channels, size, make_key("batch", group))
        lr = lr_of(pipeline, batch)
        last = pipeline.jpeg_last(batch.group)
        seen |= {last, *(pipeline.resize(batch.group, turn, size)[1] for turn in (0, 1))}
        for i in range(2):
            expected = reference(pipeline, batch, i)
            # JPEG is what rounds to 8 bit where it comes last, and it does nothing here.
            levels = expected if last else np.round(255 * expected.clip(0, 1)) / 255
            difference = np.abs(lr[i].numpy() - levels)
            near = np.abs((255 * expected) % 1 - 0.5) < 0.01
            assert difference[~near | last].max() < 1e-5
    assert seen == {True, False, *MODES}


def test_qualities_are_drawn_for_every_sample_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = []
    monkeypatch.setattr(second_order, "jpeg", lambda images, quality: found.append(quality) or images)
    SecondOrderDegradation(jpeg_quality=(30, 60), jpeg_quality2=(61, 95))(make_batch(40, 1, (8, 8)))
    first, second = found
    assert 30 <= first.min() < first.max() <= 60 < second.min() < second.max() <= 95


def test_output_is_an_8_bit_image_of_the_right_size() -> None:
    for group in range(8):
        batch = make_batch(2, size=(36, 48), group=make_key("batch", group))
        out = SecondOrderDegradation()(batch)
        assert out.lr is not None
        assert out.lr.shape == (2, 3, 9, 12)
        assert out.scale == 4
        assert (255 * out.lr - (255 * out.lr).round()).abs().max() < 1e-4
        assert out.lr.min() >= 0
        assert out.lr.max() <= 1
        assert torch.equal(out.hr, batch.hr.float() / 255)
        assert out.kernel is out.noise_level is out.lr_sharp is None


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_does_not_depend_on_its_batch(channels: int) -> None:
    pipeline = SecondOrderDegradation()
    for group in range(6):
        whole = make_batch(4, channels, (64, 64), make_key("batch", group))
        together = lr_of(pipeline, whole)
        assert torch.equal(together, lr_of(pipeline, whole))
        for i in range(4):
            one = slice(i, i + 1)
            alone = Batch(whole.hr[one], ["x"], whole.index[one], whole.key[one], group=whole.group)
            assert torch.equal(lr_of(pipeline, alone)[0], together[i])


@pytest.mark.slow
def test_sizes_follow_their_law() -> None:
    pipeline = SecondOrderDegradation()
    for turn, (up, down, low, high) in enumerate(((0.2, 0.7, 0.15, 1.5), (0.3, 0.4, 0.3, 1.2))):
        drawn = [pipeline.resize(make_key("batch", i), turn, (1000, 500)) for i in range(1500)]
        heights = np.array([size[0] for size, _ in drawn])
        # Rounding down takes the sliver just above 1000.
        shares = (heights > 1000).mean(), (heights < 1000).mean()
        assert np.abs(np.array(shares) - (up, down)).max() < 4.5 * (0.25 / 1500) ** 0.5
        assert 1000 * low <= heights.min() < 1000 * low + 10
        assert 1000 * high - 10 < heights.max() <= 1000 * high
        assert all(abs(size[0] - 2 * size[1]) <= 1 for size, _ in drawn)
        modes = [mode for _, mode in drawn]
        assert max(abs(modes.count(mode) - 500) for mode in MODES) < 4.5 * (1500 * 2 / 9) ** 0.5
    assert pipeline.resize(0, 0, (1, 1))[0] == (1, 1)


def test_the_second_blur_is_left_out_at_times() -> None:
    keys = torch.tensor([make_key("blur", i) for i in range(1000)])
    pipeline = SecondOrderDegradation()
    for turn, share in ((0, 1.0), (1, 0.8)):
        kernels = pipeline.draw_blur(keys, turn)
        assert (kernels.sum((1, 2, 3)) - 1).abs().max() < 1e-6
        # A Gaussian of 0.2 pixels leaves 4e-6 beside its centre.
        blurred = (kernels[:, 0, 10, 10] < 1).double().mean().item()
        assert abs(blurred - share) < 4.5 * (0.16 / 1000) ** 0.5
        symmetric = torch.isclose(kernels, kernels.mT, atol=1e-7).flatten(1).all(1).double().mean()
        assert symmetric < 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale is 0, expected integers of at least 1"),
        ({"kernel_size": 20}, "smallest_kernel is 7 and kernel_size 20, expected odd numbers"),
        ({"smallest_kernel": 23}, "smallest_kernel <= kernel_size"),
        ({"sigma": (0, 1)}, r"sigma is \[0, 1\], expected \[low, high\] with 0 < low <= high"),
        ({"sigma2": (2, 1)}, r"sigma2 is \[2, 1\]"),
        ({"noise": (-1, 1)}, r"noise is \[-1, 1\], expected \[low, high\] with 0 <= low <= high"),
        ({"noise2": (1,)}, r"noise2 is \[1\]"),
        ({"resize_prob": (0.5, 0.5, 0.5)}, "resize_prob is .* that add up to 1"),
        ({"resize_prob2": (1.5, -0.5, 0)}, "resize_prob2 is"),
        ({"resize_range": (1.1, 1.5)}, r"resize_range is \[1.1, 1.5\], expected low <= 1 <= high"),
        ({"resize_range2": (0, 1.5)}, "resize_range2 is"),
        ({"jpeg_quality": (0, 95)}, "jpeg_quality is .* 1 <= low <= high <= 100"),
        ({"jpeg_quality2": (95, 30)}, "jpeg_quality2 is"),
        *(({name: 1.5}, f"{name} is 1.5") for name in ("blur2_prob", "isotropic_prob", "gray_noise_prob")),
        ({"jpeg_last_prob": -0.1}, "jpeg_last_prob is -0.1, expected a probability from 0 to 1"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecondOrderDegradation(**options)
