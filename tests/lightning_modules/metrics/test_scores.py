"""The scores of a data set: what is measured of which image, from one process and from several."""

import math
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from omegaconf import OmegaConf
from torch import Tensor
from torchmetrics.functional.image import visual_information_fidelity

from datamodules.batch import Batch
from datamodules.errors import ConfigError, InputError
from lightning_modules.metrics.build import build_metrics
from lightning_modules.metrics.kernel_error import kernel_error
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr, ssim
from lightning_modules.metrics.scores import by_image, collect
from networks.restored import Restored

PROTOCOLS = [Protocol("y_shave_s", "y", "s"), Protocol("gfn", "rgb", "1.5s", "truncate", "volume")]
NAMES = [f"image{i}" for i in range(7)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def kernels(count: int, size: int, seed: int) -> Tensor:
    values = random(count, 1, size, size, seed=seed)
    return values / values.sum((2, 3), keepdim=True)


def make(numbers: Sequence[int], scale: int = 2, side: int = 48, **fields: Any) -> tuple[Restored, Batch]:
    """Images of these numbers: the same ones wherever and however often they are made."""

    def images(side: int, seed: int) -> Tensor:
        return torch.stack([random(3, side, side, seed=10 * number + seed) for number in numbers])

    batch = Batch(images(side, 0), [NAMES[i] for i in numbers], torch.tensor(numbers), torch.tensor(numbers))
    batch.lr_sharp, batch.scale = images(side // 2, 1), scale
    for name, value in fields.items():
        setattr(batch, name, value)
    return Restored(images(side, 2), deblurred=images(side // 2, 3)), batch


@pytest.mark.parametrize(("scale", "borders"), [(2, (2, 3)), (4, (4, 6))])
def test_protocols_are_taken_at_the_scale(scale: int, borders: tuple[int, int]) -> None:
    restored, batch = make([0, 1], scale)
    scores = collect(NAMES, PROTOCOLS)
    scores.update(restored, batch)
    found = by_image(scores)
    wanted = [Protocol("p", "y", borders[0]), Protocol("p", "rgb", borders[1], "truncate", "volume")]
    for protocol, known in zip(PROTOCOLS, wanted, strict=True):
        for name, function in (("psnr", psnr), ("ssim", ssim)):
            values = function(restored.sr, batch.hr, known).tolist()
            assert found[f"{name}/{protocol.name}"] == dict(zip(NAMES[:2], values, strict=True))
    assert found["kernel_error"] == {}


def test_the_deblurred_branch_is_measured_against_the_sharp_input() -> None:
    restored, batch = make([4, 2])
    assert restored.deblurred is not None
    assert batch.lr_sharp is not None
    scores = collect(NAMES, PROTOCOLS[:1], ["sr", "deblurred"])
    scores.update(restored, batch)
    values = psnr(restored.deblurred, batch.lr_sharp, Protocol("p", "y", 2)).tolist()
    # In the order of the images, not in that of the batch.
    assert list(by_image(scores)["deblurred/psnr/y_shave_s"].items()) == [("image2", values[1]), ("image4", values[0])]
    scores.update(Restored(restored.sr), batch)  # nothing to measure
    assert by_image(scores)["deblurred/psnr/y_shave_s"] == {"image2": values[1], "image4": values[0]}


def test_kernels_are_measured_where_both_are_known() -> None:
    restored, batch = make([0, 1], kernel=kernels(2, 7, seed=3))
    assert batch.kernel is not None
    scores = collect(NAMES, PROTOCOLS)
    scores.update(restored, batch)
    assert scores["kernel_error"].of("image0") is None
    restored.kernel = kernels(2, 5, seed=2)
    scores.update(restored, batch)
    assert list(by_image(scores)["kernel_error"].values()) == kernel_error(restored.kernel, batch.kernel).tolist()


def test_what_was_known_and_what_is_infinite_or_no_number_stays() -> None:
    scores = collect(NAMES, PROTOCOLS[:1], known={"image3": {"psnr/y_shave_s": 31.25}, "image6": {}})
    restored, batch = make([0, 1])
    restored.sr[0] = batch.hr[0]
    restored.sr[1, 0, 20, 20] = math.nan
    scores.update(restored, batch)
    found = by_image(scores)["psnr/y_shave_s"]
    assert found.pop("image1") != found.get("image1")  # nan
    assert found == {"image0": math.inf, "image3": 31.25}
    assert scores["psnr/y_shave_s"].of("image3") == 31.25


def measure(rank: int, parts: list[list[int]], folder: Path) -> None:
    if len(parts) > 1:
        os.environ.update(GLOO_SOCKET_IFNAME="lo")
        dist.init_process_group(
            "gloo", f"file://{folder}/meet", timedelta(seconds=60), world_size=len(parts), rank=rank
        )
    further = further_metrics(vif=OmegaConf.load("conf/metric/vif.yaml").vif)
    scores = collect(NAMES, PROTOCOLS[:1], ["sr", "deblurred"], further)
    for number in parts[rank]:
        restored, batch = make([number], kernel=kernels(1, 7, seed=number))
        restored.kernel = kernels(1, 5, seed=10 + number)
        scores.update(restored, batch)
    torch.save(by_image(scores), folder / f"{rank}.pt")


@pytest.mark.parametrize("parts", [[[0, 2, 4, 6], [1, 3, 5, 0]], [[*range(7)], []], [[], [6, 5, 4, 3, 2, 1, 0]]])
def test_two_processes_find_what_one_finds(parts: list[list[int]], tmp_path: Path) -> None:
    """Of seven images; with one that both have measured, and with a process that has none."""
    (tmp_path / "alone").mkdir()
    measure(0, [[*range(7)]], tmp_path / "alone")
    mp.start_processes(measure, (parts, tmp_path), nprocs=2, start_method="spawn")  # type: ignore[no-untyped-call]
    alone, *both = (torch.load(tmp_path / name) for name in ("alone/0.pt", "0.pt", "1.pt"))
    assert both == [alone, alone]
    assert all(list(values) == NAMES for values in alone.values())


def test_images_that_do_not_fit_are_named(tmp_path: Path) -> None:
    small, batch = make([0], side=12)
    with pytest.raises(InputError, match=r"image0: image of 12x12 is too small for protocol y_shave_s: SSIM needs 11"):
        collect(NAMES, PROTOCOLS[:1]).update(small, batch)
    scores = collect(NAMES, PROTOCOLS[1:])
    with pytest.raises(InputError, match=r"image0: protocol gfn shaves 1.5s pixels, 4.5 for s = 3"):
        scores.update(*make([0], 3))
    with pytest.raises(InputError, match=r"image0: protocol gfn shaves 1.5s pixels, and there is no scale"):
        scores.update(*make([0], scale=None))  # type: ignore[arg-type]  # as the field may be
    np.savez(tmp_path / "model.npz", mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36))
    niqe = {"_target_": "lightning_modules.metrics.niqe.NIQE", "model": f"{tmp_path}/model.npz"}
    further = further_metrics(niqe=niqe)
    with pytest.raises(InputError, match=r"image0: image of 48x48 is too small for NIQE: .* take niqe out of metric="):
        collect(NAMES, PROTOCOLS, further=further).update(*make([0]))


def further_metrics(**nodes: Any) -> dict[str, Any]:
    return build_metrics(OmegaConf.create(nodes))


def test_a_metric_of_torchmetrics_measures_each_image_for_itself() -> None:
    further = further_metrics(vif=OmegaConf.load("conf/metric/vif.yaml").vif)
    assert further["vif"].higher_is_better
    scores = collect(NAMES, PROTOCOLS[:1], further=further)
    restored, batch = make([3, 5])
    restored.sr = 0.8 * batch.hr + 0.2 * restored.sr
    scores.update(restored, batch)
    levels = [torch.floor(255 * images + 0.5) for images in (restored.sr, batch.hr)]
    wanted = [visual_information_fidelity(*(x[i : i + 1] for x in levels)).item() for i in range(2)]
    assert list(by_image(scores)["vif"].values()) == pytest.approx(wanted, rel=1e-4)
    assert wanted[0] == pytest.approx(0.4, abs=0.3)
    with pytest.raises(InputError, match=r"image0: image of 32x32 cannot be measured .*take vif out of metric="):
        scores.update(*make([0], side=32))


def test_metrics_are_built_once_and_those_of_whole_sets_are_refused(tmp_path: Path) -> None:
    assert further_metrics() == {}
    niqe = {"_target_": "lightning_modules.metrics.niqe.NIQE", "model": str(tmp_path / "model.npz")}
    with pytest.raises(InputError, match=r"model.npz: no such file"):
        further_metrics(niqe=niqe)
    np.savez(tmp_path / "model.npz", mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36))
    assert further_metrics(niqe=niqe)["niqe"] is further_metrics(niqe=niqe)["niqe"]
    with pytest.raises(ConfigError, match=r"metric.mean: MeanMetric cannot measure .*: it does not say whether more"):
        further_metrics(mean={"_target_": "torchmetrics.MeanMetric"})
