"""The degradation of data that bring their own: none."""

from datamodules.batch import Batch
from datamodules.degradations.base import Degradation
from datamodules.errors import InputError


class AsStored(Degradation):
    """Leaves a batch of paired data as the files have it: `hr`, `lr` and `scale`, nothing else.

    Args:
        scale: ratio of the files' sizes; the configs take it from the source.
    """

    inputs = ("hr", "lr")
    provides = ("hr", "lr", "scale")

    def __init__(self, scale: int = 1) -> None:
        super().__init__(scale)
        self.file_scale = scale

    def __call__(self, batch: Batch) -> Batch:
        """Returns `batch`.

        Raises:
            InputError: it has no degraded images.
        """
        if batch.lr is None:
            raise InputError(
                "degradation=none: the data hold sharp images only, nothing to restore: choose a degradation, or data"
                " with degraded images such as data=paired_folder"
            )
        return batch
