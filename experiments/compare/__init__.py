"""task=compare: runs side by side, as tables and as a page."""

from experiments.compare.task import run

__all__ = ["run"]
