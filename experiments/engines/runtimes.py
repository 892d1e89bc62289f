"""What opens a graph in an engine, and which of them there are."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from datamodules.errors import InputError
from datamodules.installed import extra
from experiments.engines.names import Engine, Precision
from experiments.runtime.environment import report_nothing
from experiments.runtime.signal_stack import signal_stack_kept

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]  # the inputs of a graph by name to its outputs
INSTALL = extra("fast")
# Engines beside torch by what they compute in, in the order in which `auto` tries them: the faster one first.
TRIED: dict[Precision, tuple[str, ...]] = {
    "float32": ("openvino", "onnxruntime"),
    "bf16": ("openvino",),
    "int8": ("openvino",),
}
_PRECISIONS = {name: [p for p, tried in TRIED.items() if name in tried] for name in TRIED["float32"]}


class EngineError(Exception):
    """Why an engine does not compute a network: the end of a sentence that begins with the engine."""


def check_engine(engine: str, precision: str, device: torch.device) -> None:
    """Verify that an engine is there, and computes in a precision on a device.

    Raises:
        InputError: with the key.
    """
    for key, found, known in (("engine", engine, get_args(Engine)), ("precision", precision, get_args(Precision))):
        if found not in known:
            raise InputError(f"{key}: found {found!r}, expected {', '.join(map(repr, known))}", key=key)
    able = [name for name, tried in (("torch", ("float32", "bf16")), *_PRECISIONS.items()) if precision in tried]
    if engine not in ("auto", *able):
        line = f"precision: found {precision}, which {engine} does not compute in: set engine={' or '.join(able)}"
        raise InputError(line, key="precision")
    key, found = ("engine", engine) if engine in _PRECISIONS else ("precision", precision)
    if device.type != "cpu" and (engine in _PRECISIONS or precision == "int8"):
        line = f"{key}: {found} is for the CPU, and the device is {device}: set trainer.accelerator=cpu"
        raise InputError(line, key=key)
    if engine in _PRECISIONS and not installed(engine):
        raise InputError(f"engine: {engine} is not installed: {INSTALL}", key="engine")


def installed(engine: str) -> bool:
    return find_spec(engine) is not None


def open_openvino(graph: Path, precision: Precision) -> Run:
    """A graph compiled once for images of any size, on as many threads as torch has.

    Raises:
        EngineError: if it cannot be, or not in this precision.
    """
    report_nothing()
    import openvino

    hint = "bf16" if precision == "bf16" else "f32"  # without, it takes bfloat16 where the processor has it
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # several processes would take the same cores
    }
    try:
        with signal_stack_kept():
            compiled = openvino.compile_model(openvino.Core().read_model(graph), "CPU", options)
        found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    except RuntimeError as error:
        raise EngineError(f"cannot open {graph}: {_reason(error)}: delete it if it is damaged") from error
    if found != hint:
        raise EngineError(f"has no {hint} on this processor")

    def run(fields: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        results = compiled(dict(fields), share_inputs=True)
        return [results[port] for port in compiled.outputs]

    return run


def open_onnxruntime(graph: Path, precision: Precision) -> Run:
    """As `open_openvino`; in bfloat16 it does not compute."""
    report_nothing()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of types of its own
        raise EngineError(f"cannot open {graph}: {_reason(error)}: delete it if it is damaged") from error
    return lambda fields: session.run(None, dict(fields))


def _reason(error: Exception) -> str:
    """The first line of a message that is more than a place in the source of OpenVINO."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return lines[0].strip() if lines else type(error).__name__


OPEN: dict[str, Callable[[Path, Precision], Run]] = {"openvino": open_openvino, "onnxruntime": open_onnxruntime}
