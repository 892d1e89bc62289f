"""Optional metrics of whole restored images. Each needs a file that the user has: nothing is fetched."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from lightning_modules.metrics import lpips, niqe

# Of restored images and true ones, both [B, C, H, W] about [0, 1], C = 1 or 3: scores [B]. ValueError for images that
# are too small.
ImageMetric = Callable[[Tensor, Tensor], Tensor]

# Name of a metric: the config key of its file, and what that is.
FILES = {"lpips": ("lpips_weights", lpips.SOURCE), "niqe": ("niqe_model", niqe.SOURCE)}


def build_metrics(
    names: Sequence[str], lpips_weights: str | None = None, niqe_model: str | None = None
) -> dict[str, ImageMetric]:
    """The metrics of these names; built once for each file.

    Raises:
        ValueError: for another name.
        InputError: if a file is missing, unreadable or something else.
    """
    files = {"lpips_weights": lpips_weights, "niqe_model": niqe_model}
    for name in names:
        if name not in FILES:
            raise ValueError(f"metrics: found {name!r}, expected {' or '.join(FILES)}")
    return {name: _make(name, files[FILES[name][0]] or "") for name in names}


@lru_cache(maxsize=4)
def _make(name: str, file: str) -> ImageMetric:
    return lpips.LPIPS(Path(file)) if name == "lpips" else niqe.NIQE(Path(file))
