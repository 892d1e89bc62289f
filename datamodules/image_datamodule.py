"""The data module of every experiment that degrades sharp images on the device.

`datamodules.paired_datamodule` adds data that bring their degraded images along.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from datamodules import distributed
from datamodules.augmentation import Transforms
from datamodules.batch import Batch, to_gray
from datamodules.cache import ImageCache
from datamodules.cache_build import cores, summary
from datamodules.datasets import Inputs, TrainingCrops, WholeImages, collate, numbered_name
from datamodules.degradations.base import Degradation
from datamodules.errors import InputError
from datamodules.loaders import EpochOrder, Loader, ResumableLoader
from datamodules.sources import Source, Split, splits_of
from datamodules.workers import start_server

log = logging.getLogger(__name__)


class ImageDataModule(pl.LightningDataModule):
    """Sharp images in, `Batch` records out; workers ship uint8 crops, the degradation runs on the device.

    Args:
        source: where the images come from; see `datamodules.sources`.
        degradation: pipeline that completes a `Batch`; see `datamodules.degradations.base`.
        seed: run seed; training crops and degradations are a function of (seed, epoch, sample index).
        root: folder of the images; the configs hand it on to the source, the data module does not read it.
        patch: side of the sharp training crop in pixels, a multiple of the degradation's scale.
        batch_size: crops per batch and process.
        samples_per_epoch: crops per epoch, over all processes.
        num_workers: loader processes; `None` takes one per available core, at most 8.
        timeout_minutes: how long a batch of a loader process may take before the run stops (`errors.LoaderStuck`).
        cache_dir: folder of the decoded images (uint8, three bytes a pixel).
        val_points: validation images are degraded at each of these fractions of the ranges that the degradation draws
            its parameters from, where it has such points: two images draw two, which need not be typical. Empty: drawn.
        suite_seed: validation and test degradations are a function of (suite_seed, image name).
        permute_channels: shuffle the colour channels of training crops, for data sets with few colours.
        gray: train on gray images of one channel; validation and test stay in colour.
        flip, rotate: mirror the crop; rotate it by multiples of 90 degrees.
        transforms: of albumentations, which training crops go through after that; see `datamodules.augmentation`.
        on_corrupt: "error" stops at an unreadable image, "skip" goes on and reports how many.
        on_small: the same for an image smaller than the training crop.
        variant: which of several versions of a data set; handed on to the source like `root`.

    Raises:
        InputError: from `setup`, for images that are missing, unreadable or too small.
    """

    provides: tuple[str, ...] = ("hr",)  # before any degradation; read by the config check

    def __init__(
        self,
        source: Source,
        degradation: Degradation,
        seed: int,
        root: str | None = None,
        patch: int = 256,
        batch_size: int = 32,
        samples_per_epoch: int = 32_000,
        num_workers: int | None = None,
        timeout_minutes: float = 10.0,
        cache_dir: str = "~/.cache/deblur-sr",
        val_points: Sequence[float] = (0.05, 0.5, 0.95),
        suite_seed: int = 0,
        flip: bool = True,
        rotate: bool = True,
        on_corrupt: Literal["error", "skip"] = "error",
        on_small: Literal["error", "skip"] = "error",
        variant: str | None = None,
        gray: bool = False,
        permute_channels: bool = False,
        transforms: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.source, self.degradation, self.seed = source, degradation, seed
        self.patch, self.batch_size, self.samples_per_epoch = patch, batch_size, samples_per_epoch
        self.num_workers = min(cores(), 8) if num_workers is None else num_workers
        self.timeout_minutes = timeout_minutes
        self.cache_dir = Path(cache_dir).expanduser()
        if not all(0 <= point <= 1 for point in val_points):
            raise ValueError(f"val_points is {list(val_points)}, expected fractions from 0 to 1")
        self.val_points = list(val_points) if degradation.has_points else []
        self.suite_seed, self.flip, self.rotate = suite_seed, flip, rotate
        self.on_corrupt, self.on_small, self.gray = on_corrupt, on_small, gray
        self.permute_channels = permute_channels
        self.transforms = Transforms(transforms, patch) if transforms else None
        self.scale, self.multiple = degradation.scale, degradation.multiple
        self.patch_multiple = self.multiple  # of what is advised; the network may ask for more
        self.least = 1  # side of a validation or test image, of what is measured of it
        self.limit_val: int | float | None = None  # how many validation images, or what share of them
        self.caches: dict[Split, ImageCache] = {}
        self.inputs: dict[Split, Inputs] = {}  # stays empty: the degradation makes the inputs
        self.numbers: dict[Split, list[int]] = {}

    def prepare_data(self) -> None:
        """Download and unpack, once per node."""
        self.source.prepare()

    def setup(self, stage: str) -> None:
        if self.num_workers:
            start_server()  # now, for it takes a second or two
        splits: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        for split in splits[stage]:
            self._decoded(split)  # all of them, before copies are looked for
        for split in splits[stage]:
            if split not in self.numbers:
                self.numbers[split] = self._large_enough(split, self.kept(split))

    def decode(self, split: Split) -> dict[str, ImageCache]:
        """Fill `caches` of one split; returns every cache made, by what it holds."""
        self.caches[split] = ImageCache.build(self.source.files(split), self.cache_dir, on_corrupt=self.on_corrupt)
        return {"sharp": self.caches[split]}

    def kept(self, split: Split) -> list[int]:
        """Which of the images of a split stay in it: of equal ones those of test before val, and of val before train.

        What becomes of the others, the source says (`datamodules.sources.Source`). They are named in a warning.

        Raises:
            InputError: none would be left.
        """
        cache, rule = self._decoded(split), getattr(self.source, "duplicates", "name")
        above: dict[Split, tuple[Split, ...]] = {"train": ("test", "val"), "val": ("test",), "test": ()}
        # Published splits stay as they are: where a split is not needed, it is not decoded for the warning alone.
        others = [
            other for other in above[split] if other in (splits_of(self.source) if rule == "drop" else self.caches)
        ]
        owners = {
            digest: (other, file)
            for other in reversed(others)
            for digest, file in zip(self._decoded(other).hashes, self.caches[other].files, strict=True)
        }
        numbers = range(len(cache))
        meant = {file for other in others for file in self.caches[other].files}  # one file in two splits
        copies = {i: owners[h] for i, h in enumerate(cache.hashes) if h in owners and cache.files[i] not in meant}
        if not copies or rule == "keep":
            return list(numbers)
        shown = [(cache.files[i], f"equals {file} of {other}") for i, (other, file) in copies.items()]
        line = f"{len(copies)} of {len(cache)} images of the {split} split are copies: {summary(shown, 3)}"
        if rule == "name":
            log.warning("%s: this data set is published so, and stays as it is", line)
            return list(numbers)
        if len(copies) == len(cache):
            raise InputError(f"{line}: none is left: remove copies, or add other images")
        log.warning("%s: they are left out of %s", line, split)
        return [i for i in numbers if i not in copies]

    def _decoded(self, split: Split) -> ImageCache:
        if split not in self.caches:
            self.decode(split)
        return self.caches[split]

    def _large_enough(self, split: Split, numbers: Sequence[int]) -> list[int]:
        margin, whole = self.degradation.margin, -(-self.least // self.multiple) * self.multiple
        cache, least = self.caches[split], self.patch if split == "train" else whole + 2 * margin
        small = [i for i in numbers if min(cache.shapes[i]) < least]
        large = [i for i in numbers if min(cache.shapes[i]) >= least]
        if not small:
            return large
        height, width = cache.shapes[small[0]]
        first = f"{cache.files[small[0]]}: image is {width}x{height}"
        if len(small) > 1:
            first += f" (and {len(small) - 1} more)"
        if self.on_small == "error" or not large:
            size = f"smaller than data.patch={least}"
            if split != "train":
                size = f"smaller than one {self.multiple}-fold reduced pixel"
                if self.least > self.multiple:
                    size = f"smaller than the {whole} pixels that protocol= needs"
                size += f" and the {margin} on either side that degradation.margin cuts off" * (margin > 0)
            raise InputError(f"{first}, {size}: {self._larger_or_fewer(split, numbers, bool(large))}")
        log.warning(
            "%d of %d images are smaller than %d pixels and were skipped: %s ...", len(small), len(cache), least, first
        )
        return large

    def _larger_or_fewer(self, split: Split, numbers: Sequence[int], some: bool) -> str:
        """What to do about images that are too small, `some` of which are not."""
        sides = [min(self.caches[split].shapes[i]) // self.patch_multiple * self.patch_multiple for i in numbers]
        ways = ["data.on_small=skip"] if some else []
        if split == "train" and min(sides):
            ways.insert(0, f"data.patch={min(sides)}")
        elif split == "train" and max(sides) and not some:
            ways.append(f"data.patch={max(sides)} data.on_small=skip")
        return f"set {', or '.join(ways)}" if ways else "give larger images"

    def train_dataloader(self) -> ResumableLoader:
        crops = self.crops("train", self.numbers["train"], self.samples_per_epoch)
        order = EpochOrder(len(crops), self.batch_size, self.seed, distributed.rank(), distributed.world())
        if not len(order):
            raise InputError(
                f"data.samples_per_epoch={len(crops)} is less than one batch "
                f"(data.batch_size={self.batch_size} on {distributed.world()} process(es)): raise it or lower the "
                "batch size"
            )
        return ResumableLoader(crops, order, **self._worker_options())

    def crops(self, split: Split, numbers: Sequence[int], length: int) -> TrainingCrops:
        """Training crops of a split, `length` an epoch, from the images that are numbered so."""
        return TrainingCrops(
            self.caches[split],
            numbers,
            self.patch,
            length,
            self.seed,
            self.flip,
            self.rotate,
            self.inputs.get(split),
            self.permute_channels,
            self.transforms,
        )

    def _evaluation_loader(self, split: Split, numbers: Sequence[int], points: Sequence[float] = ()) -> DataLoader[Any]:
        inputs = self.inputs.get(split)
        images = WholeImages(self.caches[split], numbers, self.multiple, self.suite_seed, inputs, points)
        # One image a batch: sizes differ. One worker reads ahead while the device computes.
        options = self._worker_options() | {"num_workers": min(self.num_workers, 1)}
        return Loader(images, batch_size=1, collate_fn=collate, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        """Whole validation images at all `val_points`, one a batch: the share of this process.

        A process for which none is left takes the first one: Lightning has to see all processes validate, and an image
        counts once, whoever has measured it.
        """
        numbers = self._all("val")
        return self._evaluation_loader("val", distributed.share(numbers) or numbers[:1], self.val_points)

    def _all(self, split: Split) -> list[int]:
        """The images of `val` or `test` as `WholeImages` numbers them.

        The point changes from image to image, so that the first few (`limit_val`) cover the range too.
        """
        points, numbers = (len(self.val_points) or 1) if split == "val" else 1, self.numbers[split]
        turns = [((i + round_) % points, number) for round_ in range(points) for i, number in enumerate(numbers)]
        if split == "val" and self.limit_val is not None:
            turns = turns[: self.limit_val if isinstance(self.limit_val, int) else int(self.limit_val * len(turns))]
        return [turn * len(self.caches[split]) + number for turn, number in turns]

    def digest(self, split: Split) -> str:
        """Of the pixels of the images of `train` or `val`, wherever they lie; after `setup`."""
        hashes, numbers = self.caches[split].hashes, self.numbers[split] if split == "train" else self._all(split)
        return hashlib.sha256("".join(sorted(hashes[n % len(hashes)] for n in numbers)).encode()).hexdigest()

    def image_names(self, split: Split) -> list[str]:
        """Names of all images of `val` or `test`, as batches have them, in the order of their loader; after `setup`."""
        points = self.val_points if split == "val" else ()
        return [numbered_name(self.caches[split], number, points) for number in self._all(split)]

    def test_dataloader(self, numbers: Sequence[int] | None = None) -> DataLoader[Any]:
        """Whole test images, one a batch.

        Args:
            numbers: which ones, out of `self.numbers["test"]`: the share of a process, or what is not measured yet.
        """
        return self._evaluation_loader("test", self.numbers["test"] if numbers is None else numbers)

    def _worker_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "patience": 60 * self.timeout_minutes,
            "pin_memory": torch.cuda.is_available(),
        }

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self._finish(self.degradation(batch))

    def _finish(self, batch: Batch) -> Batch:
        return to_gray(batch) if self.gray and self.trainer is not None and self.trainer.training else batch
