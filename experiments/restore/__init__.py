"""task=restore: photographs in, photographs out; from Python with `Restorer`, see docs/api.md."""

from experiments.restore.image_buffer import Restoration
from experiments.restore.restorer import Restorer
from experiments.restore.task import KEYS, check, run

__all__ = ["KEYS", "Restoration", "Restorer", "check", "run"]
