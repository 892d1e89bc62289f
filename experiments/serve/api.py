"""The same for programs: an endpoint `/restore` with few parameters, for gradio_client or plain HTTP."""

import re
from pathlib import Path

import gradio as gr
from torch import Tensor

from datamodules.degradations.kernel_spec import FORMULAS, given_kernel
from datamodules.errors import InputError
from experiments.restore import Restorer
from experiments.serve.blur_controls import Blur
from experiments.serve.handlers import FORMATS, OWN_FORMAT, Handlers
from experiments.serve.service import Cancelled, Settings
from experiments.serve.text import CANCELLED, describe, refusal, user_errors

_FORMULA = re.compile(r"\s*(none|(gaussian|motion|disk):[-+.,\d\s]+)\s*", re.IGNORECASE)


class Endpoint:
    """What a program asks for."""

    def __init__(self, handlers: Handlers) -> None:
        self.models, self.service = handlers.models, handlers.service

    def restore(
        self,
        photograph: str,
        model: str | None = None,
        checkpoint: str | None = None,
        scale: float | None = None,
        kernel: str | None = None,
        kernel_file: str | None = None,
        kernel_number: float | None = None,
        noise_level: float | None = None,
        file_format: str | None = None,
    ) -> tuple[str, str]:
        """Restore a photograph.

        Args:
            photograph: file.
            model: name of what is served; the first one if it is left out.
            checkpoint: name; the first one of the model if it is left out.
            scale: to enlarge by; the largest that the network has if it is left out.
            kernel: gaussian:1.6, gaussian:2.0,0.8,30, motion:15,30, disk:2.5 or none, for networks that need one.
            kernel_file: instead of it an image or .npy.
            kernel_number: which of several kernels in the file, from 1.
            noise_level: standard deviation, of values from 0 to 1, for networks that take it.
            file_format: PNG, TIFF, JPEG or WebP; that of the photograph if it is left out. What a format cannot hold
                comes as a PNG, and the words say so.

        Returns:
            The restored photograph, and what was done in words.
        """
        with user_errors(photograph, kernel_file):
            if photograph is None:
                raise InputError("photograph: none was given")
            if file_format is not None and file_format not in FORMATS:
                raise InputError(f"file_format: found {file_format!r}, expected one of {', '.join(FORMATS)}")
            model = model or self.models.names[0]
            checkpoint = checkpoint or (self.models.checkpoints(model) or [""])[0]
            network = self.models.restorer(model, checkpoint)
            settings = Settings(
                int(scale or network.scales[-1]), _kernel(network, kernel, kernel_file, kernel_number), noise_level
            )
            try:
                done = self.service.restore(Path(photograph), network, settings, lambda *_: None)
            except Cancelled:
                raise refusal(CANCELLED) from None
            file, note = self.service.delivered(done, FORMATS[file_format or OWN_FORMAT])
            return str(file), describe(done, network, model, checkpoint, note)


def _kernel(network: Restorer, formula: str | None, file: str | None, number: float | None) -> Tensor | None:
    """The kernel that was given in one of two ways; a formula must not name a file of the server."""
    if formula and file:
        raise InputError("kernel and kernel_file: each says what the kernel is: give one of them")
    if file:
        return Blur("From a file", file=file, number=int(number or 1)).kernel()
    if not formula:
        return None
    if not _FORMULA.fullmatch(formula):
        raise InputError(f"kernel: found {formula!r}, expected {FORMULAS}; send a file as kernel_file")
    return given_kernel(formula)


def add_endpoint(handlers: Handlers) -> None:
    """Add `/restore` to the page that is being built, through components that are not shown.

    Files go through components because these refuse what was not uploaded.
    """
    with gr.Row(visible=False):
        inputs = [
            gr.File(label="photograph"),
            gr.Textbox(None, label="model"),
            gr.Textbox(None, label="checkpoint"),
            gr.Number(None, label="scale", precision=0),
            gr.Textbox(None, label="kernel"),
            gr.File(label="kernel_file"),
            gr.Number(None, label="kernel_number", precision=0),
            gr.Number(None, label="noise_level"),
            gr.Textbox(None, label="file_format"),
        ]
        outputs = [gr.File(label="restored"), gr.Textbox(label="report")]
        gr.Button().click(
            Endpoint(handlers).restore,
            inputs,
            outputs,
            concurrency_limit=1,
            concurrency_id="device",
            api_name="restore",
        )
