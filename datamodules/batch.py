"""The record that carries images from the loader through the degradation to network, loss and metrics."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Batch:
    """A batch; absent fields are `None`.

    The loader fills `hr` (uint8), `name`, `index` and `key`, and of paired data `lr`, for which see
    `datamodules.paired_datamodule`; the degradation, on the device, makes `hr` float in [0, 1] and adds what its
    pipeline yields.

    Attributes:
        hr: sharp images [B, C, H, W], RGB.
        name: image names, B of them.
        index: sample index within the epoch (training) or image number (evaluation) [B], int64.
        key: random key of every sample [B], int64; all random numbers of its degradation are a function of it.
        lr: degraded network input [B, C, h, w].
        lr_sharp: clean low-resolution target of a deblurring branch [B, C, h, w].
        kernel: blur kernels [B, 1, k, k], one for the whole image; `None` where several share it.
        kernels: blur kernels [B, K, k, k] of an image that K of them share: each is applied to the whole of `hr`, then
            weighted pixel by pixel.
        weights: of the kernels, at the pixels of `hr` [B, K, H, W], not negative, sum 1 over K.
        noise_level: standard deviation of the noise on the [0, 1] scale [B, 1, 1, 1].
        scale: ratio of H to h.
        point: in [0, 1]: parameters that are drawn from a range are not drawn but lie at this fraction of it, for all
            samples; of validation, so that it covers the range. `None`: drawn.
        group: random key of the whole batch, the same on every process: what all its samples share, such as a random
            scale, is a function of it.
        gray: whether the sharp image files are gray: `hr` is three times one channel, which protocols take for luma.
            Known of whole images, which come one by one.
    """

    hr: Tensor
    name: list[str]
    index: Tensor
    key: Tensor
    lr: Tensor | None = None
    lr_sharp: Tensor | None = None
    kernel: Tensor | None = None
    kernels: Tensor | None = None
    weights: Tensor | None = None
    noise_level: Tensor | None = None
    scale: int | None = None
    point: float | None = None
    group: int = 0
    gray: bool = False

    def __len__(self) -> int:
        return len(self.name)

    def pin_memory(self) -> "Batch":
        """Called by the loader's pinning thread, which does not look into records by itself."""
        pinned = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **pinned)  # type: ignore[arg-type]  # fields that hold tensors


def to_gray(batch: Batch) -> Batch:
    """The batch with its images as gray ones of one channel: 0.2989 R + 0.5870 G + 0.1140 B, as TensorFlow's."""
    weights = batch.hr.new_tensor([0.2989, 0.5870, 0.1140]).view(3, 1, 1)
    images = {name: getattr(batch, name) for name in ("hr", "lr", "lr_sharp")}
    return replace(batch, **{name: (x * weights).sum(1, keepdim=True) for name, x in images.items() if x is not None})


def as_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; float images as they are."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images
