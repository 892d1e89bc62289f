"""Restore photographs with any network of the suite: see docs/api.md."""

from experiments.restoring.restorer import Restoration, Restorer

__all__ = ["Restoration", "Restorer"]
