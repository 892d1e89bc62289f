"""task=evaluate: what a network restores is measured, by named protocols."""

from experiments.evaluate.task import KEYS, check, run

__all__ = ["KEYS", "check", "run"]
