"""task=restore: photographs in, photographs out; from Python with `Restorer`, see docs/api.md."""

from experiments.restore.restorer import Restoration, Restorer
from experiments.restore.task import KEYS, check, run

__all__ = ["KEYS", "Restoration", "Restorer", "check", "run"]
