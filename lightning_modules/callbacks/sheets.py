"""Pictures of results: one sheet an image, with the input, the baseline, every branch and the truth side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from datamodules.batch import Batch
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, smallest_side, ssim
from lightning_modules.plots.kernels import coarse_tiles, kernel_rows, kernel_tiles
from lightning_modules.plots.regions import pick_zoom_box
from lightning_modules.plots.sheet import Tile, result_rows, save_png, stack, to_image
from networks.ops.resize import bicubic_resize
from networks.restored import Restored


@dataclass
class Measured:
    """Images [B, C, H, W] and their scores, "psnr" and "ssim", each [B]; no scores if they are too small for SSIM."""

    images: Tensor
    scores: Mapping[str, Tensor]

    def caption(self, i: int) -> str:
        """The scores of one image, for display under it; its size if it has none."""
        if not self.scores:
            return size(self.images)
        return f"{self.scores['psnr'][i].item():.2f} dB   {self.scores['ssim'][i].item():.4f}"


def measured(images: Tensor, truth: Tensor, protocol: Protocol, scale: int | None, gray: bool = False) -> Measured:
    """Scores by a protocol at a scale, `gray` for pictures of gray files.

    Raises:
        ValueError: if the protocol cannot be used at that scale.
    """
    protocol = protocol.at(scale, gray)
    if min(images.shape[-2:]) < smallest_side(protocol):
        return Measured(images, {})
    return Measured(images, {"psnr": psnr(images, truth, protocol), "ssim": ssim(images, truth, protocol)})


def enlarged(batch: Batch) -> Tensor | None:
    """The input enlarged bicubically to the size of `hr`, the baseline; for scale 1 the input itself.

    Returns:
        `None` where there is no input or it does not fit.
    """
    if batch.lr is None or batch.scale is None:
        return None
    images = bicubic_resize(batch.lr, batch.scale)
    return images if images.shape == batch.hr.shape else None


def size(images: Tensor) -> str:
    return f"{images.shape[-1]} x {images.shape[-2]}"


@dataclass
class Sheets:
    """Draws the images of batches as sheets."""

    protocol: Protocol  # what the captions measure
    label: str  # name of the model over its picture

    def tiles(
        self, restored: Restored, batch: Batch, i: int, result: Measured, baseline: Measured | None
    ) -> list[Tile]:
        """What a person wants to compare of image `i`: input, bicubic, each branch by its truth, result, truth.

        Args:
            result: `restored.sr`.
            baseline: `enlarged(batch)`.

        Raises:
            ValueError: if the batch has no input.
        """
        if batch.lr is None or batch.scale is None:
            raise ValueError("the degradation yields no 'lr' or 'scale': there is no input to show")
        facts = size(batch.lr)
        if batch.noise_level is not None:
            facts += f", noise sigma {255 * batch.noise_level[i].item():.3g}/255"
        if baseline is not None and batch.scale == 1 and baseline.scores:
            facts = f"{baseline.caption(i)}\n{facts}"
        tiles = [Tile(to_image(batch.lr[i]), "input", facts)]
        if baseline is not None and batch.scale != 1 and self.label != "bicubic":
            tiles.append(Tile(to_image(baseline.images[i]), "bicubic", baseline.caption(i)))
        if restored.deblurred is not None:
            branch, truth = Measured(restored.deblurred, {}), batch.lr_sharp
            if truth is not None:
                branch = measured(restored.deblurred, truth, self.protocol, batch.scale, batch.gray)
            tiles.append(Tile(to_image(restored.deblurred[i]), "deblurred branch", branch.caption(i)))
            if truth is not None:
                tiles.append(Tile(to_image(truth[i]), "truth of deblurred", size(truth)))
        if restored.pyramid is not None:
            tiles += coarse_tiles([scale[i] for scale in restored.pyramid], restored.sr[i], self.label)
        tiles.append(Tile(to_image(restored.sr[i]), self.label, result.caption(i)))
        tiles.append(Tile(to_image(batch.hr[i]), "ground truth", f"{size(batch.hr)}   ({self.protocol.name})"))
        return tiles

    def draw(
        self, restored: Restored, batch: Batch, i: int, result: Measured, baseline: Measured | None
    ) -> Image.Image:
        """The sheet of image `i` of a batch, below it the kernels that there are; arguments as for `tiles`."""
        tiles = self.tiles(restored, batch, i, result, baseline)
        rows = result_rows(tiles, pick_zoom_box(batch.hr[i]), batch.name[i])
        kernels = [None if kernel is None else kernel[i] for kernel in (restored.kernel, batch.kernel)]
        return stack([*rows, *kernel_rows(kernel_tiles(*kernels))])

    def save(self, folder: Path, restored: Restored, batch: Batch, result: Measured, baseline: Measured | None) -> None:
        """Write the sheet of every image of a batch as NAME.png; arguments as for `tiles`."""
        for i, name in enumerate(batch.name):
            save_png(self.draw(restored, batch, i, result, baseline), folder / f"{name.replace('/', '_')}.png")


class ValidationSheets(pl.Callback):
    """Logs the sheets of the first validation images to the loggers that take pictures, every few epochs.

    Args:
        protocol: what the captions measure.
        label: name of the model over its panel.
        images: how many validation images.
        every_n_epochs: how often: after the first epoch, and after every so many.
    """

    def __init__(self, protocol: Protocol, label: str, images: int = 4, every_n_epochs: int = 1) -> None:
        self.sheets, self.images, self.every_n_epochs = Sheets(protocol, label), images, every_n_epochs

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        between = trainer.current_epoch > 0 and (trainer.current_epoch + 1) % self.every_n_epochs
        if batch_idx >= self.images or between or trainer.sanity_checking:
            return
        loggers = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        if loggers:
            restored, images, protocol = outputs["restored"], enlarged(batch), self.sheets.protocol
            result = measured(restored.sr, batch.hr, protocol, batch.scale, batch.gray)
            baseline = None if images is None else measured(images, batch.hr, protocol, batch.scale, batch.gray)
            picture = self.sheets.draw(restored, batch, 0, result, baseline)
            for logger in loggers:
                logger.log_image(f"val/{batch.name[0]}", [picture], step=trainer.global_step)


def save_pictures(folder: Path, restored: Restored, batch: Batch, enlargement: Tensor | None) -> None:
    """Write the images of a batch as 8-bit files: NAME_sr.png, the result, NAME_hr.png, the truth, and
    NAME_input.png, the input enlarged to the same size, where there is such a thing."""
    images = {"sr": restored.sr, "hr": batch.hr, "input": enlargement}
    for i, name in enumerate(batch.name):
        for kind, pictures in images.items():
            if pictures is not None:
                save_png(to_image(pictures[i]), folder / f"{name.replace('/', '_')}_{kind}.png")
