"""What makes a step quicker without another result: chosen by what the machine has, and said in one line."""

import ctypes
import logging
import platform
from pathlib import Path

import torch
from omegaconf import DictConfig

from datamodules import distributed

log = logging.getLogger(__name__)

_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of x86 and of ARM in /proc/cpuinfo
# Numbers of glibc's malloc.h, and the largest values that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 32 * 2**20


def settle(cfg: DictConfig) -> None:
    """Put what they mean on this machine in the place of `trainer.precision=auto` and `channels_last=auto`.

    bfloat16 where the processor or the GPU has instructions for it, else float32; channels_last beside bfloat16, for
    which convolutions are written.
    """
    if "auto" not in (cfg.trainer.precision, cfg.channels_last):
        return
    reason, fast = _bfloat16(str(cfg.trainer.accelerator))
    if cfg.trainer.precision == "auto":
        cfg.trainer.precision = "bf16-mixed" if fast else "32-true"
    if cfg.channels_last == "auto":
        cfg.channels_last = str(cfg.trainer.precision) == "bf16-mixed"
    if distributed.rank() == 0:
        log.info("%s: trainer.precision=%s channels_last=%s", reason, cfg.trainer.precision, cfg.channels_last)


def _bfloat16(accelerator: str) -> tuple[str, bool]:
    """What the device is, in words, and whether it computes faster in bfloat16."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.get_device_capability() >= (8, 0)
        return f"{torch.cuda.get_device_name()} {'has' if fast else 'lacks'} bfloat16", fast
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        words = set()
    found = sorted(_BF16 & words) if accelerator in ("auto", "cpu") else []
    return f"the processor has {found[0]}" if found else "no bfloat16 instructions here", bool(found)


def keep_memory() -> None:
    """Let glibc keep what is freed, for the next step to use: it would give every large tensor back to the system.

    The pages of a tensor that was given back are faults again in the next step, a fifth of the CPU time of a training.
    For the whole process; nothing where there is another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_TRIM)
