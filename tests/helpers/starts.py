"""Starts the same training several times at once, as first starts and as ones that continue.

    python -m tests.helpers.starts [--starts 12]

One of each has to train, the others to say in one line who does; what it leaves is what a training alone leaves. Ends
with status 1 where that is not so. The processes are forks of this one, which has imported everything.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

import torch

from tests.helpers.kills import COMMON, PROCEDURES, difference, make_photographs, outcome, start

OVERRIDES = [*PROCEDURES["supervised"].split(), *COMMON.removesuffix(" resume=auto").split()]


def start_at_once(folder: Path, count: int, overrides: list[str]) -> tuple[int, list[str]]:
    """How many trained, and what the others said last."""
    places = [folder / f"place{i}" for i in range(count)]
    for place in places:
        place.mkdir(exist_ok=True)
    common = [
        f"runs_dir={folder / 'runs'}",
        f"data.root={folder / 'photographs'}",
        f"data.cache_dir={folder / 'cache'}",
    ]
    processes = [start(place, [*overrides, *common]) for place in places]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    said = [(place / "out.txt").read_text().splitlines() for place in places]
    for status, lines in zip(statuses, said, strict=True):
        if status not in (0, 1) or any(line.startswith("Traceback") for line in lines):
            raise SystemExit("\n".join(lines))
    return statuses.count(0), [lines[-1] for status, lines in zip(statuses, said, strict=True) if status]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=12)
    count = parser.parse_args().starts
    os.environ["WANDB_MODE"] = "offline"
    torch.set_num_threads(1)
    for module in ("run", "experiments.train", "experiments.config.check", "albumentations", "kornia", "torchmetrics"):
        __import__(module)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photographs(folder / "photographs")
        alone, _ = start_at_once(folder, 1, [*OVERRIDES, "name=alone"])
        whole, many = folder / "runs" / "alone", folder / "runs" / "many"
        rows = list(csv.reader((whole / "metrics.csv").open()))
        for kind, more in (("first", []), ("resume=auto", ["resume=auto"])):
            if more:  # something to go on with
                (many / "results.json").unlink()
            began = time.monotonic()
            trained, refusals = start_at_once(folder, count, [*OVERRIDES, "name=many", *more])
            odd = [line for line in refusals if "another process works in this folder (" not in line]
            if kind == "first":  # who comes when the first has ended already
                odd = [line for line in odd if "this run exists already" not in line]
            if alone != 1 or odd or (kind == "first" and trained != 1):
                raise SystemExit(f"{kind}: {trained} trained; {odd}")
            if found := difference(outcome(whole), outcome(many)):
                raise SystemExit(f"{kind}: the run differs from one alone: {found}")
            found = [row[0] for row in csv.reader((many / "metrics.csv").open())]
            if found != [row[0] for row in rows]:
                raise SystemExit(f"{kind}: metrics.csv has steps {found}")
            seconds = time.monotonic() - began
            print(f"{kind}: {trained} of {count} trained, {len(refusals)} were refused in one line, {seconds:.0f} s")


if __name__ == "__main__":
    main()
