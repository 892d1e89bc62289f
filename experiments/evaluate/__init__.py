"""task=evaluate: what a network restores is measured, by named protocols."""

from experiments.evaluate.task import run

__all__ = ["run"]
