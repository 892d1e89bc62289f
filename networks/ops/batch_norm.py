"""Batch normalization over the batches of all processes, on any device.

PyTorch's own `SyncBatchNorm` works on GPUs only, and `convert_sync_batchnorm` would replace layers that keep their
running statistics in another way (`networks.cooperative.BatchNorm`).
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules._functions import SyncBatchNorm as FusedSyncBatchNorm


def batch_norm(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    synced: bool,
) -> Tensor:
    """Normalise [B, C, H, W] by the mean and variance of the batch, and average these into `mean` and `var`, in place.

    Args:
        momentum: weight of this batch in `mean` and `var` (of the latter its unbiased variance).
        synced: by those of the batches of all processes together, which have to be equally large.
    """
    world = dist.get_world_size() if synced and dist.is_initialized() else 1
    if world == 1:
        return F.batch_norm(input, mean, var, weight, bias, True, momentum, eps)
    if input.device.type == "cuda":
        ones = torch.ones_like(mean)  # the fused kernels want a scale
        weight, bias = (ones if weight is None else weight), (torch.zeros_like(mean) if bias is None else bias)
        group = dist.group.WORLD
        return FusedSyncBatchNorm.apply(input.contiguous(), weight, bias, mean, var, eps, momentum, group, world)
    count = world * input.numel() // input.shape[1]
    batch_mean = all_reduce(input.sum((0, 2, 3))) / count
    centred = input - batch_mean[:, None, None]
    batch_var = all_reduce(centred.square().sum((0, 2, 3))) / count
    with torch.no_grad():
        mean.lerp_(batch_mean.to(mean), momentum)
        var.lerp_(batch_var.to(var) * count / (count - 1), momentum)
    output = centred * (batch_var + eps).rsqrt()[:, None, None]
    if weight is not None:
        output = output * weight[:, None, None]
    return output if bias is None else output + bias[:, None, None]


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training are those of the batches of all processes together."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.momentum, self.eps, True
        )
