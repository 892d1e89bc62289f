"""One photograph: read, restored, written with all that belongs to it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from datamodules.errors import ConfigError, InputError
from datamodules.io.decode import decoded_bytes, to_eight_bit
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import DEVELOPED, RAW_SUFFIXES, read_photograph
from datamodules.io.write_photo import NotWritten, refuse_unwritable, write_photograph, writing
from experiments.restore.image_buffer import scratch_array
from experiments.restore.manifest import Manifest, state
from experiments.restore.paths import Item
from experiments.restore.restorer import BICUBIC, Restorer
from experiments.runtime.out_of_memory import shortage

_EIGHT_BIT = (".jpg", ".jpeg", ".webp")
_PICTURE_SIDE = 256  # of the picture of a kernel, at least


class Work:
    """A photograph on its way: `read`, `restore`, `write`, one after the other, each in any thread.

    What is raised by all of them: InputError, if the photograph cannot be read, restored or held by the format of its
    result.

    Args:
        item: the photograph and its result, which is complete or absent.
        arguments: of `Restorer.restore`: scale, kernel, noise_level, tile, overlap, batch.
        manifest: open; gets to know which results are complete.
        max_pixels: larger files are refused.

    Attributes:
        seconds: that the three have taken so far, without what lay between them.
    """

    def __init__(
        self,
        item: Item,
        restorer: Restorer,
        arguments: Mapping[str, Any],
        manifest: Manifest,
        max_pixels: int | None = None,
    ) -> None:
        self.item, self.restorer, self.arguments = item, restorer, arguments
        self.manifest, self.max_pixels = manifest, max_pixels
        self.seconds = 0.0
        self._room = ExitStack()  # what the result takes, until it is written

    @cached_property
    def size(self) -> float:
        """Bytes of photograph and result by the header, with 8 bits a channel; infinite where it does not tell."""
        if self.item.source.suffix.lower() in RAW_SUFFIXES:  # whose header may be that of a preview
            return math.inf
        try:
            return decoded_bytes(self.item.source) * (1 + self.arguments["scale"] ** 2)
        except InputError:
            return math.inf

    def read(self) -> None:
        """Read the photograph, and refuse what its result could not hold."""
        with self._step():
            self.before = state(self.item.source)
            self.photograph = read_photograph(self.item.source, self.max_pixels)
            height, width = (self.arguments["scale"] * side for side in self.photograph.pixels.shape[:2])
            self.shape = (height, width, self.photograph.pixels.shape[2])
            self.stored = self.photograph.pixels.dtype
            self.dtype = np.dtype(np.uint8) if self.item.target.suffix.lower() in _EIGHT_BIT else self.stored
            refuse_unwritable(self.item.target, width, height, self.dtype, self.photograph.alpha is not None)
            self.given = self.photograph.filled()

    def restore(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Restore what was read.

        Raises:
            NotWritten: the folder cannot be written, nor will it with the next photograph.
            ConfigError: an argument does not fit the network.
        """
        alpha = self.photograph.alpha
        with self._step():
            folder = self.item.target.parent
            folder.mkdir(parents=True, exist_ok=True)
            self.sr = self._room.enter_context(scratch_array(folder, self.shape, self.dtype))
            flat = (0, 0) if alpha is None else self.shape[:2]
            self.alpha = self._room.enter_context(scratch_array(folder, flat, self.dtype))
            try:
                self.restored = self.restorer.restore(self.given, **self.arguments, progress=progress, out=self.sr)
            except NotWritten:
                raise
            except InputError as error:
                if error.key in (*self.arguments, "engine", "precision"):  # no other photograph would do
                    raise ConfigError(str(error), key=error.key) from error
                raise InputError(f"{self.item.source}: {error}") from error
            if alpha is not None:
                # By interpolation: it is drawn, not photographed, and has no blur to take away.
                bicubic = Restorer.load(model=BICUBIC, device=str(self.restorer.device))
                bicubic.restore(alpha, self.arguments["scale"], out=self.alpha)

    def write(self) -> tuple[list[str], list[str]]:
        """Write the result, and what else is made of it.

        Returns:
            What the photograph loses, and what has to be said besides, each a few words.

        Raises:
            NotWritten: as `restore`.
        """
        item, photograph, restored = self.item, self.photograph, self.restored
        with self._step(), self._room:
            if "_kernel.npy" in item.endings and restored.kernel is not None:
                _write_kernel(item, restored.kernel, self._record)
            if isinstance(restored.deblurred, np.ndarray) and "_deblurred" in item.endings:
                fitting = to_eight_bit if self.dtype == np.uint8 else np.asarray
                pixels = fitting(restored.deblurred.reshape(photograph.pixels.shape))
                same = None if photograph.alpha is None else fitting(photograph.alpha)
                write_photograph(item.beside("_deblurred"), photograph.with_pixels(pixels, same), self._record)
            result = photograph.with_pixels(self.sr, None if photograph.alpha is None else self.alpha)
            left_out = write_photograph(item.target, result, self._record)
        developed = [DEVELOPED] if DEVELOPED in photograph.notes else []
        lost = [note for note in photograph.notes if note != DEVELOPED]
        suffix = item.target.suffix
        reduced = [f"16 bits a channel reduced to the 8 that {suffix} holds"] * (self.dtype != self.stored)
        return [*lost, *reduced, *left_out], [*developed, *restored.notes]

    def _record(self, path: Path) -> None:
        self.manifest.begin(path, self.item.source, self.before)

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Times a part of the work, and says in one line what went wrong."""
        item, began = self.item, time.perf_counter()
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            reason = shortage(error)
            if reason is None:
                raise
            raise InputError(f"{item.source}: out of memory ({reason}): set a smaller tile= or batch=") from error
        except OSError as error:
            raise InputError(
                f"{item.source}: cannot be restored into {item.target}: {error.strerror or error}"
            ) from error
        finally:
            self.seconds += time.perf_counter() - began


def _write_kernel(item: Item, kernel: Tensor, record: Callable[[Path], None]) -> None:
    """The exact values, which `kernel=` takes, and a picture, bright where the light went."""
    values = kernel.numpy()
    with writing(item.beside("_kernel.npy"), record) as part, part.open("wb") as file:
        np.save(file, values)
    levels = (values.clip(0) / values.max() * 255).round().astype(np.uint8)
    times = -(-_PICTURE_SIDE // len(levels))
    picture = Photograph(levels.repeat(times, 0).repeat(times, 1)[:, :, None])
    write_photograph(item.beside("_kernel.png"), picture, record)
