"""task=serve: restoring in a browser."""

from experiments.serve.task import run

__all__ = ["run"]
