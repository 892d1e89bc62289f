"""task=export: write a network as files that work without this suite, each read back and compared before it is kept."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from pydantic import PositiveInt

from datamodules.errors import ConfigError, InputError
from experiments.config.arguments import command
from experiments.export.exportable import Exportable, ExportError
from experiments.export.formats import VALUES, write_onnx, write_program, write_safetensors
from experiments.models import Model, find
from experiments.named_network import refuse_several
from lightning_modules.checkpoints.safetensors import HALF

Format = Literal["safetensors", "onnx", "program", "hub", "int8"]
WEIGHTS: tuple[Format, ...] = ("safetensors", "hub")  # without a graph
ENDINGS: dict[Format, str] = {"safetensors": ".safetensors", "onnx": ".onnx", "program": ".pt2", "int8": "_int8.xml"}
Writer = Callable[[Exportable, Path, Mapping[str, Any]], dict[str, Any]]
WRITERS: dict[Format, Writer] = {  # of what is written unless `formats=` says otherwise
    "safetensors": write_safetensors,
    "onnx": write_onnx,
    "program": write_program,
}

KEYS: dict[str, Any] = {
    "run": str | None,
    "ckpt": str | None,
    "formats": Format | list[Format] | None,
    "output": str | None,
    "scale": PositiveInt | None,
    "half": bool,
}


def check(cfg: DictConfig) -> None:
    """Verify that the network is named once, and that float16 is asked for where it can be.

    Raises:
        ConfigError: if not.
    """
    refuse_several(cfg)
    if cfg.half and not {*formats(cfg)} <= set(WEIGHTS):
        raise ConfigError(
            f"half: found true and formats={','.join(formats(cfg))}, of which only safetensors and hub hold float16: "
            f"{command('formats=[safetensors]')}"
        )


def formats(cfg: DictConfig) -> list[Any]:
    """Those that are asked for, each once."""
    asked: Any = list(WRITERS) if cfg.formats is None else cfg.formats
    return list(dict.fromkeys([asked] if isinstance(asked, str) else asked))


def run(cfg: DictConfig) -> None:
    """Export `run=FOLDER`, `ckpt=FILE`, or `model=NAME` with `weights=FILE` or without any.

    Raises:
        ConfigError: for a scale that the network does not have, or that has to be said.
        InputError: if a file is missing or damaged, or a format that was asked for is refused; the others are written.
    """
    asked = formats(cfg)
    (model,) = find(cfg)
    about = describe(model, cfg.scale, asked, HALF if cfg.half else "float32")
    exportable = Exportable(model.network(None), about["scale"])
    folder = Path(cfg.output) if cfg.output else (model.folder or Path(cfg.runs_dir)) / "export"
    refusals = []
    # What the two read comes with Lightning, for which those who restore by a graph need not wait.
    from experiments.export.hub import add_card
    from experiments.export.int8 import photographs, write_int8

    for name in asked:
        try:
            if name == "int8":
                on = photographs(cfg, model, about["scale"])
                path, card = write(exportable, about, name, folder, partial(write_int8, on=on), model.files)
                path, images = path.with_suffix(".bin"), f"{len(card['images'])} images of {card['dataset']}"
                said = f"{card['loss_db']:.2f} dB below float32 on {images}"
            elif name == "hub":
                path, differences = write(
                    exportable, about, "safetensors", folder / f"{about['label']}-hub", read=model.files
                )
                add_card(exportable, path, about, model)
                said = _closely(differences)
            else:
                path, differences = write(exportable, about, name, folder, read=model.files)
                said = _closely(differences)
        except ExportError as error:
            refusals.append(f"{name}: {about['label']} {error}")
        else:
            print(f"{name}: {path}, {path.stat().st_size / 1e6:,.2f} MB, {said}", flush=True)
            if name == "hub":
                print(f"hub: read {path.parent}/README.md, then: hf upload USER/REPO {path.parent} .", flush=True)
    if refusals and cfg.formats is not None:
        raise InputError("not written: " + "; ".join(refusals))
    for line in refusals:
        print(f"not written: {line}", flush=True)


def _closely(differences: Mapping[str, float]) -> str:
    return f"at most {max(differences.values()):.1e} from the network"


def describe(model: Model, scale: int | None, asked: Sequence[str], dtype: str = "float32") -> dict[str, Any]:
    """What the files will say, `scale` among it, which a network for several scales has to be told.

    Args:
        dtype: of the stored parameters.

    Raises:
        ConfigError, InputError: as `run`.
    """
    network, label = model.network(None), model.label
    if not re.fullmatch(r"\w[\w.+-]*", label):  # the stem of file names, which must not lead anywhere else
        where = model.files[0] if model.files else "label"
        raise InputError(f"{where}: its label is {label!r}, expected letters, digits and . + - _")
    listed = ", ".join(map(str, network.scales))
    if scale is not None and scale not in network.scales:
        raise ConfigError(f"scale: found {scale}, {label} enlarges by {listed}")
    if scale is None and len(network.scales) > 1 and not {*asked} <= set(WEIGHTS):
        raise ConfigError(
            f"scale: {label} enlarges by {listed}, and a file holds one of them: set scale={network.scales[-1]}, or "
            "formats=[safetensors] for only the weights"
        )
    return {
        "label": label,
        "model": dict(model.config),
        "seed": model.seed,
        "scales": list(network.scales),
        "inputs": list(network.inputs),
        "outputs": list(network.outputs),
        "values": VALUES,
        "dtype": dtype,
        "source_sha256": model.sha256,
        "scale": scale or network.scales[0],  # weights can be compared at any
    }


def write(
    exportable: Exportable,
    about: Mapping[str, Any],
    name: Format,
    folder: Path,
    writer: Writer | None = None,
    read: Sequence[Path] = (),
) -> tuple[Path, dict[str, Any]]:
    """Write and check one file; it comes to its place when it has passed. Returns it and what the check has found.

    Args:
        read: files of the network itself, in whose place it must not come.

    Raises:
        ExportError: if the network cannot be written in this format, or what was written does not do the same.
        InputError: if the folder cannot be written, or the file is one of those that are read.
    """
    any_scale = len(about["scales"]) == 1 or name == "safetensors"
    stem = about["label"] if any_scale else f"{about['label']}_x{about['scale']}"
    target = folder / f"{stem}{ENDINGS[name]}"
    if os.path.realpath(target) in map(os.path.realpath, read):
        raise InputError(f"{target}: is the file that is exported, and would be replaced: choose another output=")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as place:
            path = Path(place) / target.name
            of_file = {key: value for key, value in about.items() if key != "scale" or name != "safetensors"}
            found = (writer or WRITERS[name])(exportable, path, of_file)
            for file in sorted(Path(place).iterdir()):
                file.replace(folder / file.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}: choose another output=") from error
    return target, found
