"""task=preview: what a training would see, on one sheet."""

from experiments.preview.task import run

__all__ = ["run"]
