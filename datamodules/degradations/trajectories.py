"""Motion kernels from random camera paths: a whole batch at once, a function of the samples' keys only.

`trajectory_motion` is the door: kind "usrnet" (`camera_shake`) is the one that the non-blind and blind networks train
on, "deblurgan" (`complex_walk`) the harsher one of the deblurring literature. The centre of a kernel is index
floor(k/2); its mass is generally displaced from there, and `blur.convolve` moves the image accordingly.
An option outside those that a docstring names raises ValueError, and so does a `size` below 1.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from datamodules.degradations.keyed_random import integers, normal, uniform

STEPS = 250  # of a camera_shake path
LARGEST = 27  # side in pixels of the largest grid that receives such a path
SIZE_DRAWS = 4  # a path that misses its grid gets another grid, as often as this
WALK_STEPS = 2000
JERKS = (0.003, 0.005, 0.007, 0.008, 0.009, 0.01)  # "expl": how impulsive a complex_walk is
EXPOSURES = (0.1, 0.5, 1.0)


def trajectory_motion(keys: Tensor, size: int = 25, kind: Literal["usrnet", "deblurgan"] = "usrnet") -> Tensor:
    """Random motion kernels [B, 1, size, size] (float32, sum 1) for keys [B]: `camera_shake` or `complex_walk`."""
    if kind == "usrnet":
        return camera_shake(keys, size)
    if kind == "deblurgan":
        return complex_walk(keys, size)
    raise ValueError(f"kind is {kind!r}, expected 'usrnet' or 'deblurgan'")


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
    """
    check_size(size)
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


def shake_of_reach(keys: Tensor, reach: Tensor, size: int = 25) -> Tensor:
    """Camera shakes of a given extent whose mass is centred, so that the blurred image stays where the sharp one is.

    The path of `camera_shake`, keeping its proportions, is moved by its mean and enlarged until its farthest point lies
    `reach` from there; a straight, even motion is thus 2 reach long. Its points go to their four neighbours in
    proportion, which keeps the centre of mass to a fraction of a pixel.

    Args:
        keys: one key a kernel [B] (int64).
        reach: in pixels [B], 0 (no blur) to floor((k - 1) / 2).
        size: side k of the square support in pixels.

    Returns:
        [B, 1, size, size], float32, on the device of `keys`.
    """
    check_size(size)
    path = _path(normal(keys, "shake_of_reach/path", (6, STEPS)))
    path = path - path.mean(-1, keepdim=True)
    farthest = path.norm(dim=1).amax(-1).clamp(min=torch.finfo(path.dtype).tiny)
    return _splat((path * (reach.double() / farthest)[:, None, None] + size // 2).clamp(0, size - 1), size)


def _splat(path: Tensor, size: int, weight: Tensor | float = 1.0) -> Tensor:
    """Kernels [B, 1, size, size] (float32, sum 1) of points [B, 2, T] (float64) within [0, size - 1], bilinearly.

    `weight` [B, T] counts the points; their first coordinate is the row.
    """
    before = path.floor().clamp(max=max(size - 2, 0))
    share = path - before
    (row, column), (down, right) = before.long().unbind(1), share.unbind(1)
    kernels = torch.zeros(len(path), size * size, dtype=torch.float64, device=path.device)
    for dy, y in ((0, 1 - down), (1, down)):
        for dx, x in ((0, 1 - right), (1, right)):
            index = (row + dy).clamp(max=size - 1) * size + (column + dx).clamp(max=size - 1)
            kernels.scatter_add_(1, index, y * x * weight)
    return (kernels / kernels.sum(1, keepdim=True)).float().view(-1, 1, size, size)


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


def complex_walk(keys: Tensor, size: int = 64, exposure: float | None = None) -> Tensor:
    """Motion kernels of a hand that trembles, is pulled back and now and then jerks, as DeblurGAN was trained on.

    A walk of 2000 steps in the complex plane (`_walk`), 60 pixels long where `size` is 64 and in proportion elsewhere.
    The first `exposure` of its points are splatted bilinearly; the start lies on a pixel and the middle of the whole
    walk's bounding box at most half a pixel from index floor(size/2), so short exposures are off-centre.

    The walk has no closed form, since every step is rescaled by a norm that depends on all before: this is a loop of
    2000 steps over the whole batch. On one core it takes about 40 ms for one kernel and 1 to 2 ms for each further one.

    Source: Boracchi and Foi, "Modeling the performance of image restoration from motion blur", IEEE TIP 21(8), 2012;
    Kupyn et al., "DeblurGAN", CVPR 2018, and its public code, which rescales images and kernels by their extremes
    where we normalise the kernel to sum 1.

    Args:
        keys: one key a kernel [B] (int64).
        size: side k of the square support in pixels.
        exposure: fraction of the walk in (0, 1], or None to draw it from 1/10, 1/2 and 1 for every kernel.

    Returns:
        [B, 1, size, size], float32, on the device of `keys`.
    """
    check_size(size)
    if exposure is not None and not 0 < exposure <= 1:
        raise ValueError(f"exposure is {exposure}, expected a number in (0, 1] or None")
    path = _walk(keys, step=60 / 64 * size / (WALK_STEPS - 1))
    low, high = path.aminmax(dim=-1, keepdim=True)
    path = (path - ((low + high) / 2).round() + size // 2).clamp(0, size - 1)

    if exposure is None:
        fraction = keys.new_tensor(EXPOSURES, dtype=torch.float64)[
            integers(keys, "complex_walk/exposure", low=0, high=len(EXPOSURES))
        ]
    else:
        fraction = torch.full_like(keys, exposure, dtype=torch.float64)
    exposed = torch.arange(WALK_STEPS, device=keys.device) < fraction[:, None] * WALK_STEPS

    return _splat(path, size, exposed)


def _walk(keys: Tensor, step: float) -> Tensor:
    """Rows and columns [B, 2, 2000] (float64, pixels) of the walk from the origin, whose steps are `step` pixels long.

    In units of one step, with direction e_t, position x_t and the jerkiness j drawn from `JERKS`:

        e_(t+1) = unit(e_t m_t + j (gauss n_t - pull step x_t)),  x_(t+1) = x_t + e_(t+1)

    n_t is complex with standard normal parts, gauss = U[0, 10), pull = U[0, 0.7). m_t is 1, or with probability
    j U[0, 0.2) a jerk 1 + 2 exp(i (pi + U[-0.5, 0.5))). The first velocity, before any rescaling, is j pixels a step.
    """
    steps = WALK_STEPS - 1
    pull, shake, gauss, turn = uniform(keys, "complex_walk/camera", (4,)).double().unbind(1)
    jerk = keys.new_tensor(JERKS, dtype=torch.float64)[integers(keys, "complex_walk/jerk", low=0, high=len(JERKS))]

    jerked = uniform(keys, "complex_walk/when", (steps,)) < (0.2 * shake * jerk)[:, None]
    angle = math.pi + uniform(keys, "complex_walk/where", (steps,), -0.5, 0.5).double()
    factors = 1 + 2 * jerked * torch.polar(torch.ones_like(angle), angle)
    noise = torch.view_as_complex(normal(keys, "complex_walk/tremble", (steps, 2)).double())
    noise = noise * (10 * gauss * jerk)[:, None]
    # Time comes first, so that every step reads and writes contiguous rows.
    factors, noise = factors.T.contiguous(), noise.T.contiguous()
    back = (-0.7 * pull * jerk * step).to(noise.dtype)
    direction = torch.polar(jerk / step, 2 * math.pi * turn)
    path = torch.zeros(WALK_STEPS, len(keys), dtype=noise.dtype, device=keys.device)
    rows = path.unbind(0)
    for factor, push, here, there in zip(factors.unbind(0), noise.unbind(0), rows[:-1], rows[1:], strict=True):
        direction = torch.sgn(torch.addcmul(torch.addcmul(push, direction, factor), here, back))
        torch.add(here, direction, out=there)
    return torch.view_as_real(path.T).flip(-1).transpose(1, 2) * step


def check_size(size: int) -> None:
    """Raise ValueError for a side of kernels below 1."""
    if size < 1:
        raise ValueError(f"kernel size is {size}, expected at least 1")
