import numpy as np
import pytest
import torch

from datamodules.batch import Batch
from datamodules.degradations.blur import convolve
from datamodules.degradations.kernels import isotropic_gaussian
from datamodules.degradations.keyed_random import bits, make_key, uniform
from datamodules.degradations.pipelines import EDDSRNDegradation
from tests.helpers import references


def batch(n: int = 3, size: tuple[int, int] = (64, 48), channels: int = 3) -> Batch:
    keys = torch.tensor([make_key(0, 1, i) for i in range(n)])
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)
    return Batch(hr=images, name=[str(i) for i in range(n)], index=torch.arange(n), key=keys)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_equals_the_float64_reference(scale: int, channels: int) -> None:
    pipeline = EDDSRNDegradation(scale=scale, kernel_size=13)
    out = pipeline(batch(size=(60, 72), channels=channels))
    sigma = uniform(out.key, "ed_dsrn/sigma", (), 1.0, 2.0)
    assert out.lr is not None
    assert out.lr_sharp is not None
    assert out.kernel is not None
    assert out.scale == scale
    for i in range(3):
        kernel = references.gaussian(float(sigma[i]), 13)
        assert np.abs(out.kernel[i, 0].numpy() - kernel).max() < 1e-7
        for c in range(channels):
            hr = batch(size=(60, 72), channels=channels).hr[i, c].numpy().astype(np.float64) / 255
            sharp = references.imresize(hr, 1 / scale) if scale > 1 else hr
            assert np.abs(out.lr_sharp[i, c].numpy() - sharp).max() < 1e-6
            assert np.abs(out.lr[i, c].numpy() - references.convolve(sharp, kernel, "edge")).max() < 1e-6


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = batch(4)
    pipeline = EDDSRNDegradation()
    together = pipeline(whole)
    assert together.lr is not None
    for i in range(4):
        alone = pipeline(
            Batch(hr=whole.hr[i : i + 1], name=["x"], index=whole.index[i : i + 1], key=whole.key[i : i + 1])
        )
        assert alone.lr is not None
        assert torch.equal(alone.lr[0], together.lr[i])


def test_sigma_range_is_filled() -> None:
    keys = torch.tensor([make_key("sigma", i) for i in range(4000)])
    sigma = uniform(keys, "ed_dsrn/sigma", (), 1.0, 2.0)
    assert 1.0 <= sigma.min() < 1.005
    assert 1.995 < sigma.max() < 2.0
    counts = torch.histc(sigma, 10, 1, 2)
    assert (counts - 400).abs().max() < 5 * 400**0.5


def test_hash_is_splitmix64() -> None:
    """The finaliser against its published definition in Python integers, negative keys included."""
    mask = (1 << 64) - 1

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    keys = torch.tensor([5, -7, 2**62])
    got = bits(keys, "stream", (4,))
    salt = make_key("stream") & mask
    for row, key in enumerate(keys.tolist()):
        start = mix((key & mask) ^ salt)
        for position in range(4):
            expected = mix((start + (position + 1) * 0x9E3779B97F4A7C15) & mask)
            assert got[row, position].item() & mask == expected


def test_streams_and_positions_are_uncorrelated() -> None:
    keys = torch.tensor([make_key("c", i) for i in range(5000)])
    draws = torch.cat([uniform(keys, "a", (3,)), uniform(keys, "b", (3,))], 1)
    correlation = torch.corrcoef(draws.T).fill_diagonal_(0).abs().max()
    assert correlation < 0.06
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(draws.var() - 1 / 12) < 0.003


@pytest.mark.parametrize(("boundary", "mode"), [("replicate", "edge"), ("reflect", "reflect"), ("circular", "wrap")])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_convolution_with_an_off_centre_kernel(boundary: str, mode: str, size: int) -> None:
    images = torch.rand(2, 3, 11, 9, dtype=torch.float64)
    kernels = torch.rand(2, 1, size, size, dtype=torch.float64)
    kernels[0] = 0
    kernels[0, 0, 0, size - 1] = 1  # moves the image up and to the right
    result = convolve(images, kernels, boundary)  # type: ignore[arg-type]
    for b in range(2):
        for c in range(3):
            expected = references.convolve(images[b, c].numpy(), kernels[b, 0].numpy(), mode)
            assert np.abs(result[b, c].numpy() - expected).max() < 1e-13
    if size == 5:
        assert torch.equal(result[0, :, :-2, 2:], images[0, :, 2:, :-2])


def test_kernels_sum_to_one_and_are_centred() -> None:
    kernels = isotropic_gaussian(torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64), 21)
    assert torch.allclose(kernels.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64), atol=1e-15)
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="ij")
    for moment in (y, x):
        assert torch.allclose((kernels * moment).sum((1, 2, 3)), torch.full((3,), 10.0).double(), atol=1e-12)
    variance = (kernels * (y - 10) ** 2).sum((1, 2, 3))
    assert torch.allclose(variance[1:], torch.tensor([1.0, 4.0]).double(), atol=1e-4)


def test_eight_bit_input() -> None:
    lr = EDDSRNDegradation(eight_bit=True)(batch()).lr
    assert lr is not None
    assert torch.equal((lr * 255).round() / 255, lr)


@pytest.mark.parametrize("options", [{"sigma": (2.0, 1.0)}, {"sigma": (0.0, 1.0)}, {"sigma": (1.0,)}, {"scale": 0}])
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EDDSRNDegradation(**options)  # type: ignore[arg-type]


def test_kernels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected \[2, 1, k, k\]"):
        convolve(torch.zeros(2, 3, 8, 8), torch.zeros(3, 1, 5, 5))


@pytest.mark.parametrize(("point", "sigma"), [(0.0, 1.0), (0.05, 1.05), (0.5, 1.5), (1.0, 2.0)])
def test_at_a_point_of_the_range_nothing_is_drawn(point: float, sigma: float) -> None:
    given = batch(3)
    given.point = point
    out = EDDSRNDegradation(kernel_size=13)(given)
    assert out.kernel is not None
    assert out.lr is not None
    assert out.lr_sharp is not None
    kernel = references.gaussian(sigma, 13)
    assert np.abs(out.kernel.numpy() - kernel).max() < 1e-6
    expected = references.convolve(out.lr_sharp[1, 0].numpy().astype(np.float64), kernel, "edge")
    assert np.abs(out.lr[1, 0].numpy() - expected).max() < 1e-6
