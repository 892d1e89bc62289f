"""Kernels that share an image and their maps of weights, as a file that a person gives."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from networks.ops.options import LARGEST_KERNEL

ARRAYS = {"kernels": "[K, k, k]", "weights": "[K, h, w]"}


def given_kernels(spec: str) -> tuple[Tensor, Tensor]:
    """The arrays `kernels` [K, k, k] and `weights` [K, h, w] of a .npz file.

    Kernels are for true convolution, their centre is index floor(k/2). (h, w) is the size of the photograph or of the
    result, which is looked at when there is one.

    Returns:
        Both as float32; kernels with sum 1 each, weights not negative with sum 1 over K.

    Raises:
        InputError: for a file that does not hold them.
    """
    path = Path(spec).expanduser()
    expected = "expected a .npz file with " + " and ".join(f"{name} {shape}" for name, shape in ARRAYS.items())
    if not path.is_file():
        raise InputError(f"kernels={spec}: no such file, {expected}", key="kernels")
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise InputError(f"{path}: is one array, {expected}", key="kernels")
        with opened as file:
            names = list(file)
            if missing := [name for name in ARRAYS if name not in names]:
                raise InputError(
                    f"{path}: has no {missing[0]} but {', '.join(names) or 'nothing'}, {expected}", key="kernels"
                )
            kernels, weights = (file[name] for name in ARRAYS)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}), {expected}", key="kernels") from error
    try:
        return checked_maps(kernels, weights)
    except InputError as error:
        raise InputError(f"{path}: {error}", key="kernels") from error


def checked_maps(kernels: np.ndarray | Tensor, weights: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """Kernels and weights as `given_kernels` returns them.

    Raises:
        InputError: for other shapes, values that are not finite, a kernel without a positive sum, weights that are
            negative or all 0 at a pixel.
    """
    checked = []
    for name, values in (("kernels", kernels), ("weights", weights)):
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.ndim != 3 or array.dtype.kind not in "buif" or 0 in array.shape:
            raise InputError(
                f"{name}: found {array.dtype} of shape {list(array.shape)}, expected numbers {ARRAYS[name]}",
                key="kernels",
            )
        if not np.isfinite(array).all():
            raise InputError(f"{name}: there are values that are not finite", key="kernels")
        checked.append(torch.from_numpy(array.astype(np.float32)))
    k, w = checked
    if len(k) != len(w):
        raise InputError(f"weights: found {len(w)} maps for {len(k)} kernels, expected as many", key="kernels")
    if max(k.shape[1:]) > LARGEST_KERNEL:
        raise InputError(
            f"kernels: found {k.shape[2]}x{k.shape[1]} pixels, expected at most {LARGEST_KERNEL}x{LARGEST_KERNEL}",
            key="kernels",
        )
    sums, total = k.sum((1, 2)), w.sum(0)
    if not (sums > 0).all():
        number = int((sums <= 0).nonzero()[0])
        raise InputError(f"kernels: the sum of kernel {number + 1} is {sums[number]:g}, expected more", key="kernels")
    if w.min() < 0 or total.min() <= 0:
        what = f"the least is {w.min():g}" if w.min() < 0 else "at a pixel all are 0"
        raise InputError(f"weights: {what}, expected 0 or more, and more at one kernel at least", key="kernels")
    return k / sums[:, None, None], w / total
