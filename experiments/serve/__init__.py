"""task=serve: restoring in a browser."""

from experiments.serve.task import KEYS, run

__all__ = ["KEYS", "run"]
