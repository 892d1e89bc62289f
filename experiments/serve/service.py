"""What visitors and programs ask for: from values of the page's components to values or updates of others."""

import html
import logging
import math
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from torch import Tensor

from datamodules.errors import ConfigError, InputError
from datamodules.io.decode import to_eight_bit
from datamodules.io.photo import Photograph
from experiments.restore import BICUBIC, Restoration, Restorer
from experiments.runtime.out_of_memory import shortage
from experiments.serve.blur_controls import Blur
from experiments.serve.examples import Example
from experiments.serve.files import FORMATS, OWN_FORMAT, new_folder, read, suffix_of, write, write_picture
from experiments.serve.models import Models
from experiments.serve.temp_files import Room
from lightning_modules.plots.kernels import SMALL_KERNEL, kernel_picture

log = logging.getLogger(__name__)

START = "Choose a photograph and press Restore."
PREVIEW = 1024  # longest side of the picture of an upload
SHOWN_PIXELS = 40_000_000  # of the comparison: larger results are shown reduced, for browsers that give up


class Cancelled(Exception):
    """Nobody wants the result any more."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Faults of the input as a message on the page; others in the log of the server, and a neutral one on the page."""
    try:
        yield
    except gr.Error:
        raise
    except (InputError, ConfigError) as error:
        raise gr.Error(plain(str(error)), duration=None, print_exception=False) from error
    except Exception as error:
        log.exception("a request failed")
        message = "Something went wrong on the server, which has noted it."
        if shortage(error):
            message = "Not enough memory for this: try a smaller photograph or scale."
        raise gr.Error(message, duration=None, print_exception=False) from error


def plain(text: str) -> str:
    """A text as HTML in which temporary files have names only; a file may be called anything."""
    return html.escape(re.sub(re.escape(tempfile.gettempdir()) + r"/(?:[^/\s]+/)*", "", text), quote=False)


@dataclass
class Service:
    """Handlers of the page."""

    models: Models
    room: Room  # for files
    max_pixels: int  # of a photograph
    tile: int | None = None  # as of `Restorer.restore`
    overlap: int | None = None
    examples: dict[str, Example] = field(default_factory=dict)  # by their files
    visitor: str | None = None  # whose photograph is being restored; another value ends that

    def __post_init__(self) -> None:
        self._busy = threading.Lock()
        self._bicubic = Restorer.load(model=BICUBIC, device="cpu")

    @user_errors()
    def on_photograph(self, file: str | None) -> tuple[Any, ...]:
        """A photograph was given or taken away: preview, and no result of an earlier one."""
        if file is None:
            return gr.update(value=None, visible=False), None, START, None, None, None
        photograph = read(file, self.max_pixels)
        pixels = photograph.pixels
        label = f"{size(pixels)}, {'gray' if pixels.shape[2] == 1 else 'colour'}, {8 * pixels.itemsize} bit"
        if photograph.alpha is not None:
            label += ", with transparency"
        picture = eight_bit(pixels).reduce(-(-max(pixels.shape) // PREVIEW)).convert("RGB")
        with new_folder(self.room) as save:
            shown = write_picture(save, "preview.png", picture)
        report = self.examples[file].about if file in self.examples else "Press Restore."
        return gr.update(value=shown, label=label, visible=True), None, report, None, None, None

    @user_errors()
    def on_example(self, index: int, model: str, checkpoint: str) -> tuple[Any, ...]:
        """An example was chosen: the photograph and the settings that fit it."""
        if index not in range(len(self.examples)):  # a program may send anything
            raise InputError("There is no such example.")
        file, example = list(self.examples.items())[index]
        scale = example.scale if example.scale in self.models.restorer(model, checkpoint).scales else gr.skip()
        blur = example.blur
        sliders = (blur.width, blur.second, blur.angle, blur.length, blur.radius)
        return file, scale, example.noise_level, blur.kind, *sliders

    @user_errors()
    def on_model(self, model: str, scale: int | None) -> tuple[Any, ...]:
        """Another model: its checkpoints, and what its first one needs."""
        names = self.models.checkpoints(model)
        first = next(iter(names), "")
        return gr.update(choices=names, value=first), *self.on_checkpoint(model, first, scale)

    @user_errors()
    def on_checkpoint(self, model: str, checkpoint: str, scale: int | None) -> tuple[Any, ...]:
        """Another network: scales, what it is, and which controls it needs."""
        restorer = self.models.restorer(model, checkpoint)
        choices = [("1 ×, deblur only" if scale == 1 else f"{scale} ×", scale) for scale in restorer.scales]
        return (
            gr.update(choices=choices, value=scale if scale in restorer.scales else restorer.scales[-1]),
            about(restorer),
            gr.update(visible=restorer.needs_kernel),
            gr.update(visible="noise_level" in restorer.inputs),
            gr.update(visible=restorer.estimates_kernel),
        )

    @user_errors()
    def draw(self, *values: Any) -> str | None:
        """The controls of the kernel moved."""
        kernel = Blur(*values).kernel()
        if kernel is None:
            return None
        with new_folder(self.room) as save:
            return write_picture(save, "kernel.png", kernel_picture(kernel[None], SMALL_KERNEL))

    def cancel(self, request: gr.Request) -> None:
        """Cancel was pressed, or the page was closed: what this visitor waits for ends after its tile."""
        if self.visitor == request.session_hash:
            self.visitor = None

    def close(self) -> None:
        """End what is being restored, and wait for that: torch aborts where it is at work when Python ends."""
        self.visitor = None
        self._busy.acquire(timeout=60)

    @user_errors()
    def restore(
        self,
        request: gr.Request,
        photograph: str | None,
        model: str,
        checkpoint: str | None = None,
        scale: int | None = None,
        noise_level: float = 0.01,
        file_format: str = OWN_FORMAT,
        kind: str | None = None,
        width: float = Blur.width,
        second_width: float = Blur.second,
        angle: float = Blur.angle,
        length: float = Blur.length,
        radius: float = Blur.radius,
        kernel_file: str | None = None,
        kernel_number: int = 1,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # gradio looks for it in the signature
    ) -> tuple[Any, ...]:
        """Restore a photograph.

        Without `checkpoint` by the first one of the model, without `scale` by the largest. `kind` is the kind of the
        blur, for networks that need it; others ignore it and `noise_level`.

        Returns:
            The restored photograph, what was done in words, the two halves of the comparison, the estimated kernel.
        """
        if photograph is None:
            raise InputError("No photograph yet: drop one, or choose an example.")
        visitor = self.visitor = request.session_hash

        def after_tile(done: int, tiles: int) -> None:
            if self.visitor != visitor:
                raise Cancelled
            progress((done, tiles), desc="Restoring", unit="tiles")

        checkpoint = checkpoint or next(iter(self.models.checkpoints(model)), "")
        restorer = self.models.restorer(model, checkpoint)
        if scale is None:
            scale = restorer.scales[-1]
        elif str(scale).isdecimal():
            scale = int(str(scale))  # text, if it was typed
        source = read(photograph, self.max_pixels)
        blur = Blur(kind, width, second_width, angle, length, radius, kernel_file, kernel_number)
        kernel = blur.kernel() if restorer.needs_kernel else None
        noise = noise_level if "noise_level" in restorer.inputs else None
        with self._busy:
            began = time.perf_counter()
            try:
                restored = restorer.restore(
                    source.filled(), scale, kernel, noise, self.tile, self.overlap, progress=after_tile
                )
            except Cancelled:
                return None, "Cancelled.", None, None, None
            by = f"{time.perf_counter() - began:.1f} s on {restorer.device.type}, by {model}, {checkpoint}."
            kernel = restored.kernel if restorer.estimates_kernel else None
            return self._results(Path(photograph).stem, source, restored, kernel, by, file_format)

    def _results(
        self,
        name: str,
        source: Photograph,
        restored: Restoration,
        kernel: Tensor | None,
        by: str,
        file_format: str,
    ) -> tuple[Any, ...]:
        """Files of a result, and what is said of it."""
        pixels, alpha, notes = np.atleast_3d(restored.sr), source.alpha, [*source.notes, *restored.notes]
        if alpha is not None:
            alpha = self._enlarge(alpha, restored.scale)
            notes.append("Transparency was enlarged bicubically.")
        name, result = f"{name}_x{restored.scale}", source.with_pixels(pixels, alpha)
        own_format = source.format if source.format in FORMATS else "PNG"
        suffix, comparison, estimated = suffix_of(file_format, own_format), None, None
        with new_folder(self.room) as save:  # in which no file makes room for another
            file = lossless = write(save, f"{name}.png", result)[0]
            try:  # from here on the work is done, and not in vain
                if suffix != ".png":
                    file, left_out = write(save, name + suffix, result)
                    notes += left_out
            except InputError as error:
                notes.append(f"{error}: the download is a PNG")
            reduction = math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / SHOWN_PIXELS))
            if reduction > 1:
                notes.append(f"The comparison is shown at 1/{reduction} of the size; the download is not.")
            try:
                if kernel is not None:
                    estimated = write_picture(save, "kernel.png", kernel_picture(kernel[None], SMALL_KERNEL))
                before = eight_bit(self._enlarge(source.pixels, restored.scale)).reduce(reduction)
                after = eight_bit(pixels).reduce(reduction)
                comparison = write_picture(save, "before.png", before), write_picture(save, "after.png", after)
            except InputError as error:
                notes.append(f"{error}: the result is not shown, but can be downloaded")
        report = f"**{size(pixels)}** from {size(source.pixels)}, {by}\n" + "".join(f"\n- {note}" for note in notes)
        return file, plain(report), comparison, estimated, (lossless, own_format)

    def convert(self, result: tuple[str, str] | None, file_format: str) -> str | None:
        """A result, given with the format of its photograph, in the file format that is wanted.

        Raises:
            InputError: that format cannot hold it, or it was deleted.
        """
        if result is None:
            return None
        photograph, suffix = read(result[0]), suffix_of(file_format, result[1])
        if result[0].endswith(suffix):
            return result[0]
        with new_folder(self.room) as save:
            file, left_out = write(save, Path(result[0]).stem + suffix, photograph)
        for note in left_out:
            gr.Info(plain(note))
        return file

    def _enlarge(self, pixels: np.ndarray, scale: int) -> np.ndarray:
        """Bicubically, [H, W] or [H, W, C]."""
        return np.asarray(self._bicubic.restore(pixels, scale).sr)


def eight_bit(pixels: np.ndarray) -> Image.Image:
    """A picture of uint8 or uint16 [H, W, C]."""
    pixels = to_eight_bit(pixels)
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def size(pixels: np.ndarray) -> str:
    """Of a picture [H, W, C], as people say it."""
    return f"{pixels.shape[1]} × {pixels.shape[0]}"


def about(restorer: Restorer) -> str:
    """What visitors may want to know of a network, as Markdown."""
    learned = f"{restorer.parameters / 1e6:.2f} M parameters" if restorer.parameters else "Not learned"
    if restorer.needs_kernel:
        return f"{learned}. Non-blind: set the blur of the photograph below."
    if restorer.estimates_kernel:
        return f"{learned}. Blind: it estimates the blur kernel and shows it."
    return f"{learned}. Blind: it needs no blur kernel."
