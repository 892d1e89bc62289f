"""task=profile: what networks cost."""

from experiments.profile.task import KEYS, run

__all__ = ["KEYS", "run"]
