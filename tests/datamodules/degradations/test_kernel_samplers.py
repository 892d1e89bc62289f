"""Where kernels come from: the mixture, a suite, and the bank that is made once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch

from datamodules.batch import Batch
from datamodules.degradations import kernel_files
from datamodules.degradations.kernel_samplers import (
    FromSuite,
    KernelBank,
    LinearMotion,
    centred_shake,
    usrnet_mixture,
)
from datamodules.degradations.kernels import kornia_motion, linear_motion, sample_usrnet_gaussian
from datamodules.degradations.keyed_random import integers, make_key
from datamodules.degradations.trajectories import camera_shake
from datamodules.errors import InputError
from run import CONF

FEW: dict[str, Any] = {"gaussian": 6, "motion": 5, "size": 9}


def test_mixture_is_half_camera_shake() -> None:
    keys = torch.tensor([make_key("mixture", i) for i in range(600)])
    kernels, shake, gaussian = usrnet_mixture(keys), camera_shake(keys, 25), sample_usrnet_gaussian(keys, 25)
    is_shake = (kernels == shake).flatten(1).all(1)
    is_gaussian = (kernels == gaussian).flatten(1).all(1)
    assert (is_shake ^ is_gaussian).all()
    assert abs(is_shake.sum().item() - 300) < 5 * 150**0.5


@pytest.mark.parametrize("family", ["kornia", "matlab"])
def test_linear_motions_fill_their_ranges(family: str) -> None:
    """degradation=linear_motion: the centre, the longest axis and the width of every kernel say how it was drawn."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [
            "degradation=linear_motion",
            f"degradation.kernels.family={family}",
            "degradation.kernels.length=[9,15]",
        ]
        cfg = hydra.compose("config", overrides=[*chosen, "degradation.kernels.angle=[20,50]"])
    n = 300
    keys = torch.tensor([make_key("linear", i) for i in range(n)])
    images = torch.randint(0, 256, (n, 1, 16, 16), dtype=torch.uint8)
    done = hydra.utils.instantiate(cfg.degradation)(Batch(images, [""] * n, torch.arange(n), keys))
    kernels = done.kernel
    assert kernels.shape == (n, 1, 15, 15)
    assert kernels.min() >= 0
    assert (kernels.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    place = torch.arange(15.0) - 7
    grid = torch.stack(torch.meshgrid(place, place, indexing="ij"))
    mean = torch.einsum("bij,cij->bc", kernels[:, 0], grid)
    covariance = torch.einsum("bij,cij,dij->bcd", kernels[:, 0], grid, grid) - mean[:, :, None] * mean[:, None]
    axis = torch.linalg.eigh(covariance)[1][:, :, 1]
    degrees = torch.atan2(axis[:, 0], axis[:, 1]).rad2deg() % 180  # from right towards down
    assert 19 < degrees.min() < 22
    assert 48 < degrees.max() < 51
    assert abs(degrees.mean() - 35) < 5 * 30 / 12**0.5 / n**0.5
    reach = (kernels[:, 0] > 1e-3).flatten(1) * grid.norm(dim=0).flatten()
    assert 3.5 < reach.amax(1).min() < 5  # half of 9 pixels, but for their last fraction
    assert 6 < reach.amax(1).max() < 8
    offset = (mean * axis * axis.sign()).sum(1)
    if family == "matlab":
        assert offset.abs().max() < 1e-5
    else:
        assert offset.min() < -1
        assert offset.max() > 1


@pytest.mark.parametrize("family", ["kornia", "matlab"])
def test_a_linear_motion_follows_from_its_key(family: Any) -> None:
    keys = torch.tensor([make_key("linear", i) for i in range(40)])
    draw = LinearMotion(family)
    together = draw(keys)
    assert together.dtype == torch.float32
    assert torch.equal(together, LinearMotion(family)(keys))
    for i in range(40):
        assert torch.equal(draw(keys[i : i + 1])[0], together[i])
    assert draw(keys[:0]).shape == (0, 1, 25, 25)
    fixed = LinearMotion(family, [9, 9], [30, 30], [1, 1])(keys)
    angle = torch.tensor([30.0]).deg2rad()
    motions = {
        "kornia": kornia_motion(torch.tensor([9]), angle, torch.ones(1), 9),
        "matlab": linear_motion(torch.tensor([9.0]), angle, 9),
    }
    assert torch.allclose(fixed, motions[family].expand(40, -1, -1, -1), atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "opencv"}, "family is 'opencv', expected kornia or matlab"),
        ({"mode": "bicubic"}, "mode is 'bicubic', expected bilinear or nearest"),
        ({"length": [1, 9]}, r"length is \[1, 9\], expected \[low, high\], odd numbers with 3 <= low <= high"),
        ({"length": [4, 9]}, "length is"),
        ({"length": [5, 257]}, "high <= 255"),
        ({"length": [5, 8]}, "length is"),
        ({"length": [9, 5]}, "length is"),
        ({"length": [9]}, "length is"),
        ({"angle": [90, 0]}, r"angle is \[90, 0\], expected \[low, high\] with -360 <= low <= high <= 360"),
        ({"angle": [0, float("nan")]}, "angle is"),
        ({"direction": [-1, 1.5]}, r"direction is \[-1, 1.5\], expected \[low, high\] with -1 <= low <= high <= 1"),
    ],
)
def test_impossible_motions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        LinearMotion(**options)
    assert "\n" not in str(raised.value)


def test_suite_gives_one_kernel_or_draws() -> None:
    suite = kernel_files.twelve()
    keys = torch.tensor([make_key("suite", i) for i in range(200)])
    one = FromSuite(suite, 5)(keys[:3])
    assert torch.equal(one, suite.kernels[5].expand(3, -1, -1, -1))
    drawn = FromSuite(suite)(keys)
    numbers = integers(keys, "suite/number", low=0, high=12)
    assert torch.equal(drawn, suite.kernels[numbers])
    assert len(numbers.unique()) == 12


def test_own_kernels_are_drawn_from_the_folder(tmp_path: Path) -> None:
    """degradation=own_kernels: every image meets one of them, and the batch says which."""
    np.save(tmp_path / "shift.npy", np.eye(9)[4:5].T @ np.eye(9)[:1])  # to the left by four pixels
    np.save(tmp_path / "sharp.npy", np.ones((1, 1)))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        own = ["degradation=own_kernels", f"degradation.kernels.suite.path={tmp_path}", "degradation.scale=2"]
        cfg = hydra.compose("config", overrides=own)
    images = torch.randint(0, 256, (40, 3, 12, 16), dtype=torch.uint8)
    keys = torch.tensor([make_key("own", i) for i in range(40)])
    batch = Batch(images, [str(i) for i in range(40)], torch.arange(40), keys)
    done = hydra.utils.instantiate(cfg.degradation)(batch)
    shifted = done.kernel[:, 0, 4, 0] == 1
    assert 5 < shifted.sum() < 35
    assert (done.kernel[~shifted, 0, 4, 4] == 1).all()
    expected = torch.where(shifted[:, None, None, None], images.roll(-4, 3), images)[..., ::2, ::2] / 255
    assert (done.lr - expected).abs().max() < 1e-6


def test_bank_holds_what_it_says(tmp_path: Path) -> None:
    bank = KernelBank(**FEW, seed=3, cache_dir=str(tmp_path / "cache"))
    keys = torch.tensor([make_key("bank", i) for i in range(300)])
    drawn = bank(keys)
    assert drawn.dtype == torch.float32
    assert (drawn.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    made = torch.tensor([make_key("kernel_bank", 3, i) for i in range(11)])
    expected = torch.cat((sample_usrnet_gaussian(made[:6], 9), camera_shake(made[6:], 9)))
    numbers = integers(keys, "bank/number", low=0, high=11)
    assert len(numbers.unique()) == 11
    # float16 keeps 11 bits of a value, and of the sum to which it is normalised.
    assert (drawn - expected[numbers]).abs().max() < 2**-10
    assert torch.equal(bank(keys[5:6])[0], drawn[5])


def test_bank_is_made_once_and_depends_on_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.tensor([make_key("bank", i) for i in range(20)])
    first = KernelBank(**FEW, cache_dir=str(tmp_path))(keys)
    other = KernelBank(**FEW, seed=1, cache_dir=str(tmp_path))(keys)
    assert not torch.equal(first, other)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    again = KernelBank(**FEW, cache_dir=str(tmp_path / "elsewhere"))(keys)
    assert torch.equal(first, again)
    monkeypatch.setattr(KernelBank, "_write", lambda self: pytest.fail("made a second time"))
    assert torch.equal(KernelBank(**FEW, cache_dir=str(tmp_path))(keys), first)


@pytest.mark.slow
def test_two_processes_make_one_bank(tmp_path: Path) -> None:
    """Both start at once; the one that comes second waits and reads."""
    text = f"""
import logging, torch
from datamodules.degradations.kernel_samplers import KernelBank
logging.basicConfig(level=logging.INFO, format="%(message)s")
bank = KernelBank(**{FEW!r}, cache_dir={str(tmp_path)!r})
print(bank(torch.arange(20)).double().sum((1, 2)).tolist())
"""
    command = [sys.executable, "-c", text]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": CONF.parent}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    printed = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert printed[0][0] == printed[1][0]
    assert sum(errors.count("making 11 kernels once") for _, errors in printed) == 1
    assert [path.suffix for path in sorted(tmp_path.iterdir()) if path.suffix != ".lock"] == [".npy"]


def test_bank_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write the kernels: .*: set cache_dir") as raised:
        KernelBank(**FEW, cache_dir=str(tmp_path / "file" / "cache"))(torch.arange(2))
    assert "\n" not in str(raised.value)


def test_impossible_options() -> None:
    for number in (-1, 12):
        with pytest.raises(ValueError, match=f"number is {number}, the suite has kernels 0 to 11"):
            FromSuite(kernel_files.twelve(), number)
    for counts in ((0, 0), (-1, 5)):
        with pytest.raises(ValueError, match="expected at least one kernel"):
            KernelBank(*counts)


@pytest.mark.parametrize(("size", "reduction"), [(31, 1), (11, 4), (12, 3)])
def test_centred_shakes_move_nothing_on_average(size: int, reduction: int) -> None:
    """A third of the widest grids is cut off again, which moves what is left a little."""
    keys = torch.tensor([make_key("centred", i) for i in range(500)])
    kernels = centred_shake(keys, size, reduction)
    assert kernels.shape == (500, 1, size, size)
    assert (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(500))
    place = torch.arange(size) - float(size // 2)
    rows, columns = (kernels[:, 0].sum(2) * place).sum(1), (kernels[:, 0].sum(1) * place).sum(1)
    distance = torch.hypot(rows, columns)
    raw = camera_shake(keys, 27)[:, 0]
    drift = torch.hypot((raw.sum(2) * (torch.arange(27) - 13)).sum(1), (raw.sum(1) * (torch.arange(27) - 13)).sum(1))
    assert distance.median() < 0.72 / reduction  # half a pixel on each axis at most, but for cuts
    assert distance.mean() < 0.5 * drift.mean() / reduction
    assert torch.equal(centred_shake(keys[7:8], size, reduction)[0], kernels[7])


def test_a_reduced_shake_keeps_the_centre_and_the_blur() -> None:
    """Variance along an axis shrinks by the square of the reduction, but for the interpolation's own 1/6 to 1/4."""
    keys = torch.tensor([make_key("reduced", i) for i in range(200)])

    def variance(kernels: torch.Tensor) -> torch.Tensor:
        place = torch.arange(kernels.shape[-1]) - float(kernels.shape[-1] // 2)
        line = kernels[:, 0].sum(2)
        return (line * place**2).sum(1) - (line * place).sum(1) ** 2

    full, reduced = variance(centred_shake(keys, 61)), variance(centred_shake(keys, 21, 4))
    assert ((reduced - full / 16) > -1e-4).all()
    assert ((reduced - full / 16) < 0.26).all()
