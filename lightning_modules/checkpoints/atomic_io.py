"""How Lightning writes and reads checkpoints: atomically, and as all others read them."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from datamodules.errors import InputError, folder_vanished, worker_death
from datamodules.io.atomic import replacing
from lightning_modules.checkpoints.checkpoint import read_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Writes next to the target and renames, so that a checkpoint is complete or absent whenever the process dies."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with replacing(path, sync=True) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            if not path.parent.is_dir():
                raise folder_vanished(path.parent) from error
            if isinstance(error, RuntimeError) and (death := worker_death(error)):
                raise death from error
            kept = " (the previous one is untouched)" if path.exists() else ""
            raise InputError(
                f"{path}: cannot write the checkpoint{kept}: {_cause(error)}: "
                "free disk space or choose another runs_dir=, then continue with resume=auto"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _cause(error: BaseException) -> str:
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
