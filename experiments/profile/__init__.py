"""task=profile: what networks cost."""

from experiments.profile.task import KEYS, check, run

__all__ = ["KEYS", "check", "run"]
