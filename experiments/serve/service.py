"""Restores the photographs of visitors, one at a time, and keeps what they are shown and download."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from datamodules.errors import InputError
from datamodules.io.photo import Photograph
from datamodules.io.read_photo import read_photograph
from datamodules.io.write_photo import write_photograph
from experiments.restore import Restorer
from experiments.serve.temp_files import Folder

SHOWN_PIXELS = 40_000_000  # of the comparison: larger results are shown reduced, for browsers that give up
SUFFIXES = {"PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "WEBP": ".webp"}  # of what can be written
_PREVIEW = 1024  # longest side of the picture of an upload


class Cancelled(Exception):
    """Nobody wants the result any more."""


@dataclass(frozen=True)
class Settings:
    """How a photograph is restored; `kernel` [k, k] and `noise_level` for networks that take them, else None."""

    scale: int
    kernel: torch.Tensor | None = None
    noise_level: float | None = None


@dataclass(frozen=True)
class Done:
    """A restored photograph.

    Attributes:
        before, after: PNG of 8 bit, of equal size: the input enlarged bicubically, and the result.
        file: the result in full, a PNG.
        suffix: of the photograph's own format, where that can be written.
        kernel: [k, k], given or estimated.
        size: width and height of the result.
        source_size: width and height of the input.
        seconds: of the restoration alone.
        tiles: in how many parts.
        notes: what was approximated, a sentence each.
    """

    before: Path
    after: Path
    file: Path
    suffix: str
    kernel: torch.Tensor | None
    size: tuple[int, int]
    source_size: tuple[int, int]
    seconds: float
    tiles: int
    notes: tuple[str, ...]


class Service:
    """Where photographs are handed in.

    Args:
        folder: for all files.
        max_pixels: of a photograph.
        tile, overlap: as of `Restorer.restore`.
    """

    def __init__(self, folder: Folder, max_pixels: int, tile: int | None = None, overlap: int | None = None) -> None:
        self.folder, self.max_pixels, self.tile, self.overlap = folder, max_pixels, tile, overlap
        self._bicubic = Restorer.load(None, model={"_target_": "networks.bicubic.Bicubic", "scale": 1}, device="cpu")
        self._device = threading.Lock()
        self._tickets: dict[str, str] = {}
        self._closed = False

    def read(self, path: Path) -> Photograph:
        """A photograph that was sent.

        Raises:
            InputError: if it is none, or too large; the size is looked at before anything is decoded.
        """
        self.folder.expect(path)
        return read_photograph(path, self.max_pixels)

    def ticket(self, visitor: str) -> str:
        """For a restoration that this visitor is about to wait for, and may cancel."""
        ticket = secrets.token_hex(8)
        self._tickets[ticket] = visitor
        return ticket

    def cancel(self, visitor: str) -> None:
        """End what this visitor waits for, before the next layer of the network."""
        for ticket in [ticket for ticket, owner in list(self._tickets.items()) if owner == visitor]:
            self._tickets.pop(ticket, None)

    def close(self) -> None:
        """End everything, and wait for that."""
        self._closed = True
        self._device.acquire(timeout=30)

    def restore(
        self,
        path: Path,
        restorer: Restorer,
        settings: Settings,
        progress: Callable[[int, int], None],
        ticket: str | None = None,
    ) -> Done:
        """Restore one photograph; waits while another one is being restored.

        Args:
            progress: called as progress(done, all) after every tile.
            ticket: of `ticket`; without one it cannot be cancelled.

        Raises:
            InputError: for a photograph or settings that the network cannot work with.
            Cancelled: after the ticket was given back by `cancel`.
        """
        tiles = 1

        def step(done: int, count: int) -> None:
            nonlocal tiles
            tiles = count
            progress(done, count)

        def check(*_: object) -> None:
            if self._closed or (ticket is not None and ticket not in self._tickets):
                raise Cancelled

        with self._device, before_every_layer(check):
            check()
            photograph = self.read(path)
            began = time.perf_counter()
            result = restorer.restore(
                photograph.filled(),
                settings.scale,
                settings.kernel,
                settings.noise_level,
                self.tile,
                self.overlap,
                progress=step,
            )
            seconds = time.perf_counter() - began
            assert isinstance(result.sr, np.ndarray)
            check()
            pixels = result.sr if result.sr.ndim == 3 else result.sr[:, :, None]
            notes = [*photograph.notes, *result.notes]
            alpha = photograph.alpha
            if alpha is not None:
                alpha = self._enlarged(alpha, settings.scale)
                notes.append("Transparency was enlarged bicubically.")
            if reduction(pixels.shape) > 1:
                notes.append(
                    f"The comparison is shown at 1/{reduction(pixels.shape)} of the size; the download is not."
                )
            before = show(self._enlarged(photograph.pixels, settings.scale), self.folder.make("before.png"))
            after = show(pixels, self.folder.make("after.png"))
            file = self.folder.make(f"{path.stem}_x{settings.scale}.png")
            write_photograph(file, photograph.with_pixels(pixels, alpha))
        if ticket is not None:
            self._tickets.pop(ticket, None)
        source, size = photograph.pixels.shape[1::-1], pixels.shape[1::-1]
        suffix = SUFFIXES.get(photograph.format, ".png")
        return Done(before, after, file, suffix, result.kernel, size, source, seconds, tiles, tuple(notes))

    def _enlarged(self, pixels: np.ndarray, scale: int) -> np.ndarray:
        """Bicubically, [H, W] or [H, W, C]."""
        found = self._bicubic.restore(pixels, scale).sr
        assert isinstance(found, np.ndarray)
        return found

    def delivered(self, done: Done, suffix: str | None) -> tuple[Path, str]:
        """A result in the format of `suffix`, by default the photograph's own; or its PNG, and why."""
        try:
            return self.converted(done.file, suffix or done.suffix), ""
        except InputError as error:  # the work is done, and not in vain
            return done.file, f"{error}: the download is a PNG"

    def converted(self, file: Path, suffix: str) -> Path:
        """A result in another format.

        Raises:
            InputError: if that format cannot hold it, or the result was deleted.
        """
        self.folder.expect(file)
        if file.suffix == suffix:
            return file
        copy = self.folder.make(file.with_suffix(suffix).name)
        write_photograph(copy, read_photograph(file))
        return copy

    def preview(self, photograph: Photograph) -> np.ndarray:
        """A photograph as 8 bit [h, w, 3], small enough for a glance."""
        step = max(1, -(-max(photograph.pixels.shape[:2]) // _PREVIEW))
        return np.asarray(_image(photograph.pixels).reduce(step).convert("RGB"))


@contextmanager
def before_every_layer(check: Callable[..., None]) -> Iterator[None]:
    """Call `check` before every module of every network while the context lasts: a tile may take a minute."""
    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def show(pixels: np.ndarray, path: Path) -> Path:
    """Write uint8 or uint16 [H, W, C] as a PNG of 8 bit for the comparison, reduced if it is huge."""
    image = _image(pixels)
    image.reduce(reduction(pixels.shape)).save(path, compress_level=1)
    return path


def reduction(shape: tuple[int, ...]) -> int:
    """By which whole factor a picture is reduced to be shown."""
    factor = 1
    while shape[0] * shape[1] > SHOWN_PIXELS * factor * factor:
        factor += 1
    return factor


def _image(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
