"""Measuring one network on the test images of one data set: scores, pictures, records.

The images are divided over the processes that there are. Each process writes down what it has measured; the first
one makes records of it when all are done.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchmetrics import MetricCollection
from tqdm import tqdm

from datamodules import distributed
from datamodules.errors import InputError
from datamodules.image_datamodule import ImageDataModule
from datamodules.io.atomic import remove_parts
from experiments.evaluate.file_states import file_states
from experiments.evaluate.partial_results import PartialResults
from experiments.results.pictures import MADE_OF, made_of
from experiments.results.records import BASELINE, METRICS, EvaluationRecord, add_records, read_records, same_files
from experiments.results.tables import cell_folder
from experiments.runtime.run_folder import write_text
from lightning_modules.callbacks.sheets import Measured, Sheets, enlarged, save_pictures
from lightning_modules.metrics.build import ImageMetric, build_metrics
from lightning_modules.metrics.psnr_ssim import smallest_side
from lightning_modules.metrics.scores import ImageScore, by_image, collect, key
from lightning_modules.restoration import RestorationModule
from networks.restored import Restored


def progress_bar(images: int, show: bool) -> tqdm:
    """A bar over all images of an evaluation, on the first process."""
    return tqdm(total=images, unit="img", disable=not show or distributed.rank() > 0)


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
        files=file_states(datamodule, cfg),
        higher_is_better={name: metric.higher_is_better for name, metric in build_metrics(cfg.metric).items()},
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
        metrics: what is measured besides PSNR and SSIM, by name: see `metrics.build`.
    """

    module: RestorationModule
    datamodule: ImageDataModule
    folder: Path
    record: EvaluationRecord
    metrics: Mapping[str, ImageMetric] = field(default_factory=dict)

    @property
    def branches(self) -> list[str]:
        """What of the network's result is measured: the deblurred images too, where all of them are large enough."""
        degradation, cache = self.datamodule.degradation, self.datamodule.caches["test"]
        branches = ["sr"]
        if "deblurred" in self.module.network.outputs and "lr_sharp" in degradation.provides:
            scale = max(degradation.scales)
            shapes = [cache.shapes[number] for number in self.datamodule.numbers["test"]]
            side = min(min(shape) for shape in shapes) - 2 * degradation.margin
            side = side // degradation.multiple * degradation.multiple // scale
            with suppress(ValueError):  # a protocol that does not go with the scale, which is refused later
                if all(smallest_side(protocol.at(scale)) <= side for protocol in self.module.protocols):
                    branches.append("deblurred")
        return branches

    @property
    def pictures_folder(self) -> Path:
        return self.folder / "images" / self.record.dataset / cell_folder(self.record.cell)

    def _has_pictures(self) -> bool:
        """Whether what lies there, if anything does, is of this measurement, be it finished or interrupted."""
        return made_of(self.pictures_folder, self.record.made_of, folders=True)

    def _has_picture(self, name: str) -> bool:
        return (self.pictures_folder / f"{name.replace('/', '_')}_sr.png").is_file()

    def finished(self, pictures: str = "none") -> list[EvaluationRecord]:
        """The records that are in `results.json` already, if all are there and of the same weights.

        Nothing without a picture of every image where `pictures` are wanted: it is measured again for them.
        """
        path, names = self.folder / "results.json", self.datamodule.image_names("test")
        if not path.exists():
            return []
        if pictures != "none" and not (self._has_pictures() and all(map(self._has_picture, names))):
            return []
        there = {known.key: known for known in read_records(path)}
        records = []
        bicubic = self.record.of_bicubic()
        for subject in [bicubic, self.record] if self.record.model != BASELINE else [bicubic]:
            for branch, protocol in product(self.branches, self.module.protocols):
                known = there.get(replace(subject, branch=branch, protocol=asdict(protocol)).key)
                if known is None or known.checkpoint_sha256 != subject.checkpoint_sha256:
                    return []
                if not same_files(known, subject):
                    return []
                if list(known.images) != names or any(
                    metric not in known.means for metric in self.metrics if branch == "sr"
                ):
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
        names, numbers = datamodule.image_names("test"), datamodule.numbers["test"]
        sheets = Sheets(module.protocols[0], self.record.model)
        partial_results = self._partial_results()
        there = distributed.broadcast(self._has_pictures())
        if pictures != "none" and distributed.rank() == 0:
            for picture in [] if there else [*where.glob("*.png")]:
                picture.unlink()  # of another measurement
            write_text(where / MADE_OF, json.dumps(self.record.made_of))
        module.to(device).eval()
        with partial_results, torch.inference_mode():
            if distributed.rank() == 0:
                remove_parts(where)  # of a measurement that was killed
            # A measurement that goes on may want pictures where the interrupted one did not.
            earlier = partial_results.read().items()
            complete = {
                name: entry for name, entry in earlier if pictures == "none" or (there and self._has_picture(name))
            }
            done = distributed.broadcast(complete)
            scores = {subject: self._scores(subject, done).to(device) for subject in ("network", BASELINE)}
            seconds = {name: entry["seconds"] for name, entry in done.items()}
            todo = [number for number, name in zip(numbers, names, strict=True) if name not in done]
            _advance(progress, len(names) - len(todo))
            for batch in datamodule.test_dataloader(distributed.share(todo)):
                batch = datamodule.on_after_batch_transfer(move_data_to_device(batch, device), 0)
                (name,) = batch.name
                try:
                    restored, seconds[name] = module.restore(batch)
                except ValueError as error:  # a network says so of an image or a kernel that it cannot work on
                    raise InputError(f"{name}: {self.record.model} cannot restore this: {error}") from error
                scores["network"].update(restored, batch)
                enlargement = enlarged(batch)
                if enlargement is not None:
                    scores[BASELINE].update(Restored(enlargement, deblurred=batch.lr), batch)
                found = {subject: _found(of_subject, name) for subject, of_subject in scores.items()}
                if pictures == "sheets":
                    result, baseline = (self._caption(found[subject]) for subject in scores)
                    bicubic = None if enlargement is None else Measured(enlargement, baseline)
                    sheets.save(where, restored, batch, Measured(restored.sr, result), bicubic)
                if pictures != "none":
                    save_pictures(where, restored, batch, enlargement)
                partial_results.write(name, **found, seconds=seconds[name])  # what is in it has its pictures
                _advance(progress, distributed.world())
        measured = {subject: by_image(of_subject) for subject, of_subject in scores.items()}
        seconds = {name: value for part in distributed.gather(seconds) for name, value in part.items()}
        records = []
        if distributed.rank() == 0:
            records = self._records(measured, {name: seconds[name] for name in names})
            add_records(self.folder / "results.json", records)
            partial_results.remove()
        distributed.barrier()
        return records

    def _scores(self, subject: str, done: Mapping[str, Any]) -> MetricCollection:
        """Of the network or of bicubic, with what an interrupted measurement has found."""
        known = {name: entry[subject] for name, entry in done.items() if distributed.rank() == 0}
        names = self.datamodule.image_names("test")
        return collect(names, self.module.protocols, self.branches, self.metrics, known)

    def _caption(self, found: Mapping[str, float]) -> dict[str, Tensor]:
        protocol = self.module.protocols[0]
        return {metric: torch.tensor([found[key(metric, protocol)]]) for metric in ("psnr", "ssim") if found}

    def _partial_results(self) -> PartialResults:
        """Those of all that the values of an image depend on, the state of its file included."""
        identity = {
            **replace(self.record, device=None, threads=None).to_json(),
            "protocols": [asdict(protocol) for protocol in self.module.protocols],
            "metrics": list(self.metrics),
            "branches": self.branches,
        }
        return PartialResults(self.folder, identity, distributed.rank())

    def _records(
        self, measured: Mapping[str, Mapping[str, Mapping[str, float]]], seconds: Mapping[str, float]
    ) -> list[EvaluationRecord]:
        """Of bicubic where there is such a thing, and of the network, by each protocol; `seconds` has all images."""
        subjects = {BASELINE: self.record.of_bicubic()}
        if self.record.model != BASELINE:
            subjects["network"] = self.record
        records = []
        for branch, (subject, record), protocol in product(self.branches, subjects.items(), self.module.protocols):
            of_image: dict[str, dict[str, float]] = {name: {} for name in seconds}
            for metric in METRICS:
                # It has one of these titles, or is not measured.
                for title in [key(metric, protocol, branch), *([metric] if branch == "sr" else [])]:
                    for name, value in measured[subject].get(title, {}).items():
                        of_image[name][metric] = value
            of_image = {name: values for name, values in of_image.items() if values}
            if not of_image:
                continue
            if subject == "network":
                of_image = {name: {**values, "seconds": seconds[name]} for name, values in of_image.items()}
            records.append(replace(record, branch=branch).scored(protocol, of_image))
        return records


def _advance(progress: tqdm | None, images: int) -> None:
    """What all processes have done is not known exactly: not beyond the end."""
    if progress is not None and progress.total:
        progress.update(min(images, progress.total - progress.n))


def _found(scores: MetricCollection, name: str) -> dict[str, float]:
    """What was measured of one image, by `key`."""
    values = {title: score.of(name) for title, score in scores.items() if isinstance(score, ImageScore)}
    return {title: value for title, value in values.items() if value is not None}
