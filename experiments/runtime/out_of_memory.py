"""What to say when memory runs out."""

import traceback
from pathlib import Path

import torch
from omegaconf import DictConfig

from datamodules.errors import InputError


def explain_shortage(error: BaseException, cfg: DictConfig) -> InputError | None:
    """What to lower where memory has run out, of the device or of the machine; None for other errors."""
    reason = shortage(error)
    if reason is None:
        return None
    passed = {Path(frame.f_code.co_filename).name for frame, _ in traceback.walk_tb(error.__traceback__)}
    if "training_epoch_loop.py" in passed and "evaluation_loop.py" not in passed:
        return InputError(f"out of memory in a training step ({reason}): {_smaller_step(cfg)}")
    return InputError(
        f"out of memory ({reason}): validation and tests take whole images, one at a time: leave large ones out, "
        "or measure on a device with more memory (trainer.accelerator=cpu)"
    )


def shortage(error: BaseException) -> str | None:
    """The first sentence of an error that is about memory, None for others."""
    first = (str(error).splitlines() or [""])[0]
    # PyTorch has a class for the memory of CUDA; for that of the processor and of others a plain `RuntimeError`.
    says_so = any(words in first.lower() for words in ("out of memory", "can't allocate memory", "not enough memory"))
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not says_so:
        return None
    return first.split(". ")[0] or type(error).__name__


def _smaller_step(cfg: DictConfig) -> str:
    size, half = cfg.data.batch_size, max(1, cfg.data.batch_size // 2)
    accumulated = cfg.trainer.accumulate_grad_batches * size // half
    same = f" (to {half}; with trainer.accumulate_grad_batches={accumulated} an update sees as many images)"
    return (
        f"lower data.batch_size={size}{'' if 'discriminator' in cfg.procedure or size % 2 else same} or "
        f"data.patch={cfg.data.get('patch')}, or change trainer.precision={cfg.trainer.precision} to bf16-mixed; the "
        "precision may change when this run is continued, the others need a new name="
    )
