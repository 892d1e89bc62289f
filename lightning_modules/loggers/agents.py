"""Agents of W&B's sweeps."""

import os


def agent_trial() -> str | None:
    """The id of this trial if `wandb agent` started the process as one of a sweep."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
