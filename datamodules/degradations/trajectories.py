"""Motion kernels from random camera paths: a whole batch at once, a function of the samples' keys only.

The centre of a kernel is index floor(k/2); its mass is generally displaced from there, and `blur.convolve` moves the
image accordingly.
"""

import math

import torch
from torch import Tensor

from datamodules.degradations.keyed_random import normal, uniform

STEPS = 250  # of a camera_shake path
LARGEST = 27  # side in pixels of the largest grid that receives such a path
SIZE_DRAWS = 4  # a path that misses its grid gets another grid, as often as this


def camera_shake(keys: Tensor, size: int = 25) -> Tensor:
    """Motion kernels of a camera that turns and drifts, as USRNet was trained on.

    A 3-D path of 250 steps (`_path`) is counted into an h x h grid, h = 5 ... 27 with median 11 (`_raster`), and one
    kernel in four is enlarged 1 to 5 times, each axis by itself (`_stretch`). What is left with less than a tenth of
    its mass by that becomes a Gaussian of standard deviation U[0.1, 6.1) pixels. There is no loop over time or samples.

    Source: Zhang, Van Gool, Timofte, "Deep unfolding network for image super-resolution", CVPR 2020, and its public
    training code. Three details are ours: a path that misses all cells of its grid gets another grid at most 3 times
    and then the largest; for an even size the grid's centre lands on index size/2; time runs in float64.

    Args:
        keys: one key a kernel [B] (int64).
        size: side k of the square support in pixels. Grids larger than `size` keep their upper left part.

    Returns:
        [B, 1, size, size], float32, on the device of `keys`.

    Raises:
        ValueError: if `size` < 1.
    """
    if size < 1:
        raise ValueError(f"kernel size is {size}, expected at least 1")
    path = _unit_box(_path(normal(keys, "camera_shake/path", (6, STEPS))))
    # One call for all: on small batches the count of operations is what takes time.
    draws = uniform(keys, "camera_shake/kernel", (4 + SIZE_DRAWS,)).double()
    kernels = _raster(path, _sides(path, draws[:, 4:]), size)

    enlarged = size + (draws[:, 1:3] * (4 * size + 1)).long()  # size ... 5 size
    kernels = _stretch(kernels, torch.where(draws[:, :1] < 0.25, enlarged, size))

    mass = kernels.sum((1, 2), keepdim=True)
    sigma = 0.1 + 6 * draws[:, 3:4].float()
    line = torch.exp((torch.arange(size, device=keys.device) - size // 2) ** 2 / (-2 * sigma**2))
    line = line / line.sum(1, keepdim=True)
    kept = mass >= 0.1
    kernels = torch.where(kept, kernels / mass.clamp(min=0.1), line[:, :, None] * line[:, None, :])
    return kernels[:, None]


def _path(draws: Tensor) -> Tensor:
    """The x and y coordinates [B, 2, T] (float64) of the camera, from standard normals [B, 6, T].

    With a = 1 + 2 pi / T, rotation draws g (channels 0 to 2) and velocity draws g' (3 to 5), for t = 1 ... T - 1:

        r_t = a r_(t-1) + (2 pi / T) g_t / (t + 1),  v_t = v_(t-1) + g'_t / (t + 1),  x_t = x_(t-1) + R(r_t) v_t

    from r_0 = 0, v_0 = g'_0, x_0 = 0, where R = Rz Ry Rx. Every line is linear in its own past and hence a cumulative
    sum: r_t = a^t sum_s a^-s (2 pi / T) g_s / (s + 1). The weights span a^T < 536, which costs float64 three digits.
    """
    draws, steps = draws.double(), draws.shape[-1]
    t = torch.arange(steps, device=draws.device, dtype=torch.float64)
    fade = 1 / (t + 1)
    growth = (1 + 2 * math.pi / steps) ** t
    weight = 2 * math.pi / steps * fade / growth
    weight[0] = 0  # r_0 = 0
    rotation = (draws[:, :3] * weight).cumsum(-1) * growth
    velocity = (draws[:, 3:] * fade).cumsum(-1)
    (cx, cy, cz), (sx, sy, sz) = rotation.cos().unbind(1), rotation.sin().unbind(1)
    vx, vy, vz = velocity.unbind(1)
    rolled = cx * vy - sx * vz
    pitched = cy * vx + sy * (sx * vy + cx * vz)
    step = torch.stack((cz * pitched - sz * rolled, sz * pitched + cz * rolled), 1)
    step[:, :, 0] = 0  # x_0 = 0
    return step.cumsum(-1)


def _unit_box(path: Tensor) -> Tensor:
    """The path [B, 2, T] scaled to [0, 1] along each axis."""
    low, high = path.aminmax(dim=-1, keepdim=True)
    return (path - low) / (high - low).clamp(min=torch.finfo(path.dtype).tiny)


def _sides(path: Tensor, draws: Tensor) -> Tensor:
    """Sides h [B] of the grids (int64): the first of the draws [B, n] in [0, 1) whose grid is not missed.

    h = min(5 - ln(u) / 0.15, 27), rounded, and then up to the next odd number. `_raster` leaves the last row and column
    of cells empty, so a path in the unit box [B, 2, T] misses if it never is below (h - 1) / h on both axes at once.
    """
    # 1 - u is in (0, 1] and as uniform.
    side = (5 - (1 - draws).log() / 0.15).clamp(max=LARGEST).round().long()
    side = side + 1 - side % 2
    hit = (path.amax(1).amin(-1)[:, None] * side).long() < side - 1
    first = hit.byte().argmax(1, keepdim=True)
    return torch.where(hit.any(1), side.gather(1, first)[:, 0], LARGEST)


def _raster(path: Tensor, side: Tensor, size: int) -> Tensor:
    """Counts the points of paths in the unit box [B, 2, T] in grids of `side` [B] cells, placed in [B, size, size].

    The grid spans the box, x downwards and y to the right; its last row and column stay empty. It is smoothed
    by a 3x3 Gaussian of standard deviation 1, cut to the grid and normalised; then padded, or cut to its upper left.
    """
    batch, canvas = len(path), max(size, LARGEST) + 2  # a border of one takes what the smoothing spills
    side = side[:, None, None]
    start = (size // 2 - side // 2).clamp(min=0)
    cell = (path * side).long()
    inside = (cell < side - 1).all(1).float()
    row, column = (cell + start + 1).unbind(1)
    counts = torch.zeros(batch, canvas * canvas, device=path.device)
    # A path's end may lie one past the grid; it has no weight, and the index stays on the canvas.
    counts.scatter_add_(1, row * canvas + column, inside)
    counts = counts.view(batch, canvas, canvas)
    edge = math.exp(-0.5)  # the Gaussian's values are edge, 1, edge along each axis
    rows = counts[:, 1:-1] + edge * (counts[:, :-2] + counts[:, 2:])
    kernels = rows[:, :, 1:-1] + edge * (rows[:, :, :-2] + rows[:, :, 2:])
    index = torch.arange(canvas - 2, device=path.device)
    window = ((index >= start[:, 0]) & (index < (start + side)[:, 0])).float()
    kernels = kernels * window[:, :, None] * window[:, None, :]
    total = kernels.sum((1, 2), keepdim=True)
    return (kernels / total.clamp(min=torch.finfo(torch.float32).tiny))[:, :size, :size]


def _stretch(kernels: Tensor, target: Tensor) -> Tensor:
    """Resizes [B, k, k] bilinearly to `target` [B, 2] rows and columns (at least k) and keeps the central k x k.

    Pixel j of n lies at (j + 1/2) k / n - 1/2 in the kernel, whose edge is repeated; only what is kept is computed.
    A target of k returns the kernel to the bit.
    """
    batch, size, _ = kernels.shape
    target = target[:, :, None]
    index = torch.arange(size, device=kernels.device)
    kept = index + (target - size) // 2
    position = ((kept + 0.5) * (size / target) - 0.5).clamp(0, size - 1)
    before = position.long()
    share = position - before
    first = size * torch.arange(batch, device=kernels.device)[:, None]
    for axis in (0, 1):  # rows of all kernels are one list of rows; then the columns take their place
        rows = kernels.reshape(batch * size, size)
        low = first + before[:, axis]
        high = first + (before[:, axis] + 1).clamp(max=size - 1)
        low_rows, high_rows = rows.index_select(0, low.flatten()), rows.index_select(0, high.flatten())
        rows = torch.lerp(low_rows, high_rows, share[:, axis].reshape(-1, 1))
        kernels = rows.view(batch, size, size).transpose(1, 2)
    return kernels
