"""Event files of TensorBoard, in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_modules.loggers.recorder import Recorder, require

require("tensorboard")


def tensorboard_logger(
    run_dir: Path, *, config: Mapping[str, Any], first_step: int = 0, **about: Any
) -> TensorBoardRecorder:
    """Write into `tensorboard/` of the run's folder, or go on there.

    Args:
        run_dir: folder of the run.
        config: of the experiment, plain; becomes `hparams.yaml`.
        first_step: what an interrupted training has logged from it on is not shown: it is trained again.
        about: what other loggers want to know.
    """
    logger = TensorBoardRecorder(run_dir, "tensorboard", "", default_hp_metric=False, purge_step=first_step)
    logger.log_hyperparams(dict(config))
    return logger


class TensorBoardRecorder(TensorBoardLogger, Recorder):
    """Lightning's logger with pictures, and with the results as one row of the table "HPARAMS"."""

    def where(self) -> str:
        folder = Path(self.log_dir)
        return f"TensorBoard: {folder}  To look at all runs: tensorboard --logdir {folder.parent.parent}"

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image.Image], step: int | None = None) -> None:
        # `step` counts the steps made; scores stand at the last of them, whose number is one less.
        last = step - 1 if step else step
        for picture in images:
            self.experiment.add_image(key, np.asarray(picture.convert("RGB")), last, dataformats="HWC")

    def log_results(
        self, values: Mapping[str, float], files: Mapping[str, Path], config: Mapping[str, Any], step: int
    ) -> None:
        if values:
            self.log_hyperparams(dict(config), dict(values), step)
        for name, path in files.items():
            if path.suffix == ".md":  # a table; the others are in the run's folder, as these event files are
                self.experiment.add_text(name, path.read_text("utf-8"), step)

    def finish(self, exit_code: int) -> None:
        self.finalize("failed" if exit_code else "success")
