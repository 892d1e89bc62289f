"""Kernels and noise levels that pairs of photographs bring along, for networks that take them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.degradations.kernel_files import centred, folder
from datamodules.errors import InputError, OptionError

_LEVEL = (
    "a standard deviation on the [0, 1] scale (15 of 255 is 0.0588) for all pairs, or a text file of lines NAME,LEVEL"
)

Names = Sequence[Sequence[str]]  # what each pair may be called in other files, the first that is found counts


def kernels_of(path: Path, pairs: Sequence[tuple[Path, Path]], names: Names) -> Tensor:
    """The kernels [N, 1, k, k] of the pairs, each divided by its sum; smaller ones have zeros around them.

    Args:
        path: one file for all pairs, or the folder of NAME.mat, NAME.npy or else NAME.png. It may hold the photographs
            too.

    Raises:
        InputError: a pair has no kernel, or more than one; a file cannot be read or holds several.
    """
    if not path.exists():
        raise InputError(f"data.source.kernels={path}: not found, expected a folder of kernels, or one file")
    files = [path] * len(pairs)
    if path.is_dir():
        photographs = {file.resolve() for pair in pairs for file in pair}
        found = [_find(path, photographs, pair[1], of_one) for pair, of_one in zip(pairs, names, strict=True)]
        files = [file for file in found if file is not None]
        if lacking := [" or ".join(of_one) for of_one, file in zip(names, found, strict=True) if file is None]:
            raise InputError(
                f"data.source.kernels={path}: lacks the kernels of {len(lacking)} of {len(pairs)} pairs, expected "
                f"{lacking[0]} with .mat, .npy or .png in it, or one file for all pairs"
            )
    read = {file: _kernel(file) for file in dict.fromkeys(files)}
    side = max(map(len, read.values()))
    return torch.from_numpy(np.stack([centred(read[file], side) for file in files])[:, None])


def _find(root: Path, photographs: Collection[Path], degraded: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        arrays, png = [root / f"{name}{suffix}" for suffix in (".mat", ".npy")], root / f"{name}.png"
        found = [file for file in arrays if file.is_file()]
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1]}: expected one kernel for {degraded}: remove one")
        if found or (png.is_file() and png.resolve() not in photographs):
            return [*found, png][0]
    return None


def _kernel(file: Path) -> np.ndarray:
    suite = folder(file, normalise=True)
    if len(suite.names) != 1:
        raise InputError(f"{file}: holds {len(suite.names)} kernels, expected one: save each as a file of its own")
    return suite.kernels[0, 0].numpy()


def check_noise_level(value: float | str | None) -> None:
    """Raises `OptionError` for a number that is no standard deviation."""
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise OptionError(key="data.source.noise_level", found=f"{value}", expected=_LEVEL)


def noise_levels_of(value: float | str, names: Names) -> list[float]:
    """The noise levels of the pairs: `value` for all, or what the file of that name says.

    Raises:
        InputError: it cannot be read, is none of noise levels, or lacks that of a pair.
    """
    if not isinstance(value, str):
        return [float(value)] * len(names)
    levels = _read(Path(value).expanduser())
    found = [next((levels[name] for name in of_one if name in levels), None) for of_one in names]
    if lacking := [" or ".join(of_one) for of_one, level in zip(names, found, strict=True) if level is None]:
        raise InputError(
            f"data.source.noise_level={value}: lacks the levels of {len(lacking)} of {len(names)} pairs, expected a "
            f"line {lacking[0]},LEVEL"
        )
    return [level for level in found if level is not None]


def _read(file: Path) -> dict[str, float]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"data.source.noise_level={file}: cannot be read ({reason}), expected {_LEVEL}") from error
    levels = {}
    for number, line in enumerate(lines, 1):
        name, _, text = line.rpartition(",")
        try:
            level = float(text)
        except ValueError:
            level = -1.0
        if line.strip() and not (name and 0 <= level <= 1):
            raise InputError(
                f"{file}, line {number}: found {line[:100]!r}, expected NAME,LEVEL with a level from 0 to 1: divide "
                "those of 8-bit images by 255"
            )
        levels[name.strip()] = level
    return levels
