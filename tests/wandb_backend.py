"""What the W&B tests talk to instead of a server on the internet, and a reader of what an offline run wrote.

`Backend` listens on 127.0.0.1 and speaks as much of the client's protocol as a training run needs: GraphQL to register
a run, the file stream that carries history lines, and file uploads. The real client runs against it unchanged.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

ENTITY = "team"


@dataclass
class Run:
    """What is known of one W&B run, whether from the server's side or from an offline folder."""

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    x_axes: dict[str, str] = field(default_factory=dict)  # metric pattern -> the metric it is plotted against
    files: dict[str, bytes] = field(default_factory=dict)
    registered: int = 0  # how often the client announced the run
    exit_code: int | None = None

    def values(self, metric: str) -> list[Any]:
        return [line[metric] for line in self.history if metric in line]


class Backend:
    """A loopback W&B server; use as a context manager."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.keys: set[str] = set()
        self.unknown: list[str] = []  # operations it had no answer for
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Backend:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def graphql(self, operation: str, query: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The data that answers an operation, or None if it is not one of those a plain run needs."""
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}
        if "serverInfo" in query:
            return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "features": []}}
        if operation == "RunResumeStatus":
            project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
            return {"model": project | {"bucket": self._resume_status(given["name"])}}
        if operation == "UpsertBucket":
            return {"upsertBucket": self._register(given)}
        if operation == "CreateRunFiles":
            targets = [{"name": f, "uploadUrl": f"{self.url}/upload/{given['run']}/{f}"} for f in given["files"]]
            return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": targets}}
        return None

    def _register(self, given: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            inserted = given["name"] not in self.runs
            run = self.runs.setdefault(given["name"], Run())
            run.registered += 1
            if given.get("config"):
                run.config |= {k: v["value"] for k, v in json.loads(given["config"]).items() if k != "_wandb"}
            run.group = given.get("groupName") or run.group
            run.job_type = given.get("jobType") or run.job_type
            run.name = given.get("displayName") or run.name
            run.project = given.get("project") or run.project
            run.tags = given.get("tags") or run.tags
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": given["name"], "name": given["name"], "displayName": run.name, "config": "{}"}
        return {"bucket": bucket | {"historyLineCount": len(run.history), "project": project}, "inserted": inserted}

    def _resume_status(self, run_id: str) -> dict[str, Any] | None:
        run = self.runs.get(run_id)
        if run is None:
            return None
        return {
            "id": run_id,
            "name": run_id,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.history[-1] if run.history else {}),
            "config": json.dumps({k: {"value": v} for k, v in run.config.items()}),
            "wandbConfig": json.dumps({"t": 1}),
            "tags": run.tags,
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "filestreamOffset": {},
            "stopped": False,
        }

    def stream(self, run_id: str, message: dict[str, Any]) -> None:
        with self._lock:
            run = self.runs.setdefault(run_id, Run())
            lines = message.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            run.history += [json.loads(line) for line in lines]
            if message.get("complete"):
                run.exit_code = message.get("exitcode")

    def upload(self, run_id: str, name: str, content: bytes) -> None:
        with self._lock:
            self.runs.setdefault(run_id, Run()).files[name] = content


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that ends drops its idle connections; anything else is a mistake in here and worth a traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self._body()
            scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
            if scheme == "Basic":
                backend.keys.add(base64.b64decode(credentials).decode().partition(":")[2])
            if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                backend.stream(stream[1], json.loads(body))
                return self._answer({"exitcode": None, "limits": {}})
            request = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            operation = request.get("operationName") or (named[1] if named else "")
            data = backend.graphql(operation, request["query"], request.get("variables") or {})
            if data is None:
                backend.unknown.append(operation)
                return self._answer({"errors": [{"message": f"no such operation here: {operation}"}]})
            return self._answer({"data": data})

        def do_PUT(self) -> None:
            _, _, run_id, name = self.path.split("/", 3)
            backend.upload(run_id, name, self._body())
            self._answer({})

        def do_GET(self) -> None:
            self._answer({})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(self._chunks())
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


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
        elif kind == "history":
            run.history.append(_decoded(record.history.item))
        elif kind == "metric":
            run.x_axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    files = folder / "files"
    run.files = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
    return run


def _decoded(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
