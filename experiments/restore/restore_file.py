"""One photograph after the other: read, restored, written with all that belongs to it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.errors import ConfigError, InputError
from datamodules.io.decode import to_eight_bit
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import DEVELOPED, read_photograph
from datamodules.io.write_photo import NotWritten, refuse_unwritable, write_photograph, writing
from experiments.restore import BICUBIC, Restorer
from experiments.restore.image_buffer import scratch_array
from experiments.restore.manifest import Manifest, state
from experiments.restore.paths import Item
from experiments.runtime.out_of_memory import shortage

_EIGHT_BIT = (".jpg", ".jpeg", ".webp")
_PICTURE_SIDE = 256  # of the picture of a kernel, at least


def restore_file(
    item: Item,
    restorer: Restorer,
    arguments: Mapping[str, Any],
    manifest: Manifest,
    max_pixels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[str], list[str]]:
    """Restore a photograph; its result is complete or absent.

    Args:
        arguments: of `Restorer.restore`: scale, kernel, noise_level, tile, overlap, batch.
        manifest: open; gets to know which results are complete.
        max_pixels: larger files are refused.

    Returns:
        What the photograph loses, and what has to be said besides, each a few words.

    Raises:
        InputError: the photograph cannot be read, restored or held by the format of its result.
        NotWritten: the folder cannot be written, nor will it with the next photograph.
        ConfigError: an argument does not fit the network.
    """
    with _naming(item):
        before = state(item.source)
        photograph = read_photograph(item.source, max_pixels)
        height, width = (arguments["scale"] * side for side in photograph.pixels.shape[:2])
        stored = photograph.pixels.dtype
        dtype = np.dtype(np.uint8) if item.target.suffix.lower() in _EIGHT_BIT else stored
        reduced = [] if dtype == stored else [f"16 bits a channel reduced to the 8 that {item.target.suffix} holds"]
        refuse_unwritable(item.target, width, height, dtype, photograph.alpha is not None)
        folder = item.target.parent
        folder.mkdir(parents=True, exist_ok=True)
        shape = (height, width, photograph.pixels.shape[2])
        flat = (0, 0) if photograph.alpha is None else shape[:2]
        with scratch_array(folder, shape, dtype) as sr, scratch_array(folder, flat, dtype) as alpha:
            try:
                restored = restorer.restore(photograph.filled(), **arguments, progress=progress, out=sr)
            except NotWritten:
                raise
            except InputError as error:
                if error.key in (*arguments, "engine", "precision"):  # no other photograph would do
                    raise ConfigError(str(error), key=error.key) from error
                raise InputError(f"{item.source}: {error}") from error
            if photograph.alpha is not None:
                # By interpolation: it is drawn, not photographed, and has no blur to take away.
                bicubic = Restorer.load(model=BICUBIC, device=str(restorer.device))
                bicubic.restore(photograph.alpha, arguments["scale"], out=alpha)

            def record(path: Path) -> None:
                manifest.begin(path, item.source, before)

            if "_kernel.npy" in item.endings and restored.kernel is not None:
                _write_kernel(item, restored.kernel, record)
            if isinstance(restored.deblurred, np.ndarray) and "_deblurred" in item.endings:
                fitting = to_eight_bit if dtype == np.uint8 else np.asarray
                pixels = fitting(restored.deblurred.reshape(photograph.pixels.shape))
                same = None if photograph.alpha is None else fitting(photograph.alpha)
                write_photograph(item.beside("_deblurred"), photograph.with_pixels(pixels, same), record)
            result = photograph.with_pixels(sr, None if photograph.alpha is None else alpha)
            left_out = write_photograph(item.target, result, record)
    developed = [DEVELOPED] if DEVELOPED in photograph.notes else []
    lost = [note for note in photograph.notes if note != DEVELOPED]
    return [*lost, *reduced, *left_out], [*developed, *restored.notes]


def _write_kernel(item: Item, kernel: Tensor, record: Callable[[Path], None]) -> None:
    """The exact values, which `kernel=` takes, and a picture, bright where the light went."""
    values = kernel.numpy()
    with writing(item.beside("_kernel.npy"), record) as part, part.open("wb") as file:
        np.save(file, values)
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
