"""task=restore: photographs in, photographs out; from Python with `Restorer`, see docs/api.md."""

from experiments.restore.image_buffer import Restoration
from experiments.restore.restorer import BICUBIC, Restorer
from experiments.restore.task import KEYS, check, run

__all__ = ["BICUBIC", "KEYS", "Restoration", "Restorer", "check", "run"]
