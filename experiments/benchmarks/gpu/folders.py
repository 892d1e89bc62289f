"""The folders of `experiments.benchmarks.gpu`: checked before anything runs, and brought together."""

from pathlib import Path

import torch

from datamodules.errors import InputError
from datamodules.io.decode import list_images
from datamodules.sources import ALL_SPLITS
from datamodules.sources.benchmark import Benchmark
from datamodules.sources.sample import Sample


def check(output: Path, device: str, images: Path | None, set5: Path | None) -> None:
    """Make the folder of the report.

    Raises:
        InputError: for a device that is not there, folders without images, or a report that is there already.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here: --smoke tries everything on the CPU")
    if images is not None:
        list_images(images)
    if set5 is not None:
        Benchmark(str(set5), "set5").prepare()
    if (output / "results.jsonl").exists():
        raise InputError(f"{output}: there is a report in it already: give another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made ({error.strerror}): give another --output") from error


def link(folder: Path, images: Path | None, set5: Path | None) -> tuple[Path, Path, Path]:
    """Links to the photographs for training, validation and test, below a folder whose name Hydra takes as it is.

    Args:
        images, set5: what is trained and tested on in place of the photographs that come with scikit-image.
    """
    source = Sample()
    source.prepare()
    for split, given in zip(ALL_SPLITS, (images, None, set5), strict=True):
        if given is not None:
            (folder / split).symlink_to(given.resolve())
            continue
        (folder / split).mkdir()
        for file in source.files(split):
            (folder / split / file.name).symlink_to(file)
    train, val, test = (folder / split for split in ALL_SPLITS)
    return train, val, test
