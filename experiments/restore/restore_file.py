"""One photograph after the other: read, restored, written with all that belongs to it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.errors import ConfigError, InputError
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import read_photograph
from datamodules.io.write_photo import NotWritten, refuse_unwritable, replacing, write_photograph
from experiments.restore import Restorer
from experiments.restore.manifest import Manifest, state
from experiments.restore.paths import Item
from experiments.restore.scratch_array import scratch_array
from experiments.runtime.out_of_memory import shortage

_EIGHT_BIT = (".jpg", ".jpeg", ".webp")
_PICTURE_SIDE = 256  # of the picture of a kernel, at least


class FileRestorer:
    """Restores photographs into files.

    Args:
        restorer: the network.
        arguments: of every restoration: scale, kernel, noise_level, tile, overlap, batch.
        manifest: open; knows which results are complete.
        max_pixels: larger files are refused.
    """

    def __init__(
        self, restorer: Restorer, arguments: Mapping[str, Any], manifest: Manifest, max_pixels: int | None = None
    ) -> None:
        self.restorer, self.arguments, self.manifest = restorer, arguments, manifest
        self.max_pixels = max_pixels
        self.scale: int = arguments["scale"]
        self._bicubic: Restorer | None = None

    def restore(self, item: Item, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Restore a photograph; its result is complete or absent.

        Returns:
            What has to be said of it.

        Raises:
            InputError: the photograph cannot be read, restored or held by the format of its result.
            NotWritten: the folder cannot be written, nor will it with the next photograph.
            ConfigError: an argument does not fit the network.
        """
        with _naming(item):
            before = state(item.source)
            photograph = read_photograph(item.source, self.max_pixels)
            height, width = (self.scale * side for side in photograph.pixels.shape[:2])
            dtype = np.dtype(np.uint8) if item.target.suffix.lower() in _EIGHT_BIT else photograph.pixels.dtype
            refuse_unwritable(item.target, width, height, dtype, photograph.alpha is not None)
            item.target.parent.mkdir(parents=True, exist_ok=True)
            shape = (height, width, photograph.pixels.shape[2])
            flat = (0, 0) if photograph.alpha is None else shape[:2]
            folder = item.target.parent
            with scratch_array(folder, shape, dtype) as sr, scratch_array(folder, flat, dtype) as alpha:
                try:
                    restored = self.restorer.restore(photograph.filled(), **self.arguments, progress=progress, out=sr)
                except NotWritten:
                    raise
                except InputError as error:
                    if error.key in self.arguments:  # no other photograph would do
                        raise ConfigError(str(error), key=error.key) from error
                    raise InputError(f"{item.source}: {error}") from error
                transparency = None if photograph.alpha is None else self._enlarge(photograph.alpha, alpha)

                def record(path: Path) -> None:
                    self.manifest.begin(path, item.source, before)

                if "_kernel.npy" in item.endings and restored.kernel is not None:
                    _write_kernel(item, restored.kernel, record)
                if isinstance(restored.deblurred, np.ndarray) and "_deblurred" in item.endings:
                    pixels = _as_deep(restored.deblurred.reshape(photograph.pixels.shape), dtype)
                    same = None if photograph.alpha is None else _as_deep(photograph.alpha, dtype)
                    write_photograph(item.beside("_deblurred"), photograph.with_pixels(pixels, same), record)
                left_out = write_photograph(item.target, photograph.with_pixels(sr, transparency), record)
        return [*photograph.notes, *restored.notes, *left_out]

    def _enlarge(self, alpha: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Transparency by bicubic interpolation: it is drawn, not photographed, and has no blur to take away."""
        if self.scale == 1 and alpha.dtype == out.dtype:
            return alpha
        if self._bicubic is None:
            self._bicubic = Restorer.load(None, model="bicubic", device=str(self.restorer.device))
        self._bicubic.restore(alpha, scale=self.scale, out=out)
        return out


def _as_deep(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Values for a format that may hold 8 bits only."""
    return values if values.dtype == dtype else ((values.astype(np.uint32) + 128) // 257).astype(dtype)


def _write_kernel(item: Item, kernel: Tensor, record: Callable[[Path], None]) -> None:
    """The exact values, which `kernel=` takes, and a picture, bright where the light went."""
    values = kernel.numpy()
    with replacing(item.beside("_kernel.npy"), record) as part:
        np.save(part, values)
    levels = (values.clip(0) / values.max() * 255).round().astype(np.uint8)
    times = -(-_PICTURE_SIDE // len(levels))
    picture = Photograph(levels.repeat(times, 0).repeat(times, 1)[:, :, None])
    write_photograph(item.beside("_kernel.png"), picture, record)


@contextmanager
def _naming(item: Item) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = shortage(error)
        if reason is None:
            raise
        raise InputError(f"{item.source}: out of memory ({reason}): set a smaller tile= or batch=") from error
    except OSError as error:
        raise InputError(f"{item.source}: cannot be restored into {item.target}: {error.strerror or error}") from error
