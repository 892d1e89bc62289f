"""A reader of what an offline W&B run wrote: its log is a sequence of blocks that hold protocol buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.wandb_backend import Run

BLOCK = 32768  # the log is cut into blocks of this size; a record that does not fit is split into fragments
FULL, FIRST, LAST = 1, 2, 4  # kinds of fragment; 3 is one in the middle


def records(log: Path) -> Iterator[bytes]:
    """The serialized records of a .wandb file, up to a torn one at the end."""
    data = log.read_bytes()
    assert data[:4] == b":W&B", f"{log} does not begin like a W&B log"
    at, record = 7, b""
    while at + 7 <= len(data):
        room = BLOCK - at % BLOCK
        if room < 7:  # too little for a fragment's header: the writer filled it with zeros
            at += room
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + size > len(data):
            return
        fragment = data[at + 7 : at + 7 + size]
        at += 7 + size
        record = fragment if kind in (FULL, FIRST) else record + fragment
        if kind in (FULL, LAST):
            yield record


def read_offline(folder: Path) -> Run:
    """What an offline run recorded in its folder."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its classes are made at import time, where a type checker cannot see them
    run = Run()
    (log,) = folder.glob("run-*.wandb")
    for serialized in records(log):
        record = messages.Record.FromString(serialized)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.registered += 1
            run.group, run.job_type = record.run.run_group, record.run.job_type
            run.name, run.project, run.tags = record.run.display_name, record.run.project, list(record.run.tags)
            run.config |= _decoded(record.run.config.update)
        elif kind == "config":
            run.config |= _decoded(record.config.update)
        elif kind == "preempting":
            run.preempting = True
        elif kind == "history":
            run.history.append(_decoded(record.history.item))
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            run.x_axes[name] = record.metric.step_metric
            for aggregate in ("min", "max"):
                if getattr(record.metric.summary, aggregate):
                    run.aggregates[name] = aggregate
        elif kind == "summary":
            run.summary |= _decoded(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    files = folder / "files"
    run.files = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
    return run


def _decoded(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
