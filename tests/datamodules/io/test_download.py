"""Downloads from a real server on loopback that can misbehave in every way a server or a network does."""

import errno
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.errors import InputError
from datamodules.io import download as module
from datamodules.io.download import download

REPOSITORY = Path(__file__).parents[3]
CONTENT = random.Random(0).randbytes(500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator["Server"]:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def fetch(url: str, path: Path) -> Path:
    return download(url, path, size=len(CONTENT), sha256=SHA256)


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def start_process(url: str, path: Path) -> "subprocess.Popen[str]":
    code = (
        "import logging; logging.basicConfig(level='INFO'); from datamodules.io.download import download;"
        f"download({url!r}, {str(path)!r}, size={len(CONTENT)}, sha256={SHA256!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def test_downloads_once(server: "Server", tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.zip"
    assert fetch(server.url, path) == path
    assert path.read_bytes() == CONTENT
    fetch(server.url, path)
    assert server.ranges == [None]


def test_resumes_with_the_rest_only(server: "Server", tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:123_456])
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges == ["bytes=123456-"]
    assert server.sent == len(CONTENT) - 123_456


def test_complete_part_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:1/a.zip", tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["ignore_range", "wrong_range", "refuse_range", "oversized part"])
def test_starts_over_where_resuming_fails(server: "Server", tmp_path: Path, behaviour: str) -> None:
    setattr(server, behaviour, True)
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"x" if behaviour == "oversized part" else CONTENT[:1000])
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT


def test_cut_connections_are_resumed(server: "Server", tmp_path: Path) -> None:
    server.cuts = module.ATTEMPTS + 2  # more than the limit: each connection brings something, so none counts as stuck
    server.cut_after = 70_000
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(set(server.ranges)) == server.cuts + 1  # each from further on


def test_cut_at_the_same_place_for_ever_ends(server: "Server", tmp_path: Path) -> None:
    server.cuts, server.ignore_range = 1000, True
    with pytest.raises(InputError, match="lost the connection to 127") as error:
        fetch(server.url, tmp_path / "a.zip")
    assert "check the network" in message(error)
    assert len(server.ranges) == module.ATTEMPTS
    assert 0 < (tmp_path / "a.zip.part").stat().st_size <= HALF


def test_answers_without_length(server: "Server", tmp_path: Path) -> None:
    server.send_length, server.cuts = False, 1
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    server.content = CONTENT * 2
    with pytest.raises(InputError, match="has more than 500000"):
        fetch(server.url, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip.part").exists()


def test_server_errors(server: "Server", tmp_path: Path) -> None:
    server.errors = 2 * module.ATTEMPTS - 1
    with pytest.raises(InputError, match=f"{server.url}: .* HTTP 500 .* put it at {tmp_path}"):
        fetch(server.url, tmp_path / "a.zip")
    assert len(server.ranges) == module.ATTEMPTS
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT  # at the last attempt


def test_not_found(server: "Server", tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{server.url}x: .* HTTP 404 Not Found, expected 200"):
        fetch(server.url + "x", tmp_path / "a.zip")
    assert len(server.ranges) == 1  # asking again would not help


def test_wrong_checksum_then_clean_start(server: "Server", tmp_path: Path) -> None:
    server.content = b"!" + CONTENT[1:]
    with pytest.raises(InputError, match="wrong checksum") as error:
        fetch(server.url, tmp_path / "a.zip")
    for part in (server.url, SHA256, hashlib.sha256(server.content).hexdigest()):
        assert part in message(error)
    assert not list(tmp_path.glob("*[!k]"))  # all but the .lock
    server.content = CONTENT
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("have", [0, 1000])
def test_other_file_on_the_server_leaves_the_part(server: "Server", tmp_path: Path, have: int) -> None:
    server.content = b"<html>please log in</html>" * 100
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:have])
    with pytest.raises(InputError, match=r"expected 500000 bytes, the server has 2600: .*a\.zip"):
        fetch(server.url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:have]


def test_no_network(server: "Server", tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound and not listening: refuses, and nobody else can take the port
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(InputError) as error:
            fetch(f"http://{host}/a.zip", tmp_path / "a.zip")
    assert f"cannot reach {host} (Connection refused)" in message(error)
    assert f"download http://{host}/a.zip by hand and put it at {tmp_path / 'a.zip'}" in message(error)
    assert "set data.root" in message(error)


def test_existing_file_of_another_size_or_content(server: "Server", tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="expected 500000 bytes, found 4: delete it"):
        fetch(server.url, path)
    path.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(InputError, match=f"expected sha256 {SHA256}, found .*: delete it"):
        fetch(server.url, path)
    assert path.read_bytes() == bytes(len(CONTENT))
    assert server.ranges == []


def test_too_little_space(server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(InputError, match=r"needs 500kB on the disk of .*, found 100kB free"):
        fetch(server.url, tmp_path / "a.zip")
    assert server.ranges == []
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:400_000])
    fetch(server.url, tmp_path / "a.zip")  # what is there already needs no space


def test_disk_full_while_writing(server: "Server", tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").symlink_to("/dev/full")  # every write there fails with ENOSPC
    with pytest.raises(InputError, match=f"cannot be read or written .{os.strerror(errno.ENOSPC)}, .*free"):
        fetch(server.url, tmp_path / "a.zip")
    assert len(server.ranges) == 1


def test_small_disk(server: "Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root only")
    try:
        with pytest.raises(InputError, match="needs 500kB"):
            fetch(server.url, disk / "a.zip")
        monkeypatch.setattr(module, "check_space", lambda *_: None)  # as if the space went after the check
        with pytest.raises(InputError, match="No space left on device"):
            fetch(server.url, disk / "a.zip")
        assert CONTENT[:100_000] == (disk / "a.zip.part").read_bytes()[:100_000]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_other_refusals(server: "Server", tmp_path: Path) -> None:
    with pytest.raises(InputError, match="correct the URL"):
        fetch("no-scheme/a.zip", tmp_path / "a.zip")
    (tmp_path / "root").touch()
    with pytest.raises(InputError, match=f"{tmp_path / 'root'}.*cannot be read or written"):
        fetch(server.url, tmp_path / "root" / "a.zip")


def test_two_processes_download_once(server: "Server", tmp_path: Path) -> None:
    server.holds = 1
    first = start_process(server.url, tmp_path / "a.zip")
    assert server.held.wait(60)
    second = start_process(server.url, tmp_path / "a.zip")
    assert second.stderr
    assert any("waiting for another process" in line for line in iter(second.stderr.readline, ""))
    server.go_on.set()
    for process in (first, second):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert server.ranges == [None]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_killed_download_resumes(server: "Server", tmp_path: Path) -> None:
    server.holds = 1
    process = start_process(server.url, tmp_path / "a.zip")
    assert server.held.wait(60)
    part = tmp_path / "a.zip.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size >= module.CHUNK_BYTES):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "a.zip").exists()
    server.go_on.set()
    kept = part.stat().st_size
    assert fetch(server.url, tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]


class Server(ThreadingHTTPServer):
    """Serves `content` at `url`; the fields switch on what servers and networks do wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/a.zip"
        self.content = CONTENT
        self.ranges: list[str | None] = []  # the Range header of every request
        self.sent = 0
        self.errors = 0  # so many requests are answered 500
        self.cuts, self.cut_after = 0, HALF  # so many answers end after so many bytes
        self.holds = 0  # so many answers stop in the middle until go_on
        self.held, self.go_on = threading.Event(), threading.Event()
        self.send_length = True
        self.ignore_range = self.wrong_range = self.refuse_range = False

    def handle_error(self, *_: object) -> None:
        """Silent: the other end of a connection may be a process that a test has killed."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.ranges.append(asked)
        number = len(server.ranges)
        if not server.url.endswith(self.path):
            return self.send_error(404)
        if number <= server.errors:
            return self.send_error(500)
        if asked and server.refuse_range:
            return self.send_error(416)
        partial = asked is not None and not server.ignore_range
        start = int(asked[6:-1]) + server.wrong_range if partial else 0
        body = server.content[start:]
        self.send_response(206 if partial else 200)
        if partial:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.send_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if number <= server.cuts:
            body = body[: server.cut_after]
        middle = len(body) // 2
        server.sent += len(body)  # before the client has them
        self.wfile.write(body[:middle])
        if number <= server.holds:
            server.held.set()
            server.go_on.wait()
        self.wfile.write(body[middle:])

    def log_message(self, *_: object) -> None:
        pass
