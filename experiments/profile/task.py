"""task=profile: what networks cost, each by its own recipe, for restored images of the same size.

A network that enlarges gets an input that is smaller by its scale; one that works at scale 1 gets an input of the size
of the result, whether that is a deblurred photograph or an enlarged one. Every row says its sizes.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

from datamodules.errors import ConfigError, InputError
from experiments.config.compose import compose, overridden_keys
from experiments.config.errors import did_you_mean, group_files, listing
from experiments.config.signatures import check_targets
from experiments.profile.table import NOTE, as_csv, heading, table
from experiments.profile.worker import Phase, Spec
from experiments.runtime.run_folder import describe, run_name, write_text
from experiments.runtime.speed import settle
from networks.base import RestorationNetwork

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
NODES = ("model", "procedure", "loss", "optimizer", "scheduler", "degradation")


@dataclass
class ProfiledModel:
    """A network to be measured, with its sizes in pixels."""

    label: str
    parameters: int
    scale: int
    spec: Spec
    stage: str | None


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
    """Verify that the models exist.

    Raises:
        ConfigError: if one does not, or if `experiment=` says something else.
    """
    if cfg.models is not None:
        wanted(cfg.models)


def run(cfg: DictConfig) -> None:
    """Measure every model in a process of its own; print the table, write RUNS_DIR/profile/NAME.csv and .json.

    A model that fails, for lack of memory for example, has a row that says so.

    Raises:
        ConfigError: for a model that does not fit `target`, or a device or precision of another kind.
        InputError: if not a single model could be measured, or the folder cannot be written.
    """
    options: dict[str, Any] = {key: cfg[key] for key in ("scale", "batch", "warmup", "repeats")}
    options["input"] = list(cfg.target)
    configs = [cfg] if cfg.models is None else [compose_model(name) for name in wanted(cfg.models)]
    subjects = [subject(one, options, cfg.train) for one in configs]

    path = Path(cfg.runs_dir) / "profile" / f"{file_name(cfg)}.csv"
    about = {**describe(), **conditions(subjects[0].spec)}
    rows: list[dict[str, Any]] = []
    for found in subjects:
        rows.append(row(found, measure(found)))
        # After every row: what is measured is kept if a later one is interrupted.
        write_text(path, as_csv(rows))
        write_text(path.with_suffix(".json"), json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    print(f"\n{heading(about)}\n{table(rows)}\n\n{NOTE}\n\nprofile: {path}", flush=True)
    if all(one["forward_error"] for one in rows):
        raise InputError(f"no model could be measured; {rows[0]['model']}: {rows[0]['forward_error']}")


def wanted(models: Sequence[str] | str) -> list[str]:
    """The names asked for, each of which is an option of conf/model/."""
    known = sorted(file.stem for file in (ROOT / "conf" / "model").glob("*.yaml"))
    if models == "all":
        return known
    names = [models] if isinstance(models, str) else list(models)
    if not names:
        raise ConfigError("models: empty, expected options of conf/model/, all, or null")
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"models: {name}: no such option (conf/model/): available: {listing(known)}{near}")
    if "experiment" in overridden_keys():
        raise ConfigError("models: each model has its own recipe: omit experiment= or models=")
    return names


def compose_model(name: str) -> DictConfig:
    """The config of this command line with another model and what that brings along."""
    cfg, choices = compose(f"model={name}")
    if OmegaConf.is_interpolation(cfg, "label"):  # the resolver knows the choices of the command line alone
        cfg.label = name
    check_targets(cfg, group_files(choices))
    return cfg


def subject(cfg: DictConfig, options: dict[str, Any], train: bool) -> ProfiledModel:
    """The network of a config and how to measure it.

    Raises:
        ConfigError: see `run`.
    """
    settle(cfg)
    network = on_meta(cfg)
    scale = scale_for(cfg.label, network, options["scale"])
    target: list[int] = options["input"]
    if any(side % scale for side in target):
        near = [max(scale, round(side / scale) * scale) for side in target]
        raise ConfigError(
            f"target: found {target}, expected multiples of {scale}, by which {cfg.label} enlarges: "
            f"the nearest is target={near}"
        )
    made = OmegaConf.select(cfg, "degradation.scale")
    if OmegaConf.is_list(made):  # a training that draws the scale of every batch is measured at one of them
        OmegaConf.update(cfg, "degradation.scale", scale if scale in made else max(made))
    parameters = sum(p.numel() for p in network.parameters())
    config = {node: OmegaConf.to_container(cfg[node], resolve=True) if cfg[node] else None for node in NODES}
    spec = Spec(
        config=config,
        phases=["forward", "train"] if train and parameters else ["forward"],
        patch=cfg.data.patch,
        batch_size=cfg.data.batch_size,
        gray=bool(cfg.data.get("gray")),
        clip=cfg.trainer.gradient_clip_val,
        seed=cfg.seed,
        device=device_of(str(cfg.trainer.accelerator)),
        precision=precision_of(str(cfg.trainer.precision)),
        channels_last=cfg.channels_last,
        compile=cfg.compile,
        benchmark=bool(cfg.trainer.benchmark),
        **{**options, "input": [side // scale for side in target], "scale": scale},
    )
    stages = list(cfg.procedure.get("stages") or [])
    return ProfiledModel(cfg.label, parameters, scale, spec, stages[-1] if stages else None)


def on_meta(cfg: DictConfig) -> RestorationNetwork:
    """The network without memory for its parameters."""
    try:
        with torch.device("meta"):
            return hydra.utils.instantiate(cfg.model, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):
            raise ConfigError(f"model={cfg.label}: {str(cause).splitlines()[0]}") from error
        raise


def scale_for(label: str, network: RestorationNetwork, scale: int) -> int:
    known = network.scales
    if len(known) == 1:
        return known[0]
    if scale not in known:
        raise ConfigError(f"scale: found {scale}, expected one of {listing(map(str, known))}, which {label} knows")
    return scale


def device_of(accelerator: str) -> Literal["cpu", "cuda"]:
    """That the machine has it is part of the check of every config."""
    if accelerator in ("auto", "gpu", "cuda", "cpu"):
        return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    raise ConfigError(f"trainer.accelerator: found {accelerator!r}, expected cpu, cuda or auto for task=profile")


def precision_of(precision: str) -> Literal["32-true", "bf16-mixed"]:
    if precision == "32-true":
        return "32-true"
    if precision == "bf16-mixed":
        return "bf16-mixed"
    raise ConfigError(f"trainer.precision: found {precision!r}, expected 32-true or bf16-mixed for task=profile")


def file_name(cfg: DictConfig) -> str:
    if "name" in overridden_keys():
        return str(cfg.name)
    device = device_of(str(cfg.trainer.accelerator))
    overrides = list(HydraConfig.get().overrides.task)
    return f"{run_name({'experiment': 'profile', 'task': 'profile'}, overrides)}-{device}"


def measure(subject: ProfiledModel) -> dict[str, Phase]:
    """Forward pass and training step. On the CPU each has a process: freed memory may stay with one, and count."""
    phases = subject.spec.phases
    found: dict[str, Phase] = {}
    for together in [phases] if subject.spec.device == "cuda" else [[phase] for phase in phases]:
        log.info("profile %s: %s", subject.label, ", ".join(together))
        found |= in_a_process(Spec(**{**asdict(subject.spec), "phases": list(together)}))
    return found


def in_a_process(spec: Spec) -> dict[str, Phase]:
    with tempfile.TemporaryDirectory() as folder:
        task, result = Path(folder) / "spec.json", Path(folder) / "result.json"
        task.write_text(json.dumps(asdict(spec)))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "experiments.profile.worker", str(task), str(result)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if done.returncode == 0:
            return {phase: Phase(**values) for phase, values in json.loads(result.read_text()).items()}
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    killed = "killed, out of memory perhaps" if done.returncode == -9 else f"status {done.returncode}: {last}"
    return {phase: Phase(error=killed) for phase in spec.phases}


def conditions(spec: Spec) -> dict[str, Any]:
    """What holds for all rows, beside the facts of every run."""
    cuda = spec.device == "cuda"
    tf32 = cuda and torch.backends.cudnn.allow_tf32
    return {
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "precision": spec.precision,
        "tf32_convolutions": tf32,
        **{key: getattr(spec, key) for key in ("batch", "channels_last", "compile", "warmup", "repeats")},
    }


def cpu_name() -> str:
    """Processor model, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")


def row(subject: ProfiledModel, found: dict[str, Phase]) -> dict[str, Any]:
    spec = subject.spec
    height, width = spec.input
    values: dict[str, Any] = {
        "model": subject.label,
        "parameters": subject.parameters,
        "scale": subject.scale,
        "input_height": height,
        "input_width": width,
        "output_height": height * subject.scale,
        "output_width": width * subject.scale,
        "batch": spec.batch,
        "train_patch": spec.patch,
        "train_batch": spec.batch_size,
        "train_stage": subject.stage,
    }
    for name in ("forward", "train"):
        phase = asdict(found.get(name, Phase()))
        macs = phase.pop("macs")
        values |= {"macs": macs} if name == "forward" else {}
        values |= {f"{name}_{key}": value for key, value in phase.items()}
    if "train" not in found:
        values |= dict.fromkeys(("train_patch", "train_batch", "train_stage"))
    return {**values, "device": spec.device, "precision": spec.precision}
