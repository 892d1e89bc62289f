"""Everything that has to be measured on a GPU, by one command that may be cut off at any time.

    python -m experiments.benchmarks.gpu --minutes 8 --output DIR [--images PHOTOS] [--set5 SET5]
    python -m experiments.benchmarks.gpu --smoke --output DIR  # all of it on the CPU with tiny networks

The most valuable comes first; each result is in DIR/results.jsonl and in the report DIR/report.md as soon as it is
known. Needs neither the network nor Weights & Biases. Every part has a process of its own and a share of the minutes;
what fails or hangs is noted with its reason, and the next goes on. DIR/log.txt has what the libraries say.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # not before it is known that all packages are there
    from experiments.benchmarks.gpu.parts import Settings

ROOT = Path(__file__).resolve().parents[3]
NOT_NEEDED = ("wandb", "plotly")  # imported only where they are used
# Other distributions of the same module.
ALSO = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")}
PART = ("-m", "experiments.benchmarks.gpu.parts")
GRACE = 20.0  # seconds for which a measurement may go on after the time of its part, but not after that of all
STOPPED = "stopped: it took too long"


def lacking(requirements: Sequence[str]) -> list[str]:
    """What is missing or too old of requirements of the form `name>=version`."""

    def release(text: str) -> list[int]:
        return [int(number) for number in re.findall(r"^\d+(?:\.\d+)*", text)[0].split(".")]  # 2.11 of 2.11.0+cu130

    wrong = []
    for name, least in (text.split(">=") for text in requirements):
        if name in NOT_NEEDED:
            continue
        there = ""
        for distribution in (name, *ALSO.get(name, ())):
            with contextlib.suppress(PackageNotFoundError):
                there = there or version(distribution)
        if not there:
            wrong.append(f"{name} (not installed, needs >={least})")
        elif release(there) < release(least):
            wrong.append(f"{name} (found {there}, needs >={least})")
    return wrong


def photographs(folder: Path, images: Path | None, set5: Path | None, smoke: bool) -> list[str]:
    """Overrides for the photographs; links are for Hydra, which would take some names apart.

    Raises:
        InputError: for folders without images.
    """
    import hydra

    from experiments.benchmarks.train_step import compose

    overrides = ["data=sample"]
    if images is not None and set5 is not None:
        (folder / "images").symlink_to(images.resolve())
        (folder / "set5").symlink_to(set5.resolve())
        overrides = ["data=folder", f"data.root={folder}/images", f"data.source.test_root={folder}/set5"]
    overrides += [f"data.cache_dir={folder}/cache", "data.on_corrupt=skip", "data.on_small=skip"]
    overrides += ["data.num_workers=0"] if smoke else []
    hydra.utils.instantiate(compose("ed_dsrn", *overrides).data, _convert_="all").prepare_data()
    return overrides


def describe(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """What all of a report was measured on."""
    import torch
    from torch.utils import collect_env

    from experiments.profile.task import cpu_name
    from experiments.runtime import run_folder

    facts = run_folder.describe()
    about: dict[str, Any] = {"card": torch.cuda.get_device_name() if device == "cuda" else cpu_name()}
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
        "dtypes": "in each row; bfloat16 by autocast, weights in float32",
        "CPU": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, threads: {torch.get_num_threads()}",
        "packages": f"Python {facts['python']}, {', '.join(f'{name} {v}' for name, v in facts['versions'].items())}",
        "commit": f"{facts['git_commit'] or 'unknown'}{' with changes' if facts['git_dirty'] else ''}",
        "date": facts["created"],
        "command": f"python -m experiments.benchmarks.gpu {shlex.join(sys.argv[1:])}",
        "training photographs": str(args.images or "those of scikit-image"),
        "test images": str(args.set5 or "astronaut, coffee (scikit-image)"),
        "smoke": args.smoke,
    }


def measure(settings: "Settings", ends: dict[str, float]) -> None:
    """Have everything measured while there is time, and report it.

    Args:
        ends: by part, when the last of its measurements may begin.
    """
    report, last = settings.report(), max(ends.values())
    report.write()
    for name, until in ends.items():
        while (left := report.left(name)) and time.time() < until:
            reason = in_a_process(name, replace(settings, until=until), min(until + GRACE, last))
            # A process notes itself what has failed, unless it is gone; one that got somewhere has a successor.
            under_way = report.left(name)
            if reason and under_way and (reason == STOPPED or under_way == left):
                report.add(under_way[0], failed=f"{reason}; log.txt may say more")
    report.write()


def in_a_process(part: str, settings: "Settings", end: float) -> str | None:
    """How the process of a part ended, None if all went well."""
    folder = Path(settings.output)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        # What earlier runs have compiled would make the start look fast.
        "TORCHINDUCTOR_CACHE_DIR": f"{settings.scratch}/inductor",
        "TRITON_CACHE_DIR": f"{settings.scratch}/triton",
        "TMPDIR": settings.scratch,  # nothing of what is killed stays behind
    }
    command = [sys.executable, *PART, part, json.dumps(asdict(settings))]
    # Standard input ends with this process, and the other with it, whatever kills this one.
    with (
        (folder / "log.txt").open("ab") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            status = process.wait(max(end - time.time(), 1.0))
        except subprocess.TimeoutExpired:
            return STOPPED
        finally:  # what it has started ends with it: workers of the loader, compilers, run.py
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if status < 0:
        return f"its process ended by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else None


def run(args: argparse.Namespace, start: float) -> None:
    """Measure all parts, one after the other.

    Raises:
        InputError: for a device that is not there, folders without images, or a report that is there already.
    """
    import torch

    from datamodules.errors import InputError
    from experiments.benchmarks.gpu.parts import PARTS, Settings

    device = args.device or ("cpu" if args.smoke else "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here: --smoke tries everything on the CPU")
    output = args.output.resolve()
    if (output / "report.md").exists():
        raise InputError(f"{output}: there is a report in it already: give another --output")
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(Path(folder), args.images, args.set5, args.smoke)
        settings = Settings(str(output), folder, describe(args, device), data, device, args.smoke, start)
        shares = {name: 1.0 if args.smoke else part.ends for name, part in PARTS.items()}
        measure(settings, {name: start + 60 * args.minutes * share for name, share in shares.items()})
    print(f"{output}/report.md: {(time.time() - start) / 60:.1f} minutes")


def main() -> int:
    """Run the command line; 1 if something is missing here."""
    start = time.time()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default: 8)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report, without an earlier one")
    parser.add_argument("--images", type=Path, help="folder of training photographs (default: those of scikit-image)")
    parser.add_argument("--set5", type=Path, help="folder of Set5's images (default: test photographs of scikit-image)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, in a smoke run cpu")
    parser.add_argument("--smoke", action="store_true", help="try everything with tiny networks, in a few minutes")
    args = parser.parse_args()
    if (args.images is None) != (args.set5 is None):
        parser.error("--images and --set5 go together: without both, all photographs are those of scikit-image")
    if wrong := lacking(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]):
        print(f"cannot run here: {', '.join(wrong)}", file=sys.stderr)
        return 1
    from datamodules.errors import InputError

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves nothing but the report
    try:
        run(args, start)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
