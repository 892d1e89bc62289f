"""Measuring one network on the test images of one data set: scores, pictures, records.

The images are divided over the processes that there are. Each process writes down what it has measured; the first
one makes records of it when all are done.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from tqdm import tqdm

from datamodules import distributed
from datamodules.batch import Batch
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from experiments.evaluate.partial_results import PartialResults
from experiments.results.records import BASELINE, MADE_OF, MADE_OF_FIELDS, EvaluationRecord, add_records, read_records
from experiments.results.tables import cell_folder
from experiments.runtime.run_folder import write_text
from lightning_modules.callbacks.sheets import Measured, Sheets, enlarged, measured, save_pictures
from lightning_modules.metrics.build import FILES
from lightning_modules.restoration import RestorationModule

Pictures = Literal["sheets", "results", "none"]


class Progress:
    """A bar over all images of an evaluation, with the cell in work; nothing where it is not wanted."""

    def __init__(self, images: int, show: bool) -> None:
        self.bar = tqdm(total=images, unit="img", disable=not show or distributed.rank() > 0)

    def cell(self, text: str) -> None:
        self.bar.set_description(text)

    def images(self, count: int) -> None:
        self.bar.update(min(count, int(self.bar.total or 0) - self.bar.n))

    def close(self) -> None:
        self.bar.close()


def test_names(datamodule: ImageDataModule) -> list[str]:
    """Names of the test images, after `setup("test")`."""
    return [datamodule.caches["test"].names[number] for number in datamodule.numbers["test"]]


def on_data(
    record: EvaluationRecord,
    datamodule: ImageDataModule,
    degradation: Mapping[str, Any],
    device: torch.device,
    metric_files: Mapping[str, str],
) -> EvaluationRecord:
    """The record of a network, completed by what it is measured on.

    Args:
        degradation: the resolved config.
        metric_files: checksum of the file of each optional metric.
    """
    scales = datamodule.degradation.scales
    return replace(
        record,
        dataset=datamodule.source.name,
        scale=scales[0] if len(scales) == 1 else None,
        degradation=degradation,
        suite_seed=datamodule.suite_seed,
        files=files(datamodule, metric_files),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def finished(
    module: RestorationModule, datamodule: ImageDataModule, folder: Path, record: EvaluationRecord
) -> list[EvaluationRecord]:
    """The records of this measurement in the run's `results.json`, if all are there and of the same weights."""
    path = folder / "results.json"
    if not path.exists():
        return []
    there = {known.key: known for known in read_records(path)}
    names = test_names(datamodule)
    found = []
    for wanted in (record.of_bicubic(), record):
        for protocol in module.protocols:
            known = there.get(replace(wanted, protocol=asdict(protocol)).key)
            if known is None or known.checkpoint_sha256 != wanted.checkpoint_sha256:
                return []
            if any(known.files.get(name) != value for name, value in wanted.files.items()):
                return []
            if list(known.images) != names or any(metric not in known.means for metric in module.metrics):
                return []
            found.append(known)
    # Of a kill in between.
    PartialResults(folder, _identity(module, record), distributed.rank()).remove()
    return found if record.model != BASELINE else found[: len(module.protocols)]


def measure(
    module: RestorationModule,
    datamodule: ImageDataModule,
    folder: Path,
    record: EvaluationRecord,
    *,
    device: torch.device,
    pictures: Pictures = "sheets",
    progress: Progress | None = None,
) -> list[EvaluationRecord]:
    """Test on every test image; write `results.json` and `images/`, and return the records.

    The data module has been set up. Bicubic enlargement of the same inputs is measured along. What an interrupted
    measurement has written down is not done again.

    Args:
        folder: of the run.
        record: what is measured, on what, without scores (`on_data`).

    Returns:
        The records of bicubic and of the network, on the first process; nothing on the others.
    """
    names, numbers = test_names(datamodule), datamodule.numbers["test"]
    where = pictures_of(folder, record)
    if pictures != "none" and distributed.rank() == 0:
        made_of = {name: getattr(record, name) for name in MADE_OF_FIELDS}
        write_text(where / MADE_OF, json.dumps(made_of))
    partial_results = PartialResults(folder, _identity(module, record), distributed.rank())
    module.to(device).eval()
    with partial_results, torch.inference_mode():
        done = distributed.broadcast(partial_results.read())
        todo = [number for number, name in zip(numbers, names, strict=True) if name not in done]
        if progress:
            progress.images(len(names) - len(todo))
        for batch in datamodule.test_dataloader(distributed.share(todo)):
            batch = datamodule.on_after_batch_transfer(move_data_to_device(batch, device), 0)
            try:
                outputs = module.test_step(batch, 0)
            except ValueError as error:  # a network says so of an image or a kernel that it cannot work on
                raise InputError(f"{', '.join(batch.name)}: {record.model} cannot restore this: {error}") from error
            baseline = baselines(module, batch)
            done |= _keep(partial_results, batch, outputs, baseline)
            protocol, restored = module.protocols[0], outputs["restored"]
            if pictures == "sheets":
                result = Measured(restored.sr, outputs["scores"][protocol.name])
                sheets = Sheets(protocol, record.model)
                sheets.save(where, restored, batch, result, baseline.get(protocol.name))
            if pictures != "none":
                save_pictures(where, restored, batch, baseline.get(protocol.name))
            if progress:
                progress.images(len(batch) * distributed.world())
    done = {name: entry for part in distributed.gather(done) for name, entry in part.items()}
    found = []
    if distributed.rank() == 0:
        found = _records(done, module, record, names)
        add_records(folder / "results.json", found)
        partial_results.remove()
    distributed.barrier()
    return found


def baselines(module: RestorationModule, batch: Batch) -> dict[str, Measured]:
    """Bicubic enlargement of the input with its scores under each protocol; nothing where there is no such thing."""
    images = enlarged(batch)
    if images is None:
        return {}
    others = module.measure_images(images, batch)
    found = {p.name: measured(images, batch.hr, p, batch.scale) for p in module.protocols}
    return {name: Measured(images, {**one.scores, **others}) for name, one in found.items()}


def _keep(
    partial_results: PartialResults, batch: Batch, outputs: Mapping[str, Any], baseline: Mapping[str, Measured]
) -> dict[str, dict[str, Any]]:
    """Write down the values of a batch, and return them by image."""
    kept: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(batch.name):
        network = {
            protocol: {metric: values[i].item() for metric, values in scores.items()}
            for protocol, scores in outputs["scores"].items()
        }
        bicubic = {
            protocol: {metric: values[i].item() for metric, values in found.scores.items()}
            for protocol, found in baseline.items()
        }
        kept[name] = {"network": network, "bicubic": bicubic, "seconds": outputs["seconds"]}
        partial_results.write(name, **kept[name])
    return kept


def _identity(module: RestorationModule, record: EvaluationRecord) -> dict[str, Any]:
    """All that the values of an image depend on, the state of its file included."""
    return {
        **replace(record, device=None, threads=None).to_json(),
        "protocols": [asdict(protocol) for protocol in module.protocols],
        "metrics": list(module.metrics),
    }


def files(datamodule: ImageDataModule, metrics: Mapping[str, str]) -> dict[str, str]:
    """What tells whether a file that the values depend on has changed, sharp and degraded images apart."""
    caches = {"sharp": datamodule.caches["test"]}
    if "test" in datamodule.inputs:
        caches["degraded"] = datamodule.inputs["test"].cache
    return {**{name: _states(cache.files) for name, cache in caches.items()}, **metrics}


def metric_files(cfg: DictConfig) -> dict[str, str]:
    """Checksums of the files that the optional metrics of a config are made of."""
    return {name: checksum(Path(cfg[FILES[name][0]])) for name in cfg.metrics}


def pictures_of(folder: Path, record: EvaluationRecord) -> Path:
    """The folder of a measurement's pictures."""
    return folder / "images" / record.dataset / cell_folder(record.cell)


def pictured(folder: Path, record: EvaluationRecord, datamodule: ImageDataModule) -> bool:
    """Whether there is a picture of every image."""
    where = pictures_of(folder, record)
    return all((where / f"{name.replace('/', '_')}_sr.png").is_file() for name in test_names(datamodule))


def _states(paths: Sequence[Path]) -> str:
    return hashlib.sha256(json.dumps([_state(path) for path in paths]).encode()).hexdigest()[:16]


def _state(file: Path) -> tuple[str, int, int]:
    try:
        status = os.stat(file)
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: is gone since it was decoded: put it back, and run the same command again "
            "(after a training with resume=auto, which goes straight to the test)"
        ) from error
    return str(file), status.st_size, status.st_mtime_ns


def _records(
    entries: Mapping[str, Mapping[str, Any]],
    module: RestorationModule,
    record: EvaluationRecord,
    names: Sequence[str],
) -> list[EvaluationRecord]:
    found = []
    for protocol in module.protocols:
        baseline = {name: entries[name]["bicubic"].get(protocol.name) for name in names}
        if scores := {name: values for name, values in baseline.items() if values}:
            found.append(record.of_bicubic().scored(protocol, scores))
    if record.model != BASELINE:
        for protocol in module.protocols:
            scores = {n: {**entries[n]["network"][protocol.name], "seconds": entries[n]["seconds"]} for n in names}
            found.append(record.scored(protocol, scores))
    return found


def checksum(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
