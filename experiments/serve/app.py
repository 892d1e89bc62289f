"""The page: what is on it, and which action belongs to which control."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from datamodules.io.decode import IMAGE_SUFFIXES
from experiments.serve import blur_controls
from experiments.serve.api import add_endpoint
from experiments.serve.blur_controls import Blur
from experiments.serve.examples import Example
from experiments.serve.handlers import FORMATS, OWN_FORMAT, USED_BY, Handlers, scale_choices
from experiments.serve.models import Models
from experiments.serve.service import Service
from experiments.serve.text import START, about

CSS = Path(__file__).with_name("page.css").read_text("utf-8")
THEME = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))  # none to fetch
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}


def build(models: Models, service: Service, examples: Sequence[tuple[Example, Path]], keep_minutes: float) -> gr.Blocks:
    """The page, for any number of visitors.

    Args:
        models: what can be chosen; its first network is shown first.
        service: where photographs are restored.
        examples: with their files.
        keep_minutes: how long files are kept, which visitors are told.
    """
    handlers = Handlers(models, service, examples)
    model_name, checkpoint_names = models.names[0], models.checkpoints(models.names[0])
    restorer = models.restorer(model_name, checkpoint_names[0])

    with gr.Blocks(title="Deblur and enlarge photographs", analytics_enabled=False) as page:
        gr.Markdown(
            "# Deblur and enlarge photographs\n"
            "One photograph is restored at a time; others wait in a queue. "
            f"Uploads and results are deleted after {keep_minutes:g} minutes."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photograph = gr.File(
                    label="Photograph: PNG, JPEG, BMP, TIFF or WebP",
                    file_types=list(IMAGE_SUFFIXES),
                    height=150,
                    elem_id="photograph",
                )
                preview = gr.Image(
                    format="png", interactive=False, visible=False, height=220, buttons=[], elem_id="preview"
                )
                gallery = gr.Gallery(
                    [(str(path), example.title) for example, path in examples],
                    label="Or an example",
                    columns=len(examples),
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
                about_example = gr.Markdown(visible=False, elem_id="about_example")
                with gr.Group():
                    with gr.Row():
                        model = gr.Dropdown(
                            models.names, value=model_name, label="Model", elem_id="model", min_width=160
                        )
                        checkpoint = gr.Dropdown(
                            checkpoint_names,
                            value=checkpoint_names[0],
                            label="Checkpoint",
                            elem_id="checkpoint",
                            min_width=120,
                        )
                    scale = gr.Radio(
                        scale_choices(restorer), value=restorer.scales[-1], label="Enlarge", elem_id="scale"
                    )
                about_model = gr.Markdown(about(restorer), elem_id="about_model")
                with gr.Column(visible=restorer.needs_kernel, elem_id="blur") as blur:
                    kind, controls, drawing = _blur_controls()
                noise_level = gr.Slider(
                    0,
                    0.1,
                    value=0.01,
                    step=0.001,
                    label="Noise level",
                    info="standard deviation, of values from 0 to 1; more of it gives a smoother result",
                    visible="noise_level" in restorer.inputs,
                    elem_id="noise_level",
                )
            with gr.Column(scale=3, min_width=320, elem_id="result"):
                with gr.Row():
                    go = gr.Button("Restore", variant="primary", elem_id="go")
                    cancel = gr.Button("Cancel", interactive=False, elem_id="cancel")
                comparison = gr.ImageSlider(
                    label="Before and after",
                    type="filepath",
                    format="png",
                    interactive=False,
                    max_height=720,
                    buttons=["fullscreen"],
                    elem_id="comparison",
                )
                report = gr.Markdown(START, elem_id="report")
                estimated = gr.HTML(visible=False, elem_id="estimated")
                with gr.Row(elem_id="take"):
                    file_format = gr.Dropdown(list(FORMATS), value=OWN_FORMAT, label="File format", elem_id="format")
                    download = gr.DownloadButton("Download", interactive=False, elem_id="download")
        ticket, made = gr.State(), gr.State()

        network, blur_values = [model, checkpoint], [kind, *controls]
        shown, result = [scale, about_model, blur, noise_level], [comparison, report, estimated, download]
        looked = photograph.change(handlers.on_upload, photograph, [preview, *result], concurrency_limit=2, **QUIET)
        looked.failure(lambda: None, None, photograph, **AT_ONCE)  # what is no photograph is taken away
        photograph.upload(lambda: gr.update(visible=False), None, about_example, **AT_ONCE)
        gallery.select(
            handlers.on_example_selected,
            network,
            [photograph, about_example, scale, noise_level, *blur_values[:6]],
            **AT_ONCE,
        )
        model.input(handlers.choose_model, [model, scale], [checkpoint, *shown], **QUIET)
        checkpoint.input(handlers.choose_checkpoint, [*network, scale], shown, **QUIET)
        kind.change(handlers.show_controls, kind, controls, **AT_ONCE)
        for control in blur_values:
            control.change(handlers.draw, blur_values, drawing, trigger_mode="always_last", **AT_ONCE)
        file_format.input(handlers.convert, [made, file_format], download, **QUIET)

        begun = go.click(handlers.begin, None, [ticket, report, go, cancel], **AT_ONCE)
        restored = begun.then(
            handlers.restore,
            [photograph, *network, scale, noise_level, file_format, *blur_values, ticket],
            [*result, made],
            concurrency_limit=1,
            concurrency_id="device",
            show_progress_on=comparison,
            api_name="restore_on_page",
            api_visibility="private",
        )
        restored.success(handlers.end, None, [go, cancel], **AT_ONCE)
        restored.failure(handlers.fail, None, [report, go, cancel], **AT_ONCE)  # what `then` does not see
        cancel.click(handlers.cancel, None, [report, go, cancel], cancels=[restored], **AT_ONCE)
        page.unload(handlers.leave)
        add_endpoint(handlers)
    return page


def _blur_controls() -> tuple[gr.Radio, list[Any], gr.HTML]:
    """The kind of blur, the controls in the order of `Blur`, and the drawing."""
    start = Blur()
    visible = [start.kind in kinds for kinds in USED_BY]
    kind = gr.Radio(
        blur_controls.KINDS, value=start.kind, label="Blur of the photograph, in pixels of the result", elem_id="kind"
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=200):
            controls = [
                gr.Slider(0.1, 10, start.width, step=0.1, label="Width", visible=visible[0], elem_id="width"),
                gr.Slider(0.1, 10, start.second, step=0.1, label="Second width", visible=visible[1], elem_id="second"),
                gr.Slider(
                    -90,
                    90,
                    start.angle,
                    step=1,
                    label="Angle, clockwise",
                    visible=visible[2],
                    elem_id="angle",
                ),
                gr.Slider(1, 60, start.length, step=0.5, label="Length", visible=visible[3], elem_id="length"),
                gr.Slider(0.5, 15, start.radius, step=0.1, label="Radius", visible=visible[4], elem_id="radius"),
                gr.File(
                    label="Kernel: image or .npy",
                    file_types=list(blur_controls.FILE_SUFFIXES),
                    height=120,
                    visible=visible[5],
                    elem_id="kernel_file",
                ),
                gr.Number(
                    start.number,
                    label="Which one, of several in the file",
                    precision=0,
                    minimum=1,
                    visible=visible[6],
                    elem_id="number",
                ),
            ]
        with gr.Column(scale=2, min_width=200):
            drawing = gr.HTML(blur_controls.figure(start.kernel(), "Kernel"), elem_id="kernel", padding=True)
    return kind, controls, drawing
