"""Every boundary, algorithm and size against tests/helpers/references.py and scipy, in float64."""

import kornia.filters
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from datamodules.degradations import convolution
from datamodules.degradations.blur import (
    Algorithm,
    Boundary,
    blur_decimate,
    choose,
    convolve,
    convolve_separable,
)
from datamodules.degradations.kernels import isotropic_gaussian
from networks.ops.fourier import good_size, otf
from tests.helpers import references

MODES: dict[Boundary, str] = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}
ALGORITHMS: tuple[Algorithm, ...] = ("spatial", "fft")


def images(batch: int = 2, channels: int = 3, height: int = 37, width: int = 31) -> Tensor:
    return torch.rand(batch, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def random_kernels(batch: int, kh: int, kw: int) -> Tensor:
    kernels = torch.rand(batch, 1, kh, kw, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return kernels / kernels.sum((2, 3), keepdim=True)


def reference(x: Tensor, kernels: Tensor, boundary: Boundary) -> np.ndarray:
    return np.stack(
        [
            [references.convolve(channel.numpy(), kernel[0].numpy(), MODES[boundary]) for channel in image]
            for image, kernel in zip(x, kernels, strict=True)
        ]
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 5), (8, 3), (50, 41)])
def test_every_algorithm_scale_and_boundary(size: tuple[int, int], boundary: Boundary, algorithm: Algorithm) -> None:
    """Odd, even, rectangular kernels and one larger than the frame; kernels differ within the batch."""
    for channels, height, width in ((3, 37, 31), (1, 24, 12)):
        x, kernels = images(2, channels, height, width), random_kernels(2, *size)
        expected = reference(x, kernels, boundary)
        for scale in (1, 2, 3, 4):
            result = blur_decimate(x, kernels, scale, boundary, algorithm=algorithm)
            assert result.shape == (2, channels, -(-height // scale), -(-width // scale))
            assert np.abs(result.numpy() - expected[..., ::scale, ::scale]).max() < 1e-13
        single = blur_decimate(x.float(), kernels, 2, boundary, algorithm=algorithm)
        assert single.dtype == torch.float32
        assert np.abs(single.numpy() - expected[..., ::2, ::2]).max() < (2e-6 if size[0] == 50 else 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("size", [3, 13, 21])
def test_is_kornias_true_convolution(size: int, boundary: Boundary, channels: int) -> None:
    """Of odd kernels, which Kornia centres where the suite does."""
    x, kernels = images(2, channels), random_kernels(2, size, size)
    expected = kornia.filters.filter2d(x, kernels[:, 0], boundary, behaviour="conv")
    for algorithm in ALGORITHMS:
        assert (convolve(x, kernels, boundary, algorithm=algorithm) - expected).abs().max() < 1e-13
        assert (
            blur_decimate(x, kernels, 3, boundary, algorithm=algorithm) - expected[..., ::3, ::3]
        ).abs().max() < 1e-13


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(21, 21), (24, 24), (41, 1), (70, 9)])
def test_blur_by_kornia_has_the_same_bits(
    size: tuple[int, int], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is used depends on the sizes, what comes out does not: of one image or several, with a kernel each."""
    x, kernels = images(3, channels, 53, 61).float(), random_kernels(3, *size).float()

    def blurred(least: float) -> list[Tensor]:
        monkeypatch.setattr(convolution, "_BY_KORNIA", least)
        ways = [(x, kernels), (x, kernels[:1]), *((x[i : i + 1], kernels[i : i + 1]) for i in range(3))]
        return [convolve(*way, algorithm="spatial") for way in ways]

    by_kornia = blurred(0)
    assert all(map(torch.equal, by_kornia, blurred(float("inf"))))
    assert torch.equal(torch.cat(by_kornia[2:]), by_kornia[0])
    monkeypatch.setattr(kornia.filters, "filter2d", lambda *_, **__: pytest.fail("Kornia is used"))
    blurred(float("inf"))
    with pytest.raises(pytest.fail.Exception, match="Kornia is used"):
        blurred(0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("size", [4, 5])
def test_an_off_centre_impulse_moves_the_image_its_way(size: int, boundary: Boundary, algorithm: Algorithm) -> None:
    x = images()
    kernels = torch.zeros(2, 1, size, size, dtype=torch.float64)
    kernels[0, 0, size // 2 + 1, size // 2 - 2] = 1  # one down, two to the left
    kernels[1, 0, size // 2 - 2, size // 2 + 1] = 1  # two up, one to the right
    result = convolve(x, kernels, boundary, algorithm=algorithm)
    assert torch.allclose(result[0, :, 1:, :-2], x[0, :, :-1, 2:], atol=1e-14, rtol=0)
    assert torch.allclose(result[1, :, :-2, 1:], x[1, :, 2:, :-1], atol=1e-14, rtol=0)
    left_edge = {"replicate": x[1, :, 2:, 0], "reflect": x[1, :, 2:, 1], "circular": x[1, :, 2:, -1]}[boundary]
    assert torch.allclose(result[1, :, :-2, 0], left_edge, atol=1e-14, rtol=0)


@pytest.mark.parametrize("size", [1, 4, 5, 24, 25, 64])
def test_circular_is_scipys_wrap(size: int) -> None:
    """otf x fft2, both algorithms and the strided one against scipy, odd and even, up to twice the frame."""
    x, kernels = images(2, 3, 31, 28), random_kernels(2, size, size)
    expected = np.stack(
        [
            [scipy.ndimage.convolve(channel.numpy(), kernel[0].numpy(), mode="wrap") for channel in image]
            for image, kernel in zip(x, kernels, strict=True)
        ]
    )
    product = torch.fft.ifft2(otf(kernels, (31, 28)) * torch.fft.fft2(x))
    assert np.abs(product.real.numpy() - expected).max() < 1e-12
    assert product.imag.abs().max() < 1e-12
    for algorithm in ALGORITHMS:
        assert np.abs(convolve(x, kernels, "circular", algorithm=algorithm).numpy() - expected).max() < 1e-12
    assert np.abs(blur_decimate(x, kernels, 3).numpy() - expected[..., ::3, ::3]).max() < 1e-12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("boundary", MODES)
@pytest.mark.parametrize("size", [(4, 5), (20, 43)])
def test_adjoint(size: tuple[int, int], boundary: Boundary, algorithm: Algorithm) -> None:
    """<K x, y> = <x, K' y>, K' as autograd has it."""
    x, kernels = images(3, 1, 17, 12).requires_grad_(), random_kernels(3, *size)
    y = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) - 0.5
    blurred = convolve(x, kernels, boundary, algorithm=algorithm)
    forward = (blurred * y).sum((1, 2, 3))
    backward = (x * torch.autograd.grad(blurred, x, y)[0]).sum((1, 2, 3))
    assert torch.allclose(forward, backward, atol=1e-12, rtol=0)
    assert (forward - (x * convolve(y, kernels, boundary)).sum((1, 2, 3))).abs().min() > 1e-3  # not self-adjoint


@pytest.mark.parametrize("algorithm", ["matrices", "passes"])
@pytest.mark.parametrize("boundary", MODES)
def test_separable(boundary: Boundary, algorithm: str) -> None:
    x = images(2, 3, 19, 40)
    for size in (1, 4, 9, 45):
        lines = random_kernels(2, 1, size)[:, 0, 0]
        kernels = (lines[:, :, None] * lines[:, None, :])[:, None]
        expected = reference(x, kernels, boundary)
        result = convolve_separable(x, lines, boundary, algorithm=algorithm)  # type: ignore[arg-type]
        assert np.abs(result.numpy() - expected).max() < 1e-13


def test_the_line_of_an_isotropic_gaussian_gives_its_kernel() -> None:
    """ED-DSRN's case: rows of the 21 x 21 kernel summed are its line."""
    kernels = isotropic_gaussian(torch.tensor([1.0, 2.0]), 21)
    x = images().float()
    separable = convolve_separable(x, kernels.sum((1, 2)), "replicate")
    assert (separable - convolve(x, kernels, "replicate")).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sample_does_not_depend_on_its_batch(algorithm: Algorithm, size: int, channels: int) -> None:
    x, kernels = images(8, channels, size, size).float(), random_kernels(8, 13, 13).float()
    together = blur_decimate(x, kernels, 2, algorithm=algorithm)
    alone = torch.cat([blur_decimate(x[i : i + 1], kernels[i : i + 1], 2, algorithm=algorithm) for i in range(8)])
    if algorithm == "spatial":
        assert torch.equal(together, alone)
    assert (together - alone).abs().max() < 1e-6  # FFT libraries choose their routine by the batch
    shared = convolve(x, kernels[:1], algorithm=algorithm)
    assert (shared - convolve(x, kernels[:1].expand(8, -1, -1, -1), algorithm=algorithm)).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 24])
def test_a_separable_blur_does_not_depend_on_the_batch(size: int, channels: int) -> None:
    x, lines = images(8, channels, size, size).float(), random_kernels(8, 1, 13)[:, 0, 0].float()
    together = convolve_separable(x, lines)
    alone = [convolve_separable(x[i : i + 1], lines[i : i + 1]) for i in range(8)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_half_precision_is_computed_in_float32(algorithm: Algorithm) -> None:
    x, kernels = images().half(), random_kernels(2, 7, 7).half()
    exact = convolve(x.float(), kernels.float(), "circular", algorithm=algorithm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = convolve(x, kernels, "circular", algorithm=algorithm)
        assert torch.equal(convolve(x.float(), kernels.float(), "circular", algorithm=algorithm), exact)
    assert torch.equal(result, exact.half())


def test_gradients_reach_images_and_kernels() -> None:
    x, kernels = images(2, 1, 6, 5).requires_grad_(), random_kernels(2, 4, 3).requires_grad_()
    for algorithm in ALGORITHMS:
        for boundary in MODES:
            assert torch.autograd.gradcheck(
                lambda a, b, how=algorithm, rule=boundary: blur_decimate(a, b, 2, rule, algorithm=how),
                (x, kernels),
                fast_mode=True,
            )


def test_the_choice() -> None:
    """Small kernels in space, large ones by FFT, which decimation favours no less where the frame is circular."""
    assert choose((256, 256), (9, 9), 1, "replicate", "cpu") == "spatial"
    assert choose((256, 256), (65, 65), 1, "replicate", "cpu") == "fft"
    assert choose((96, 96), (25, 25), 4, "circular", "cpu") == "fft"
    assert choose((96, 96), (7, 7), 4, "circular", "cpu") == "spatial"
    assert choose((256, 256), (25, 25), 2, "replicate", "cpu") == "spatial"
    assert choose((16, 16), (25, 25), 1, "circular", "cpu") == "fft"
    assert choose((256, 256), (9, 9), 1, "replicate", "cuda") == "spatial"
    assert choose((256, 256), (51, 51), 1, "replicate", "cuda") == "fft"


def test_transform_sizes() -> None:
    numbers = {2**a * 3**b * 5**c for a in range(12) for b in range(8) for c in range(6)}
    for n in range(1, 2000):
        assert good_size(n) == min(m for m in numbers if m >= n)
    assert good_size(97, 4) == 100
    assert good_size(130, 7) == 7 * 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: convolve(x, k[:1].expand(3, -1, -1, -1)), r"expected \[2, 1, k, k\]"),
        (lambda x, k: convolve(x, k.expand(2, 3, -1, -1)), r"expected \[2, 1, k, k\]"),
        (lambda x, k: convolve(x[0], k), r"expected floating point \[B, C, H, W\]"),
        (lambda x, k: convolve((x * 255).byte(), k), "expected floating point"),
        (lambda x, k: convolve(x, k, "zeros"), "expected replicate, reflect or circular"),
        (lambda x, k: convolve(x, k, algorithm="magic"), "expected auto, spatial or fft"),
        (lambda x, k: blur_decimate(x, k, 0), "scale is 0"),
        (lambda x, k: convolve_separable(x, k), r"expected \[2, k\]"),
        (lambda x, k: convolve_separable(x, k[:, 0, 0], algorithm="fft"), "expected auto, matrices or passes"),
    ],
)
def test_wrong_arguments(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call(images(), random_kernels(2, 3, 3))
