"""task=prepare: download, unpack, check and decode a data set ahead of a cluster job, and say what there is."""

import math

from omegaconf import DictConfig

from datamodules.cache import ImageCache
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources import splits_of
from experiments.config.construct import construct
from experiments.results.table import ResultTable, TableColumn, heads, words
from experiments.results.writers import text

COLUMNS = [
    *heads(["split", "content"]),
    *map(TableColumn, ["images", "smallest", "median", "largest", "decoded"]),
    *heads(["folder"]),
]


def drop_unused(cfg: DictConfig) -> None:
    """Take out what this task does not look at before it is checked: images are decoded without a degradation."""
    cfg.degradation = {"_target_": "datamodules.degradations.pipelines.AsStored"}


def run(cfg: DictConfig) -> None:
    """Make the decoded caches of all splits of `data=` and print one row for each.

    Needs no accelerator. Training and evaluation with the same `data.cache_dir` find everything done.

    Raises:
        InputError: for images that are missing, unreadable or do not pair, and for a full disk.
    """
    data: ImageDataModule = construct(cfg, "data")
    data.source.prepare()  # not the data module's own, which asks whether the degradation fits
    splits = splits_of(data.source)
    rows = [
        words(split, content, *describe(cache)) for split in splits for content, cache in data.decode(split).items()
    ]
    for split in splits:
        data.kept(split)  # names copies
    print(text(ResultTable(data.source.name, COLUMNS, [rows])), flush=True)


def describe(cache: ImageCache) -> tuple[str, ...]:
    """Number of images, width x height of the smallest, median and largest, bytes of pixels, and the folder."""
    shapes = sorted(cache.shapes, key=math.prod)
    sizes = (f"{width}x{height}" for height, width in (shapes[0], shapes[(len(shapes) - 1) // 2], shapes[-1]))
    decoded = sum(3 * math.prod(shape) for shape in shapes)
    return (str(len(shapes)), *sizes, f"{decoded / 1e6:,.1f} MB", str(cache.folder))
