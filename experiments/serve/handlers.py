"""What the controls of the page do: from the values of some to updates of others."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from experiments.restore import Restorer
from experiments.serve import blur_controls
from experiments.serve.blur_controls import Blur
from experiments.serve.examples import Example
from experiments.serve.models import Models
from experiments.serve.service import Cancelled, Service, Settings
from experiments.serve.text import CANCELLED, FAILED, READY, START, WORKING, about, describe, refusal, user_errors

OWN_FORMAT = "Of the photograph"
FORMATS = {OWN_FORMAT: None, "PNG": ".png", "TIFF": ".tif", "JPEG": ".jpg", "WebP": ".webp"}
# Which kinds of blur each of the controls is for, in the order of `Blur`.
USED_BY = (
    ("Gaussian",),
    ("Gaussian",),
    ("Gaussian", "Motion"),
    ("Motion",),
    ("Defocus",),
    ("From a file",),
    ("From a file",),
)
hidden = functools.partial(gr.update, visible=False)


class Handlers:
    """Handlers of the page; what they take and return are values of its components.

    Args:
        models: of networks.
        service: where photographs are restored.
        examples: with their files.
    """

    def __init__(self, models: Models, service: Service, examples: Sequence[tuple[Example, Path]]) -> None:
        self.models, self.service, self.examples = models, service, examples

    def on_upload(self, photograph: str | None) -> tuple[Any, ...]:
        """A photograph was given or taken away: preview, and no result of an earlier one."""
        if photograph is None:
            return hidden(value=None), *_nothing(START)
        with user_errors(photograph):
            found = self.service.read(Path(photograph))
            height, width, channels = found.pixels.shape
            label = f"{width} × {height}, {'gray' if channels == 1 else 'colour'}, {8 * found.pixels.itemsize} bit"
            label += ", with transparency" if found.alpha is not None else ""
            return gr.update(value=self.service.preview(found), label=label, visible=True), *_nothing(READY)

    def on_example_selected(self, event: gr.SelectData, model: str, checkpoint: str) -> tuple[Any, ...]:
        """An example was chosen: the photograph and the settings that fit it."""
        if not isinstance(event.index, int) or event.index not in range(len(self.examples)):
            raise refusal("There is no such example.")  # a program may send anything
        example, path = self.examples[event.index]
        with user_errors():
            scales = self.models.restorer(model, checkpoint).scales
        blur = example.blur
        return (
            str(path),
            gr.update(value=example.about, visible=True),
            example.scale if example.scale in scales else gr.skip(),
            example.noise_level,
            *(blur.kind, blur.width, blur.second, blur.angle, blur.length, blur.radius),
        )

    def choose_model(self, model: str, scale: int) -> tuple[Any, ...]:
        """Another model: its checkpoints, and what its first one needs."""
        names = self.models.checkpoints(model)
        return gr.update(choices=names, value=names[0]), *self.choose_checkpoint(model, names[0], scale)

    def choose_checkpoint(self, model: str, checkpoint: str, scale: int) -> tuple[Any, ...]:
        """Another network: scales, what it is, and which controls it needs."""
        with user_errors():
            found = self.models.restorer(model, checkpoint)
        return (
            gr.update(choices=scale_choices(found), value=scale if scale in found.scales else found.scales[-1]),
            about(found),
            gr.update(visible=found.needs_kernel),
            gr.update(visible="noise_level" in found.inputs),
        )

    def show_controls(self, kind: str) -> list[Any]:
        """Another kind of blur: the controls it has."""
        return [gr.update(visible=kind in kinds) for kinds in USED_BY]

    def draw(self, *values: Any) -> str:
        """The controls of the kernel moved."""
        blur = _blur(values)
        if blur.kind == "From a file" and blur.file is None:
            return blur_controls.figure(None, "Give an image of the kernel, or a .npy file.")
        with user_errors(blur.file):
            return blur_controls.figure(blur.kernel(), "Kernel")

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """Restore was pressed: a ticket, words, and the other button is the one to press."""
        ticket = self.service.ticket(str(request.session_hash))
        return ticket, WORKING, gr.update(interactive=False), gr.update(interactive=True)

    def end(self) -> tuple[Any, ...]:
        """A restoration has ended."""
        return gr.update(interactive=True), gr.update(interactive=False)

    def fail(self) -> tuple[Any, ...]:
        """There was none: a fault, which was told, or a full queue."""
        return FAILED, *self.end()

    def cancel(self, request: gr.Request) -> tuple[Any, ...]:
        """Cancel was pressed; gradio takes the request out of its queue, or ends it when `restore` returns."""
        self.leave(request)
        return CANCELLED, *self.end()

    def leave(self, request: gr.Request) -> None:
        """The page was closed: nobody waits for what it asked for."""
        self.service.cancel(str(request.session_hash))

    def restore(
        self,
        photograph: str | None,
        model: str,
        checkpoint: str,
        scale: int,
        noise_level: float,
        file_format: str,
        kind: str,
        width: float,
        second_width: float,
        angle: float,
        length: float,
        radius: float,
        kernel_file: str | None,
        kernel_number: float,
        ticket: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # gradio looks for it in the signature
    ) -> tuple[Any, ...]:
        """Restore was pressed, or a program asks for it; with the slider, words, kernel, download and result."""
        if photograph is None:
            raise refusal("No photograph yet: drop one, or choose an example.")
        blur = _blur((kind, width, second_width, angle, length, radius, kernel_file, kernel_number))
        path = Path(photograph)
        try:
            with user_errors(photograph, kernel_file):
                found = self.models.restorer(model, checkpoint)
                settings = Settings(
                    int(scale),
                    blur.kernel() if found.needs_kernel else None,
                    float(noise_level) if "noise_level" in found.inputs else None,
                )
                progress(0, desc="Restoring")
                done = self.service.restore(
                    path,
                    found,
                    settings,
                    lambda count, tiles: progress((count, tiles), desc="Restoring", unit="tiles"),
                    ticket,
                )
        except Cancelled:
            return *_nothing(CANCELLED), None
        made = (str(done.file), done.suffix)
        with user_errors(photograph):
            copy, note = self.service.delivered(done, FORMATS[file_format])
        figure = blur_controls.figure(done.kernel, "Estimated kernel") if found.estimates_kernel else ""
        before = "enlarged bicubically" if done.size != done.source_size else "as it was"
        return (
            gr.update(value=(str(done.before), str(done.after)), label=f"Left: {before}, right: restored"),
            describe(done, found, model, checkpoint, note),
            gr.update(value=figure, visible=bool(figure)),
            _download(copy),
            made,
        )

    def convert(self, made: tuple[str, str] | None, file_format: str) -> Any:
        """A result in the file format that is wanted, as the download."""
        if made is None:
            return _no_download()
        file, own_suffix = made
        suffix = FORMATS[file_format] or own_suffix
        with user_errors():
            return _download(self.service.converted(Path(file), suffix))


def scale_choices(restorer: Restorer) -> list[tuple[str, int]]:
    """What the network enlarges by, as the page says it."""
    return [("1 ×, deblur only" if scale == 1 else f"{scale} ×", scale) for scale in restorer.scales]


def _blur(values: Sequence[Any]) -> Blur:
    kind, width, second, angle, length, radius, file, number = values
    return Blur(kind, width, second, angle, length, radius, file, int(number or 1))


def _nothing(words: str) -> tuple[Any, ...]:
    """No result."""
    return None, words, hidden(), _no_download()


def _download(file: Path) -> Any:
    return gr.update(value=str(file), label=f"Download {file.name}", interactive=True)


def _no_download() -> Any:
    return gr.update(value=None, label="Download", interactive=False)
