"""task=preview: one sheet of what training would see, before any hours are spent on it."""

import secrets
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from pydantic import PositiveInt

from datamodules.batch import Batch
from datamodules.datasets import collate
from datamodules.degradations.keyed_random import make_key
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from datamodules.paired_datamodule import PairedDataModule
from datamodules.sources import Split, splits_of
from experiments.config.construct import construct
from experiments.config.training import check_inputs, check_patch, check_transforms
from experiments.preview.sheet import preview_sheet
from experiments.preview.statistics import Statistics
from experiments.results.loggers import finish, start_loggers
from lightning_modules.plots.sheet import save_png

STATISTICS_BATCH = 4  # samples that share a random scale: few, for many scales
SMALLEST = 16  # kernels and noise levels do not depend on the image: a small one will do

KEYS: dict[str, Any] = {"images": PositiveInt, "samples": PositiveInt}


def check(cfg: DictConfig) -> None:
    """Verify that data and degradation fit.

    Raises:
        ConfigError: if they do not.
    """
    degradation = construct(cfg, "degradation")
    check_inputs(cfg, degradation)
    check_patch(cfg, degradation)
    check_transforms(cfg)


def run(cfg: DictConfig) -> None:
    """Draw the first crops of the first epoch and statistics of `samples` samples into RUN_DIR/preview.png.

    Every crop is a batch of its own, so that a degradation with several scales shows several. Crops come from the
    training split, of test sets from the test split.

    Raises:
        InputError: for unreadable data, a patch that does not fit the images, no crops.
    """
    datamodule: ImageDataModule = construct(cfg, "data")
    split: Split = "train" if "train" in splits_of(datamodule.source) else "test"
    datamodule.prepare_data()
    datamodule.setup("fit" if split == "train" else "test")
    crops = draw_crops(datamodule, split, cfg.images)
    scales = "/".join(f"{scale}" for scale in datamodule.degradation.scales)
    title = (
        f"{datamodule.source.name}, {split} split: degradation={cfg.choices.degradation}, scale {scales}, "
        f"patch {datamodule.patch}, seed {datamodule.seed}"
    )
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping
    drawn_by = yaml.safe_dump(config["degradation"], sort_keys=False, default_flow_style=True, width=1000).strip()
    sheet = preview_sheet(title, drawn_by, crops, statistics(datamodule, cfg.samples))
    path = Path(cfg.run_dir) / "preview.png"
    save_png(sheet, path)
    about = {"run_id": secrets.token_hex(4), "name": cfg.name, "job_type": "preview", "group": cfg.group}
    for logger in start_loggers(cfg, path.parent, [], config=config, **about):
        logger.log_image("preview", [sheet])
        finish(logger, 0)
    print(f"preview: {path}", flush=True)


def draw_crops(datamodule: ImageDataModule, split: Split, count: int) -> list[Batch]:
    """The first training crops, degraded, one a batch.

    Raises:
        InputError: if no image is as large as the patch.
    """
    cache, patch = datamodule.caches[split], datamodule.patch
    numbers = [i for i in datamodule.numbers[split] if min(cache.shapes[i]) >= patch]
    if not numbers:
        raise InputError(f"{datamodule.source.name}: no {split} image is as large as data.patch={patch}: make it less")
    crops = datamodule.crops(split, numbers, count)
    return [datamodule.on_after_batch_transfer(collate([crops[0, i, i]]), 0) for i in range(count)]


def statistics(datamodule: ImageDataModule, count: int) -> Statistics:
    """What the samples of the first epoch draw, on gray images."""
    drawn = Statistics()
    side = -(-SMALLEST // datamodule.multiple) * datamodule.multiple + 2 * datamodule.degradation.margin
    for number, start in enumerate(range(0, count, STATISTICS_BATCH)):
        index = torch.arange(start, min(start + STATISTICS_BATCH, count))
        hr = torch.full((len(index), 3, side, side), 128, dtype=torch.uint8)
        batch = Batch(
            hr=hr,
            name=[str(i) for i in index.tolist()],
            index=index,
            key=torch.tensor([make_key(datamodule.seed, 0, i) for i in index.tolist()]),
            group=make_key("batch", datamodule.seed, 0, number),
        )
        if isinstance(datamodule, PairedDataModule):
            batch.lr = hr[..., :: datamodule.source.scale, :: datamodule.source.scale]
        drawn.add(datamodule.on_after_batch_transfer(batch, 0))
    return drawn
