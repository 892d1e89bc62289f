"""Where a pipeline's kernels come from: callables `keys [B] -> [B, 1, k, k]` that configs choose by name."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from datamodules.degradations.kernel_files import KernelSuite
from datamodules.degradations.kernels import (
    kornia_motion,
    linear_motion,
    sample_dan_gaussian,
    sample_isotropic,
    sample_usrnet_gaussian,
)
from datamodules.degradations.keyed_random import integers, make_key, uniform
from datamodules.degradations.trajectories import LARGEST, camera_shake
from datamodules.errors import InputError
from datamodules.io.atomic import replacing
from networks.ops.options import LARGEST_KERNEL, check_choice, check_kernel_size, check_range

log = logging.getLogger(__name__)


def usrnet_mixture(keys: Tensor, size: int = 25) -> Tensor:
    """USRNet's training kernels [B, 1, size, size]: camera shake with probability 1/2, else an anisotropic Gaussian.

    Source: Zhang, Van Gool, Timofte, CVPR 2020, by its public training code.
    """
    shaken = integers(keys, "usrnet/shaken", low=0, high=2).bool()
    # A kernel depends on nothing but its key: only those that are used are drawn.
    kernels = torch.empty(len(keys), 1, size, size, device=keys.device)
    for chosen, draw in ((shaken, camera_shake), (~shaken, sample_usrnet_gaussian)):
        if chosen.any():
            kernels[chosen] = draw(keys[chosen], size)
    return kernels


def centred_shake(keys: Tensor, size: int = 25, reduction: int = 1) -> Tensor:
    """Camera shakes [B, 1, size, size] moved so that their mass is centred, for targets that are centred too.

    GOPRO's sharp image is the middle frame of the blurred ones; a camera shake lies anywhere on its grid. It is moved
    by whole pixels, then reduced: a value at offset d goes to the two neighbours of d / reduction, in proportion, which
    keeps the centre of mass. What falls outside `size` is cut off and the rest normalised.

    Args:
        reduction: pixels of the kernel's own grid to one pixel of the result.
    """
    whole = camera_shake(keys, LARGEST)[:, 0]
    place = torch.arange(LARGEST, device=keys.device, dtype=whole.dtype)
    centre = torch.stack([(whole.sum(2) * place).sum(1), (whole.sum(1) * place).sum(1)], 1).round()
    # Linear interpolation onto the small grid is a matrix for each axis of each kernel.
    target = torch.arange(size, device=keys.device) - size // 2
    offset = (place - centre[:, :, None]) / reduction  # B, 2, LARGEST
    weights = (1 - (offset[:, :, None, :] - target[:, None]).abs()).clamp(min=0)  # B, 2, size, LARGEST
    # Sums, as products of such small matrices round differently in batches of another size.
    rows = (weights[:, 0, :, :, None] * whole[:, None]).sum(2)  # B, size, LARGEST
    kernels = (rows[:, :, None, :] * weights[:, 1, None]).sum(3)
    return (kernels / kernels.sum((1, 2), keepdim=True))[:, None]


class LinearMotion:
    """Straight motions [B, 1, k, k]: length, angle and direction drawn uniformly for every key.

    Args:
        family: "kornia" (`kernels.kornia_motion`), or "matlab" (`kernels.linear_motion`, MATLAB's fspecial("motion")),
            whose speed is constant, so that it takes neither direction nor mode.
        length: shortest and longest in pixels, odd, 3 to 255; odd ones in between are drawn. The longest is the side k.
        angle: range in degrees, from right towards down.
        direction: range within [-1, 1], see `kernels.kornia_motion`.
        mode: "bilinear" or "nearest", see there.

    Raises:
        ValueError: for a range or a name outside of that.
    """

    def __init__(
        self,
        family: Literal["kornia", "matlab"] = "kornia",
        length: Sequence[int] = (5, 25),
        angle: Sequence[float] = (0, 180),
        direction: Sequence[float] = (-1, 1),
        mode: Literal["bilinear", "nearest"] = "bilinear",
    ) -> None:
        check_choice("family", family, ("kornia", "matlab"))
        check_choice("mode", mode, ("bilinear", "nearest"))
        odd = [side for side in length if side % 2 == 1]
        if len(length) != 2 or len(odd) != 2 or not 3 <= length[0] <= length[1] <= LARGEST_KERNEL:
            raise ValueError(
                f"length is {list(length)}, expected [low, high], odd numbers with 3 <= low <= high <= {LARGEST_KERNEL}"
            )
        self.angle, self.direction = check_range("angle", angle, -360, 360), check_range("direction", direction, -1, 1)
        self.family, self.length, self.mode = family, length, mode

    def __call__(self, keys: Tensor) -> Tensor:
        low, high = self.length
        length = low + 2 * integers(keys, "linear_motion/length", low=0, high=(high - low) // 2 + 1)
        angle = uniform(keys, "linear_motion/angle", (), *self.angle).deg2rad()
        if self.family == "matlab":
            return linear_motion(length.to(angle.dtype), angle, high)
        return kornia_motion(
            length, angle, uniform(keys, "linear_motion/direction", (), *self.direction), high, self.mode
        )


class FromSuite:
    """Kernels of an evaluation suite: always number `number`, or with `number=None` one drawn by the key.

    Args:
        suite: see `datamodules.degradations.kernel_files`.
        number: position in the suite, from 0.

    Raises:
        ValueError: if the suite has no such kernel.
    """

    def __init__(self, suite: KernelSuite, number: int | None = None) -> None:
        if number is not None and not 0 <= number < len(suite.names):
            raise ValueError(f"number is {number}, the suite has kernels 0 to {len(suite.names) - 1}")
        self.suite, self.number = suite, number

    def __call__(self, keys: Tensor) -> Tensor:
        kernels = self.suite.kernels.to(keys.device)
        if self.number is not None:
            return kernels[self.number].expand(len(keys), -1, -1, -1)
        return kernels[integers(keys, "suite/number", low=0, high=len(kernels))]


class KernelBank:
    """A fixed set of kernels, made once and kept on disk: half Gaussian, half camera shake (USRNet+DAN, experiment B).

    Args:
        gaussian: how many anisotropic Gaussians.
        motion: how many camera shakes.
        size: side in pixels.
        seed: of the set.
        cache_dir: folder of the file (float16, 2 * size^2 bytes a kernel).

    Raises:
        InputError: if the folder cannot be written.
    """

    def __init__(
        self,
        gaussian: int = 100_000,
        motion: int = 100_000,
        size: int = 21,
        seed: int = 0,
        cache_dir: str = "~/.cache/deblur-sr",
    ) -> None:
        if gaussian < 0 or motion < 0 or gaussian + motion == 0:
            raise ValueError(f"gaussian is {gaussian} and motion {motion}, expected at least one kernel")
        check_kernel_size(size=size)
        self.gaussian, self.motion, self.size, self.seed = gaussian, motion, size, seed
        name = hashlib.sha256(repr((1, gaussian, motion, size, seed)).encode()).hexdigest()[:12]
        self.path = Path(cache_dir).expanduser() / f"kernels-{name}.npy"
        self.kernels: Tensor | None = None

    def __call__(self, keys: Tensor) -> Tensor:
        if self.kernels is None or self.kernels.device != keys.device:
            self.kernels = torch.from_numpy(self._load()).to(keys.device)
        chosen = self.kernels[integers(keys, "bank/number", low=0, high=len(self.kernels))].float()
        return chosen / chosen.sum((-2, -1), keepdim=True)  # float16 costs the last digits of the sum

    def _load(self) -> np.ndarray:
        if not self.path.exists():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{self.path}.lock"):
                    if not self.path.exists():
                        self._write()
            except OSError as error:
                raise InputError(f"{self.path}: cannot write the kernels: {error.strerror}: set cache_dir") from error
        return np.load(self.path, allow_pickle=False)

    def _write(self) -> None:
        total = self.gaussian + self.motion
        log.info("making %d kernels once, into %s", total, self.path)
        kernels = np.empty((total, 1, self.size, self.size), np.float16)
        for start in tqdm(range(0, total, 1000), desc="make kernels", unit="thousand"):
            numbers = range(start, min(start + 1000, total))
            keys = torch.tensor([make_key("kernel_bank", self.seed, i) for i in numbers])
            split = max(0, min(self.gaussian - start, len(numbers)))
            drawn = [sample_usrnet_gaussian(keys[:split], self.size)] if split else []
            drawn += [camera_shake(keys[split:], self.size)] if split < len(numbers) else []
            kernels[start : start + len(numbers)] = torch.cat(drawn).numpy()
        with replacing(self.path) as part, part.open("wb") as file:
            np.save(file, kernels)


__all__ = ["FromSuite", "KernelBank", "LinearMotion", "sample_dan_gaussian", "sample_isotropic", "usrnet_mixture"]
