"""Gray: training on gray images, gray files, and networks of one channel."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import Batch, to_gray
from datamodules.degradations.pipelines import EDDSRNDegradation
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources.folder import Folder


def make_batch(**images: Tensor) -> Batch:
    return Batch(name=["a"], index=torch.zeros(1), key=torch.zeros(1), **images)  # type: ignore[arg-type]  # hr is among them


def test_weights_by_hand() -> None:
    pixel = torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1)
    gray = to_gray(make_batch(hr=pixel, lr=2 * pixel))
    assert gray.hr.shape == (1, 1, 1, 1)
    assert gray.hr.item() == pytest.approx(0.14945 + 0.14675 + 0.114)
    assert gray.lr is not None
    assert gray.lr.item() == pytest.approx(2 * gray.hr.item())
    assert gray.lr_sharp is None


def test_kernels_and_levels_stay() -> None:
    kernel, level = torch.rand(1, 1, 3, 3), torch.rand(1, 1, 1, 1)
    batch = make_batch(hr=torch.rand(1, 3, 4, 4), lr_sharp=torch.rand(1, 3, 2, 2), kernel=kernel, noise_level=level)
    gray = to_gray(batch)
    assert gray.kernel is kernel
    assert gray.noise_level is level
    assert gray.lr_sharp is not None
    assert gray.lr_sharp.shape == (1, 1, 2, 2)
    assert batch.hr.shape[1] == 3  # the batch itself is not changed


def make_data(root: Path, gray: bool) -> ImageDataModule:
    options = {"patch": 16, "batch_size": 2, "samples_per_epoch": 2, "num_workers": 0}
    degradation = EDDSRNDegradation(kernel_size=5)
    cache = str(root.parent / "cache")
    return ImageDataModule(Folder(str(root)), degradation, seed=0, cache_dir=cache, gray=gray, **options)  # type: ignore[arg-type]


class Channels(pl.LightningModule):
    """Notes the channels of the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.found: dict[str, set[tuple[int, ...]]] = {"train": set(), "val": set(), "test": set()}

    def note(self, split: str, batch: Batch) -> Tensor:
        self.found[split].add(tuple(x.shape[1] for x in (batch.hr, batch.lr, batch.lr_sharp) if x is not None))
        return self.weight.sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.note("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.note("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.note("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize("gray", [True, False])
def test_only_training_is_gray(make_photographs: Callable[..., Path], gray: bool) -> None:
    """Validation in colour between two epochs of training, and the test."""
    data = make_data(make_photographs(4, 32, 32), gray)
    module = Channels()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, enable_model_summary=False, **quiet)  # type: ignore[arg-type]
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert module.found == {"train": {(1, 1, 1) if gray else (3, 3, 3)}, "val": {(3, 3, 3)}, "test": {(3, 3, 3)}}


def test_gray_files_are_decoded_as_colour_images(tmp_path: Path) -> None:
    """Three equal channels, whose gray is what the file holds: so a network for colour images takes gray files too."""
    (tmp_path / "gray").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(values).save(tmp_path / "gray" / f"{i}.png")
    data = make_data(tmp_path / "gray", True)
    data.setup("test")
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert torch.equal(batch.hr, torch.from_numpy(values).div(255).expand(1, 3, 32, 32))
    assert batch.lr is not None
    assert torch.allclose(batch.lr[:, :1].expand(-1, 3, -1, -1), batch.lr, atol=1e-6)
    assert torch.allclose(
        to_gray(batch).hr[0, 0], torch.from_numpy(values) / 255, atol=1e-3
    )  # the weights sum to 0.9999
