"""The page about the weights, made from their cards."""

from collections.abc import Iterator, Sequence

from experiments.config.markdown import table
from experiments.zoo import catalogue
from experiments.zoo.cards import Card, Figure, card

INPUTS = {  # of networks, in words
    "lr": "photograph",
    "kernel": "kernel",
    "kernels": "kernels",
    "weights": "maps of weights",
    "noise_level": "noise level",
    "scale": "scale",
}
_HEAD = """# Weights by name

What was trained here: `weights=NAME` in every task, `run=zoo:NAME`, `Restorer.load("NAME")`; [how](../../docs/zoo.md).
This page is made from the cards, NAME.yaml, by `python -m experiments.zoo`.
"""


def readme() -> str:
    """The page in Markdown: a table of all weights, then each with its card."""
    cards = {name: card(name) for name in catalogue.names()}
    rows = [_row(name, about) for name, about in cards.items()]
    parts = [_HEAD, table(["`weights=`", "network", "takes", "enlarges", "parameters", "MB"], rows)]
    parts += [part for name, about in cards.items() for part in (f"## {name}", *sections(about))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _row(name: str, about: Card) -> list[str]:
    facts, size = catalogue.about(name), catalogue.named(name).stat().st_size
    takes = ", ".join(words for field, words in INPUTS.items() if field in facts["inputs"])
    scales = "x" + ", x".join(map(str, facts["scales"]))
    link = f"[`{name}`](#{name.lower()})"
    return [link, f"`{about.network}`", takes, scales, f"{about.parameters / 1e6:.3f} M", f"{size / 1e6:.2f}"]


def sections(about: Card) -> Iterator[str]:
    """A card as Markdown, without a title; also for a page elsewhere."""
    yield f"{_sentence(about.use)} Limits: {_plain(about.limits)}."
    seeds = ", ".join(map(str, about.seeds))
    yield "\n".join(
        [
            f"* Data: {_plain(about.data)}. Licence: {_plain(about.licence)}.",
            f"* Training: {about.steps:,} steps, seed {seeds}, {about.core_hours:g} core-hours, {about.hardware}.",
            f"* sha256: `{about.sha256}`",
        ]
    )
    yield _commands(about.recipe)
    header = ["data", "protocol", "PSNR dB", "SSIM", "bicubic (x1: the input), PSNR dB"]
    yield table(header, [_figure(figure) for figure in about.figures])
    yield "In the order of the rows:"
    yield _commands([figure.command for figure in about.figures])


def _figure(figure: Figure) -> list[str]:
    data = f"{figure.data}; {figure.conditions}" if figure.conditions else figure.data
    ssim = "" if figure.ssim is None else f"{figure.ssim:.4f}"
    return [data, figure.protocol, f"{figure.psnr:.2f}", ssim, "" if figure.input is None else f"{figure.input:.2f}"]


def _commands(lines: Sequence[str]) -> str:
    return "\n".join(["```bash", *lines, "```"])


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{_plain(text)[1:]}."


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")
