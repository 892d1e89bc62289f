"""NIQE against an independent implementation in NumPy and SciPy, on photographs that come with scikit-image."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat
from scipy.ndimage import correlate
from scipy.special import gamma
from skimage import data
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.metrics.niqe import NIQE, asymmetric_gaussian
from networks.ops.resize import bicubic_resize

Array = NDArray[np.float64]
POWERS = np.arange(200, 10001) / 1000
RATIOS = gamma(2 / POWERS) ** 2 / (gamma(1 / POWERS) * gamma(3 / POWERS))


def fit(values: Array) -> tuple[float, float, float]:
    left, right = (np.sqrt(np.mean(values[side] ** 2)) for side in (values < 0, values > 0))
    g = left / right
    r = np.mean(abs(values)) ** 2 / np.mean(values**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    power = POWERS[np.argmin(abs(RATIOS - r))]
    factor = np.sqrt(gamma(1 / power) / gamma(3 / power))
    return power, left * factor, right * factor


def block_features(block: Array) -> list[float]:
    power, left, right = fit(block)
    found = [power, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        power, left, right = fit(block * np.roll(np.roll(block, shift[0], 0), shift[1], 1))
        found += [power, (right - left) * gamma(2 / power) / gamma(1 / power), left, right]
    return found


def reference(rgb: NDArray[np.uint8], mean: Array, covariance: Array) -> float:
    plane = rgb.astype(float)
    if rgb.ndim == 3:
        plane = np.floor(16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255 + 0.5 + 1e-9)
    rows, columns = plane.shape[0] // 96, plane.shape[1] // 96
    plane = plane[: 96 * rows, : 96 * columns]
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    scales = []
    for size in (96, 48):
        mu = correlate(plane, window, mode="nearest")
        sigma = np.sqrt(abs(correlate(plane**2, window, mode="nearest") - mu**2))
        normal = np.round((plane - mu) / (sigma + 1), 9)  # 0 where the image is flat
        places = [(size * i, size * j) for i in range(rows) for j in range(columns)]
        scales.append([block_features(normal[top : top + size, left : left + size]) for top, left in places])
        plane = bicubic_resize(torch.from_numpy(plane)[None, None], 2, down=True)[0, 0].numpy()
    found = np.concatenate(scales, 1)
    difference = mean - found.mean(0)
    return float(np.sqrt(difference @ np.linalg.pinv((covariance + np.cov(found.T)) / 2) @ difference))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    mixed = random.normal(size=(36, 60)) / 10
    path = tmp_path_factory.mktemp("niqe") / "model.npz"
    np.savez(path, mu_pris_param=random.random((1, 36)), cov_pris_param=mixed @ mixed.T)
    return path


def known(model: Path) -> tuple[Array, Array]:
    with np.load(model) as found:
        return found["mu_pris_param"][0], found["cov_pris_param"]


def as_batch(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.reshape(*image.shape[:2], -1)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("image", [data.astronaut()[:200, 100:400], data.camera()[50:260, :193]], ids=["rgb", "gray"])
def test_it_equals_the_reference(image: Any, model: Path) -> None:
    """Odd sizes: what the blocks leave over is cut off."""
    images = as_batch(image)
    noisy = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    both = torch.cat([images, noisy])
    eight_bit = np.floor(noisy[0].permute(1, 2, 0).double().numpy() * 255 + 0.5).astype(np.uint8)
    wanted = [reference(each, *known(model)) for each in (image, eight_bit.reshape(image.shape))]
    assert NIQE(str(model))(both, both).tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0])
def test_the_fit_finds_what_was_drawn(power: float) -> None:
    """Asymmetric generalised Gaussians: |x / width|^power follows a gamma law."""
    random = np.random.default_rng(1)
    widths = np.where(random.random(400_000) < 1 / 4, -0.5, 1.5)  # chances in the ratio of the widths
    values = widths * random.gamma(1 / power, size=400_000) ** (1 / power)
    found = asymmetric_gaussian(torch.from_numpy(values).view(1, 400, 1000))
    assert [value.item() for value in found] == pytest.approx([power, 0.5, 1.5], rel=0.02)


def test_flat_blocks_do_not_count(model: Path) -> None:
    image = np.array(data.camera()[:192, :288])
    image[:, 192:] = 100
    found = NIQE(str(model))(as_batch(image), as_batch(image))
    assert found.isfinite().all()
    flat = torch.full((1, 1, 192, 192), 0.5)
    assert NIQE(str(model))(flat, flat).isnan().all()


def test_images_that_are_too_small(model: Path) -> None:
    small = torch.zeros(1, 3, 95, 400)
    with pytest.raises(ValueError, match="400x95 is too small for NIQE: it needs two blocks of 96x96"):
        NIQE(str(model))(small, small)


def test_either_file(model: Path, tmp_path: Path) -> None:
    mean, covariance = known(model)
    savemat(tmp_path / "model.mat", {"mu_prisparam": mean[None], "cov_prisparam": covariance})
    one, other = NIQE(str(model)), NIQE(str(tmp_path / "model.mat"))
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.covariance, other.covariance)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.npz: no such file; metric.niqe.model has to be .*modelparameters.mat"):
        NIQE(str(tmp_path / "gone.npz"))
    (tmp_path / "model.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model.npz: cannot be read"):
        NIQE(str(tmp_path / "model.npz"))
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    with pytest.raises(InputError, match=r"other.npz: cannot be read \(KeyError: .*mu_pris_param"):
        NIQE(str(tmp_path / "other.npz"))
    np.savez(tmp_path / "short.npz", mu_pris_param=np.zeros(18), cov_pris_param=np.zeros((18, 18)))
    with pytest.raises(InputError, match=r"short.npz: mean of shape \[18\] .* expected 36"):
        NIQE(str(tmp_path / "short.npz"))
    (tmp_path / "model.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"found a .pkl file"):
        NIQE(str(tmp_path / "model.pkl"))


@pytest.mark.skipif("NIQE_MODEL" not in os.environ, reason="NIQE_MODEL: niqe_pris_params.npz or modelparameters.mat")
def test_the_published_model() -> None:
    """Values of BasicSR 1.4.2, which resizes in float32."""
    found = [
        NIQE(os.environ["NIQE_MODEL"])(image, image).item() for image in map(as_batch, (data.chelsea(), data.coffee()))
    ]
    assert found == pytest.approx([2.62552, 4.11533], abs=2e-4)
