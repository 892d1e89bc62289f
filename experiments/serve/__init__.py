"""task=serve: restoring in a browser."""

from experiments.serve.task import KEYS, check, run

__all__ = ["KEYS", "check", "run"]
