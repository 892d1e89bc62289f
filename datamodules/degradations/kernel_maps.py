"""Kernels that share an image and their maps of weights, as a file that a person gives."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from networks.ops.options import LARGEST_KERNEL

_LARGEST = 2**29  # numbers in an array, as of 40 kernels on a photograph of 12 million pixels
_PACKED = (zipfile.BadZipFile, zlib.error)
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
        opened = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise InputError(f"{path}: is one array, {expected}", key="kernels")
        with opened as file:
            names = list(file)
            if missing := [name for name in ARRAYS if name not in names]:
                raise InputError(
                    f"{path}: has no {missing[0]} but {', '.join(names) or 'nothing'}, {expected}", key="kernels"
                )
            for name in ARRAYS:
                _refuse_large(file.zip, name)
            kernels, weights = (file[name] for name in ARRAYS)
    except (OSError, ValueError, ArithmeticError, EOFError, RuntimeError, MemoryError, *_PACKED) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}), {expected}", key="kernels") from error
    try:
        return checked_maps(kernels, weights)
    except InputError as error:
        raise InputError(f"{path}: {error}", key="kernels") from error


def _refuse_large(file: zipfile.ZipFile, name: str) -> None:
    """Of an array its header, which says how much memory it takes: zeros are a thousand times as large as stored.

    Raises:
        ValueError: it says too much, or more than there is.
    """
    member = file.getinfo(f"{name}.npy" if f"{name}.npy" in file.namelist() else name)
    with file.open(member) as stream:
        first = np.lib.format.read_magic(stream) == (1, 0)
        shape, _, dtype = (np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0)(
            stream
        )
    count = math.prod(max(1, side) for side in shape)
    if count > _LARGEST or (0 not in shape and count * dtype.itemsize > member.file_size):
        raise ValueError(f"{name} of shape {list(shape)} is too large, or is not all there")


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
