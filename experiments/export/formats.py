"""The three formats: each function writes one file, reads it back and compares it with the network."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.installed import extra
from experiments.export.exportable import TOLERANCE, Exportable, ExportError, compare, quiet, refuse_transforms
from experiments.runtime.environment import report_nothing
from lightning_modules.checkpoints.checkpoint import load_network
from lightning_modules.checkpoints.safetensors import HALF, KEY, save_weights

OPSET = 18
VALUES = "RGB in [0, 1], float32 [batch, channel, row, column]"
ABOUT_FILE = "deblur_sr.json"  # inside a program


def write_safetensors(exportable: Exportable, path: Path, about: Mapping[str, Any]) -> dict[str, float]:
    """Weights with their model config, for this suite; see `lightning_modules.checkpoints.safetensors`.

    Rounded ones may differ by as much as a level of 8 bits.
    """
    save_weights(exportable.network, path, about)
    network, _ = load_network(path)
    read_back = Exportable(network, exportable.settled.get("scale"))
    tolerance = 1 / 255 if about.get("dtype") == HALF else TOLERANCE
    return compare(exportable, lambda fields: read_back(**fields), tolerance)


def write_program(exportable: Exportable, path: Path, about: Mapping[str, Any]) -> dict[str, float]:
    """A graph for `torch.export.load`, for the CPU, with `about` as the extra file deblur_sr.json."""
    program = exportable.program
    with quiet():
        torch.export.save(program, path, extra_files={ABOUT_FILE: json.dumps(dict(about))})
        read_back = torch.export.load(path).module()
    return compare(exportable, lambda fields: read_back(**fields))


def write_onnx(exportable: Exportable, path: Path, about: Mapping[str, Any]) -> dict[str, float]:
    """One `.onnx` file with the weights inside, for onnxruntime and others.

    Raises:
        ExportError: for a network with Fourier transforms, or if a package is missing.
    """
    require_onnx()
    import onnxruntime

    refuse_transforms(exportable)
    program, axes = exportable.program, exportable.dimensions().items()
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                dynamic_shapes={name: {i: axis.__name__ for i, axis in of_input.items()} for name, of_input in axes},
                opset_version=OPSET,
                input_names=list(exportable.inputs),
                output_names=list(exportable.outputs),
                verbose=False,
            )
            assert exported is not None
            proto: Any = exported.model_proto
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise ExportError(f"the exporter to ONNX does not get through it: {type(error).__name__}: {reason}") from error
    for key, value in (
        ("name", about["label"]),
        ("scale", str(about["scale"])),
        ("inputs", ",".join(exportable.inputs)),
        ("outputs", ",".join(exportable.outputs)),
        ("values", VALUES),
        (KEY, json.dumps(dict(about))),
    ):
        proto.metadata_props.add(key=key, value=value)
    if proto.ByteSize() >= 2**31:
        raise ExportError("has 2 GB of weights or more, which do not fit into one file")
    path.write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def restore(fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = session.run(list(exportable.outputs), {name: value.numpy() for name, value in fields.items()})
        return dict(zip(exportable.outputs, map(torch.from_numpy, outputs), strict=True))

    return compare(exportable, restore)


def require_onnx() -> None:
    """Import the packages of the extra `export`; ExportError if one is missing."""
    report_nothing()
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise ExportError(f"needs {error.name}, which is not installed: {extra('export')}") from error
