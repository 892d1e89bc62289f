"""Records of evaluations: `results.json`.

A file is `{"format": 2, "records": [...]}`: one record for each model, data set, degradation (cell of a suite) and
protocol, with the means and the values of every image.
"""

import contextlib
import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Self

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from datamodules.errors import InputError
from experiments.runtime import run_folder, saved_config
from experiments.runtime.saved_config import renamed
from lightning_modules.checkpoints.untrusted import check_plain, parse_json
from lightning_modules.metrics.protocol import Protocol

FORMAT = 2
LARGEST = 2**26  # bytes: a grid of a hundred cells on a hundred images takes one or two MB
# Metrics by name: how tables call them, digits, and whether more (+1) or less (-1) is better. A record adds its own.
METRICS: dict[str, tuple[str, int, int]] = {
    "psnr": ("PSNR dB", 2, 1),
    "ssim": ("SSIM", 4, 1),
    "lpips": ("LPIPS", 4, -1),
    "niqe": ("NIQE", 3, -1),
    "kernel_error": ("kernel err.", 5, -1),
}
BASELINE = "bicubic"  # enlargement of the input, measured along with every network
Images = dict[str, dict[str, float]]  # image -> metric (or "seconds")
# What values depend on, besides the network: only records that agree in all of it are compared.
_CONDITIONS = ("suite", "dataset", "cell", "protocol", "split", "suite_seed", "scale", "degradation", "branch")
# What made the result of a picture, by default as in records and files that lack it.
MADE_BY = {"checkpoint_sha256": None, "self_ensemble": False, "engine": "torch", "precision": "float32"}
_DAMAGED = "the file is damaged, evaluate the run again"
_NEEDED = ("model", "dataset", "split", "degradation", "suite_seed", "protocol", "images", "cell", "suite")


@dataclass(frozen=True)
class EvaluationRecord:
    """One network on one data set under one degradation, measured by one protocol."""

    model: str  # label of the network
    run: str | None = None  # name of the run folder
    seed: int | None = None  # of the training, if there was one
    checkpoint: str | None = None  # file of the weights, below the run folder if it is there
    checkpoint_sha256: str | None = None  # the first 16 hexadecimal digits
    suite: str | None = None  # name of the evaluation suite, if any
    cell: Mapping[str, Any] = field(default_factory=dict)  # values of its grid, by config key
    dataset: str = ""
    split: str = "test"
    scale: int | None = None  # of the enlargement; None: drawn for every image
    degradation: Mapping[str, Any] = field(default_factory=dict)  # the resolved config
    suite_seed: int = 0  # of the degradation
    branch: str = "sr"  # of the network's result; "deblurred": against the sharp image of the input's size
    self_ensemble: bool = False  # averaged over the eight flips and rotations
    engine: str = "torch"  # what computed the network
    precision: str = "float32"
    files: Mapping[str, str] = field(default_factory=dict)  # checksums of what the values depend on, by what it is
    device: str | None = None  # where the seconds of the images were taken
    threads: int | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)  # its fields, see lightning_modules.metrics.protocol
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)  # of the metrics of conf/metric/, by name
    means: Mapping[str, float] = field(default_factory=dict)  # over the images, by metric
    images: Images = field(default_factory=dict)  # values of each image, by metric, and its `seconds`

    def __post_init__(self) -> None:
        for metric, higher in self.higher_is_better.items():
            METRICS.setdefault(metric, (metric.upper(), 4, 1 if higher else -1))

    @property
    def protocol_name(self) -> str:
        """With the branch, if it is not `sr`: in tables its figures are like those of another protocol."""
        return f"{'' if self.branch == 'sr' else f'{self.branch} '}{self.protocol['name']}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is bicubic enlargement of the input, which is measured along with every network."""
        return self.model == BASELINE and self.checkpoint is None

    @property
    def conditions(self) -> dict[str, Any]:
        """What the values depend on, besides the network."""
        return {name: getattr(self, name) for name in _CONDITIONS}

    @property
    def made_of(self) -> dict[str, Any]:
        """What is written beside pictures, which tells whether they are of this measurement."""
        fields_of_it = {name: getattr(self, name) for name in ("degradation", "suite_seed", *MADE_BY)}
        return {**fields_of_it, "sharp": self.files.get("sharp")}

    @property
    def computed(self) -> str:
        """By what the network was computed if it was not torch in float32: "openvino bf16"."""
        computed = f"{self.engine} {self.precision}"
        return "" if computed == "torch float32" else computed

    @property
    def key(self) -> str:
        """Equal for two records of the same measurement: the later one replaces the earlier, as do newer weights."""
        # On one machine files of one name in two folders are two files.
        return canonical(
            [self.model, self.checkpoint, self.self_ensemble, self.computed, self.conditions], folders=True
        )

    @property
    def metrics(self) -> list[str]:
        """In the order in which they are shown."""
        first = next(iter(self.images.values()), {})
        return [metric for metric in METRICS if metric in self.means or metric in first]

    def of_bicubic(self) -> Self:
        """The same measurement of bicubic enlargement of the input, which has neither weights nor a seed."""
        return replace(
            self,
            model=BASELINE,
            seed=None,
            checkpoint=None,
            checkpoint_sha256=None,
            self_ensemble=False,
            engine="torch",
            precision="float32",
        )

    def scored(self, protocol: Protocol, images: Mapping[str, Mapping[str, float]]) -> Self:
        """This measurement by a protocol: the values of the images and their means."""
        means = {}
        for metric in METRICS:
            values = [image[metric] for image in images.values() if metric in image]
            if values:
                means[metric] = math.fsum(values) / len(values)
        return replace(
            self, protocol=asdict(protocol), means=means, images={name: dict(image) for name, image in images.items()}
        )

    def to_json(self) -> dict[str, Any]:
        """The means stand beside the fields, so that a file reads well."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("means", "images")}
        return {**values, **self.means, "images": self.images}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> Self:
        """A record as a file has it; fields that an older one lacks have their defaults.

        Raises:
            InputError: it lacks what every version writes; `where` names the file.
        """
        for name in _NEEDED:
            if not isinstance(content, Mapping) or name not in content:
                raise InputError(f"{where}: a record has no {name!r}: {_DAMAGED}")
        values = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        own = values.get("higher_is_better", {})
        metrics = [*METRICS, *(own if isinstance(own, Mapping) else ())]  # its type is checked below
        values["means"] = {metric: content[metric] for metric in metrics if metric in content}
        check_plain({name: value for name, value in values.items() if name != "images"}, where, "a record")
        for name, value in values.items():
            try:
                _adapter(name).validate_python(value, strict=True)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, (name, *first["loc"])))
                expected = first["msg"].replace("Input should be ", "")
                raise InputError(f"{where}: {place} of a record: expected {expected}: {_DAMAGED}") from error
        for image, scores in [("", values["means"]), *values["images"].items()]:
            for metric, value in scores.items():  # nan is what a network that has diverged gets
                if math.isinf(value) and not (metric == "psnr" and value > 0):
                    place = f"images.{image}.{metric}" if image else metric
                    raise InputError(
                        f"{where}: {place} of a record: found {value}, expected a finite number: {_DAMAGED}"
                    )
        if not _is_name(values["dataset"]):
            raise InputError(f"{where}: dataset of a record: found {values['dataset']!r}, expected a name: {_DAMAGED}")
        try:
            values["protocol"] = asdict(Protocol(**values["protocol"]))
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: protocol of a record: {error}: {_DAMAGED}") from error
        return cls(**values | {"degradation": renamed(values["degradation"])})


def _is_name(text: str) -> bool:
    return not text or (PurePath("a", text).parts == ("a", text) and text != "..")  # a folder of pictures has it


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    """Checks a value of a record against the type of its field."""
    kind: Any = next(f.type for f in fields(EvaluationRecord) if f.name == name)
    return TypeAdapter(kind)


def read_records(path: Path) -> list[EvaluationRecord]:
    """All records of a `results.json`; identical images have a PSNR of `Infinity`, which Python's json reads back.

    Raises:
        InputError: if the file is missing or damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file: measure the run first, by task=evaluate run={path.parent}")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: larger than {LARGEST / 2**20:.0f} MB: move it away and evaluate again")
    content = parse_json(path.read_bytes(), str(path), "move it away and evaluate again")
    version = content.get("format") if isinstance(content, dict) else 1
    if version == FORMAT and not isinstance(content.get("records"), list):
        found = json.dumps(content.get("records"))[:100]
        raise InputError(f"{path}: records: found {found}, expected a list: move the file away and evaluate again")
    if version != FORMAT:
        raise InputError(
            f"{path}: results of format {version}, expected format {FORMAT}: move the file away and evaluate again, by "
            f"task=evaluate run={path.parent}"
        )
    return [EvaluationRecord.from_json(record, str(path)) for record in content["records"]]


def read_mapping(path: Path) -> dict[str, Any]:
    """A file of a run folder, JSON or YAML, that only adds to what is shown: missing or torn it says nothing."""
    try:
        return saved_config.read_mapping(path)
    except InputError:
        return {}


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The columns of a `metrics.csv` as (step, value), where it has finite numbers.

    Lines that a killed run left torn are passed over; a run without the file has no curves.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return curves
    with path.open(newline="", errors="replace") as file, contextlib.suppress(csv.Error):  # no text
        for row in csv.DictReader(file):
            for name, text in row.items():
                try:
                    step, value = int(row["step"]), float(text)
                except (KeyError, TypeError, ValueError):
                    continue
                if math.isfinite(value):
                    curves.setdefault(name, []).append((step, value))
    return curves


def add_records(path: Path, new: Sequence[EvaluationRecord]) -> None:
    """Merge records into a `results.json`; a record of the same measurement is replaced.

    Several evaluations of one run may write at the same time.

    Raises:
        InputError: if the file is there but damaged or of another format, or cannot be written.
    """
    if not path.parent.is_dir():
        _write(path, [])
    try:
        lock = FileLock(path.with_name(f".{path.name}.lock")).acquire()
    except OSError as error:  # as where it is a link
        raise run_folder.unwritable(path, error) from error
    with lock:
        old = read_records(path) if path.exists() else []
        before = {record.key: record for record in old}
        keys = {record.key for record in new}
        kept = [with_earlier_metrics(record, before.get(record.key)) for record in new]
        _write(path, [record for record in old if record.key not in keys] + kept)


def _write(path: Path, records: Sequence[EvaluationRecord]) -> None:
    content = {"format": FORMAT, "records": [record.to_json() for record in records]}
    run_folder.write_text(path, json.dumps(content, indent=2) + "\n")


def same_files(earlier: EvaluationRecord, record: EvaluationRecord, metrics: bool = True) -> bool:
    """Whether both are of the same states of files; of those of kernels, earlier versions kept none.

    Args:
        metrics: whether those of the metrics count, besides those of the data.
    """
    files = {name: value for name, value in record.files.items() if metrics or name not in METRICS}
    known = {name: value for name, value in files.items() if name.endswith("path")} | {**earlier.files}
    return all(known.get(name) == value for name, value in files.items())


def with_earlier_metrics(record: EvaluationRecord, earlier: EvaluationRecord | None) -> EvaluationRecord:
    """Optional metrics that an earlier measurement of the same files and weights has, and this one does not."""
    if earlier is None or list(earlier.images) != list(record.images):
        return record
    if earlier.checkpoint_sha256 != record.checkpoint_sha256 or not same_files(earlier, record, metrics=False):
        return record
    images = {name: {**earlier.images[name], **values} for name, values in record.images.items()}
    return replace(
        record,
        means={**earlier.means, **record.means},
        images=images,
        files={**earlier.files, **record.files},
        higher_is_better={**earlier.higher_is_better, **record.higher_is_better},
    )


def canonical(value: Any, folders: bool = False) -> str:
    """One text for equal settings: 0 and 0.0 are equal.

    Args:
        folders: whether the folder of a file matters, or its name only: runs of other machines are compared too.
    """
    return json.dumps(_plain("", value, folders), sort_keys=True)


def _plain(key: str, value: Any, folders: bool) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(str(name), child, folders) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(key, item, folders) for item in value]
    if isinstance(value, str) and key.endswith(("path", "root")) and not folders:
        return PurePath(value).name
    return int(value) if isinstance(value, float) and value.is_integer() else value
