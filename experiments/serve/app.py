"""The page: what is on it, and which handler belongs to which control."""

from typing import Any

import gradio as gr

from datamodules.io.read_photo import readable_suffixes
from experiments.serve.blur_controls import FILE_SUFFIXES, KINDS, Blur
from experiments.serve.files import FORMATS, OWN_FORMAT
from experiments.serve.service import START, Service, user_errors

THEME = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))  # none to fetch
# The result stays in view while settings are changed; not on narrow screens, where it comes after them.
CSS = """
.gradio-container { overflow: clip !important; }
@media (min-width: 800px) { #result { position: sticky; top: 16px; align-self: flex-start; } }
#file .empty { min-height: 0; height: 60px; }
"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}
# Sliders by attribute of `Blur`, in its order: label, smallest, largest, step, and the kinds of blur that have it.
SLIDERS = {
    "width": ("Width", 0.1, 10, 0.1, ("Gaussian",)),
    "second": ("Second width", 0.1, 10, 0.1, ("Gaussian",)),
    "angle": ("Angle, clockwise", -90, 90, 1, ("Gaussian", "Motion")),
    "length": ("Length", 1, 60, 0.5, ("Motion",)),
    "radius": ("Radius", 0.5, 15, 0.1, ("Defocus",)),
}
USED_BY = (*(kinds for *_, kinds in SLIDERS.values()), ("From a file",), ("From a file",))


def build(service: Service, keep_minutes: float) -> gr.Blocks:
    """The page, for any number of visitors, who are told how long files are kept."""
    models, formats, readable = service.models.names, [OWN_FORMAT, *FORMATS], readable_suffixes()
    further = "".join(f", {kind}" for kind, suffix in (("HEIC", ".heic"), ("raw", ".dng")) if suffix in readable)
    title, lifetime = "Deblur and enlarge photographs", (10, int(60 * keep_minutes))
    with gr.Blocks(title=title, delete_cache=lifetime, fill_width=True) as page:
        gr.Markdown(
            f"# {title}\nOne photograph is restored at a time; others wait in a queue. "
            f"Uploads and results are deleted after {keep_minutes:g} minutes."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photograph = gr.File(
                    label=f"Photograph: PNG, JPEG, BMP, TIFF, WebP{further}",
                    file_types=list(readable),
                    height=150,
                    elem_id="photograph",
                )
                preview = gr.Image(format="png", visible=False, height=220, buttons=[], elem_id="preview")
                examples = gr.Dataset(
                    label="Or an example",
                    components=[gr.Image(render=False)],
                    samples=[[file] for file in service.examples],
                    type="index",
                    elem_id="examples",
                )
                model = gr.Dropdown(models, value=models[0], label="Model", elem_id="model")
                with gr.Row():
                    # Those of the model; a program may name any, or none.
                    checkpoint = gr.Dropdown(None, value=None, label="Checkpoint", allow_custom_value=True)
                    scale = gr.Dropdown(None, value=None, label="Enlarge", allow_custom_value=True)
                about_model = gr.Markdown()
                with gr.Column(visible=False, elem_id="blur") as blur:
                    kind, controls, drawing = _blur_controls()
                noise_level = gr.Slider(
                    0,
                    0.2,
                    value=0.01,
                    step=0.001,
                    label="Noise level",
                    info="standard deviation, of values from 0 to 1; more of it gives a smoother result",
                    visible=False,
                    elem_id="noise_level",
                )
            with gr.Column(scale=3, min_width=320, elem_id="result"):
                with gr.Row():
                    go = gr.Button("Restore", variant="primary", elem_id="go")
                    cancel = gr.Button("Cancel", elem_id="cancel")
                comparison = gr.ImageSlider(
                    label="Left: the photograph, enlarged bicubically; right: restored",
                    type="filepath",
                    format="png",
                    max_height=720,
                    buttons=["fullscreen"],
                    elem_id="comparison",
                )
                report = gr.Markdown(START, elem_id="report")
                with gr.Row():
                    file_format = gr.Dropdown(formats, value=OWN_FORMAT, label="File format", elem_id="format")
                    file = gr.File(label="Restored photograph", height=100, scale=2, elem_id="file")
                estimated = gr.Image(label="Estimated kernel", format="png", height=240, visible=False, buttons=[])
        convertible = gr.State()

        network, blur_values = [model, checkpoint], [kind, *controls]
        shown = [scale, about_model, blur, noise_level, estimated]
        result = [file, report, comparison, estimated, convertible]
        looked = photograph.change(service.on_photograph, photograph, [preview, *result], **QUIET)
        looked.failure(lambda: None, None, photograph, **AT_ONCE)  # what is no photograph is taken away
        examples.click(
            service.on_example, [examples, *network], [photograph, scale, noise_level, *blur_values[:6]], **AT_ONCE
        )
        gr.on([page.load, model.input], service.on_model, [model, scale], [checkpoint, *shown], **QUIET)
        checkpoint.input(service.on_checkpoint, [*network, scale], shown, **QUIET)
        kind.change(lambda kind: [gr.update(visible=kind in kinds) for kinds in USED_BY], kind, controls, **AT_ONCE)
        for control in blur_values:
            control.change(service.draw, blur_values, drawing, trigger_mode="always_last", **AT_ONCE)
        file_format.input(user_errors()(service.convert), [convertible, file_format], file, **QUIET)
        restored = go.click(
            service.restore,
            [photograph, *network, scale, noise_level, file_format, *blur_values],
            result,
            concurrency_limit=1,
            show_progress_on=comparison,
            api_name="restore",
        )
        cancel.click(service.cancel, None, None, cancels=[restored], **AT_ONCE)
        page.unload(service.cancel)
    return page


def _blur_controls() -> tuple[gr.Radio, list[Any], gr.Image]:
    """The kind of blur, the controls in the order of `Blur`, and the drawing."""
    kind = gr.Radio(KINDS, label="Blur of the photograph, in pixels of the result", elem_id="kind")
    with gr.Row():
        with gr.Column(scale=3, min_width=200):
            sliders = [
                gr.Slider(low, high, getattr(Blur(), name), step=step, label=label, visible=False, elem_id=name)
                for name, (label, low, high, step, _) in SLIDERS.items()
            ]
            file = gr.File(label="Kernel: image or .npy", file_types=list(FILE_SUFFIXES), height=120, visible=False)
            number = gr.Number(1, label="Which of several in the file", precision=0, minimum=1, visible=False)
        with gr.Column(scale=2, min_width=120):
            drawing = gr.Image(show_label=False, format="png", buttons=[], elem_id="kernel")
    return kind, [*sliders, file, number], drawing
