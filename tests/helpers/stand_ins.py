"""The folder in which the commands of the documentation are run: a copy of the project, and what they name.

Where a page says PHOTOS, SET5, KERNELS or runs/NAME, a small one lies there under that very name, so that a command
runs as it is written. Only overrides that make it short are appended, by a `python` that comes first on the PATH.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import photograph
from tests.helpers.pages import ROOT

# Trainings whose folders the pages name; the others are copies.
RUNS = {
    "quickstart": "experiment=quickstart",
    "DEBLURCNN": "experiment=quick_deblurcnn",
    "SRRESNET": "experiment=quick_srresnet degradation=bicubic degradation.scale=4",
    "SRN": "experiment=quick_srn",
    "quick_usrnet": "experiment=quick_usrnet",
    "DMBSR": "experiment=quick_dmbsr",
}
COPIES = {"quickstart": ("NAME", "A", "B", "C")}
FILES = dict.fromkeys(("usrnet_tiny.pth", "CHECKPOINT", "FILE"), "quick_usrnet")
LEFT_OUT = (".git", "runs", "wandb", "datasets", ".venv", "__pycache__", "*.egg-info", ".*_cache", "build")


def photographs(folder: Path, names: list[str], size: tuple[int, int] = (48, 48)) -> None:
    """Small images of these file names, all of them different in the first hundred."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [photograph(*size, seed) for seed in range(min(len(names), 20))]
    for i, name in enumerate(names):
        Image.fromarray(np.roll(made[i % 20], i // 20, axis=1)).save(folder / name)


def make_files(folder: Path) -> None:
    """Photographs, pairs, kernels and the data sets, complete in number."""
    from tests.helpers.clips import write_clip  # skips where PyAV is missing

    photographs(folder / "PHOTOS", [f"{i}.png" for i in range(24)], (96, 112))
    photographs(folder / "photos", ["1.jpg", "2.png"], (60, 80))
    for name in ("PHOTO.jpg", "photo.jpg", "photo.png", "part.png"):
        Image.fromarray(photograph(60, 80, 0)).save(folder / name)
    for kind in ("sharp", "degraded"):
        photographs(folder / "PAIRS" / kind, [f"{i}.png" for i in range(24)], (96, 96))
    write_clip(folder / "clip.mp4")
    (folder / "KERNELS").mkdir()
    line = np.zeros((9, 9), np.uint8)
    line[4, 1:8] = 255
    Image.fromarray(line).save(folder / "KERNELS" / "line.png")
    np.save(folder / "KERNELS" / "box.npy", np.full((2, 5, 5), 1 / 25))
    np.savez(folder / "kernels.npz", kernels=np.ones((2, 5, 5)), weights=np.ones((2, 60, 80)))
    sets = folder / "datasets"
    photographs(sets / "DIV2K" / "DIV2K_train_HR", [f"{i:04d}.png" for i in range(1, 801)], (96, 96))
    photographs(sets / "DIV2K" / "DIV2K_valid_HR", [f"{i:04d}.png" for i in range(801, 901)])
    for name, count in {"Set5": 5, "Set14": 14, "BSD68": 68}.items():
        photographs(sets / name, [f"{i}.png" for i in range(count)], (72, 72))
    shutil.copytree(sets / "Set5", folder / "SET5")
    for split, sequences in (("train", 3), ("test", 1)):
        for i in range(sequences):
            for kind in ("sharp", "blur", "blur_gamma"):
                photographs(sets / "GOPRO_Large" / split / f"GOPR{i}" / kind, ["000001.png", "000002.png"], (96, 96))


def make_project(folder: Path) -> None:
    """A copy of the project's files."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))


def make_runs(folder: Path, env: dict[str, str]) -> None:
    """Train the runs that the pages name, for one step each, and copy them."""
    for name, overrides in RUNS.items():
        command = f"python run.py {overrides} name={name} logger=none"
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for name, copies in COPIES.items():
        for copy in copies:
            shutil.copytree(folder / "runs" / name, folder / "runs" / copy)
    for file, name in FILES.items():
        shutil.copy(folder / "runs" / name / "checkpoints" / "best.ckpt", folder / file)


def environment(programs: Path) -> dict[str, str]:
    """Of a command: the stand-ins for programs first, no network, one thread."""
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("python", "torchrun"):
        (programs / name).write_text(
            f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("short.py")} {name} "$@"\n'
        )
        (programs / name).chmod(0o755)
    data = programs.parent / "data"
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DEBLUR_SR", "WANDB"))},
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DEBLUR_SR_CACHE": str(data / "cache"),
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
    }
