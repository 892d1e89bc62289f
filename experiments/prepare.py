"""task=prepare: download, unpack, check and decode a data set ahead of a cluster job, and say what there is."""

import math
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from datamodules.cache import ImageCache
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources import splits_of

COLUMNS = ("split", "content", "images", "smallest", "median", "largest", "decoded", "folder")


def run(cfg: DictConfig) -> None:
    """Make the decoded caches of all splits of `data=` and print one row for each.

    Needs no accelerator. Training and evaluation with the same `data.cache_dir` find everything done.

    Raises:
        InputError: for images that are missing, unreadable or do not pair, and for a full disk.
    """
    data: ImageDataModule = hydra.utils.instantiate(cfg.data, _convert_="all")
    data.prepare_data()
    rows = [
        (split, content, *describe(cache))
        for split in splits_of(data.source)
        for content, cache in data.decode(split).items()
    ]
    print(f"{data.source.name}\n{table(rows)}", flush=True)


def describe(cache: ImageCache) -> tuple[str, ...]:
    """Number of images, width x height of the smallest, median and largest, bytes of pixels, and the folder."""
    shapes = sorted(cache.shapes, key=math.prod)
    sizes = (f"{width}x{height}" for height, width in (shapes[0], shapes[(len(shapes) - 1) // 2], shapes[-1]))
    decoded = sum(3 * math.prod(shape) for shape in shapes)
    return (str(len(shapes)), *sizes, f"{decoded / 1e6:,.1f} MB", str(cache.folder))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Plain-text table; numbers to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    sides = ["<" if column in ("split", "content", "folder") else ">" for column in COLUMNS]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in (COLUMNS, *rows)
    ]
    return "\n".join((lines[0], "-" * max(map(len, lines)), *lines[1:]))
