"""task=restore: photographs in, photographs out; from Python with `Restorer`, see docs/api.md."""

import importlib
from typing import TYPE_CHECKING, Any

from experiments.restore.task import KEYS, READS, check, run

if TYPE_CHECKING:
    from experiments.restore.image_buffer import Restoration
    from experiments.restore.restorer import BICUBIC, Restorer

__all__ = ["BICUBIC", "KEYS", "READS", "Restoration", "Restorer", "check", "run"]

_MODULES = {"BICUBIC": "restorer", "Restoration": "image_buffer", "Restorer": "restorer"}


def __getattr__(name: str) -> Any:
    """What comes with torch, for which a refused config need not wait."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
