"""`trainer.sync_batchnorm`: batch normalization over the batches of all processes, for every network of the suite."""

from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import nn

from networks.ops.batch_norm import SyncedBatchNorm2d


class SyncBatchNorm(LayerSync):
    """Switches every batch normalization of a module; parameters, buffers and their names stay as they are.

    Layers of the suite with statistics of their own have an attribute `synced`; PyTorch's change their class.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        self._switch(model, nn.BatchNorm2d, SyncedBatchNorm2d, True)
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        self._switch(model, SyncedBatchNorm2d, nn.BatchNorm2d, False)
        return model

    def _switch(self, model: nn.Module, before: type, after: type, synced: bool) -> None:
        for layer in model.modules():
            if hasattr(layer, "synced") and isinstance(layer, nn.BatchNorm2d):
                layer.synced = synced  # type: ignore[assignment]  # a plain attribute
            elif type(layer) is before:
                layer.__class__ = after
