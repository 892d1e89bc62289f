"""Configs and records of runs that are older than the code, read as today's code would write them."""

from typing import Any

# Modules that classes and functions of saved configs have moved from, and where they are now.
MOVED = {
    "datamodules.degradations.kernel_sources": "datamodules.degradations.kernel_samplers",
    "datamodules.degradations.stored": "datamodules.degradations.pipelines",
    "datamodules.degradations.suites": "datamodules.degradations.kernel_files",
    "lightning_modules.perceptual": "lightning_modules.losses.perceptual",
    "lightning_modules.protocols": "lightning_modules.metrics.protocol",
    "lightning_modules.schedules": "lightning_modules.optim.schedules",
    "lightning_modules.wandb_runs": "lightning_modules.loggers.wandb",
}


def renamed(node: Any) -> Any:
    """A copy of a plain config whose `_target_`s have today's names."""
    if isinstance(node, dict):
        return {key: _target(value) if key == "_target_" else renamed(value) for key, value in node.items()}
    return [renamed(child) for child in node] if isinstance(node, list) else node


def _target(name: Any) -> Any:
    module, dot, last = str(name).rpartition(".")
    return f"{MOVED[module]}{dot}{last}" if module in MOVED else name
