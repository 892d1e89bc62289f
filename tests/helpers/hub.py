"""A server that hands out files as Hugging Face does, and may do it badly."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """Files of `folder` at `url`/NAME: a HEAD tells size and checksum, a GET leads on to where the content is.

    Attributes:
        asked: (method, path, Range header) of every request.
        cuts: so many answers with content end in the middle.
        told: headers that a HEAD answers in place of the true ones.
        status: of the answer to a HEAD.
        busy: so many HEADs are answered with 503 first.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_address[1]}/resolve/0123"
        self.asked: list[tuple[str, str, str | None]] = []
        self.cuts = 0
        self.told: dict[str, str] = {}
        self.status = 302
        self.busy = 0

    @property
    def contents(self) -> list[tuple[str, str | None]]:
        """Name and Range header of every request for content."""
        return [(Path(path).name, wanted) for method, path, wanted in self.asked if path.startswith("/content/")]

    def handle_error(self, *_: object) -> None:
        """Silent: a client that has read enough closes."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._note()
        content = self._content()
        facts = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self.send_response(503 if self.server.busy else self.server.status)
        self.server.busy = max(0, self.server.busy - 1)
        for name, value in (facts | self.server.told).items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        if not self.path.startswith("/content/"):
            self.send_response(302)
            self.send_header("Location", f"/content/{Path(self.path).name}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content, wanted = self._content(), self.headers["Range"]
        start = int(wanted[6:-1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def _note(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers["Range"]))

    def _content(self) -> bytes:
        return (self.server.folder / Path(self.path).name).read_bytes()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
