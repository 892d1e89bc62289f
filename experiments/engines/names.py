"""How engines and precisions are called; imports nothing, for tasks that are about to refuse a config."""

from typing import Any, Literal

Engine = Literal["auto", "torch", "openvino", "onnxruntime"]
Precision = Literal["float32", "bf16", "int8"]
KEYS: dict[str, Any] = {"engine": Engine, "precision": Precision}  # of the tasks that restore photographs
