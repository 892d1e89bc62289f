"""Pictures of results: one sheet an image, with the input, the baseline, every branch and the truth side by side."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from datamodules.batch import Batch
from lightning_modules.metrics import SSIM_WINDOW, Protocol, psnr, ssim, to_eight_bit
from lightning_modules.pictures import Panel, pick_zoom_box, result_sheet, save_png
from networks.resize import bicubic_resize
from networks.restored import Restored


def caption(image: Tensor, truth: Tensor, protocol: Protocol) -> str:
    """PSNR and SSIM of one image [C, H, W], for display under it; its size if it is too small to measure."""
    if min(image.shape[-2:]) - 2 * protocol.shave < SSIM_WINDOW:
        return f"{image.shape[-1]} x {image.shape[-2]}"
    pair = (image[None], truth[None], protocol)
    return f"{psnr(*pair).item():.2f} dB   {ssim(*pair).item():.4f}"


def panels(restored: Restored, batch: Batch, protocol: Protocol, label: str, i: int = 0) -> list[Panel]:
    """What a person wants to compare of image `i`: blurry input, bicubic, deblurred branch, result, truth."""
    lr, hr = batch.lr, batch.hr[i]
    if lr is None or batch.scale is None:
        raise ValueError("the degradation yields no 'lr' or 'scale': there is no input to show")
    columns = [Panel("blurry input", f"{lr.shape[-1]} x {lr.shape[-2]}", lr[i])]
    if batch.scale > 1:
        enlarged = bicubic_resize(lr[i : i + 1], batch.scale)[0]
        columns.append(Panel("bicubic", caption(enlarged, hr, protocol), enlarged))
    if restored.deblurred is not None and batch.lr_sharp is not None:
        text = caption(restored.deblurred[i], batch.lr_sharp[i], protocol)
        columns.append(Panel("deblurred, low resolution", text, restored.deblurred[i]))
    columns.append(Panel(label, caption(restored.sr[i], hr, protocol), restored.sr[i]))
    columns.append(Panel("ground truth", f"{hr.shape[-1]} x {hr.shape[-2]}   ({protocol.name})", hr))
    return columns


def sheet(restored: Restored, batch: Batch, protocol: Protocol, label: str) -> Any:
    """The sheet of the first image of a batch, as a PIL image."""
    return result_sheet(
        panels(restored, batch, protocol, label), zoom_box=pick_zoom_box(batch.hr[0]), title=batch.name[0]
    )


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


class TestSheets(pl.Callback):
    """Writes a sheet and the restored image of every test image into a folder.

    Args:
        folder: gets NAME.png (the sheet) and NAME_sr.png (the result itself, 8 bit).
    """

    __test__ = False  # not a test class, whatever its name begins with

    def __init__(self, folder: Path, protocol: Protocol, label: str) -> None:
        self.folder, self.protocol, self.label = folder, protocol, label
        self.paths: list[Path] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        restored: Restored = outputs["restored"]
        stem = batch.name[0].replace("/", "_")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.paths.append(self.folder / f"{stem}.png")
        save_png(sheet(restored, batch, self.protocol, self.label), self.paths[-1])
        save_png(to_image(restored.sr[0]), self.folder / f"{stem}_sr.png")


def to_image(image: Tensor) -> Image.Image:
    """[C, H, W] in [0, 1] as an 8-bit PIL image, rounded as the metrics round it."""
    pixels = to_eight_bit(image.detach().cpu()).movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
