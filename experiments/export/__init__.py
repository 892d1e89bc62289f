"""task=export: networks as files that other programs can use."""

from experiments.export.task import run

__all__ = ["run"]
