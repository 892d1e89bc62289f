"""task=evaluate: measure runs, checkpoints, cascades or models without weights on any data, protocol and suite."""

import copy
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.distributed import broadcast, rank, rank_zero_first
from datamodules.errors import InputError
from experiments.config.compose import overridden_keys
from experiments.config.signatures import check_targets
from experiments.config.training import check_inputs, construct, input_mistake, scale_mistake
from experiments.evaluate import suites
from experiments.evaluate.measure import (
    Progress,
    finished,
    measure,
    metric_files,
    on_data,
    pictured,
    test_names,
)
from experiments.evaluate.models import Candidate, find, refuse_several
from experiments.evaluate.suites import Cell
from experiments.results.records import EvaluationRecord, read_records
from experiments.results.tables import cell_line, report
from experiments.results.wandb import log_evaluation
from experiments.runtime import distributed
from experiments.runtime.run_folder import write_text
from lightning_modules.metrics.build import build_metrics
from lightning_modules.restoration import RestorationModule
from networks.ensemble import SelfEnsemble

log = logging.getLogger(__name__)


KEYS: dict[str, Any] = {
    "run": str | list[str] | None,
    "ckpt": str | None,
    "cascade": list[str] | None,
    "self_ensemble": bool,
    "suite": dict | None,
}


def check(cfg: DictConfig) -> None:
    """Verify that the network is named once, and that data and degradation fit.

    A run is measured on its own data unless a suite is given: those are checked when they are read.

    Raises:
        ConfigError: one line with the key, what was found and what to do.
    """
    refuse_several(cfg, "each says what is measured")
    if cfg.suite or not cfg.run:
        check_inputs(cfg, construct(cfg, "degradation"))


def run(cfg: DictConfig) -> None:
    """Evaluate `run=FOLDER` or several, `ckpt=FILE`, `cascade=[A,B]`, or `model=...` with weights or without any.

    A run is measured on the data and degradation of its own config unless `data=`, `degradation=` or `suite=` is given.
    Cells of a suite whose records are there are not measured again.

    Raises:
        InputError: if a run, a checkpoint or data are missing, damaged or do not fit each other.
        ConfigError: for a suite that does not fit the config.
    """
    device = distributed.start(cfg)
    candidates = find(cfg)
    for file in (candidate.folder / "results.json" for candidate in candidates):
        if file.exists():
            read_records(file)  # refuses those of an older format, which could not be added to
    if cfg.suite:
        shared = suites.plan(cfg)
        jobs = [(candidate, cell) for candidate in candidates for cell in shared]
    else:
        jobs = [(candidate, single(cfg, candidate)) for candidate in candidates]
    cells = list({id(cell): cell for _, cell in jobs}.values())
    # All that can be wrong is said before anything is measured, and before the folder is made.
    for candidate, cell in jobs:
        refuse_misfit(candidate, cell)
    with rank_zero_first():
        suites.open_data(cells)
    done = broadcast({i: known_records(job, device) if cfg.suite else [] for i, job in enumerate(jobs)})
    if rank() == 0 and candidates[0].saved is None:
        write_text(Path(cfg.run_dir) / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))

    found: list[EvaluationRecord] = []
    show = bool(cfg.trainer.enable_progress_bar)
    progress = Progress(sum(len(test_names(data(cell))) for i, (_, cell) in enumerate(jobs) if not done[i]), show)
    skipped = sum(1 for records in done.values() if records)
    if skipped and rank() == 0:
        log.info("%d of %d cells are in results.json already and are not measured again", skipped, len(jobs))
    try:
        for i, (candidate, cell) in enumerate(jobs):
            if done[i]:
                found += done[i]
                continue
            progress.cell(f"{candidate.folder.name}: {cell}" if len(candidates) > 1 else str(cell))
            start = time.perf_counter()
            new = measure(
                module_of(candidate, cell),
                data(cell),
                candidate.folder,
                record_of(candidate, cell, device),
                device=device,
                pictures=cell.cfg.pictures,
                progress=progress,
            )
            found += new
            if new and len(jobs) > 1 and not show:
                log.info("%s", cell_line(new, time.perf_counter() - start))
    finally:
        progress.close()
    if rank() == 0:
        print(report(found, [c.folder for c in candidates]), flush=True)
        for folder in (c.folder for c in candidates):
            log_evaluation(cfg, folder, [record for record in found if record.run == folder.name])


def single(cfg: DictConfig, candidate: Candidate) -> Cell:
    """Without a suite: the config as it is, or with what the run was trained on."""
    cfg = copy.deepcopy(cfg)
    saved = candidate.saved
    if saved is not None:
        overridden = overridden_keys()
        for name in ("data", "degradation", "protocol"):
            if name not in overridden:
                _take_over(cfg, saved, name, overridden)
        # The data section refers to the degradation, also when only one of the two is taken over.
        cfg.data.degradation = cfg.degradation
        check_targets(cfg)  # the run may be older than the code
        for name in ("data", "degradation"):
            if name not in overridden and "choices" in saved:
                cfg.choices[name] = saved.choices[name]
        check_inputs(cfg, construct(cfg, "degradation"))
    return Cell(cfg, str(cfg.choices.degradation))


def _take_over(cfg: DictConfig, saved: DictConfig, name: str, overridden: list[str]) -> None:
    """Replace a section by that of the run; single values given on the command line stay in force."""
    given = {key: OmegaConf.select(cfg, key) for key in overridden if key.startswith(f"{name}.")}
    cfg[name] = saved[name]
    for key, value in given.items():
        OmegaConf.update(cfg, key, value, force_add=True)


def refuse_misfit(candidate: Candidate, cell: Cell) -> None:
    """A network and the degradation of a cell have to fit each other.

    Raises:
        InputError: names the model, the cell, and how to leave the cell out.
    """
    if cell.cfg.self_ensemble and candidate.record.model == "bicubic":
        raise InputError("self_ensemble=true: bicubic enlargement is the baseline and is measured plain: omit it")
    network = candidate.network(cell.cfg)
    degradation = suites.degradation_of(cell)
    inputs: Any = network.inputs
    mistake = scale_mistake(network, degradation) or input_mistake(
        type(network).__name__, inputs, degradation, cell.degradation
    )
    if not mistake:
        return
    if cell.suite is None:
        raise InputError(f"model: {mistake}")
    key = "degradation.scale"
    way = f"; {key}=4 or suite.grid.{key}=[3,4] measure some of the cells" if key in cell.values else ""
    raise InputError(f"suite={cell.suite}, {cell}: {candidate.record.model} cannot be measured: {mistake}{way}")


def data(cell: Cell) -> Any:
    """The data module of a cell whose data have been opened."""
    assert cell.datamodule is not None
    return cell.datamodule


def record_of(candidate: Candidate, cell: Cell, device: torch.device) -> EvaluationRecord:
    """What is measured, on what."""
    degradation: Any = OmegaConf.to_container(cell.cfg.degradation, resolve=True)
    record = on_data(candidate.record, data(cell), degradation, device, metric_files(cell.cfg))
    return replace(record, suite=cell.suite, cell=dict(cell.values), self_ensemble=bool(cell.cfg.self_ensemble))


def module_of(candidate: Candidate, cell: Cell) -> RestorationModule:
    """The network of a cell with the protocols it is measured by."""
    network = candidate.network(cell.cfg)
    if cell.cfg.self_ensemble:
        reduction = data(cell).degradation.reduction
        network = SelfEnsemble(network, decimated=reduction == "decimate")
    protocols = list(hydra.utils.instantiate(cell.cfg.protocol, _convert_="all").values())
    module = RestorationModule(network, protocols)
    module.metrics = build_metrics(cell.cfg.metrics, cell.cfg.lpips_weights, cell.cfg.niqe_model)
    return module


def known_records(job: tuple[Candidate, Cell], device: torch.device) -> list[EvaluationRecord]:
    candidate, cell = job
    record = record_of(candidate, cell, device)
    if cell.cfg.pictures != "none" and not pictured(candidate.folder, record, data(cell)):
        return []  # measured again, for its pictures
    return finished(module_of(candidate, cell), data(cell), candidate.folder, record)
