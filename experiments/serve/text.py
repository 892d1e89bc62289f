"""What visitors are told: faults in plain words, what a network is, what was done."""

import html
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

from datamodules.errors import ConfigError, InputError
from experiments.restore import Restorer
from experiments.runtime.out_of_memory import shortage
from experiments.serve.service import Cancelled, Done

log = logging.getLogger(__name__)

START = "Choose a photograph and press Restore."
READY = "Press Restore."
WORKING = "Waiting for its turn, or being restored."
CANCELLED = "Cancelled."
FAILED = "Nothing was restored."
NEUTRAL = "Something went wrong on the server, which has noted it. Try another photograph or other settings."


@contextmanager
def user_errors(*paths: str | None) -> Iterator[None]:
    """Faults of the input as a message on the page; others in the log of the server, and a neutral one on the page.

    Args:
        paths: files of the visitor, who knows them by their names alone.
    """
    try:
        yield
    except (gr.Error, Cancelled):
        raise
    except (InputError, ConfigError) as error:
        raise refusal(plain(str(error), *paths)) from error
    except Exception as error:
        log.exception("a request failed")
        if shortage(error):
            raise refusal("Not enough memory for this: try a smaller photograph or a smaller scale.") from error
        raise refusal(NEUTRAL) from error


def plain(text: str, *paths: str | None) -> str:
    """A text in which files have names only: those of `paths`, and all in the folder for temporary files."""
    for path in filter(None, paths):
        text = text.replace(path, Path(path).name)
    return re.sub(re.escape(tempfile.gettempdir()) + r"/([^/\s]+/)?", "", text)


def refusal(text: str) -> gr.Error:
    """A message that stays until it is closed. The page shows messages as HTML, and a file may be called anything."""
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)


def about(restorer: Restorer) -> str:
    """What visitors may want to know of a network, as Markdown."""
    size = f"{restorer.parameters / 1e6:.2f} M parameters" if restorer.parameters else "Not learned"
    if restorer.needs_kernel:
        kind = "Non-blind: set the blur of the photograph below"
    elif restorer.estimates_kernel:
        kind = "Blind: it estimates the blur kernel and shows it"
    else:
        kind = "Blind: it needs no blur kernel"
    return f"{size}. {kind}."


def describe(done: Done, restorer: Restorer, model: str, checkpoint: str, note: str = "") -> str:
    """What was done, as Markdown; `note` comes last of the notes."""
    (width, height), (before_width, before_height) = done.size, done.source_size
    tiles = f" in {done.tiles} tiles" if done.tiles > 1 else ""
    name = html.escape(f"{model}, {checkpoint}")
    line = (
        f"**{width} × {height}** from {before_width} × {before_height}, "
        f"{done.seconds:.1f} s on {restorer.device.type}{tiles}, by {name}."
    )
    notes = [*done.notes, note] if note else done.notes
    return "\n".join([line, "", *(f"- {html.escape(plain(text))}" for text in notes)])
