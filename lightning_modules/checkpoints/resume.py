"""Which checkpoint of a run a training continues from."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

from datamodules.errors import InputError
from datamodules.io.atomic import replacing
from lightning_modules.checkpoints.checkpoint import read_checkpoint

log = logging.getLogger(__name__)
# Beside the weights, and of which kind.
_STATE = {"global_step": int, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}
_ANEW = "put a copy of it back, or start a new run with name=..."


def find_resumable(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """`last.ckpt`, or where that is gone `best.ckpt`, which has the same state of an earlier step, and what is in it.

    No file, and a step of 0, for a run that has written none.

    Raises:
        InputError: if the run cannot continue from what is there as if nothing had happened.
    """
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    if last.exists():
        checkpoint = _read(last, best)
        score = checkpoint["callbacks"].get("LastAndBest", {}).get("best_score", -math.inf)
        if score > -math.inf:
            _need_best(best, last, checkpoint["global_step"])
        return last, checkpoint
    if best.exists():
        checkpoint = _read(best)
        log.warning("%s is gone: continuing from best.ckpt, of step %d", last, checkpoint["global_step"])
        return best, checkpoint
    return None, {"global_step": 0}


def restore_last(found: Path) -> None:
    """Have `last.ckpt` again: a run that has no step to make any more would not write it."""
    last = found.with_name("last.ckpt")
    if not last.exists():
        with replacing(last, sync=True) as part:
            shutil.copyfile(found, part)


def _read(path: Path, other: Path | None = None) -> dict[str, Any]:
    """A checkpoint with all that a training continues from; `other`: what else there may be."""
    try:
        checkpoint = read_checkpoint(path)
        if lacking := [name for name, kind in _STATE.items() if not isinstance(checkpoint.get(name), kind)]:
            raise InputError(f"has weights, but no {lacking[0]}")
        best = checkpoint["callbacks"].get("LastAndBest", {})
        known = isinstance(best, dict) and isinstance(best.get("best_score", 0.0), int | float)
        if not known or checkpoint["global_step"] < 0:
            raise InputError("has another best score or step than a training writes")
    except InputError as error:
        way = _ANEW
        if other and other.exists():
            way = f"delete it, and resume=auto continues from {other.name} of step {_read(other)['global_step']}"
        size = f"{path.stat().st_size:,} bytes"
        raise InputError(
            f"{path}: cannot be read as a checkpoint to continue from ({size}, damaged or incomplete): {way}", file=path
        ) from error
    return checkpoint


def _need_best(best: Path, last: Path, step: int) -> None:
    """The best checkpoint so far, which a training may not surpass any more."""
    problem = "is gone"
    try:
        if best.exists():
            problem = f"cannot be read ({best.stat().st_size:,} bytes)"
            read_checkpoint(best)
            return
    except InputError:
        pass
    raise InputError(
        f"{best}: {problem}: put it back, or copy {last.name} there, whose step {step} is then the best so far",
        file=best,
    )
