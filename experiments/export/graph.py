"""Graphs of networks for engines: ONNX files in the suite's cache folder, named by a hash of all they depend on."""

import copy
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import networks
from datamodules.io.atomic import replacing
from experiments.export.exportable import Exportable, ExportError
from experiments.export.formats import OPSET, require_onnx, write_onnx
from experiments.runtime.environment import cache_folder

KEPT = 16  # graphs; each has the weights of its network. Those of 8-bit integers are not counted
_OF_ANY_MODULE = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}


def graph(exportable: Exportable, make: bool = True) -> Path | None:
    """The graph of a network on the CPU, recorded and compared with the network (`write_onnx`) if there is none yet.

    Args:
        make: without it, only one that is there already is returned.

    Raises:
        ExportError: if the network cannot be written as ONNX, or the folder cannot be used.
    """
    folder = cache_folder("graphs")
    if not make and not folder.is_dir():
        return None
    path = folder / f"{key(exportable)}.onnx"
    try:
        if path.is_file():
            os.utime(path)
        elif make:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as place:
                part = Path(place) / path.name
                # With weights in channels_last, some networks of one channel are recorded for some sizes alone.
                plain = copy.deepcopy(exportable.network)
                plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # a documented overload
                about = {"label": type(plain).__name__, "scale": exportable.scale}
                write_onnx(Exportable(plain, exportable.scale), part, about)
                part.replace(path)
            _remove_oldest(folder)
        else:
            return None
    except OSError as error:
        reason = f"{folder}: {error.strerror or error}: set DEBLUR_SR_CACHE to another folder"
        raise ExportError(f"has a graph that cannot be kept: {reason}") from error
    return path


def int8_graph(exportable: Exportable) -> Path:
    """The graph in 8-bit integers that `write_int8` has made of a network.

    Raises:
        ExportError: if there is none.
    """
    path = cache_folder("graphs") / f"{key(exportable)}_int8.xml"
    if not path.is_file():
        way = "make one by task=export formats=[int8]"
        raise ExportError(f"has no graph of 8-bit integers in {path.parent}: {way}")
    return path


def keep_int8(exportable: Exportable, graph: Path) -> None:
    """Keep a copy of a graph in 8-bit integers, `graph` and its weights beside it, for `int8_graph`."""
    path = cache_folder("graphs") / f"{key(exportable)}_int8.xml"
    path.unlink(missing_ok=True)  # it names the weights, which change first
    for suffix in (".bin", ".xml"):
        with replacing(path.with_suffix(suffix)) as part:
            shutil.copyfile(graph.with_suffix(suffix), part)


def _remove_oldest(folder: Path) -> None:
    """Keep those that were used last."""
    of_use = sorted(folder.glob("[0-9a-f]*.onnx"), key=lambda file: file.stat().st_mtime)
    for file in of_use[:-KEPT]:
        file.unlink(missing_ok=True)


def key(exportable: Exportable) -> str:
    """32 hexadecimal digits: of the weights, options and code of the network, and of what records it."""
    digest, network = hashlib.sha256(), exportable.network
    exporter = version("onnxscript") if find_spec("onnxscript") else None
    _add(digest, [torch.__version__, exporter, OPSET, exportable.scale])
    modules = {type(part).__module__ for part in network.modules()} | {Exportable.__module__, require_onnx.__module__}
    own = [sys.modules[name].__file__ for name in modules if not name.startswith(("torch.", "__main__"))]
    for file in sorted({*map(str, own), *map(str, Path(networks.__path__[0]).rglob("*.py"))}):
        digest.update(Path(file).read_bytes())
    _add(digest, network)
    return digest.hexdigest()[:32]


def _add(digest: Any, value: Any) -> None:
    """A value with all that is in it: weights by their bytes, modules by their class, attributes and parts."""
    kind = type(value)
    digest.update(f"{kind.__module__}.{kind.__qualname__};".encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, nn.Module):
        _add(digest, {name: part for name, part in vars(value).items() if name not in _OF_ANY_MODULE})
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _add(digest, name)
            _add(digest, part)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for part in value:
            _add(digest, part)
    elif callable(value):
        digest.update(f"{value.__module__}.{getattr(value, '__qualname__', '')};".encode())
    elif isinstance(value, str | bytes | int | float | None):
        digest.update(f"{value!r};".encode())
    else:
        _add(digest, getattr(value, "__dict__", repr(value)))
