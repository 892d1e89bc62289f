"""Everything that has to be measured on a GPU, by one command that may be cut off at any time.

    python -m experiments.benchmarks.gpu --minutes 8 --output DIR [--images PHOTOS] [--set5 SET5]
    python -m experiments.benchmarks.gpu --smoke --output DIR  # all of it on the CPU with tiny networks

The most valuable comes first; each result is in DIR/results.jsonl and in the report DIR/report.md as soon as it is
known. Needs neither the network nor Weights & Biases. Every part has a share of the minutes; what fails or hangs is
noted with its reason, and the next goes on. DIR/log.txt has what the libraries say.
"""

import argparse
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

from experiments.benchmarks.gpu import versions
from experiments.benchmarks.gpu.plan import Settings, deadlines, plan

SAMPLE = "astronaut, coffee (scikit-image)"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default: 8)")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the report; without one of an earlier run"
    )
    parser.add_argument("--images", type=Path, help="folder of training photographs (default: those of scikit-image)")
    parser.add_argument("--set5", type=Path, help="folder of Set5's images (default: test photographs of scikit-image)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, in a smoke run cpu")
    parser.add_argument("--smoke", action="store_true", help="try everything with tiny networks, in about a minute")
    return parser.parse_args()


def main() -> int:
    """Run the command line; 1 if something is missing here."""
    start = time.time()
    options = arguments()
    found = versions.packages()
    print(versions.table(found), flush=True)
    if complaint := versions.complaints(found):
        print(complaint, file=sys.stderr)
        return 1
    from datamodules.errors import InputError  # only now: it is known that all imports will work

    try:
        run(options, start)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace, start: float) -> None:
    """Measure all parts, one after the other.

    A SIGTERM ends it like an exception, so that nothing is left but the report.

    Raises:
        InputError: for a device that is not there, folders without images, or a report that is there already.
    """
    from experiments.benchmarks.gpu.about import describe
    from experiments.benchmarks.gpu.folders import check, link
    from experiments.benchmarks.gpu.processes import measure
    from experiments.benchmarks.gpu.report import Book

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    device: Literal["cuda", "cpu"] = options.device or ("cpu" if options.smoke else "cuda")
    check(options.output, device, options.images, options.set5)
    book = Book(options.output.resolve())
    test_name = "Set5" if options.set5 else SAMPLE
    with tempfile.TemporaryDirectory() as folder:
        images, val, test = link(Path(folder), options.images, options.set5)
        settings = Settings(
            output=str(book.page.parent),
            images=str(images),
            val=str(val),
            test=str(test),
            cache=f"{folder}/cache",
            device=device,
            smoke=options.smoke,
            until=deadlines(start, options.minutes, options.smoke),
        )
        told = "the photographs of scikit-image" if options.images is None else str(options.images)
        command = f"python -m experiments.benchmarks.gpu {shlex.join(sys.argv[1:])}"
        tests = test_name if options.set5 else f"{test_name}: no --set5 was given"
        book.begin(describe(device, command, told, tests, options.smoke), plan(options.smoke, device, test_name))
        measure(settings, book)
    print(f"{book.page}: {(time.time() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    sys.exit(main())
