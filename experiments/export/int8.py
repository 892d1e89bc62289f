"""Networks in 8-bit integers, for OpenVINO: calibrated on photographs by NNCF, and refused where they lose too much."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.batch import Batch
from datamodules.image_datamodule import ImageDataModule
from datamodules.installed import extra
from datamodules.sources import splits_of
from experiments.config.arguments import overridden_keys
from experiments.config.construct import construct, instantiate
from experiments.config.training import check_inputs, input_mistake, scale_mistake
from experiments.export.exportable import Exportable, ExportError, quiet
from experiments.export.graph import graph, keep_int8
from experiments.models import Model
from experiments.preview.task import draw_crops
from experiments.runtime.environment import report_nothing
from experiments.runtime.saved_config import to_build
from experiments.runtime.signal_stack import signal_stack_kept
from lightning_modules.checkpoints.untrusted import escaped
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.metrics.psnr_ssim import psnr
from networks.cascade import taken

LARGEST_LOSS = 0.1  # dB
CROPS = 32  # for calibration


@dataclass(frozen=True)
class Photographs:
    """What a network is calibrated and checked on.

    Attributes:
        calibration: degraded training crops; images where there are none to train on.
        checked: degraded whole test images.
        protocol: of the PSNR.
        about: what the card says of them.
    """

    calibration: Sequence[Batch]
    checked: Sequence[Batch]
    protocol: Protocol
    about: Mapping[str, Any]


def photographs(cfg: DictConfig, model: Model, scale: int) -> Photographs:
    """Those of `data=`, under the degradation of the run, or that of the command line.

    Raises:
        ConfigError: if data and degradation do not fit each other.
        InputError: if data are missing or damaged.
        ExportError: if the degradation does not make what the network takes.
    """
    if model.saved is not None and "degradation" not in overridden_keys():
        cfg.degradation = escaped(to_build(model.saved, "degradation", str((model.folder or Path()) / "config.yaml")))
        cfg.choices.degradation = "of the run"
    if "scale" in cfg.degradation:
        cfg.degradation.scale = scale
    OmegaConf.update(cfg, "data.degradation", cfg.degradation, merge=False, force_add=True)
    cfg.data.num_workers = 0  # for so few images
    degradation = construct(cfg, "degradation")
    check_inputs(cfg, degradation)
    network = model.network(scale)
    name = type(network).__name__
    mistake = scale_mistake(network, degradation) or input_mistake(
        name, network.inputs, degradation, cfg.choices.degradation
    )
    if mistake:
        raise ExportError(f"cannot be calibrated: {mistake}: choose data= and degradation= that fit it")
    datamodule: ImageDataModule = construct(cfg, "data")
    datamodule.prepare_data()
    datamodule.setup("test")
    loader: Iterable[Batch] = datamodule.test_dataloader()
    checked = [datamodule.on_after_batch_transfer(batch, 0) for batch in loader]
    calibration = checked
    if "train" in splits_of(datamodule.source):
        datamodule.setup("fit")
        calibration = draw_crops(datamodule, "train", CROPS)
    protocol = next(iter(instantiate(cfg.protocol).values())).at(scale)
    about = {
        "dataset": datamodule.source.name,
        "images": [name for batch in checked for name in batch.name],
        "degradation": OmegaConf.to_container(cfg.degradation, resolve=True),
        "protocol": protocol.name,
    }
    return Photographs(calibration, checked, protocol, about)


@signal_stack_kept()
def write_int8(exportable: Exportable, path: Path, about: Mapping[str, Any], on: Photographs) -> dict[str, Any]:
    """`NAME.xml` and `.bin` for OpenVINO, and a card, `NAME.json`; also kept for `precision=int8` of this machine.

    Weights and what goes between layers are 8-bit integers, the ranges of the latter those of the calibration crops.

    Returns:
        The card: `psnr_float32`, `psnr_int8` and `loss_db`, means over the images that were checked.

    Raises:
        ExportError: for a network that is no graph, that loses more than `LARGEST_LOSS`, or if a package is missing.
    """
    report_nothing()
    try:
        import nncf
        import openvino
    except ModuleNotFoundError as error:
        raise ExportError(f"needs {error.name}, which is not installed: {extra('fast')}") from error
    core, options = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    plain = core.read_model(graph(exportable))
    try:
        with quiet():
            fields = nncf.Dataset([_fields(exportable, batch) for batch in on.calibration])
            # Symmetric ranges of activations waste a bit where a layer ends in a ReLU.
            mixed = nncf.QuantizationPreset.MIXED
            quantised = nncf.quantize(plain, fields, subset_size=len(on.calibration), preset=mixed)
    except Exception as error:  # of many types, most of them internal
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"NNCF does not get through it: {reason}") from error
    compiled = core.compile_model(quantised, "CPU", options)
    before, after = list[float](), list[float]()
    for batch in on.checked:
        values, sharp = _fields(exportable, batch), batch.hr
        with torch.no_grad():
            before.append(psnr(exportable(**_tensors(values))["sr"], sharp, on.protocol).item())
        after.append(psnr(torch.from_numpy(compiled(values)[0]), sharp, on.protocol).item())
    means = [float(np.mean(values)) for values in (before, after)]
    loss = means[0] - means[1]
    if not loss <= LARGEST_LOSS:
        where = f"{len(before)} images of {on.about['dataset']}"
        raise ExportError(f"loses {loss:.2f} dB in 8-bit integers on {where}, allowed {LARGEST_LOSS:g}")
    openvino.save_model(quantised, path, compress_to_fp16=False)
    versions = {name: version(name) for name in ("nncf", "openvino")}
    figures = {"psnr_float32": means[0], "psnr_int8": means[1], "loss_db": loss}
    card = {**about, "precision": "int8", **figures, **on.about, "versions": versions}
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    keep_int8(exportable, path)
    return card


def _fields(exportable: Exportable, batch: Batch) -> dict[str, np.ndarray]:
    fields = taken(exportable.network, vars(batch))
    return {name: np.ascontiguousarray(fields[name].numpy()) for name in exportable.inputs}


def _tensors(values: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in values.items()}
