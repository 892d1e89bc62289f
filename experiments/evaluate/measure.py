"""Measuring one network on the test images of one data set: scores, pictures, records.

The images are divided over the processes that there are. Each process writes down what it has measured; the first
one makes records of it when all are done.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from datamodules import distributed
from datamodules.batch import Batch
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from experiments.evaluate.partial_results import PartialResults
from experiments.models import checksum
from experiments.results.records import BASELINE, MADE_OF, MADE_OF_FIELDS, EvaluationRecord, add_records, read_records
from experiments.results.tables import cell_folder
from experiments.runtime.run_folder import write_text
from lightning_modules.callbacks.sheets import Measured, Sheets, enlarged, measured, save_pictures
from lightning_modules.metrics.build import FILES
from lightning_modules.restoration import RestorationModule


def progress_bar(images: int, show: bool) -> tqdm:
    """A bar over all images of an evaluation, on the first process."""
    return tqdm(total=images, unit="img", disable=not show or distributed.rank() > 0)


def test_names(datamodule: ImageDataModule) -> list[str]:
    """Names of the test images, after `setup("test")`."""
    return [datamodule.caches["test"].names[number] for number in datamodule.numbers["test"]]


def on_data(
    record: EvaluationRecord, datamodule: ImageDataModule, cfg: DictConfig, device: torch.device
) -> EvaluationRecord:
    """The record of a network, completed by what it is measured on."""
    degradation: Any = OmegaConf.to_container(cfg.degradation, resolve=True)
    scales = datamodule.degradation.scales
    return replace(
        record,
        dataset=datamodule.source.name,
        scale=scales[0] if len(scales) == 1 else None,
        degradation=degradation,
        suite_seed=datamodule.suite_seed,
        files=_files(datamodule, cfg),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


@dataclass(frozen=True)
class Measurement:
    """One network on the test images of one data set.

    Attributes:
        module: the network and the protocols.
        datamodule: has been set up.
        folder: of the run; gets `results.json` and `images/`.
        record: what is measured, on what, without scores (`on_data`).
    """

    module: RestorationModule
    datamodule: ImageDataModule
    folder: Path
    record: EvaluationRecord

    @property
    def pictures_folder(self) -> Path:
        return self.folder / "images" / self.record.dataset / cell_folder(self.record.cell)

    def finished(self, pictures: str = "none") -> list[EvaluationRecord]:
        """The records that are in `results.json` already, if all are there and of the same weights.

        Nothing without a picture of every image where `pictures` are wanted: it is measured again for them.
        """
        path, names = self.folder / "results.json", test_names(self.datamodule)
        if not path.exists():
            return []
        files = (self.pictures_folder / f"{name.replace('/', '_')}_sr.png" for name in names)
        if pictures != "none" and not all(file.is_file() for file in files):
            return []
        there = {known.key: known for known in read_records(path)}
        records = []
        bicubic = self.record.of_bicubic()
        for subject in [bicubic, self.record] if self.record.model != BASELINE else [bicubic]:
            for protocol in self.module.protocols:
                known = there.get(replace(subject, protocol=asdict(protocol)).key)
                if known is None or known.checkpoint_sha256 != subject.checkpoint_sha256:
                    return []
                if any(known.files.get(name) != value for name, value in subject.files.items()):
                    return []
                if list(known.images) != names or any(metric not in known.means for metric in self.module.metrics):
                    return []
                records.append(known)
        self._partial_results().remove()  # of a kill in between
        return records

    def run(
        self, device: torch.device, pictures: str = "sheets", progress: tqdm | None = None
    ) -> list[EvaluationRecord]:
        """Test on every test image; write `results.json` and `images/`, and return the records.

        Bicubic enlargement of the same inputs is measured along. What an interrupted measurement has written down is
        not done again.

        Args:
            pictures: "sheets", "results" or "none".

        Returns:
            The records of bicubic and of the network, on the first process; nothing on the others.
        """
        module, datamodule, where = self.module, self.datamodule, self.pictures_folder
        names, numbers = test_names(datamodule), datamodule.numbers["test"]
        first = module.protocols[0]
        sheets = Sheets(first, self.record.model)
        if pictures != "none" and distributed.rank() == 0:
            made_of = {name: getattr(self.record, name) for name in MADE_OF_FIELDS}
            write_text(where / MADE_OF, json.dumps(made_of))
        partial_results = self._partial_results()
        module.to(device).eval()
        with partial_results, torch.inference_mode():
            done = distributed.broadcast(partial_results.read())
            todo = [number for number, name in zip(numbers, names, strict=True) if name not in done]
            _advance(progress, len(names) - len(todo))
            for batch in datamodule.test_dataloader(distributed.share(todo)):
                batch = datamodule.on_after_batch_transfer(move_data_to_device(batch, device), 0)
                (name,) = batch.name
                try:
                    outputs = module.test_step(batch, 0)
                except ValueError as error:  # a network says so of an image or a kernel that it cannot work on
                    raise InputError(f"{name}: {self.record.model} cannot restore this: {error}") from error
                baseline = baselines(module, batch)
                done[name] = {
                    "network": _values(outputs["scores"]),
                    "bicubic": _values({protocol: of_bicubic.scores for protocol, of_bicubic in baseline.items()}),
                    "seconds": outputs["seconds"],
                }
                partial_results.write(name, **done[name])
                restored, enlargement = outputs["restored"], baseline.get(first.name)
                if pictures == "sheets":
                    result = Measured(restored.sr, outputs["scores"][first.name])
                    sheets.save(where, restored, batch, result, enlargement)
                if pictures != "none":
                    save_pictures(where, restored, batch, enlargement)
                _advance(progress, distributed.world())
        done = {name: entry for part in distributed.gather(done) for name, entry in part.items()}
        records = []
        if distributed.rank() == 0:
            records = self._records({name: done[name] for name in names})
            add_records(self.folder / "results.json", records)
            partial_results.remove()
        distributed.barrier()
        return records

    def _partial_results(self) -> PartialResults:
        """Those of all that the values of an image depend on, the state of its file included."""
        identity = {
            **replace(self.record, device=None, threads=None).to_json(),
            "protocols": [asdict(protocol) for protocol in self.module.protocols],
            "metrics": list(self.module.metrics),
        }
        return PartialResults(self.folder, identity, distributed.rank())

    def _records(self, entries: Mapping[str, Mapping[str, Any]]) -> list[EvaluationRecord]:
        """Of bicubic where there is such a thing, and of the network, by each protocol."""
        records = []
        for protocol in self.module.protocols:
            scores = {name: entry["bicubic"].get(protocol.name) for name, entry in entries.items()}
            scores = {name: values for name, values in scores.items() if values}
            if scores:
                records.append(self.record.of_bicubic().scored(protocol, scores))
        for protocol in self.module.protocols if self.record.model != BASELINE else []:
            scores = {
                name: {**entry["network"][protocol.name], "seconds": entry["seconds"]}
                for name, entry in entries.items()
            }
            records.append(self.record.scored(protocol, scores))
        return records


def baselines(module: RestorationModule, batch: Batch) -> dict[str, Measured]:
    """Bicubic enlargement of the input with its scores under each protocol; nothing where there is no such thing."""
    images = enlarged(batch)
    if images is None:
        return {}
    others = module.measure_images(images, batch)
    scores = {p.name: measured(images, batch.hr, p, batch.scale, batch.gray).scores for p in module.protocols}
    return {name: Measured(images, {**by_protocol, **others}) for name, by_protocol in scores.items()}


def _advance(progress: tqdm | None, images: int) -> None:
    """What all processes have done is not known exactly: not beyond the end."""
    if progress is not None and progress.total:
        progress.update(min(images, progress.total - progress.n))


def _values(scores: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """By protocol and metric, of the one image of a batch."""
    return {
        protocol: {metric: values[0].item() for metric, values in by_metric.items()}
        for protocol, by_metric in scores.items()
    }


def _files(datamodule: ImageDataModule, cfg: DictConfig) -> dict[str, str]:
    """What tells whether a file that the values depend on has changed: sharp and degraded images, optional metrics."""
    states = {"sharp": _state(datamodule.caches["test"].files)}
    if any(datamodule.caches["test"].gray):
        states["gray"] = "luma"  # earlier versions measured them as RGB: their figures are not taken for finished
    if "test" in datamodule.inputs:
        states["degraded"] = _state(datamodule.inputs["test"].cache.files)
    return {**states, **{name: checksum(Path(cfg[FILES[name][0]])) for name in cfg.metrics}}


def _state(paths: Sequence[Path]) -> str:
    try:
        statuses = [os.stat(file) for file in paths]
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: is gone since it was decoded: put it back, and run the same command again "
            "(after a training with resume=auto, which goes straight to the test)"
        ) from error
    states = [(str(file), status.st_size, status.st_mtime_ns) for file, status in zip(paths, statuses, strict=True)]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:16]
