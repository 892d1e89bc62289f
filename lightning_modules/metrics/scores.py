"""The scores of the images of a data set as torchmetrics' metrics, which bring them together from several processes."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from datamodules import distributed
from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules.metrics.build import ImageMetric
from lightning_modules.metrics.kernel_error import kernel_error
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, smallest_side, ssim
from networks.restored import Restored

# The branches that have images and a truth, by the field of `Batch` that this is.
TRUTH = {"sr": "hr", "deblurred": "lr_sharp"}


class ImageScore(Metric):
    """A score of each image of a data set.

    Every image has a place of its own in `values` and `seen`, which are summed over the processes: one that several of
    them have measured counts once. float64, on Apple's GPU, which has none, float32.

    Args:
        names: the images, in the same order on every process.
        known: what an earlier measurement has found of some of them; of one process only.
    """

    full_state_update = False
    values: Tensor
    seen: Tensor

    def __init__(self, names: Sequence[str], known: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.names = list(names)
        self.places = {name: place for place, name in enumerate(names)}
        known = known or {}
        wide = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("values", torch.tensor([known.get(name, 0.0) for name in names], dtype=wide), "sum")
        self.add_state("seen", torch.tensor([float(name in known) for name in names], dtype=wide), "sum")

    def score(self, restored: Restored, batch: Batch) -> Tensor | None:
        """[B]; `None` where there is nothing to measure."""
        raise NotImplementedError

    def update(self, restored: Restored, batch: Batch) -> None:
        """Take in the images of a batch; one that was measured before counts once.

        Raises:
            InputError: if an image cannot be measured.
        """
        scores = self.score(restored, batch)
        if scores is not None:
            places = torch.tensor([self.places[name] for name in batch.name], device=self.values.device)
            self.values.index_add_(0, places, scores.to(self.values))
            self.seen.index_add_(0, places, torch.ones_like(scores).to(self.seen))

    def compute(self) -> Tensor:
        """[m, 2]: the place of each of the m measured images and its score."""
        places = self.seen.nonzero()[:, 0]
        return torch.stack([places.to(self.values), self.values[places] / self.seen[places]], 1)

    def of(self, name: str) -> float | None:
        """The score of one image, as far as this process knows."""
        place = self.places[name]
        return (self.values[place] / self.seen[place]).item() if self.seen[place] else None


class OfProtocol(ImageScore):
    """A score by a protocol, of a branch of the network against its truth."""

    def __init__(
        self, protocol: Protocol, branch: str, names: Sequence[str], known: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(names, known)
        self.protocol, self.branch = protocol, branch

    def measure(self, images: Tensor, truth: Tensor, protocol: Protocol) -> Tensor:
        """[B] of images [B, C, H, W]; the protocol is at their scale."""
        raise NotImplementedError

    def score(self, restored: Restored, batch: Batch) -> Tensor | None:
        images, truth = getattr(restored, self.branch), getattr(batch, TRUTH[self.branch])
        if images is None or truth is None:
            return None
        return self.measure(images, truth, fitting(self.protocol, truth, batch))


class PSNR(OfProtocol):
    higher_is_better = True

    def measure(self, images: Tensor, truth: Tensor, protocol: Protocol) -> Tensor:
        return psnr(images, truth, protocol)


class SSIM(OfProtocol):
    higher_is_better = True

    def measure(self, images: Tensor, truth: Tensor, protocol: Protocol) -> Tensor:
        return ssim(images, truth, protocol)


class KernelError(ImageScore):
    higher_is_better = False

    def score(self, restored: Restored, batch: Batch) -> Tensor | None:
        if restored.kernel is None or batch.kernel is None:
            return None
        return kernel_error(restored.kernel, batch.kernel)


class Further(ImageScore):
    """A metric of `metrics.build`, which knows no protocol."""

    def __init__(
        self, metric: ImageMetric, title: str, names: Sequence[str], known: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(names, known)
        # In a tuple, so that what the metric holds is no part of what a checkpoint saves.
        self.metric, self.title = (metric,), title

    def score(self, restored: Restored, batch: Batch) -> Tensor:
        try:
            return self.metric[0](restored.sr, batch.hr)
        except ValueError as error:
            raise InputError(
                f"{batch.name[0]}: {error}; leave the image out or take {self.title} out of metric="
            ) from error


def key(metric: str, protocol: Protocol | None = None, branch: str = "sr") -> str:
    """How a metric is called in a collection: `psnr/y_shave4`, `deblurred/psnr/y_shave4`, `lpips`."""
    return "/".join([*([branch] if branch != "sr" else []), metric, *([protocol.name] if protocol else [])])


def collect(
    names: Sequence[str],
    protocols: Sequence[Protocol],
    branches: Sequence[str] = ("sr",),
    further: Mapping[str, ImageMetric] | None = None,
    known: Mapping[str, Mapping[str, float]] | None = None,
) -> MetricCollection:
    """All that is measured of the images of one loader, by `key`; updated with `(restored, batch)`.

    Args:
        names: the images, in the same order on every process.
        protocols: each gives a PSNR and an SSIM of each branch.
        branches: keys of `TRUTH`.
        further: metrics of the result that know no protocol.
        known: by image, what an earlier measurement has found; of one process only.
    """
    found: dict[str, Metric] = {}

    def before(title: str) -> dict[str, float]:
        return {image: scores[title] for image, scores in (known or {}).items() if title in scores}

    for branch in branches:
        for protocol in protocols:
            for metric, kind in (("psnr", PSNR), ("ssim", SSIM)):
                title = key(metric, protocol, branch)
                found[title] = kind(protocol, branch, names, before(title))
    found["kernel_error"] = KernelError(names, before("kernel_error"))
    for title, function in (further or {}).items():
        found[title] = Further(function, title, names, before(title))
    # torchmetrics would merge metrics whose states are equal, as those of all images that are restored exactly.
    return MetricCollection(found, compute_groups=False)  # type: ignore[arg-type]  # a dict is a mapping


def by_image(scores: MetricCollection) -> dict[str, dict[str, float]]:
    """By key and image, of all processes, what has been measured; each of them calls this."""
    distributed.barrier()  # the processes may end far apart, and this waits longer than torchmetrics would
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method")  # a process for which no image was left
        found = scores.compute()
    return {
        title: {score.names[int(place)]: value for place, value in found[title].tolist()}
        for title, score in scores.items()
        if isinstance(score, ImageScore)
    }


def fitting(protocol: Protocol, images: Tensor, batch: Batch) -> Protocol:
    """The protocol at the scale of a batch, for images of it [B, C, H, W].

    Raises:
        InputError: if the images are too small for it, or the scale does not give whole pixels.
    """
    height, width = images.shape[-2:]
    try:
        at_scale = protocol.at(batch.scale, batch.gray)
    except ValueError as error:
        raise InputError(f"{batch.name[0]}: {error}") from error
    least = smallest_side(at_scale)
    if min(height, width) < least:
        raise InputError(
            f"{batch.name[0]}: image of {width}x{height} is too small for protocol {at_scale.name}: "
            f"SSIM needs {least - 2 * at_scale.border} pixels after shaving {at_scale.border} at every border; "
            "leave the image out or choose another protocol="
        )
    return at_scale
