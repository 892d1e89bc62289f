"""task=export: write a network as files that work without this suite, each read back and compared before it is kept."""

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.export import ExportedProgram

from datamodules.errors import ConfigError, InputError
from experiments.config.training import construct
from experiments.evaluate.measure import checksum
from experiments.evaluate.models import asked_use, chosen_checkpoint, refuse_several
from experiments.export.errors import ExportError
from experiments.export.exportable import Exportable, record
from experiments.export.formats import VALUES, require_onnx, write_onnx, write_program, write_safetensors
from lightning_modules.checkpoints.checkpoint import load_network, read_weights
from networks.base import RestorationNetwork

Format = Literal["safetensors", "onnx", "program"]
ENDINGS: dict[Format, str] = {"safetensors": ".safetensors", "onnx": ".onnx", "program": ".pt2"}


class ExportedModel:
    """What is exported.

    Attributes:
        network: in evaluation mode on the CPU.
        about: what the files say about it.
        folder: where they go unless another one is given.
        recording: of the network, for any size; made once for all formats that need it.
    """

    def __init__(self, network: RestorationNetwork, about: dict[str, Any], folder: Path) -> None:
        self.network, self.about, self.folder = network, about, folder

    @cached_property
    def recording(self) -> ExportedProgram | ExportError:
        try:
            return record(self.exportable)
        except ExportError as error:
            return error

    @cached_property
    def exportable(self) -> Exportable:
        return Exportable(self.network, self.about.get("scale"))

    def program(self) -> ExportedProgram:
        if isinstance(self.recording, ExportError):
            raise self.recording
        return self.recording


KEYS: dict[str, Any] = {
    "run": str | None,
    "ckpt": str | None,
    "formats": Format | list[Format] | None,
    "output": str | None,
    "scale": int | None,
}


def check(cfg: DictConfig) -> None:
    """Verify that a single network is named.

    Raises:
        ConfigError: if several are.
    """
    refuse_several(cfg, "a single network is exported")


def run(cfg: DictConfig) -> None:
    """Export `run=FOLDER`, `ckpt=FILE`, or `model=NAME` with `weights=FILE` or without any.

    Raises:
        ConfigError: for a scale that the network does not have, or that has to be said.
        InputError: if a file is missing or damaged, or a format that was asked for is refused; the others are written.
    """
    asked: list[Format] = list(ENDINGS if cfg.formats is None else cfg.formats)
    if isinstance(cfg.formats, str):
        asked = [cfg.formats]  # type: ignore[list-item]  # checked
    subject = find(cfg)
    settle_scale(subject, cfg.scale, asked)
    folder = Path(cfg.output) if cfg.output else subject.folder
    rows, refusals = [], []
    for name in dict.fromkeys(asked):
        try:
            path, differences = write(subject, name, folder)
        except ExportError as error:
            refusals.append(f"{name}: {subject.about['label']} {error}")
        else:
            rows.append((name, path, differences))
    if rows:
        print(table(rows), flush=True)
    if refusals and cfg.formats is not None:
        raise InputError("not written: " + "; ".join(refusals))
    for line in refusals:
        print(f"not written: {line}", flush=True)


def find(cfg: DictConfig) -> ExportedModel:
    """The network that the command line asks for, with what its files will say.

    Raises:
        ConfigError, InputError: as `run`.
    """
    elsewhere = Path(cfg.runs_dir) / "export"
    if cfg.run or cfg.ckpt:
        folder = Path(cfg.run) if cfg.run else None
        file = Path(cfg.ckpt) if cfg.ckpt or folder is None else chosen_checkpoint(folder, asked_use(cfg))
        network, checkpoint = load_network(file)
        config = checkpoint["config"]
        label = plain(str(config.get("label") or type(network).__name__), file)
        about = {"label": label, "model": config["model"], "seed": config.get("seed")}
        return ExportedModel(network, described(network, about, file), folder / "export" if folder else elsewhere)
    model: Any = OmegaConf.to_container(cfg.model, resolve=True)
    network = construct(cfg, "model").eval()
    about = {"label": str(cfg.label), "model": model, "seed": None}
    if cfg.weights:
        read_weights(network, Path(cfg.weights))
    elif any(True for _ in network.parameters()):
        option = HydraConfig.get().runtime.choices["model"]
        raise InputError(f"model={option} has weights to load: give run=FOLDER, ckpt=FILE or weights=FILE")
    return ExportedModel(network, described(network, about, Path(cfg.weights) if cfg.weights else None), elsewhere)


def plain(label: str, file: Path) -> str:
    """A label as the stem of file names, which must not lead anywhere else.

    Raises:
        InputError: if it does.
    """
    if not re.fullmatch(r"\w[\w.+-]*", label):
        raise InputError(f"{file}: its label is {label!r}, expected letters, digits and . + - _")
    return label


def described(network: RestorationNetwork, about: dict[str, Any], file: Path | None) -> dict[str, Any]:
    return {
        **about,
        "scales": list(network.scales),
        "inputs": list(network.inputs),
        "outputs": list(network.outputs),
        "values": VALUES,
        "source_sha256": checksum(file) if file else None,
    }


def settle_scale(subject: ExportedModel, scale: int | None, asked: Sequence[str]) -> None:
    """Note the scale of the files, which a network for several scales has to be told."""
    scales = subject.about["scales"]
    listed = ", ".join(map(str, scales))
    if scale is not None and scale not in scales:
        raise ConfigError(f"scale: found {scale}, {subject.about['label']} enlarges by {listed}")
    if scale is None and len(scales) > 1 and set(asked) != {"safetensors"}:
        raise ConfigError(
            f"scale: {subject.about['label']} enlarges by {listed}, and a file holds one of them: "
            f"set scale={scales[-1]}, or formats=[safetensors] for the weights alone"
        )
    # Weights alone can be compared at any scale.
    subject.about["scale"] = scale or scales[0]


def write(subject: ExportedModel, name: Format, folder: Path) -> tuple[Path, dict[str, float]]:
    """Write and check one file; it comes to its place when it has passed.

    Raises:
        ExportError: if the network cannot be written in this format, or what was written does not do the same.
        InputError: if the folder cannot be written.
    """
    exportable, about = subject.exportable, subject.about
    label = str(about["label"])
    if name == "onnx":
        require_onnx()
    program = None if name == "safetensors" else subject.program()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as place:
            stem = label if len(about["scales"]) == 1 or name == "safetensors" else f"{label}_x{about['scale']}"
            path = Path(place) / f"{stem}{ENDINGS[name]}"
            if program is None:
                without_scale = {key: value for key, value in about.items() if key != "scale"}
                differences = write_safetensors(exportable, path, without_scale)
            else:
                writer: Callable[..., dict[str, float]] = write_onnx if name == "onnx" else write_program
                differences = writer(exportable, path, about, program)
            for file in sorted(Path(place).iterdir()):
                file.replace(folder / file.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}: choose another output=") from error
    return folder / path.name, differences


def table(rows: Sequence[tuple[str, Path, dict[str, float]]]) -> str:
    """Format, size and, for each size of image, the largest difference from the network; the file at the end."""
    sizes = list(rows[0][2])
    head = ["format", "MB", *sizes, "file"]
    lines = [
        [name, f"{path.stat().st_size / 1e6:,.2f}", *(f"{found[size]:.1e}" for size in sizes), str(path)]
        for name, path, found in rows
    ]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *lines)]
    note = "largest difference from the network for images of that size"
    return "\n".join([shown[0].rstrip(), "-" * len(shown[0].rstrip()), *(line.rstrip() for line in shown[1:]), note])
