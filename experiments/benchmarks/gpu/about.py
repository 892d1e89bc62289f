"""What a report says it was measured on."""

import os
import subprocess
from typing import Any

import torch

from experiments.profile.task import cpu_name
from experiments.runtime import run_folder


def describe(device: str, command: str, images: str, tests: str, smoke: bool) -> dict[str, Any]:
    """The head of the report, by headings."""
    known = run_folder.describe()
    commit = (known["git_commit"] or "unknown") + (" with changes" if known["git_dirty"] else "")
    cuda = device == "cuda"
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items() if name != "torch")
    return {
        "card": torch.cuda.get_device_name() if cuda else cpu_name(),
        "memory_of_the_card": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.1f} GiB" if cuda else None,
        "driver": driver() if cuda else None,
        "CUDA, cuDNN": f"{torch.version.cuda}, {torch.backends.cudnn.version()}" if cuda else None,
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "torch": torch.__version__,
        "dtypes": "in each row; bfloat16 by autocast, weights in float32",
        "TF32": tf32() if cuda else None,
        "cuDNN_benchmark": torch.backends.cudnn.benchmark if cuda else None,
        "CPU": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, threads: {torch.get_num_threads()}",
        "python": known["python"],
        "packages": versions,
        "commit": commit,
        "date": known["created"],
        "command": command,
        "training_photographs": images,
        "validation_photographs": "camera, chelsea (scikit-image)",
        "test_photographs": tests,
        "smoke": smoke,
    }


def tf32() -> str:
    """Where float32 is rounded to TF32."""
    on = {True: "on", False: "off"}
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return f"{on[convolutions]} in convolutions, {on[products]} in matrix products"


def driver() -> str:
    """Version of the driver, as nvidia-smi tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown: nvidia-smi does not tell"
