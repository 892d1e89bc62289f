import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks.ops.pooling import window_mean
from tests.helpers.filled import statistics, waves


@pytest.mark.parametrize(
    ("window", "size", "expected"),
    [
        ((4, 6), (11, 9), "0.3983018249 0.2303167817 0.7897149570 0.2964264734 0.2892481112 0.4614640383 0.6602926164"),
        (
            (5, 20),
            (11, 9),
            "0.4071493349 0.2048267462 0.8135031510 0.4498160376 0.2189447519 0.5132281417 0.6840202329",
        ),
        ((3, 3), (7, 8), "0.4562615514 0.2675586248 0.6835875847 0.2971085611 0.1170969610 0.4776466476 0.2040834199"),
    ],
)
def test_reference_values(window: tuple[int, int], size: tuple[int, int], expected: str) -> None:
    assert statistics(window_mean(waves(*size, 2), window)) == pytest.approx([*map(float, expected.split())], abs=1e-9)


def by_average_pooling(images: Tensor, rows: int, columns: int) -> Tensor:
    """Means of the windows inside the image, repeated beyond; of missing ones the smaller half comes first."""
    a, b = min(rows, images.shape[2]), min(columns, images.shape[3])
    pad = ((b - 1) // 2, b // 2, (a - 1) // 2, a // 2)
    return F.pad(F.avg_pool2d(images, (a, b), stride=1), pad, mode="replicate")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("window", [(1, 1), (2, 5), (7, 7), (13, 4), (3, 99)])
def test_equals_average_pooling(window: tuple[int, int], channels: int) -> None:
    images = torch.rand(2, channels, 13, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(window_mean(images, window), by_average_pooling(images, *window), atol=1e-12, rtol=0)


def test_a_window_of_the_whole_image_is_one_mean() -> None:
    images = waves(5, 7, 2)
    found = window_mean(images, (5, 8))
    assert found.shape == (2, 3, 1, 1)
    assert found[1, 2].item() == pytest.approx(images[1, 2].mean().item())


def test_sums_of_large_images_stay_precise() -> None:
    """In single precision, under autocast too: half precision cannot count the pixels of a row."""
    images = torch.rand(1, 1, 9, 2000, generator=torch.Generator().manual_seed(0))
    exact = by_average_pooling(images.double(), 6, 300)
    with torch.autocast("cpu", torch.bfloat16):
        found = window_mean(images, (6, 300))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5
