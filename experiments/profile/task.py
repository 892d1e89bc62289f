"""task=profile: what networks cost, each by its own recipe, for restored images of the same size.

A network that enlarges gets an input that is smaller by its scale; one that works at scale 1 gets an input of the size
of the result, whether that is a deblurred photograph or an enlarged one. Every row says its sizes.
"""

import json
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

from datamodules.errors import ConfigError, InputError
from experiments.config import CONF
from experiments.config.arguments import command, overridden_keys
from experiments.config.compose import compose
from experiments.config.construct import construct
from experiments.config.errors import group_files, listing
from experiments.config.signatures import check_targets
from experiments.profile.table import table
from experiments.profile.worker import Phase, measure_alone
from experiments.results.writers import csv_text, text
from experiments.runtime.run_folder import describe, run_name, write_text
from experiments.runtime.speed import settle
from networks.base import RestorationNetwork

log = logging.getLogger(__name__)

KEYS: dict[str, Any] = {
    "models": str | list[str] | None,
    "target": tuple[PositiveInt, PositiveInt],
    "scale": PositiveInt,
    "batch": PositiveInt,
    "warmup": NonNegativeInt,
    "repeats": PositiveInt,
    "train": bool,
    "compile": bool,
}


def check(cfg: DictConfig) -> None:
    """Refuse weights on the command line, by which a network would seem to be named.

    Raises:
        ConfigError: where there are some.
    """
    if cfg.weights and "weights" in overridden_keys():
        raise ConfigError("weights: what a network costs does not depend on them: name it by model= or experiment=")


def run(cfg: DictConfig) -> None:
    """Measure every model in a process of its own; print the table, write RUNS_DIR/profile/NAME.csv and .json.

    Times are in seconds, memory in bytes, sizes in pixels. A model that fails, for lack of memory for example, has a
    row that says so.

    Raises:
        ConfigError: for a model that does not exist or fit `target`, or a device or precision of another kind.
        InputError: if not a single model could be measured, or the folder cannot be written.
    """
    configs = [cfg] if cfg.models is None else [compose_model(name) for name in wanted(cfg.models)]
    rows = [subject(config) for config in configs]
    path = Path(cfg.runs_dir) / "profile" / f"{file_name(configs[0])}.csv"
    same = conditions(configs[0])
    about = {**describe(), **same}
    for i, config in enumerate(configs):
        rows[i] |= measure(config, rows[i])
        # After every row: what is measured is kept if a later one is interrupted.
        write_text(path, csv_text(rows[: i + 1]))
        write_text(path.with_suffix(".json"), json.dumps({"about": about, "rows": rows[: i + 1]}, indent=2) + "\n")
    print(f"\n{text(table(same, rows))}\n\nprofile: {path}", flush=True)
    if all(row["forward_error"] for row in rows):
        raise InputError(f"no model could be measured; {rows[0]['model']}: {rows[0]['forward_error']}")


def wanted(models: Sequence[str] | str) -> list[str]:
    """Options of conf/model/; those that do not exist show when they are composed."""
    if not models:
        raise ConfigError("models: empty, expected options of conf/model/, all, or null")
    if "experiment" in overridden_keys():
        raise ConfigError("models: each model has its own recipe: omit experiment= or models=")
    if isinstance(models, str) and "," in models:
        raise ConfigError(f"models: found {models!r}, a list takes brackets: {command(f'models=[{models}]')}")
    if models == "all":
        return sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
    return [models] if isinstance(models, str) else list(models)


def compose_model(name: str) -> DictConfig:
    """The config of this command line with another model and what that brings along."""
    cfg, choices = compose(f"model={name}")
    if OmegaConf.is_interpolation(cfg, "label"):  # the resolver knows only the choices of the command line
        cfg.label = name
    check_targets(cfg, group_files(choices))
    return cfg


def subject(cfg: DictConfig) -> dict[str, Any]:
    """What a row says of a network before it is measured; settles in `cfg` device, precision and scale.

    Raises:
        ConfigError: see `run`.
    """
    settle(cfg)
    accelerator, precision = str(cfg.trainer.accelerator), str(cfg.trainer.precision)
    if accelerator not in ("auto", "gpu", "cuda", "cpu"):
        raise ConfigError(f"trainer.accelerator: found {accelerator!r}, expected cpu, cuda or auto for task=profile")
    if precision not in ("32-true", "bf16-mixed"):
        raise ConfigError(f"trainer.precision: found {precision!r}, expected 32-true or bf16-mixed for task=profile")
    cfg.trainer.accelerator = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    network = construct(cfg, "model", meta=True)
    cfg.scale = scale = scale_for(cfg, network)
    made = OmegaConf.select(cfg, "degradation.scale")
    if OmegaConf.is_list(made):  # a training that draws the scale of every batch is measured at one of them
        OmegaConf.update(cfg, "degradation.scale", scale if scale in made else max(made))
    parameters = sum(p.numel() for p in network.parameters())
    trains = cfg.train and network.trainable
    stages = list(cfg.procedure.get("stages") or [])
    height, width = cfg.target
    return {
        "model": cfg.label,
        "parameters": parameters,
        "scale": scale,
        "input_height": height // scale,
        "input_width": width // scale,
        "output_height": height,
        "output_width": width,
        "batch": cfg.batch,
        "train_patch": cfg.data.patch if trains else None,
        "train_batch": cfg.data.batch_size if trains else None,
        "train_stage": stages[-1] if trains and stages else None,
    }


def scale_for(cfg: DictConfig, network: RestorationNetwork) -> int:
    """The scale to measure at; `target` has to be divisible by it."""
    scales = network.scales
    scale = scales[0] if len(scales) == 1 else cfg.scale
    if scale not in scales:
        raise ConfigError(f"scale: found {scale}, expected one of {listing(map(str, scales))}, which {cfg.label} knows")
    if any(side % scale for side in cfg.target):
        near = [max(scale, round(side / scale) * scale) for side in cfg.target]
        raise ConfigError(
            f"target: found {list(cfg.target)}, expected multiples of {scale}, by which {cfg.label} enlarges: "
            f"the nearest is target={near}"
        )
    return scale


def file_name(cfg: DictConfig) -> str:
    if "name" in overridden_keys():
        return str(cfg.name)
    overrides = list(HydraConfig.get().overrides.task)
    return f"{run_name({'experiment': 'profile', 'task': 'profile'}, overrides)}-{cfg.trainer.accelerator}"


def measure(cfg: DictConfig, row: dict[str, Any]) -> dict[str, Any]:
    """The measured columns."""
    log.info("profile %s", row["model"])
    forward = asdict(in_a_process(cfg, "forward"))
    train = asdict(in_a_process(cfg, "train") if row["train_patch"] else Phase())
    columns = {"macs": forward.pop("macs"), **{f"forward_{key}": value for key, value in forward.items()}}
    columns |= {f"train_{key}": value for key, value in train.items() if key != "macs"}
    return {**columns, "device": cfg.trainer.accelerator, "precision": cfg.trainer.precision}


def in_a_process(cfg: DictConfig, phase: str) -> Phase:
    """A fresh process has the peak of its memory to itself; freed memory may stay with another one, and count."""
    config = OmegaConf.to_container(cfg, resolve=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(measure_alone, config, phase).result()
        except BrokenProcessPool:
            return Phase(error="its process was killed, out of memory perhaps")
        except BaseException:  # a signal: what is under way is not waited for
            for child in multiprocessing.active_children():
                child.kill()
            raise


def conditions(cfg: DictConfig) -> dict[str, Any]:
    """What holds for all rows."""
    return {
        "device": device_name(cfg.trainer.accelerator),
        "precision": cfg.trainer.precision,
        "tf32_convolutions": cfg.trainer.accelerator == "cuda" and torch.backends.cudnn.allow_tf32,
        "threads": torch.get_num_threads(),
        **{key: cfg[key] for key in ("batch", "channels_last", "compile", "warmup", "repeats")},
    }


def device_name(device: str) -> str:
    """Of the GPU, or the model of the processor where Linux tells it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")
