"""The data module of data sets that bring a degraded version of every sharp image."""

import os
from dataclasses import replace
from pathlib import Path

from datamodules.batch import Batch, as_float
from datamodules.cache import ImageCache
from datamodules.datasets import Inputs
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources import PairedSource, Split


class PairedDataModule(ImageDataModule):
    """Pairs of images in, `Batch` records out, with the options of `ImageDataModule`.

    The contract, step by step:

    1. The loader fills `hr` with the sharp and `lr` with the degraded image, both uint8. Training crops have the same
       window and the same symmetry on both sides; where the degraded files are smaller, the window starts at a multiple
       of the scale, so that the crops show the same scene to the pixel. Whole images are cut alike.
    2. On the device both become float in [0, 1], and `scale` is the ratio of the files.
    3. The degradation is called. `AsStored` (degradation=none) changes nothing. Another one must start from `lr`
       (`inputs` contains "lr") and finds there the degraded image at the size of `hr`; LR-GOPRO, for example, reduces
       it by 4. One that starts from `hr` would silently ignore the files and is refused.

    Where the source knows kernels and noise levels of the files, `kernel` and `noise_level` are filled too.

    `hr` and `lr` of one pair have one name: that of the sharp file, or of the degraded one where several belong to one
    sharp file.

    Raises:
        InputError: from `setup`, for what `ImageDataModule` refuses and pairs of unequal size; from it and
            `prepare_data`, before anything is downloaded, for a degradation that does not start from the degraded
            images or is for files of another size.
    """

    provides = ("hr", "lr", "scale")
    source: PairedSource

    def prepare_data(self) -> None:
        self._check_degradation()
        super().prepare_data()

    def setup(self, stage: str) -> None:
        self._check_degradation()
        if stage == "fit" and getattr(self.source, "known", None) and (self.flip or self.rotate or self.transforms):
            raise InputError(
                "data.source.kernels: crops are flipped, turned and transformed, their kernels are not: set "
                "data.flip=false data.rotate=false data.transforms=[]"
            )
        if stage == "fit" and getattr(self.source, "noise_level", None) is not None and self.transforms:
            raise InputError(
                "data.source.noise_level: crops are transformed, and their noise with them: set data.transforms=[]"
            )
        super().setup(stage)

    def _check_degradation(self) -> None:
        """What is certain before there are files."""
        if "lr" not in self.degradation.inputs:
            raise InputError(
                f"{type(self.degradation).__name__} makes its inputs from sharp images, {self.source.name} brings"
                " degraded ones, which would be ignored: choose degradation=none or one that starts from them"
            )
        if self.source.scale not in (1, self.scale):
            raise InputError(
                f"data.source.scale={self.source.scale}: a degradation to 1/{self.scale} needs degraded images of the"
                " size of the sharp ones: choose degradation=none (with data=reds degradation=reds), or files of equal"
                " size"
            )
        if self.source.scale == 1 < self.degradation.file_scale:
            raise InputError(
                f"degradation: it is for files that are {self.degradation.file_scale} times smaller than the sharp"
                f" ones, those of {self.source.name} are of equal size: choose degradation=none, or degradation=gopro,"
                " which reduces them"
            )

    def decode(self, split: Split) -> dict[str, ImageCache]:
        """Fill `caches` and `inputs` of one split: pairs whose files can both be read, sizes checked."""
        kernels, noise_levels = (
            known(split) if (known := getattr(self.source, name, None)) else None
            for name in ("kernels", "noise_levels")
        )
        sharp_files, degraded_files = (
            [Path(os.path.abspath(file)) for file in files]  # as the cache lists them
            for files in (self.source.files(split), self.source.degraded_files(split))
        )
        sharp, degraded = (
            ImageCache.build(list(dict.fromkeys(files)), self.cache_dir, on_corrupt=self.on_corrupt)
            for files in (sharp_files, degraded_files)
        )
        where = [{file: number for number, file in enumerate(cache.files)} for cache in (sharp, degraded)]
        # An unreadable file (on_corrupt=skip) takes its partner with it.
        pairs = list(zip(sharp_files, degraded_files, strict=True))
        left = [i for i, (a, b) in enumerate(pairs) if a in where[0] and b in where[1]]
        numbers = [(where[0][pairs[i][0]], where[1][pairs[i][1]]) for i in left]
        if not numbers:
            raise InputError(f"{self.source.name}: no pair of the {split} split can be read on both sides")
        self.caches[split] = sharp.subset([a for a, _ in numbers])
        partner = degraded.subset([b for _, b in numbers])
        if len(set(self.caches[split].names)) < len(numbers):
            self.caches[split].names = partner.names
        check_sizes(self.caches[split], partner, self.source.scale)
        self.inputs[split] = Inputs(
            partner,
            self.source.scale,
            kernels[left] if kernels is not None else None,
            [noise_levels[i] for i in left] if noise_levels is not None else None,
        )
        return {"sharp": sharp, "degraded": degraded}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        assert batch.lr is not None  # filled by the loader
        ready = replace(batch, hr=as_float(batch.hr), lr=as_float(batch.lr), scale=self.source.scale)
        return self._finish(self.degradation(ready))


def check_sizes(sharp: ImageCache, degraded: ImageCache, scale: int) -> None:
    """Every sharp image must be exactly `scale` times as high and wide as its partner.

    Raises:
        InputError: names the first pair that is not, how many there are, and what to do.
    """
    sizes = list(zip(sharp.shapes, degraded.shapes, strict=True))
    wrong = [i for i, ((a, b), (c, d)) in enumerate(sizes) if (a, b) != (scale * c, scale * d)]
    if not wrong:
        return
    (height, width), (low_height, low_width) = sizes[wrong[0]]
    factor = height // low_height
    uniform = all((a, b) == (factor * c, factor * d) for (a, b), (c, d) in sizes)
    expected = "equal sizes" if scale == 1 else f"sizes that differ by exactly {scale}"
    hint = "crop or replace these files"
    if uniform:
        hint = f"all pairs differ by {factor}: set data.source.scale={factor}"
    elif factor > 1 and all((a // factor, b // factor) == (c, d) for (a, b), (c, d) in sizes):
        key = "" if scale == factor else f"set data.source.scale={factor} and "
        cut = f"{factor * low_width}x{factor * low_height}"
        hint = f"{key}crop the sharp images to multiples of {factor}, this one to {cut}"
    raise InputError(
        f"{sharp.files[wrong[0]]} is {width}x{height}, its degraded version {degraded.files[wrong[0]]} is"
        f" {low_width}x{low_height}, expected {expected} ({len(wrong)} of {len(sizes)} pairs are wrong): {hint}"
    )
