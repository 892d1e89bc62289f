"""Devices and kernels as callers give them."""

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError


def choose_device(name: str) -> torch.device:
    """A device of torch; "auto" is a GPU if there is one.

    Raises:
        InputError: for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"device: found {name!r}, which cannot be used: {reason}") from error
    return device


def checked_kernel(kernel: Tensor | np.ndarray) -> Tensor:
    """A kernel [k, l] as float32 with sum 1.

    Raises:
        InputError: for another shape, for values that are not finite, or a sum that is not positive.
    """
    given = kernel if isinstance(kernel, Tensor) else torch.from_numpy(np.array(kernel, np.float64))
    found = given.detach().cpu().double()
    if found.dim() != 2 or 0 in found.shape:
        raise InputError(f"kernel: of shape {list(found.shape)}, expected [k, k]")
    total = found.sum().item()
    if not found.isfinite().all() or not total > 0:
        raise InputError(f"kernel: its sum is {total:g}, expected finite values with a positive sum")
    return (found / total).float()
