"""Everything that has to be measured on a GPU, by one command that may be cut off at any time.

    python -m experiments.benchmarks.gpu --minutes 8 --output DIR [--images PHOTOS] [--set5 SET5]
    python -m experiments.benchmarks.gpu --smoke --output DIR  # all of it on the CPU with tiny networks

The most valuable comes first; each result is in DIR/results.jsonl and in the report DIR/report.md as soon as it is
known. Needs neither the network nor Weights & Biases. Every part has a process of its own and a share of the minutes;
what fails or hangs is noted with its reason, and the next goes on. DIR/log.txt has what the libraries say.
"""

import argparse
import re
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from datamodules.errors import InputError
from datamodules.installed import CHECKOUT, ROOT

NOT_NEEDED = ("wandb", "plotly")  # imported only where they are used
# Other distributions of the same module.
ALSO = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")}


def lacking(requirements: Sequence[str]) -> list[str]:
    """What is missing or too old of requirements of the form `name>=version`."""

    def release(text: str) -> list[int]:
        return [int(number) for number in re.findall(r"^\d+(?:\.\d+)*", text)[0].split(".")]  # 2.11 of 2.11.0+cu130

    wrong = []
    for name, least in (text.split(">=") for text in requirements):
        there = [found.version for one in (name, *ALSO.get(name, ())) for found in distributions(name=one)]
        if name in NOT_NEEDED:
            continue
        if not there:
            wrong.append(f"{name} (not installed, needs >={least})")
        elif release(there[0]) < release(least):
            wrong.append(f"{name} (found {there[0]}, needs >={least})")
    return wrong


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
    parser.add_argument("--smoke", action="store_true", help="try everything with tiny networks, in a few minutes")
    args = parser.parse_args()
    if (args.images is None) != (args.set5 is None):
        parser.error("--images and --set5 go together: without both, all photographs are those of scikit-image")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"] if CHECKOUT else {"dependencies": []}
    if wrong := lacking(project["dependencies"]):  # beside a wheel, pip has seen to them
        print(f"cannot run here: {', '.join(wrong)}", file=sys.stderr)
        return 1
    from experiments.benchmarks.gpu.session import run  # not before it is known that all packages are there

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves nothing but the report
    try:
        run(args, start)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
