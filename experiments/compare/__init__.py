"""task=compare: runs side by side, as tables and as a page."""

from experiments.compare.task import KEYS, check, run

__all__ = ["KEYS", "check", "run"]
