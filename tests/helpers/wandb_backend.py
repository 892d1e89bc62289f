"""What the W&B tests talk to instead of a server on the internet.

`Backend` listens on 127.0.0.1 and speaks as much of the client's protocol as a training run and a sweep need: GraphQL
to register a run, the file stream that carries history lines and the summary, uploads of files and artifacts, and the
orders of a sweep's agent. The real client runs against it unchanged.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

ENTITY = "team"
KEY = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = Path(__file__).parents[2]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """An environment in which W&B finds no key of this machine's user and no server but on 127.0.0.1."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and k != "NETRC"}
    dead = {"WANDB_BASE_URL": f"http://127.0.0.1:{closed_port()}", "WANDB_INIT_TIMEOUT": "2"}
    return kept | dead | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)} | variables


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Artifact:
    """A named, versioned set of files of a run."""

    type: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class Run:
    """What is known of one W&B run, whether from the server's side or from an offline folder."""

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    x_axes: dict[str, str] = field(default_factory=dict)  # metric pattern -> the metric it is plotted against
    aggregates: dict[str, str] = field(default_factory=dict)  # metric -> "max" or "min": what the summary keeps
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # by name
    sweep: str = ""
    registered: int = 0  # how often the client announced the run
    exit_code: int | None = None
    preempting: bool = False

    def values(self, metric: str) -> list[Any]:
        return [line[metric] for line in self.history if metric in line]


class Backend:
    """A loopback W&B server; use as a context manager."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.keys: set[str] = set()
        self.artifacts: dict[str, Artifact] = {}  # by the id that the server gives them
        self.sweeps: dict[str, str] = {}  # id -> the configuration, as YAML
        self.orders: list[dict[str, Any]] = []  # commands that the next agent will get, one with each of its heartbeats
        self._numbers = itertools.count()
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
        if operation == "GetViewer":  # of the client that reads
            no = {"edges": []}
            user = {"id": "u", "name": ENTITY, "username": ENTITY, "email": "", "admin": False, "flags": "{}"}
            return {"viewer": user | {"entity": ENTITY, "deletedAt": None, "apiKeys": no, "teams": no}}
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
        return self._artifact_operation(operation, given) or self._sweep_operation(operation, given)

    def _artifact_operation(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        given = given.get("input", given)
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if operation == "CreateArtifact":
            number = f"A{next(self._numbers)}"
            artifact = self.artifacts[number] = Artifact(given["artifactTypeName"])
            self.runs[given["runName"]].artifacts[given["artifactCollectionName"]] = artifact
            answer = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": answer}}
        if operation == "CreateArtifactManifest":
            target = f"{self.url}/artifact/{given['artifactID']}/manifest"
            file = {"id": "m", "name": given["name"], "displayName": given["name"], "uploadUrl": target}
            manifest = {"id": "m", "file": file | {"uploadHeaders": []}}
            return {"createArtifactManifest": {"artifactManifest": manifest}}
        if operation == "CreateArtifactFiles":
            edges = []
            for spec in given["artifactFiles"]:
                target = f"{self.url}/artifact/{spec['artifactID']}/file/{spec['name']}"
                node = {"id": spec["name"], "name": spec["name"], "displayName": spec["name"], "uploadUrl": target}
                more = {"uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": spec["name"]}
                edges.append({"node": node | more | {"artifact": {"id": spec["artifactID"]}}})
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            self.artifacts[given["artifactID"]].committed = True
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
        return None

    def _sweep_operation(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        if operation == "UpsertSweep":
            name = f"sweep{next(self._numbers)}"
            self.sweeps[name] = given["config"]
            project = {
                "id": "p",
                "name": given["projectName"] or "uncategorized",
                "entity": {"id": "e", "name": ENTITY},
            }
            return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            known = self.sweeps.get(given["sweep"])
            sweep = {"id": "s", "name": given["sweep"], "config": known, "runs": {"edges": []}}
            return {"project": {"sweep": sweep if known else None}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if operation == "Heartbeat":
            busy = any(json.loads(given["runState"] or "{}").values())
            orders = [] if busy else self.orders[:1]
            del self.orders[: len(orders)]
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(orders)}}
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
            run.sweep = given.get("sweep") or run.sweep
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
            "summaryMetrics": json.dumps(run.summary),
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
            for line in message.get("files", {}).get("wandb-summary.json", {}).get("content", []):
                run.summary = json.loads(line)
            if message.get("complete"):
                run.exit_code = message.get("exitcode")

    def upload(self, kind: str, owner: str, name: str, content: bytes) -> None:
        with self._lock:
            if kind == "upload":
                self.runs.setdefault(owner, Run()).files[name] = content
            elif name.startswith("file/"):
                self.artifacts[owner].files[name.removeprefix("file/")] = content


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
            _, kind, owner, name = unquote(self.path).split("/", 3)
            backend.upload(kind, owner, name, self._body())
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
