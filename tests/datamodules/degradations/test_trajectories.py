"""Motion kernels against a plain NumPy version: one sample, one step and one point at a time."""

import cmath
import math

import cv2
import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor

from datamodules.degradations import trajectories
from datamodules.degradations.keyed_random import integers, make_key, normal, uniform
from datamodules.degradations.trajectories import camera_shake, complex_walk, shake_of_reach, trajectory_motion


def keys(count: int) -> Tensor:
    return torch.tensor([make_key("test_trajectories", i) for i in range(count)])


def plain_path(draws: np.ndarray) -> np.ndarray:
    """[6, T] standard normals to the [2, T] path, by the recursion."""
    steps = draws.shape[1]
    r, v, x = np.zeros(3), draws[3:, 0], np.zeros(3)
    path = [x]
    for t in range(1, steps):
        r = r + 2 * np.pi / steps * (draws[:3, t] / (t + 1) + r)
        v = v + draws[3:, t] / (t + 1)
        (ca, cb, cc), (sa, sb, sc) = np.cos(r), np.sin(r)
        rx = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        ry = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        rz = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
        x = x + rz @ ry @ rx @ v
        path.append(x)
    return np.array(path).T[:2]


def plain_kernel(path: np.ndarray, draws: np.ndarray, size: int) -> np.ndarray:
    """The kernel from a path [2, T] and uniform numbers: stretch or not, rows, columns, sigma, draws of h."""
    low, high = path.min(1), path.max(1)
    for u in draws[4:]:
        h = round(min(5 - math.log(1 - u) / 0.15, 27))
        h = h + 1 - h % 2
        counts = np.zeros((h, h))
        cells = np.floor((path.T - low) / (high - low) * h).astype(int)
        for i, j in cells[(cells < h - 1).all(1)].tolist():
            counts[i, j] += 1
        if counts.any():
            break
    offset = np.arange(-1, 2)
    gaussian = np.exp(-(offset[:, None] ** 2 + offset**2) / 2)
    kernel = convolve2d(counts / counts.sum(), gaussian / gaussian.sum(), "same")
    kernel /= kernel.sum()
    if h > size:
        kernel = kernel[:size, :size]
    else:
        before = size // 2 - h // 2
        kernel = np.pad(kernel, (before, size - h - before))
    if draws[0] < 0.25:
        rows, columns = (size + int(u * (4 * size + 1)) for u in draws[1:3])
        kernel = cv2.resize(kernel, (columns, rows), interpolation=cv2.INTER_LINEAR)
        top, left = (rows - size) // 2, (columns - size) // 2
        kernel = kernel[top : top + size, left : left + size]
    if kernel.sum() < 0.1:
        offset = np.arange(size) - size // 2
        kernel = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (0.1 + 6 * draws[3]) ** 2))
    return kernel / kernel.sum()


def features(kernels: np.ndarray) -> np.ndarray:
    """For kernels [N, k, k]: rows and columns of the support, centroid (2), second moments (3) and maximum: [8, N]."""
    index = np.arange(kernels.shape[-1]) - kernels.shape[-1] // 2
    rows, columns = kernels.sum(2), kernels.sum(1)
    y, x = rows @ index, columns @ index
    yy, xx = rows @ index**2 - y**2, columns @ index**2 - x**2
    xy = np.einsum("nij,i,j->n", kernels, index, index) - x * y
    return np.stack(((rows > 0).sum(1), (columns > 0).sum(1), y, x, yy, xx, xy, kernels.max((1, 2))))


def test_the_path_is_the_recursion() -> None:
    draws = normal(keys(12), "path", (6, 250))
    draws[0, :3, 1] *= 1000  # a turn that grows to thousands of radians
    got = trajectories._path(draws).numpy()
    for path, row in zip(got, draws.double().numpy(), strict=True):
        expected = plain_path(row)
        assert np.abs(path - expected).max() < 1e-8 * np.abs(expected).max()


@pytest.mark.parametrize("size", [1, 4, 21, 24, 25, 40])
def test_camera_shake_is_the_plain_version(size: int) -> None:
    some = keys(120)
    got = camera_shake(some, size)[:, 0].numpy()
    paths = trajectories._path(normal(some, "camera_shake/path", (6, 250))).numpy()
    draws = uniform(some, "camera_shake/kernel", (4 + trajectories.SIZE_DRAWS,)).double().numpy()
    for kernel, path, row in zip(got, paths, draws, strict=True):
        expected = plain_kernel(path, row, size)
        assert np.abs(kernel - expected).max() < 1e-5 * expected.max()


def test_the_law_is_that_of_the_plain_version() -> None:
    """Two independent samples of 2000 and 1000: means and quantiles within the error of their difference."""
    rng = np.random.default_rng(5)
    n, m = 2000, 1000
    normals = rng.standard_normal((m, 6, 250))
    paths = trajectories._path(torch.from_numpy(normals)).numpy()  # equal to the recursion, see above
    plain = [plain_kernel(path, rng.random(8), 25) for path in paths]
    expected, got = features(np.stack(plain)), features(camera_shake(keys(n), 25)[:, 0].double().numpy())
    error = np.sqrt(got.var(1) / n + expected.var(1) / m)
    assert (np.abs(got.mean(1) - expected.mean(1)) < 4.5 * error).all()
    # The spread: the standard error of a variance from the fourth moment.
    squares = [(f - f.mean(1, keepdims=True)) ** 2 for f in (got, expected)]
    error = np.sqrt(squares[0].var(1) / n + squares[1].var(1) / m)
    assert (np.abs(squares[0].mean(1) - squares[1].mean(1)) < 4.5 * error).all()
    # Kolmogorov-Smirnov: 1.95 is the two-sided 0.1 % point.
    for a, b in zip(got, expected, strict=True):
        grid = np.concatenate((a, b))
        cdf = [np.searchsorted(np.sort(f), grid, "right") / len(f) for f in (a, b)]
        assert np.abs(cdf[0] - cdf[1]).max() < 1.95 * math.sqrt(1 / n + 1 / m)


def test_grid_sides_follow_their_law() -> None:
    path = trajectories._unit_box(trajectories._path(normal(keys(2000), "path", (6, 250))))
    sides = trajectories._sides(path, uniform(keys(2000), "sides", (4,)).double())
    values, counts = sides.unique(return_counts=True)
    assert values.tolist() == list(range(5, 28, 2))
    # P(h <= s) = P(5 - ln(u) / 0.15 < s + 1/2), all beyond 26.5 in the last.
    upper = np.array([*(1 - np.exp(-0.15 * (np.arange(5, 26, 2) + 0.5 - 5))), 1.0])
    assert upper[2] < 0.5 < upper[3]  # the median is 11,
    assert upper[7] < 0.9 < upper[8]  # the 90th percentile 21
    share = np.diff(upper, prepend=0.0)
    assert ((counts.numpy() - 2000 * share) ** 2 / (2000 * share)).sum() < 31.3  # chi square, 11 degrees, p = 0.001


def test_a_path_that_misses_its_grid_gets_another() -> None:
    # Along the edges x = 1 and y = 1 of the box, through (0.85, 0.85): h = 5 and 6 x 0.85 > 5 miss, h = 7 does not.
    path = torch.tensor([[0.0, 0.85, 1.0], [1.0, 0.85, 0.0]]).double().expand(3, 2, 3)
    u = 1 - torch.exp(-0.15 * (torch.tensor([5.0, 7.0, 9.0]).double() - 5))
    draws = torch.stack((u[[0, 0, 1, 2]], u[[0, 0, 2, 1]], u[[0, 0, 0, 0]]))
    sides = trajectories._sides(path, draws)
    assert sides.tolist() == [7, 9, 27]
    counts = trajectories._raster(path, sides, 27)
    assert torch.allclose(counts.sum((1, 2)), torch.ones(3))


def test_a_kernel_without_mass_becomes_a_gaussian() -> None:
    """Of grids larger than the support the upper left part is kept, which a path may leave empty."""
    some = keys(200)
    kernels = camera_shake(some, 4)[:, 0]
    paths = trajectories._path(normal(some, "camera_shake/path", (6, 250))).numpy()
    draws = uniform(some, "camera_shake/kernel", (8,)).double().numpy()
    fallen = 0
    for kernel, path, row in zip(kernels.numpy(), paths, draws, strict=True):
        expected = plain_kernel(path, row, 4)
        assert np.abs(kernel - expected).max() < 1e-5
        fallen += bool(np.allclose(kernel, kernel.T) and kernel.argmax() == 10)
    assert 20 < fallen < 180


def test_a_stretch_of_one_changes_nothing_to_the_bit() -> None:
    kernels = torch.rand(3, 24, 24)
    assert torch.equal(trajectories._stretch(kernels, torch.full((3, 2), 24)), kernels)


def test_some_kernels_are_stretched() -> None:
    draws = uniform(keys(4000), "camera_shake/kernel", (4 + trajectories.SIZE_DRAWS,))
    assert abs((draws[:, 0] < 0.25).float().mean() - 0.25) < 5 * (0.1875 / 4000) ** 0.5


@pytest.mark.parametrize("kind", ["usrnet", "deblurgan"])
@pytest.mark.parametrize("size", [21, 24])
def test_a_kernel_does_not_depend_on_its_batch(kind: str, size: int) -> None:
    whole = keys(33 if kind == "usrnet" else 8)
    together = trajectory_motion(whole, size, kind)  # type: ignore[arg-type]
    assert together.shape == (len(whole), 1, size, size)
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert (together.sum((1, 2, 3)) - 1).abs().max() < 1e-6
    assert torch.equal(trajectory_motion(whole[:8], size, kind), together[:8])  # type: ignore[arg-type]
    for i in (0, 3, 7):
        assert torch.equal(trajectory_motion(whole[i : i + 1], size, kind)[0], together[i])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["usrnet", "deblurgan"])
def test_nothing_mixes_devices_or_reads_values(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectories, "WALK_STEPS", 30)
    shape = trajectory_motion(keys(2).to("meta"), 25, kind).shape  # type: ignore[arg-type]
    assert shape == (2, 1, 25, 25)
    assert trajectory_motion(keys(2)[:0], 25, kind).shape == (0, 1, 25, 25)  # type: ignore[arg-type]


def plain_walk(key: Tensor, size: int) -> np.ndarray:
    """The positions (2000, complex) of one walk, by the recursion in pixels."""
    pull, shake, gauss, turn = uniform(key, "complex_walk/camera", (4,))[0].tolist()
    expl = trajectories.JERKS[int(integers(key, "complex_walk/jerk", low=0, high=6))]
    when = uniform(key, "complex_walk/when", (1999,))[0].tolist()
    where = uniform(key, "complex_walk/where", (1999,), -0.5, 0.5)[0].tolist()
    noise = normal(key, "complex_walk/tremble", (1999, 2))[0].tolist()
    pull, shake, gauss = 0.7 * pull, 0.2 * shake, 10 * gauss
    step = 60 * size / 64 / 1999
    v, x = cmath.exp(2j * math.pi * turn) * expl, [0j]
    for t in range(1999):
        impulse = 2 * v * cmath.exp(1j * (math.pi + where[t])) if when[t] < shake * expl else 0
        v += impulse + expl * (gauss * complex(*noise[t]) - pull * x[t]) * step
        v *= step / abs(v)
        x.append(x[t] + v)
    return np.array(x)


@pytest.mark.parametrize("size", [64, 31])
def test_complex_walk_is_the_plain_version(size: int) -> None:
    some = keys(6)
    walks = trajectories._walk(some, 60 / 64 * size / 1999).numpy()
    kernels = {exposure: complex_walk(some, size, exposure)[:, 0].numpy() for exposure in (0.01, 0.1, 0.5, 1.0)}
    for i in range(len(some)):
        walk = plain_walk(some[i : i + 1], size)
        # float32 draws differ from the plain version's products of them in the last digits only.
        assert np.abs(walks[i, 1] + 1j * walks[i, 0] - walk).max() < 1e-5
        shift = complex(*(size // 2 - np.round([(p.min() + p.max()) / 2 for p in (walk.real, walk.imag)])))
        for exposure, stack in kernels.items():
            expected = np.zeros((size + 1, size + 1))
            for p in walk[: int(exposure * 2000)] + shift:
                x, y = math.floor(p.real), math.floor(p.imag)
                for row, column in ((y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)):
                    expected[row, column] += (1 - abs(p.imag - row)) * (1 - abs(p.real - column))
            assert np.abs(stack[i] - (expected / expected.sum())[:size, :size]).max() < 1e-5


def test_complex_walk_jerks_and_exposures() -> None:
    some = keys(40)
    walk = trajectories._walk(some, 60 / 1999).diff(dim=-1)
    assert torch.allclose(walk.norm(dim=1), torch.tensor(60 / 1999).double())
    drawn = complex_walk(some)
    fixed = {exposure: complex_walk(some, exposure=exposure) for exposure in trajectories.EXPOSURES}
    chosen = torch.stack([(drawn == kernels).flatten(1).all(1) for kernels in fixed.values()])
    assert (chosen.sum(0) == 1).all()
    assert (chosen.sum(1) > 3).all()  # 13 expected of each, standard deviation 3
    jumps = (walk[:, :, 1:] * walk[:, :, :-1]).sum(1) / (60 / 1999) ** 2 < -0.5
    assert jumps.any()  # a jerk turns back


@pytest.mark.parametrize("size", [25, 18])
def test_shake_of_reach_is_the_plain_version(size: int) -> None:
    some = keys(6)
    reaches = torch.tensor([0.0, 0.3, 2.0, 4.5, 7.25, 8.0])
    kernels = shake_of_reach(some, reaches, size)
    assert kernels.dtype == torch.float32
    index = np.arange(size) - size // 2
    for i, reach in enumerate(reaches.tolist()):
        path = plain_path(normal(some[i : i + 1], "shake_of_reach/path", (6, 250))[0].double().numpy())
        path -= path.mean(1, keepdims=True)
        expected = np.zeros((size, size))
        for y, x in (path * reach / np.hypot(*path).max()).T + size // 2:
            # The share of a point that a pixel gets falls linearly with the distance on either axis.
            near = [np.clip(1 - np.abs(np.arange(size) - at), 0, None) for at in (y, x)]
            expected += np.outer(*near) / 250
        kernel = kernels[i, 0].double().numpy()
        assert np.abs(kernel - expected).max() < 1e-6
        assert max(abs(kernel.sum(1) @ index), abs(kernel.sum(0) @ index)) < 1e-5
    assert kernels[0, 0, size // 2, size // 2] == 1


def test_a_shake_of_reach_does_not_depend_on_its_batch() -> None:
    some, reaches = keys(9), torch.linspace(0, 12, 9)
    together = shake_of_reach(some, reaches)
    for i in range(9):
        assert torch.equal(shake_of_reach(some[i : i + 1], reaches[i : i + 1])[0], together[i])
    assert shake_of_reach(some.to("meta"), reaches.to("meta")).shape == (9, 1, 25, 25)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_supports(size: int) -> None:
    for kind in ("usrnet", "deblurgan"):
        kernels = trajectory_motion(keys(4), size, kind)
        assert torch.allclose(kernels.sum((1, 2, 3)), torch.ones(4))


def test_impossible_options() -> None:
    with pytest.raises(ValueError, match="kind is 'levin', expected 'usrnet' or 'deblurgan'"):
        trajectory_motion(keys(1), 25, "levin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kernel size is 0"):
        camera_shake(keys(1), 0)
    with pytest.raises(ValueError, match="kernel size is 0"):
        complex_walk(keys(1), 0)
    for exposure in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"expected a number in \(0, 1\]"):
            complex_walk(keys(1), exposure=exposure)
