"""Kernels as a person gives them."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch import Tensor

from datamodules.degradations.kernel_spec import given_kernel
from datamodules.degradations.kernels import linear_motion
from datamodules.errors import InputError
from networks.ops.options import LARGEST_KERNEL


def moments(kernel: Tensor) -> tuple[list[float], Tensor]:
    """Centre of mass (x, y) relative to index floor(k/2), and the covariance."""
    offset = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    y, x = torch.meshgrid(offset, offset, indexing="ij")
    mean = [(kernel * x).sum().item(), (kernel * y).sum().item()]
    xx, yy, xy = ((kernel * a * b).sum().item() for a, b in ((x, x), (y, y), (x, y)))
    return mean, torch.tensor([[xx, xy], [xy, yy]])


@pytest.mark.parametrize(
    "spec",
    ["none", "gaussian:1.6", "gaussian: 2.0, 0.8, 30", "motion:15,30", "MOTION:15", "disk:2.5", "gaussian:31",
     "motion:252,45", "disk:127"],
)  # fmt: skip
def test_formulas_make_centred_kernels(spec: str) -> None:
    kernel = given_kernel(spec)
    assert kernel.dtype == torch.float32
    assert kernel.shape[0] == kernel.shape[1] <= LARGEST_KERNEL
    assert kernel.min() >= 0
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    assert moments(kernel)[0] == pytest.approx([0, 0], abs=1e-4)


def test_formulas_mean_what_they_say() -> None:
    assert (moments(given_kernel("gaussian:1.6"))[1] - 2.56 * torch.eye(2)).abs().max() < 0.01
    angle = math.radians(30)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = turn @ torch.diag(torch.tensor([4.0, 0.64])) @ turn.T
    assert (moments(given_kernel("gaussian:2.0,0.8,30"))[1] - expected).abs().max() < 0.02
    line = given_kernel("motion:9")
    assert line[len(line) // 2].nonzero().numel() == 9
    assert line.amax().item() == pytest.approx(1 / 9)
    steep = given_kernel("motion:15,60")  # to the right and downwards
    assert moments(steep)[1][0, 1] > 5
    wide = linear_motion(torch.tensor([15.0]), torch.tensor([math.radians(60)]), 41)[0, 0]
    start = 20 - len(steep) // 2
    assert (wide[start : start + len(steep), start : start + len(steep)] - steep).abs().max() < 1e-6  # nothing is cut
    # A disk of radius r has the variance r^2 / 4 on both axes, spreading it over pixels adds 1/12.
    assert (moments(given_kernel("disk:20"))[1] - (100 + 1 / 12) * torch.eye(2)).abs().max() < 0.05
    assert given_kernel("disk:2.5").amax().item() == pytest.approx(1 / (math.pi * 2.5**2))
    assert given_kernel("none").tolist() == [[1.0]]


def test_files_are_normalised_and_centred(tmp_path: Path) -> None:
    kernel = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.save(tmp_path / "k.npy", kernel)
    found = given_kernel(str(tmp_path / "k.npy"))
    assert found.shape == (4, 4)
    # Index floor(3/2) = 1 of the rows comes to 2.
    assert np.abs(found.numpy()[1:4] - kernel / kernel.sum()).max() < 1e-7
    stack = np.stack([np.eye(5), np.ones((5, 5))])
    np.save(tmp_path / "stack.npy", stack)
    assert np.abs(given_kernel(f"{tmp_path}/stack.npy#2").numpy() - 1 / 25).max() < 1e-8
    scipy.io.savemat(tmp_path / "k.mat", {"kernels": np.stack([np.eye(5), np.ones((5, 5))], 2)})
    assert np.abs(given_kernel(f"{tmp_path}/k.mat#1").numpy() - np.eye(5) / 5).max() < 1e-8
    levels = np.zeros((7, 7), np.uint8)
    levels[2:5, 3] = (50, 100, 250)
    expected = levels / 400
    for name in ("k.png", "k.bmp", "k#1.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert np.abs(given_kernel(str(tmp_path / name)).numpy() - expected).max() < 1e-7
    Image.fromarray(levels).convert("RGB").save(tmp_path / "colour.png")
    assert np.abs(given_kernel(str(tmp_path / "colour.png")).numpy() - expected).max() < 1e-7


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gaussian:", "kernel=gaussian:: found 'nothing' after gaussian:, expected a width in pixels (gaussian:1.6)"),
        ("gaussian:wide", "found 'wide' after gaussian:"),
        ("gaussian:1,2", "found '1,2' after gaussian:"),
        ("gaussian:nan", "found 'nan' after gaussian:"),
        ("motion:15;30", "expected a length in pixels and degrees: motion:15,30"),
        ("motion:0", "found 0, expected pixels above 0"),
        ("disk:-2", "found -2, expected pixels above 0"),
        ("disk:1000000", "found 1e+06 pixels, expected at most 127"),
        ("gausian:1.6", "kernel=gausian:1.6: no such file, nor a formula: expected gaussian:WIDTH"),
        ("absent.npy", "kernel=absent.npy: no such file"),
        ("two.npy", "two.npy: holds 2 kernels: choose one, for example kernel=two.npy#1"),
        ("two.npy#3", "there is no kernel 3, the file holds 2"),
        ("two.npy#x", "found 'x' after #"),
        ("negative.npy", "negative.npy: has the negative value -1"),
        ("zero.npy", "zero.npy: is zero everywhere"),
        ("large.npy", "large.npy: is 300x256, expected a blur kernel of at most 255x255 pixels"),
        ("vector.npy", "vector.npy: has shape (5,)"),
        ("text.png", "text.png: is no PNG, JPEG, BMP, TIFF, WebP or HEIC image"),
        ("text.txt", "kernel=text.txt: is no .npy, .mat or image"),
        ("text.mat", "text.mat: cannot be read"),
        ("white.png", "white.png: its border is as bright as its inside"),
        ("flat.png", "flat.png: its border is as bright as its inside"),
        ("photo.jpg", "photo.jpg: is 96x80, expected a square picture of a blur kernel"),
        ("coloured.jpg", "coloured.jpg: is coloured, expected a gray picture of a blur kernel"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("two.npy", np.ones((2, 3, 3)))
    np.save("negative.npy", -np.eye(3))
    np.save("zero.npy", np.zeros((3, 3)))
    np.save("large.npy", np.ones((256, 300)))
    np.save("vector.npy", np.ones(5))
    for name in ("text.png", "text.txt", "text.mat"):
        Path(name).write_text("no kernel")
    white = np.full((9, 9), 255, np.uint8)
    white[4, 2:7] = 0
    Image.fromarray(white).save("white.png")
    Image.new("L", (9, 9), 100).save("flat.png")
    photo = Image.new("RGB", (96, 80), (200, 120, 40))
    photo.save("photo.jpg")
    photo.crop((0, 0, 80, 80)).save("coloured.jpg")
    with pytest.raises(InputError) as caught:
        given_kernel(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
