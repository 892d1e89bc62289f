"""Metrics of whole restored images that know no protocol: the options of `conf/metric/`."""

import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from datamodules.errors import ConfigError, InputError
from lightning_modules.metrics.psnr_ssim import to_eight_bit

# What else records hold beside the metrics, see `experiments.results.records`.
TAKEN = {
    *("psnr", "ssim", "kernel_error", "seconds", "model", "run", "seed", "checkpoint", "checkpoint_sha256", "suite"),
    *("cell", "dataset", "split", "scale", "degradation", "suite_seed", "branch", "self_ensemble", "files", "device"),
    *("engine", "precision"),
    *("threads", "protocol", "higher_is_better", "means", "images"),
}
SIDE = 192  # of the images on which a metric is tried: none of torchmetrics needs more


class ImageMetric(Protocol):
    """Of restored images and true ones, both [B, C, H, W] about [0, 1], C = 1 or 3: scores [B].

    ValueError for images that are too small.
    """

    higher_is_better: bool

    def __call__(self, restored: Tensor, hr: Tensor) -> Tensor: ...


class OfTorchmetrics:
    """A metric of torchmetrics of each image for itself: rounded to 8 bit, float32 in [0, 1].

    Args:
        metric: its `update` takes restored and true images, or the restored ones alone.
        name: the key of `conf/metric/`.

    Raises:
        ConfigError: if it cannot measure single images, or does not say whether more is better.
    """

    def __init__(self, metric: Metric, name: str) -> None:
        self.metric, self.images = metric, len(inspect.signature(metric.update).parameters)
        metric.distributed_available_fn = lambda: False  # images of other processes are not those of this one
        mistake = "" if metric.higher_is_better is not None else "it does not say whether more is better"
        try:
            one, other = torch.rand(2, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
            self(one, other)
        except Exception as error:  # whatever somebody's metric raises
            mistake = str(error).partition("\n")[0] or type(error).__name__
        if mistake:
            raise ConfigError(
                f"metric.{name}: {type(metric).__name__} cannot measure a restored image and its truth: {mistake}; "
                "expected a metric of torchmetrics.image that compares single images in [0, 1]"
            )
        self.higher_is_better = bool(metric.higher_is_better)

    def __call__(self, restored: Tensor, hr: Tensor) -> Tensor:
        metric, found = self.metric.to(restored.device), []
        height, width = restored.shape[-2:]
        pairs = (to_eight_bit(images).float() / 255 for images in (restored, hr)[: self.images])
        for images in zip(*(images.split(1) for images in pairs), strict=True):
            metric.reset()
            try:
                metric.update(*images)
                found.append(metric.compute().reshape(()))
            except RuntimeError as error:
                if min(height, width) >= SIDE:  # then it is not the size
                    raise
                raise ValueError(f"image of {width}x{height} cannot be measured ({error})") from error
        return torch.stack(found)


def build_metrics(nodes: Mapping[str, Any]) -> dict[str, ImageMetric]:
    """The metrics of the config's node `metric`, by name; built once for each setting.

    Raises:
        ConfigError: for one that cannot measure single images, or whose name is taken.
        InputError: if a file is missing, unreadable or something else.
    """
    for name in nodes:
        if name in {*TAKEN, *dir(MetricCollection)} or not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise ConfigError(f"metric.{name}: is the name of something else, or no plain word: choose another one")
    return {name: _build(name, OmegaConf.to_yaml(node)) for name, node in nodes.items()}


@lru_cache(maxsize=16)
def _build(name: str, node: str) -> ImageMetric:
    try:
        metric = instantiate(OmegaConf.create(node), _partial_=True)()  # the call is ours: Hydra would wrap its errors
    except InputError:
        raise
    except Exception as error:  # whatever somebody's metric raises
        raise ConfigError(f"metric.{name}: cannot be built: {' '.join(str(error).split())}") from error
    return OfTorchmetrics(metric, name) if isinstance(metric, Metric) else metric
