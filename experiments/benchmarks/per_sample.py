"""Degradation one sample at a time with NumPy, SciPy and OpenCV: how the usual code bases of the field do it.

Written from the description of USRNet's training data (Zhang, Van Gool, Timofte, CVPR 2020), for comparison with the
batched pipeline: one trajectory or Gaussian kernel per sample, `scipy.ndimage.convolve` with wrapped borders on the
uint8 patch, every s-th pixel, noise.
"""

import cv2
import numpy as np
from scipy import ndimage


def trajectory_kernel(rng: np.random.Generator, size: int = 25, steps: int = 250) -> np.ndarray:
    """A random camera shake [size, size], sum 1: a loop over the time steps of a turning, drifting camera."""
    turn, speed, position = np.zeros(3), rng.standard_normal(3), np.zeros(3)
    path = [position]
    for t in range(1, steps):
        turn = turn + 2 * np.pi / steps * (rng.standard_normal(3) / (t + 1) + turn)
        speed = speed + rng.standard_normal(3) / (t + 1)
        (ca, cb, cc), (sa, sb, sc) = np.cos(turn), np.sin(turn)
        rx = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        ry = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        rz = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
        position = position + rz @ ry @ rx @ speed
        path.append(position)
    points = np.array(path)[:, :2]
    low, high = points.min(0), points.max(0)
    counts = np.zeros((1, 1))
    while not counts.any():
        side = round(min(5 - np.log(1 - rng.random()) / 0.15, 27))
        side = side + 1 - side % 2
        edges = [np.linspace(a, b, side + 1) for a, b in zip(low, high, strict=True)]
        counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
        counts[-1], counts[:, -1] = 0, 0
    line = np.exp(-(np.arange(-1, 2) ** 2) / 2)
    kernel = ndimage.convolve(counts, np.outer(line, line), mode="constant")
    if side > size:
        kernel = kernel[:size, :size]
    else:
        before = (size - side) // 2
        kernel = np.pad(kernel, (before, size - side - before))
    if rng.random() < 0.25:
        rows, columns = rng.integers(size, 5 * size + 1, 2)
        kernel = cv2.resize(kernel, (int(columns), int(rows)), interpolation=cv2.INTER_LINEAR)
        top, left = (rows - size) // 2, (columns - size) // 2
        kernel = kernel[top : top + size, left : left + size]
    if kernel.sum() < 0.1:
        kernel = gaussian_kernel(rng, size)
    return kernel / kernel.sum()


def gaussian_kernel(rng: np.random.Generator, size: int = 25) -> np.ndarray:
    """A random anisotropic Gaussian [size, size] with sub-pixel centre, sum 1."""
    variances, angle = rng.uniform(0.6, 12, 2), rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = turn @ np.diag(1 / variances) @ turn.T
    offset = np.arange(size) - size // 2 + 0.5 * rng.integers(0, 4)
    grid = np.stack(np.meshgrid(offset, offset), -1)[..., None]
    kernel = np.exp(-0.5 * (grid.swapaxes(-2, -1) @ inverse @ grid)[..., 0, 0])
    kernel = kernel / kernel.sum()
    return np.rot90(kernel, int(rng.integers(4))).copy()


def degrade(patch: np.ndarray, scale: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] to the float32 low-resolution input [H/s, W/s, 3]."""
    kernel = trajectory_kernel(rng) if rng.random() < 0.5 else gaussian_kernel(rng)
    blurred = ndimage.convolve(patch, kernel[..., None], mode="wrap")[::scale, ::scale]
    level = rng.integers(0, 25) / 255 if rng.random() > 1 / 9 else 0.0
    return (blurred / 255 + rng.normal(0, level, blurred.shape)).astype(np.float32)
