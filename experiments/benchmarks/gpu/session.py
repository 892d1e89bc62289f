"""A run of `experiments.benchmarks.gpu`: the photographs, and a process for each part, in its share of the time."""

import argparse
import contextlib
import inspect
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from torch.utils import collect_env

from datamodules.errors import InputError
from experiments.benchmarks.gpu.parts import PARTS, work
from experiments.benchmarks.gpu.plan import Settings, plan
from experiments.benchmarks.gpu.report import Report
from experiments.benchmarks.train_step import compose
from experiments.profile.task import device_name
from experiments.runtime import run_folder

GRACE = 20.0  # seconds for which a measurement may go on after the time of its part, but not after that of all
STOPPED = "stopped: it took too long"


def run(args: argparse.Namespace, start: float) -> None:
    """Measure all parts, one after the other.

    Raises:
        InputError: without a GPU, for folders without images, or a report that is there already.
    """
    device = "cpu" if args.smoke else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no GPU here: --smoke tries everything on the CPU")
    output = args.output.resolve()
    if (output / "report.md").exists():
        raise InputError(f"{output}: there is a report in it already: give another --output")
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(Path(folder), args.images, args.set5, args.smoke)
        # What earlier runs have compiled would make the start look fast; nothing of what is killed stays behind.
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        os.environ["TMPDIR"] = folder
        settings = Settings(output, data, device, args.smoke, start)
        tables = {name: (part.title, inspect.getdoc(part.measure) or "") for name, part in PARTS.items()}
        report = Report(output, describe(args, device), tables, plan(args.smoke))
        shares = {name: 1.0 if args.smoke else part.ends for name, part in PARTS.items()}
        ends = {name: start + 60 * args.minutes * share for name, share in shares.items()}
        measure(report, settings, ends)
    print(f"{output}/report.md: {(time.time() - start) / 60:.1f} minutes")


def photographs(folder: Path, images: Path | None, set5: Path | None, smoke: bool) -> list[str]:
    """Overrides for the photographs; links are for Hydra, which would take some names apart.

    Raises:
        InputError: for folders without images.
    """
    overrides = ["data=sample"]
    if images is not None and set5 is not None:
        (folder / "images").symlink_to(images.resolve())
        (folder / "set5").symlink_to(set5.resolve())
        overrides = ["data=folder", f"data.root={folder}/images", f"data.source.test_root={folder}/set5"]
    overrides += [f"data.cache_dir={folder}/cache", "data.on_corrupt=skip", "data.on_small=skip"]
    overrides += ["data.num_workers=0"] if smoke else []
    # Decoded for all parts; what is too small for one of them is that part's failure.
    hydra.utils.instantiate(compose("ed_dsrn", *overrides).data, _convert_="all").prepare_data()
    return overrides


def describe(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """What all of a report was measured on."""
    facts = run_folder.describe()
    about: dict[str, Any] = {"card": device_name(device)}
    if device == "cuda":
        about |= {
            "memory of the card": f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.1f} GiB",
            "driver": collect_env.get_nvidia_driver_version(collect_env.run),
            "CUDA, cuDNN": f"{torch.version.cuda}, {torch.backends.cudnn.version()}",
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
            "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
            "TF32 in matrix products": torch.backends.cuda.matmul.allow_tf32,
        }
    return {
        **about,
        "CPU": f"{device_name('cpu')}, {len(os.sched_getaffinity(0))} cores, threads: {torch.get_num_threads()}",
        "packages": f"Python {facts['python']}, {', '.join(f'{name} {v}' for name, v in facts['versions'].items())}",
        "commit": f"{facts['git_commit'] or 'unknown'}{' with changes' if facts['git_dirty'] else ''}",
        "date": facts["created"],
        "command": f"python -m experiments.benchmarks.gpu {shlex.join(sys.argv[1:])}",
        "training photographs": str(args.images or "those of scikit-image"),
        "test images": str(args.set5 or "astronaut, coffee (scikit-image)"),
        "smoke": args.smoke,
    }


def measure(report: Report, settings: Settings, ends: dict[str, float]) -> None:
    """Have everything measured while there is time, and report it.

    Args:
        ends: by part, when the last of its measurements may begin.
    """
    report.write()
    for name, until in ends.items():
        while (left := report.left(name)) and time.time() < until:
            end = min(until + GRACE, max(ends.values()))
            reason = in_a_process(end, name, replace(settings, until=until), report)
            # A process notes itself what has failed, unless it is gone; one that got somewhere has a successor.
            under_way = report.left(name)
            if reason and under_way and (reason == STOPPED or under_way == left):
                report.add(under_way[0], failed=f"{reason}; log.txt may say more")


def in_a_process(end: float, *args: Any) -> str | None:
    """How a process that does `work` has ended, at the latest by `end`; None if all went well."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=args)
    process.start()
    try:
        process.join(max(end - time.time(), 1.0))
        status = process.exitcode
    finally:  # what it has started ends with it: workers of the loader, compilers, run.py
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]  # it has been started
        process.kill()
        process.join()
    if status is None:
        return STOPPED
    if status < 0:
        return f"its process ended by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else None
