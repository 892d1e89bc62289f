"""Devices, kernels and other values as callers give them."""

import contextlib
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from datamodules.degradations.kernel_maps import checked_maps
from datamodules.errors import ConfigError, InputError
from experiments.config.arguments import overridden_keys
from experiments.engines.names import Precision

if TYPE_CHECKING:
    from experiments.restore import Restorer

NOISE_LEVEL = 2 / 255  # assumed where none is given: that of a clean photograph in USRNet's examples


def restorer_options(cfg: DictConfig) -> dict[str, Any]:
    """Device, engine, precision and self-ensemble of a `Restorer`, of a config.

    Raises:
        ConfigError: for a precision of trainings on the command line.
    """
    if "trainer.precision" in overridden_keys():
        found = f"trainer.precision: found {cfg.trainer.precision}, which is for trainings"
        raise ConfigError(f"{found}: restoring has precision={' or '.join(get_args(Precision))}")
    device = "cuda" if cfg.trainer.accelerator == "gpu" else str(cfg.trainer.accelerator)
    return {"device": device, **{key: cfg[key] for key in ("engine", "precision", "self_ensemble")}}


def whole_number(key: str, value: Any, least: int) -> int:
    """A whole number, of numpy or torch too.

    Raises:
        InputError: for anything else, and for less than `least`.
    """
    with contextlib.suppress(TypeError):
        if not isinstance(value, bool) and operator.index(value) >= least:
            return operator.index(value)
    raise InputError(f"{key}: found {value!r}, expected a whole number of at least {least}", key=key)


def choose_device(name: str | torch.device) -> torch.device:
    """A device of torch; "auto" is a GPU if there is one.

    Raises:
        InputError: for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that it was built for the device
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"device: found {name!r}, which cannot be used: {reason}", key="device") from error
    return device


def checked_kernel(kernel: Tensor | np.ndarray) -> Tensor:
    """A kernel [k, l] as float32 with sum 1.

    Raises:
        InputError: for what is no array of numbers, for another shape, for values that are not finite, or a sum that is
            not positive.
    """
    try:
        if isinstance(kernel, Tensor) and not kernel.is_complex():
            values = kernel.detach().cpu()
        elif (array := np.asarray(kernel)).dtype.kind in "buif":
            values = torch.from_numpy(array.astype(np.float64))
        else:
            raise TypeError
        values = values.double()
    except (TypeError, ValueError) as error:  # rows of different lengths are one for numpy
        way = f": given_kernel({kernel!r}) of datamodules.degradations.kernel_spec makes it" * isinstance(kernel, str)
        found = repr(kernel) if isinstance(kernel, str) else f"a {type(kernel).__name__}"
        raise InputError(f"kernel: found {found}, expected an array of numbers [k, k]{way}", key="kernel") from error
    if values.dim() != 2 or 0 in values.shape:
        raise InputError(f"kernel: of shape {list(values.shape)}, expected [k, k]", key="kernel")
    total = values.sum().item()
    if not values.isfinite().all() or not total > 0:
        raise InputError(f"kernel: its sum is {total:g}, expected finite values with a positive sum", key="kernel")
    return (values / total).float()


def checked_scale(scale: int | None, scales: Sequence[int], name: str) -> int:
    """The scale to enlarge by, of those that the network `name` has.

    Raises:
        InputError: for another one; where none is given and there are several.
    """
    enlarges = f"{name} enlarges by {', '.join(map(str, scales))}"
    scale = None if scale is None else whole_number("scale", scale, 1)
    if scale is None and len(scales) > 1:
        raise InputError(f"scale: {enlarges}: say by which, scale={scales[-1]}", key="scale")
    if scale is not None and scale not in scales:
        raise InputError(f"scale: found {scale}, {enlarges}", key="scale")
    return int(scale or scales[0])


def checked_fields(
    restorer: "Restorer",
    scale: int,
    kernel: Tensor | np.ndarray | None,
    noise_level: float | None,
    notes: list[str],
    kernels: Tensor | np.ndarray | None = None,
    weights: Tensor | np.ndarray | None = None,
) -> dict[str, Any]:
    """Kernels, noise level and scale as far as the network takes them; what is assumed is added to the notes.

    Raises:
        InputError: for values that the network does not take, or cannot do without.
    """
    name, fields = restorer.name, dict[str, Any]()
    if kernels is not None or weights is not None:
        if "kernels" not in restorer.inputs:
            why = "takes one for the whole image" if restorer.needs_kernel else "takes none"
            raise InputError(f"kernels: given, but {name} {why}: omit them", key="kernels")
        if kernels is None or weights is None or kernel is not None:
            lacking = "weights" if weights is None else "kernels"
            found = "kernel: given beside kernels" if kernel is not None else f"{lacking}: not given"
            raise InputError(f"{found}, expected either kernel, or kernels and weights", key="kernels")
        fields["kernels"], fields["weights"] = checked_maps(kernels, weights)
    elif restorer.needs_kernel:
        if kernel is None:
            how = "give one, such as gaussian:1.6 or an image"
            how += ", or kernels=FILE.npz with maps of their weights" * ("kernels" in restorer.inputs)
            how += "; docs/restore.md says how to find it"
            raise InputError(f"kernel: {name} needs the blur kernel of the image: {how}", key="kernel")
        fields["kernel"] = checked_kernel(kernel)
    elif kernel is not None:
        why = "estimates the kernel itself" if restorer.estimates_kernel else "takes none"
        raise InputError(f"kernel: given, but {name} {why}: omit it", key="kernel")
    if "noise_level" in restorer.inputs:
        if noise_level is None:
            notes.append(f"The noise level was not given: {255 * NOISE_LEVEL:g}/255 is assumed.")
            noise_level = NOISE_LEVEL
        number = math.nan
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # numpy's and torch's numbers are some too
            number = math.nan if isinstance(noise_level, str | bool) else float(noise_level)
        if not 0 <= number <= 1:
            raise InputError(f"noise_level: found {noise_level!r}, expected 0 to 1, such as 0.01", key="noise_level")
        fields["noise_level"] = number
    elif noise_level is not None:
        raise InputError(f"noise_level: found {noise_level}, but {name} takes none: omit it", key="noise_level")
    if "scale" in restorer.inputs:
        fields["scale"] = scale
    return fields
