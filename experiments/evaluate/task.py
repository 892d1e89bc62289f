"""task=evaluate: measure runs, checkpoints, cascades or models without weights on any data, protocol and suite."""

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.degradations.base import Degradation
from datamodules.distributed import broadcast, rank, rank_zero_first
from datamodules.errors import InputError, UserError
from datamodules.image_datamodule import ImageDataModule
from datamodules.sources import Source
from experiments.config.arguments import overridden_keys
from experiments.config.construct import construct, instantiate
from experiments.config.signatures import check_targets
from experiments.config.training import check_inputs, input_mistake, scale_mistake
from experiments.engines.names import Precision
from experiments.engines.network import accelerated
from experiments.engines.runtimes import check_engine
from experiments.evaluate import suites
from experiments.evaluate.file_states import sharp_state
from experiments.evaluate.measure import Measurement, on_data, progress_bar
from experiments.evaluate.suites import Cell
from experiments.models import Model, find
from experiments.named_network import refuse_several, run_folders, without_folder
from experiments.results.loggers import log_evaluation
from experiments.results.records import EvaluationRecord, canonical, read_records
from experiments.results.tables import report
from experiments.runtime import distributed
from experiments.runtime.lock import held
from experiments.runtime.run_folder import write_text
from experiments.runtime.saved_config import read_mapping, to_build
from experiments.zoo import catalogue
from lightning_modules.checkpoints.untrusted import escaped
from lightning_modules.metrics.build import build_metrics
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.restoration import RestorationModule
from networks.ensemble import SelfEnsemble

log = logging.getLogger(__name__)

KEYS: dict[str, Any] = {
    "run": str | list[str] | None,
    "ckpt": str | None,
    "cascade": list[str] | None,
    "self_ensemble": bool,
    "engine": Literal["torch", "openvino", "onnxruntime"],  # not auto: figures say what they are of
    "precision": Precision,
    "suite": dict | None,
}

_KEEP_BOTH = "to keep both, measure with data=folder data.source.holdout=false and a data.root= of another name"


@dataclass(frozen=True)
class Job:
    """A network that is measured on a cell; `folder` gets `results.json` and `images/`."""

    model: Model
    folder: Path
    cell: Cell

    def measurement(self, device: torch.device) -> Measurement:
        """What is measured, on what; the data have been opened."""
        model, cell, cfg, datamodule = self.model, self.cell, self.cell.cfg, self.cell.datamodule
        scale = datamodule.degradation.scales[0]
        network = model.network(scale)
        if (cfg.engine, cfg.precision) != ("torch", "float32"):
            computed = accelerated(network, scale, cfg.engine, cfg.precision)
            assert computed is not None  # its graph was to be made
            network = computed
        if cfg.self_ensemble:
            network = SelfEnsemble(network, decimated=datamodule.degradation.reduction == "decimate")
        protocols = list(instantiate(cfg.protocol).values())
        module = RestorationModule(network, protocols)
        record = EvaluationRecord(
            model.label,
            self.folder.name,
            model.seed,
            "+".join(_shown(file, self.folder) for file in model.files) or None,
            model.sha256,
            suite=cell.suite,
            cell=dict(cell.values),
            self_ensemble=bool(cfg.self_ensemble),
            engine=cfg.engine,
            precision=cfg.precision,
        )
        record = on_data(record, datamodule, cfg, device)
        return Measurement(module, datamodule, self.folder, record, build_metrics(cfg.metric))


def check(cfg: DictConfig) -> None:
    """Verify that the network is named once, and that data and degradation fit.

    A run is measured on its own data unless a suite is given: those are checked when they are read.

    Raises:
        ConfigError: one line with the key, what was found and what to do.
    """
    refuse_several(cfg)
    if cfg.suite or without_folder(cfg):
        check_inputs(cfg, construct(cfg, "degradation"))


def run(cfg: DictConfig) -> None:
    """Evaluate `run=FOLDER` or several, `weights=NAME`, `ckpt=FILE`, `cascade=[A,B]`, or `model=...` with or without.

    A run is measured on the data and degradation of its own config unless `data=`, `degradation=` or `suite=` is given.
    Cells of a suite whose records are there are not measured again.

    Raises:
        InputError: if a run, a checkpoint or data are missing, damaged or do not fit each other.
        ConfigError: for a suite that does not fit the config.
    """
    device = distributed.start(cfg)
    check_engine(cfg.engine, cfg.precision, device)
    jobs = plan(cfg)
    # All that can be wrong is said before anything is measured, and before the folder is made.
    for job in jobs:
        refuse_misfit(job)
    with rank_zero_first():
        suites.open_data(list({id(job.cell): job.cell for job in jobs}.values()))
    if rank() == 0:
        _warn_of_other_images(jobs)
    known = broadcast([job.measurement(device).finished(cfg.pictures) if cfg.suite else [] for job in jobs])
    if rank() == 0 and without_folder(cfg):
        with held(Path(cfg.run_dir) / ".lock", patience=10):  # a training may have begun here meanwhile
            _refuse_other_model(cfg, Path(cfg.run_dir))
            write_text(Path(cfg.run_dir) / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    if rank() == 0 and (skipped := sum(1 for records in known if records)):
        log.info("%d of %d cells are in results.json already and are not measured again", skipped, len(jobs))

    folders = list(dict.fromkeys(job.folder for job in jobs))
    show = bool(cfg.trainer.enable_progress_bar)
    open_jobs = [job for job, records in zip(jobs, known, strict=True) if not records]
    images = sum(len(job.cell.datamodule.image_names("test")) for job in open_jobs)
    measured: list[EvaluationRecord] = []
    with progress_bar(images, show) as progress:
        for job, records in zip(jobs, known, strict=True):
            if not records:
                where = f"{job.folder.name}: {job.cell}" if len(folders) > 1 else str(job.cell)
                progress.set_description(where)
                start = time.perf_counter()
                records = job.measurement(device).run(device, cfg.pictures, progress)
                if records and len(jobs) > 1 and not show:
                    last, seconds = [r for r in records if r.branch == "sr"][-1], time.perf_counter() - start
                    log.info("%s: %.2f dB (%s), %.1f s", where, last.means["psnr"], last.protocol_name, seconds)
            measured += records
    if rank() == 0:
        print(report(measured, folders), flush=True)
        for folder in folders:
            log_evaluation(cfg, folder, [record for record in measured if record.run == folder.name])


def plan(cfg: DictConfig) -> list[Job]:
    """Every network on every cell."""
    own = Path(cfg.run_dir)
    _refuse_namesakes(run_folders(cfg))
    if without_folder(cfg):
        _refuse_other_model(cfg, own)
    models = find(cfg)
    for file in ((model.folder or own) / "results.json" for model in models):
        if file.exists():
            read_records(file)  # refuses those of an older format, which could not be added to
    cells = suites.plan(cfg) if cfg.suite else None
    return [Job(model, model.folder or own, cell) for model in models for cell in cells or [single(cfg, model)]]


def _refuse_namesakes(folders: list[Path]) -> None:
    named: dict[str, Path] = {}
    for folder in folders:
        if named.setdefault(folder.name, folder) is not folder:
            raise InputError(
                f"run={folder}: two runs are called {folder.name}, the other is {named[folder.name]}: "
                "give each once; tables and pictures tell runs apart by the names of their folders"
            )


def _refuse_other_model(cfg: DictConfig, own: Path) -> None:
    """Options of a model are not in its records: a folder holds those of one set. Of the scale, records know."""
    if (own / "meta.json").exists():
        raise InputError(
            f"{own}: a training run of this name exists: measure it with run={own}, "
            "or give this evaluation another name with name=..."
        )
    begun = (own / "results.json").exists() or any(file.stat().st_size for file in own.glob(".unfinished-*.jsonl"))
    if not begun or not (own / "config.yaml").exists():
        return
    now: Any = OmegaConf.to_container(cfg.model, resolve=True)
    before = read_mapping(own / "config.yaml").get("model") or {}
    for key in [*before, *now]:
        if key != "scale" and before.get(key) != now.get(key):
            raise InputError(
                f"{own}: was measured with model.{key}={before.get(key)}, this is {now.get(key)}: "
                "give this evaluation another name with name=..."
            )


def _warn_of_other_images(jobs: Sequence[Job]) -> None:
    """Two data sets of one name, as of two folders called test, take each other's place in all that is kept."""
    files = {job.folder / "results.json" for job in jobs}
    known = {file: read_records(file) if file.exists() else [] for file in files}
    for job in jobs:
        file, cell, data = job.folder / "results.json", job.cell, job.cell.datamodule
        there, names = [r for r in known[file] if r.dataset == data.source.name], data.image_names("test")
        if there and names and all({*names}.isdisjoint(record.images) for record in there):
            log.warning(
                "%s: its figures of %s are of other images, as %s; those of %s take their place: %s",
                *(file, data.source.name, next(iter(there[0].images)), names[0], _KEEP_BOTH),
            )
            continue
        degradation = OmegaConf.to_container(cell.cfg.degradation, resolve=True)
        place = canonical([cell.suite, cell.values, degradation], folders=True)
        replaced = [r for r in there if canonical([r.suite, r.cell, r.degradation], folders=True) == place]
        if any(record.files.get("sharp") not in (None, sharp_state(data)) for record in replaced):
            log.warning(
                "%s: its figures of %s are of other files of the same names, in another folder or before they were "
                "changed; those of %s take their place: %s",
                *(file, data.source.name, data.caches["test"].files[0].parent, _KEEP_BOTH),
            )


def single(cfg: DictConfig, model: Model) -> Cell:
    """Without a suite: the config as it is, or with what the run was trained on where the command line is silent."""
    cfg, saved = copy.deepcopy(cfg), model.saved
    cell = Cell(cfg)
    if saved is not None:
        overridden, file = overridden_keys(), str((model.folder or Path()) / "config.yaml")
        of_this_machine = {key: cfg.data[key] for key in ("cache_dir", "num_workers") if key in cfg.data}
        for name in ("data", "degradation", "protocol"):
            if name in overridden:
                continue
            given = {key: OmegaConf.select(cfg, key) for key in overridden if key.startswith(f"{name}.")}
            node = to_build(saved, name, file, of_this_machine)
            if "data.root" in given:
                node["source"] = _moved(node, str(given["data.root"]), file)
            cfg[name] = escaped(node)
            cell.saved[name] = f"{file} with {'=, '.join(given)}= of the command line" if given else file
            for key, value in given.items():
                OmegaConf.update(cfg, key, escaped(value), force_add=True)
            if name in cfg.choices and (choice := (saved.get("choices") or {}).get(name)):
                cfg.choices[name] = escaped(str(choice))
        # The data section refers to the degradation, also when only one of the two is taken over.
        OmegaConf.update(cfg, "data.degradation", cfg.degradation, merge=False, force_add=True)
        try:
            parts = {}
            with cell.named():
                check_targets(cfg)  # the run may be older than the code
            for name in ("degradation", "data", "protocol"):
                with cell.named(name):
                    parts[name] = construct(cfg, name)
            with cell.named():
                check_inputs(cfg, parts["degradation"])
            for name, kind, made in (
                ("degradation", Degradation, [parts["degradation"]]),
                ("data", ImageDataModule, [parts["data"]]),
                ("data.source", Source, [parts["data"].source]),
                ("protocol", Protocol, list(parts["protocol"].values())),
            ):
                if not made or not all(isinstance(part, kind) for part in made):
                    raise TypeError(f"{name} describes no {kind.__name__}")
        except UserError:
            raise
        except Exception as error:  # of whatever the config of somebody else makes of our classes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: cannot be built: {reason}: give data= and degradation= instead") from error
    return cell


def _moved(data: dict[str, Any], root: str, file: str) -> dict[str, Any]:
    """The source of the saved data of a run, whose paths are whole, with those below `data.root` below another one."""
    given, old = data.get("source"), str(data.get("root"))
    source: dict[str, Any] = given if isinstance(given, dict) else {}
    texts = {key: text for key, text in source.items() if isinstance(text, str) and not str(key).startswith("_")}
    inside = old.rstrip("/") + "/"
    below = {key: text for key, text in texts.items() if text == old or text.startswith(inside)}
    if not below:
        raise InputError(f"{file}: data: has no data.root to replace: give data= besides data.root=")
    return source | {key: str(Path(root, text.removeprefix(old).lstrip("/"))) for key, text in below.items()}


def refuse_misfit(job: Job) -> None:
    """A network and the degradation of a cell have to fit each other.

    Raises:
        InputError: names the model, the cell, and how to leave the cell out.
    """
    model, cell = job.model.label, job.cell
    baseline = {"self_ensemble": False, "engine": "torch", "precision": "float32"}
    for key in baseline if model == "bicubic" else ():
        if (value := cell.cfg[key]) != baseline[key]:
            given = f"{key}={str(value).lower()}"
            raise InputError(f"{given}: bicubic enlargement is the baseline and is measured plain: omit it")
    degradation = suites.build(cell, "degradation")
    network = job.model.network(degradation.scales[0])
    of_scale = scale_mistake(network, degradation)
    mistake = of_scale or input_mistake(
        type(network).__name__, network.inputs, degradation, cell.cfg.choices.degradation
    )
    if not mistake:
        return
    if cell.suite is None:
        with cell.named("degradation"):
            raise InputError(f"model: {mistake}")
    way = ""
    for key in ("degradation.scale", "data.source.scale") if of_scale else ():
        scales = OmegaConf.select(cell.cfg, f"suite.grid.{key}") or ()
        if fitting := [scale for scale in scales if scale in network.scales]:
            way = f"; {key}={fitting[0]} to measure some of the cells"
    raise InputError(f"suite={cell.suite}, {cell}: {model} cannot be measured: {mistake}{way}")


def _shown(checkpoint: Path, folder: Path) -> str:
    """As training writes it, so that a measurement made again replaces the earlier one; weights by name, as named."""
    if given := catalogue.shown(checkpoint):
        return given
    file, folder = checkpoint.resolve(), folder.resolve()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else checkpoint)
