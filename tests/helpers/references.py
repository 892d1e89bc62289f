"""Independent float64 implementations that the tests compare with: plain NumPy, written for clarity, not for speed."""

import numpy as np


def imresize(image: np.ndarray, factor: float) -> np.ndarray:
    """MATLAB's imresize (bicubic, anti-aliased) of a float [H, W] or [H, W, C] image, one output row at a time."""
    for axis in (0, 1):
        image = np.moveaxis(_resize_rows(np.moveaxis(image, axis, 0), factor), 0, axis)
    return image


def _resize_rows(rows: np.ndarray, factor: float) -> np.ndarray:
    n = len(rows)
    stretch = min(factor, 1.0)
    width = 4 / stretch
    out = []
    for x in range(int(np.ceil(n * factor))):
        centre = (x + 0.5) / factor - 0.5
        first = int(np.floor(centre - width / 2))
        weights, values = [], []
        for source in range(first, first + int(np.ceil(width)) + 3):
            t = abs(stretch * (centre - source))
            if t <= 1:
                w = 1.5 * t**3 - 2.5 * t**2 + 1
            elif t <= 2:
                w = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            else:
                w = 0.0
            mirrored = source % (2 * n)  # ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
            values.append(rows[mirrored if mirrored < n else 2 * n - 1 - mirrored])
            weights.append(w)
        out.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(out)


def gaussian(sigma: float, size: int) -> np.ndarray:
    """An isotropic Gaussian on an odd or even grid, centre at floor(size / 2), sum 1."""
    kernel = np.empty((size, size))
    for y in range(size):
        for x in range(size):
            kernel[y, x] = np.exp(-((y - size // 2) ** 2 + (x - size // 2) ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def convolve(image: np.ndarray, kernel: np.ndarray, mode: str) -> np.ndarray:
    """True convolution of [H, W] with a kernel centred at floor(k / 2); `mode` as in numpy.pad."""
    kh, kw = kernel.shape
    cy, cx = kh // 2, kw // 2
    padded = np.pad(image, ((kh - 1 - cy, cy), (kw - 1 - cx, cx)), mode=mode)
    out = np.zeros_like(image)
    for j in range(kh):
        for i in range(kw):
            # Output [y, x] takes image[y - (j - cy), x - (i - cx)].
            top, left = kh - 1 - j, kw - 1 - i
            out += kernel[j, i] * padded[top : top + image.shape[0], left : left + image.shape[1]]
    return out


# ITU-R BT.601 as in MATLAB's rgb2ycbcr: studio range, values in [0, 1].
YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
YCBCR_OFFSET = np.array([16, 128, 128]) / 255


def rgb_to_ycbcr(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [H, W, 3]."""
    return np.asarray(image @ YCBCR.T + YCBCR_OFFSET)


def ycbcr_to_rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [H, W, 3]; not clipped."""
    return np.asarray((image - YCBCR_OFFSET) @ np.linalg.inv(YCBCR).T)
