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
from lightning_modules.metrics.psnr_ssim import psnr, smallest_side, ssim, to_eight_bit
from lightning_modules.plots.kernels import KERNEL_NOTE, coarse_panels, kernel_tiles, with_tiles
from lightning_modules.plots.sheet import Panel, pick_zoom_box, result_sheet, save_png
from networks.ops.resize import bicubic_resize
from networks.restored import Restored

Scores = Mapping[str, Tensor]


@dataclass
class Measured:
    """Images [B, C, H, W] and their scores, "psnr" and "ssim", each [B]; no scores if they are too small for SSIM."""

    images: Tensor
    scores: Scores

    def caption(self, i: int) -> str:
        """The scores of one image, for display under it; its size if it has none."""
        if not self.scores:
            return size(self.images)
        return f"{self.scores['psnr'][i].item():.2f} dB   {self.scores['ssim'][i].item():.4f}"


def measured(images: Tensor, truth: Tensor, protocol: Protocol, scale: int | None) -> Measured:
    """Scores by a protocol at a scale.

    Raises:
        ValueError: if the protocol cannot be used at that scale.
    """
    protocol = protocol.at(scale)
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


def panels(
    restored: Restored,
    batch: Batch,
    protocol: Protocol,
    label: str,
    i: int = 0,
    result: Measured | None = None,
    baseline: Measured | None = None,
) -> list[Panel]:
    """What a person wants to compare of image `i`: input, bicubic, each branch by its truth, result, truth.

    Args:
        result: `restored.sr` as it was measured before; measured here if it was not.
        baseline: the same of `enlarged(batch)`.

    Raises:
        ValueError: if the batch has no input.
    """
    if batch.lr is None or batch.scale is None:
        raise ValueError("the degradation yields no 'lr' or 'scale': there is no input to show")
    result = result or measured(restored.sr, batch.hr, protocol, batch.scale)
    if baseline is None and (images := enlarged(batch)) is not None:
        baseline = measured(images, batch.hr, protocol, batch.scale)
    noise = "" if batch.noise_level is None else f", noise sigma {255 * batch.noise_level[i].item():.3g}/255"
    facts = size(batch.lr) + noise
    columns = []
    if baseline is not None and batch.scale == 1:
        columns.append(Panel("input", f"{baseline.caption(i)}\n{facts}" if baseline.scores else facts, batch.lr[i]))
    else:
        columns.append(Panel("input", facts, batch.lr[i]))
        if baseline is not None and label != "bicubic":
            columns.append(Panel("bicubic", baseline.caption(i), baseline.images[i]))
    if restored.deblurred is not None:
        truth = batch.lr_sharp
        text = (
            size(restored.deblurred)
            if truth is None
            else measured(restored.deblurred, truth, protocol, batch.scale).caption(i)
        )
        columns.append(Panel("deblurred branch", text, restored.deblurred[i]))
        if truth is not None:
            columns.append(Panel("truth of deblurred", size(truth), truth[i]))
    if restored.pyramid is not None:
        columns += coarse_panels([scale[i] for scale in restored.pyramid], restored.sr[i], label)
    columns.append(Panel(label, result.caption(i), restored.sr[i]))
    columns.append(Panel("ground truth", f"{size(batch.hr)}   ({protocol.name})", batch.hr[i]))
    return columns


def sheet(
    restored: Restored,
    batch: Batch,
    protocol: Protocol,
    label: str,
    i: int = 0,
    result: Measured | None = None,
    baseline: Measured | None = None,
) -> Image.Image:
    """The sheet of image `i` of a batch, below it the kernels that there are; arguments as for `panels`."""
    columns = panels(restored, batch, protocol, label, i, result, baseline)
    drawn = result_sheet(columns, zoom_box=pick_zoom_box(batch.hr[i]), title=batch.name[i])
    kernels = [None if found is None else found[i] for found in (restored.kernel, batch.kernel)]
    return with_tiles(drawn, kernel_tiles(*kernels), KERNEL_NOTE)


class ValidationSheets(pl.Callback):
    """Logs the sheets of the first validation images to W&B, every few epochs.

    Args:
        protocol: what the captions measure.
        label: name of the model over its panel.
        images: how many validation images.
        every_n_epochs: how often.
    """

    def __init__(self, protocol: Protocol, label: str, images: int = 4, every_n_epochs: int = 1) -> None:
        self.protocol, self.label = protocol, label
        self.images, self.every_n_epochs = images, every_n_epochs

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
        if batch_idx >= self.images or trainer.current_epoch % self.every_n_epochs or trainer.sanity_checking:
            return
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                picture = sheet(outputs["restored"], batch, self.protocol, self.label)
                logger.log_image(f"val/{batch.name[0]}", [picture], step=trainer.global_step)


class TestSheets:
    """Writes a sheet of every test image into a folder, and its pictures (`save_pictures`) beside it.

    Args:
        folder: gets NAME.png, the sheet, NAME_sr.png, NAME_hr.png and NAME_input.png.
        protocol: what the captions measure.
        label: name of the model over its panel.
    """

    __test__ = False  # not a test class, whatever its name begins with

    def __init__(self, folder: Path, protocol: Protocol, label: str) -> None:
        self.folder, self.protocol, self.label = folder, protocol, label

    def write(self, restored: Restored, batch: Batch, scores: Scores, baseline: Measured | None) -> None:
        """Draw a batch that was measured by `protocol`: the scores of `restored.sr`, and `enlarged(batch)` with its."""
        result = Measured(restored.sr, scores)
        for i, name in enumerate(batch.name):
            stem = name.replace("/", "_")
            drawn = sheet(restored, batch, self.protocol, self.label, i, result, baseline)
            save_png(drawn, self.folder / f"{stem}.png")
        save_pictures(self.folder, restored, batch, baseline)


def save_pictures(folder: Path, restored: Restored, batch: Batch, baseline: Measured | None) -> None:
    """Write the images of a batch as 8-bit files: NAME_sr.png, the result, NAME_hr.png, the truth, and
    NAME_input.png, the input enlarged to the same size (`baseline`), where there is such a thing."""
    images = {"sr": restored.sr, "hr": batch.hr, "input": None if baseline is None else baseline.images}
    for i, name in enumerate(batch.name):
        for kind, pictures in images.items():
            if pictures is not None:
                save_png(to_image(pictures[i]), folder / f"{name.replace('/', '_')}_{kind}.png")


def to_image(image: Tensor) -> Image.Image:
    """[C, H, W] in [0, 1] as an 8-bit PIL image, rounded as the metrics round it."""
    pixels = to_eight_bit(image.detach().cpu()).movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
