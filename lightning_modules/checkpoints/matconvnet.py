"""Reads the parameters of a network that MatConvNet saved.

Such a file is `save(FILE, 'net')` of a `dagnn.DagNN` made a plain structure: the variable `net` has the field `params`,
an array of structures with `name` and `value` (and learning rates, which do not matter here).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import InputError
from datamodules.io.mat import check_unpacked

MOST_BYTES = 2**29  # of a network; published ones have some MB


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Parameters by name, in float32, in MATLAB's layout: without trailing dimensions of size 1 beyond the second.

    Raises:
        InputError: if the file cannot be read, or holds no network of MatConvNet.
    """
    import scipy.io

    check_unpacked(path, MOST_BYTES)
    try:
        variables = scipy.io.loadmat(path, variable_names=["net"])
    except NotImplementedError as error:
        raise InputError(f"{path}: is a MATLAB 7.3 file: save it in MATLAB with -v7") from error
    except Exception as error:  # scipy lets through whatever a damaged file provokes
        raise InputError(
            f"{path}: cannot be read as a MATLAB file ({path.stat().st_size:,} bytes, {type(error).__name__}): it is "
            "truncated or another kind of file; copy it again"
        ) from error
    try:
        params = variables["net"][0, 0]["params"].ravel()
        names = [str(p["name"].item()) for p in params]
        if len(set(names)) < len(names) or any(np.iscomplexobj(p["value"]) for p in params):
            raise ValueError("a name that is there twice, or complex values")
        values = [torch.from_numpy(p["value"].astype(np.float32)) for p in params]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: holds no network of MatConvNet: expected a structure 'net' whose field 'params' has 'name', each "
            "once, and 'value', real numbers"
        ) from error
    if not values:
        raise InputError(f"{path}: the network of MatConvNet has no parameters")
    return dict(zip(names, values, strict=True))
