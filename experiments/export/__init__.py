"""task=export: networks as files that other programs can use."""

from experiments.export.task import KEYS, check, run

__all__ = ["KEYS", "check", "run"]
