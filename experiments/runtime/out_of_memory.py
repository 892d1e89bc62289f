"""What to say when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from omegaconf import DictConfig

from datamodules.errors import InputError


@contextmanager
def explained(cfg: DictConfig) -> Iterator[None]:
    """Turn an error about memory, of the device or of the machine, into an `InputError` that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = shortage(error)
        if reason is None:
            raise
        passed = _files(error.__traceback__)
        if "training_epoch_loop.py" in passed and "evaluation_loop.py" not in passed:
            raise InputError(f"out of memory in a training step ({reason}): {_smaller_step(cfg)}") from error
        raise InputError(
            f"out of memory ({reason}): validation and tests take whole images, one at a time: leave large ones out, "
            "or measure on a device with more memory (trainer.accelerator=cpu)"
        ) from error


def shortage(error: BaseException) -> str | None:
    """The first sentence of an error that is about memory, None for others."""
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not _short_by_its_text(error):
        return None
    return (str(error).splitlines() or [""])[0].split(". ")[0] or type(error).__name__


def _short_by_its_text(error: BaseException) -> bool:
    """PyTorch has a class for the memory of CUDA; for that of the processor and of others a plain `RuntimeError`."""
    first = (str(error).splitlines() or [""])[0].lower()
    return any(words in first for words in ("out of memory", "can't allocate memory", "not enough memory"))


def _smaller_step(cfg: DictConfig) -> str:
    size, accumulated = cfg.data.batch_size, cfg.trainer.accumulate_grad_batches
    half = max(1, size // 2)
    same = (
        f" (to {half}; with trainer.accumulate_grad_batches={accumulated * size // half} an update sees as many images)"
    )
    return (
        f"lower data.batch_size={size}{'' if 'discriminator' in cfg.procedure or size % 2 else same} or "
        f"data.patch={cfg.data.get('patch')}, or change trainer.precision={cfg.trainer.precision} to bf16-mixed; the "
        "precision may change when this run is continued, the others need a new name="
    )


def _files(traceback: TracebackType | None) -> set[str]:
    """Names of the source files that an error came through."""
    found = set()
    while traceback is not None:
        found.add(Path(traceback.tb_frame.f_code.co_filename).name)
        traceback = traceback.tb_next
    return found
