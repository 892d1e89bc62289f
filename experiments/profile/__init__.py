"""task=profile: what networks cost."""

from experiments.profile.task import run

__all__ = ["run"]
