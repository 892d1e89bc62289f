"""task=preview: what a training would see, on one sheet."""

from experiments.preview.task import KEYS, check, run

__all__ = ["KEYS", "check", "run"]
