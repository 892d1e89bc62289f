"""What stands before the page: who may ask, room on the disk, and a proxy."""

import asyncio
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image

from datamodules.errors import InputError
from datamodules.io.photo import Photograph
from datamodules.io.write_photo import write_photograph
from experiments.serve.files import largest_file
from experiments.serve.server import GuardedApp, addresses, guards, is_local, trusted_names
from experiments.serve.temp_files import Room
from tests.conftest import Outcome, photograph
from tests.helpers.proxy import proxy
from tests.helpers.served import serve

Cli = Callable[..., Outcome]
Place = tuple[str, str | None]
LIMIT = 160_000  # bytes on the disk


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., httpx.Response]:
    """Call with (place, method, path) to ask a page of one button; it keeps uploads in the folder `files`.

    The place is what the server is told: `host` and `root_path`.
    """
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of handlers that earlier tests have left
    with gr.Blocks() as page:
        gr.Button("Go").click(lambda: None)
    page.config, page.max_file_size = page.get_config_file(), None  # as launch() does
    room = Room(tmp_path / "files", 600, LIMIT)

    def call(place: Place, method: str, path: str, **options: Any) -> httpx.Response:
        app = gr.routes.App.create_app(page, app=GuardedApp(guards(*place, 60_000, room)))

        async def request() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7860") as http:
                return await http.request(method, path, **options)

        return asyncio.run(request())

    return call


LOCAL = ("127.0.0.1", None)
BEHIND = ("127.0.0.1", "https://photos.example/page")
OPEN = ("0.0.0.0", None)
OPEN_BEHIND = ("0.0.0.0", "https://photos.example")


@pytest.mark.parametrize(
    ("place", "host", "origin", "status"),
    [
        (LOCAL, "127.0.0.1:7860", None, 200),
        (LOCAL, "localhost:9000", "http://localhost:9000", 200),  # the end of a tunnel
        (LOCAL, "[::1]:7860", "http://[::1]:7860", 200),
        (LOCAL, "evil.example", None, 400),
        (LOCAL, "evil.example:7860", "http://evil.example:7860", 400),  # whose name was made to lead here
        (LOCAL, "127.0.0.1.evil.example", None, 400),
        (LOCAL, "", None, 400),
        (LOCAL, "127.0.0.1:7860", "http://evil.example", 403),
        (LOCAL, "127.0.0.1:7860", "http://127.0.0.1.evil.example", 403),
        (LOCAL, "127.0.0.1:7860", "null", 403),
        (LOCAL, "photos.example", "https://photos.example", 400),
        (BEHIND, "photos.example", "https://photos.example", 200),
        (BEHIND, "127.0.0.1:7860", "https://photos.example", 200),
        (BEHIND, "evil.example", None, 400),
        (LOCAL, "127.0.0.1:7860", "http://[", 403),  # is no address
        (OPEN, "server.example:7860", "http://server.example:7860", 200),
        (OPEN, "server.example:7860", "http://server.example:7861", 403),
        (OPEN, "server.example:7860", "http://evil.example", 403),
        (OPEN, "server.example:443", "https://server.example", 200),
        (OPEN, "server.example:80", "http://server.example", 200),
        (OPEN, "server.example:443", "http://server.example", 403),
        (OPEN, "Box:7860", "http://box:7860", 200),
        (OPEN, "inner:7860", "https://photos.example", 403),
        (OPEN_BEHIND, "inner:7860", "https://photos.example", 200),
        (OPEN_BEHIND, "inner:7860", "https://evil.example", 403),
    ],
)
def test_only_visitors_of_this_page_are_answered(
    ask: Callable[..., httpx.Response], place: Place, host: str, origin: str | None, status: int
) -> None:
    headers = {"host": host, **({"origin": origin} if origin else {})}
    answer = ask(place, "GET", "/config", headers=headers)
    preflight = ask(place, "OPTIONS", "/config", headers={**headers, "access-control-request-method": "POST"})
    assert answer.status_code == status
    if status != 200:
        for refused in (answer, preflight):
            assert refused.status_code == status
            assert not [name for name in refused.headers if name.startswith("access-control")]


def test_names_that_proxies_pass_on(ask: Callable[..., httpx.Response]) -> None:
    for forwarded, status in (("Photos.example, inner", 200), ("inner,photos.example:443", 200), ("inner", 403)):
        headers = {"host": "inner:7860", "x-forwarded-host": forwarded, "origin": "https://photos.example"}
        assert ask(OPEN, "GET", "/config", headers=headers).status_code == status, forwarded


def test_names_of_a_server() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert is_local(host)
        assert host in trusted_names(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "server.example"):
        assert not is_local(host)
        assert trusted_names(host, "https://photos.example") == ["photos.example"]
    assert addresses("::1") == ["[::1]"]
    found = addresses("0.0.0.0")
    assert found
    for address in found:
        assert address not in ("0.0.0.0", "localhost", "127.0.0.1")
        if address != socket.gethostname():
            with socket.socket() as here:
                here.bind((address, 0))  # is one of this machine


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("run/predict", {"data": [], "fn_index": 999}),
        ("run/predict", {"data": [], "fn_index": -1}),
        ("api/predict", {"data": [], "fn_index": 999}),
        ("queue/join", {"data": [], "fn_index": 999, "session_hash": "x"}),
        ("call/nothing", {"data": []}),
        ("component_server", {"component_id": 999, "fn_name": "x", "data": "", "session_hash": "x"}),
    ],
)
def test_what_the_page_does_not_have(
    ask: Callable[..., httpx.Response], capfd: pytest.CaptureFixture[str], path: str, body: dict[str, Any]
) -> None:
    assert ask(LOCAL, "POST", f"/gradio_api/{path}", json=body).status_code == 404
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "process_recording"),
        ("POST", "process_recording/"),
        ("GET", "deep_link?session_hash=x"),
        ("POST", "vibe-starter-queries"),
        ("GET", "proxy=https://a.hf.space/x"),
        ("GET", "stream/a/b/1/playlist.m3u8"),
    ],
)
def test_what_gradio_offers_beside_the_page(ask: Callable[..., httpx.Response], method: str, path: str) -> None:
    for root in ("", "/page"):
        answer = ask(("127.0.0.1", root or None), method, f"{root}/gradio_api/{path}")
        assert (answer.status_code, answer.text) == (404, "There is no such function here")


def test_what_is_no_upload_is_refused_in_a_line(
    ask: Callable[..., httpx.Response], capfd: pytest.CaptureFixture[str]
) -> None:
    for path in ("upload", "upload?upload_id=1"):
        answer = ask(LOCAL, "POST", f"/gradio_api/{path}", files={"files": (None, "a text")})
        assert (answer.status_code, answer.text) == (400, "files is a text, expected a file")
    large = bytes(2**20 + 1)
    for method, path in (("GET", "call/restore/abc"), ("GET", "queue/data?session_hash=abc"), ("POST", "run/upload")):
        answer = ask(LOCAL, method, f"/gradio_api/{path}", content=large)
        assert (answer.status_code, answer.text) == (413, "larger than 1,048,576 bytes")
    assert "Traceback" not in capfd.readouterr().err


def test_limit_is_that_of_the_path_and_not_of_its_end(ask: Callable[..., httpx.Response]) -> None:
    def pieces() -> Any:
        async def body() -> Any:  # its length is not said
            yield b'{"data": ["'
            for _ in range(3):
                yield b"x" * 2**19
            yield b'"]}'

        return body()

    typed = {"content-type": "application/json"}
    for path in ("run/upload", "api/upload", "call/upload"):
        assert ask(LOCAL, "POST", f"/gradio_api/{path}", headers=typed, content=pieces()).status_code == 413, path


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x")])
def test_faults_of_gradio_are_not_hidden(error: Exception) -> None:
    """Only what a request says and Gradio does not look at is answered as the visitor's mistake."""
    app = GuardedApp(guards(*LOCAL, 60_000, Room(Path(), 600, LIMIT)))

    def fails() -> None:
        raise error

    app.get("/fails")(fails)

    async def request() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:7860") as http:
            await http.get("/fails")

    with pytest.raises(type(error)):
        asyncio.run(request())


def upload_by(receive: Any, room: Room, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The status of an upload whose body comes by `receive`."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    with gr.Blocks() as page:
        gr.Button("Go")
    page.config, page.max_file_size = page.get_config_file(), None
    app = gr.routes.App.create_app(page, app=GuardedApp(guards(*LOCAL, 60_000, room)))
    headers = {"host": "localhost", "content-length": "40000", "content-type": "multipart/form-data; boundary=x"}
    scope: Any = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b"", "scheme": "http"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


def test_uploads_that_do_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones are given up, cancelled ones are nobody's mistake, and both give their room back."""
    monkeypatch.setattr("experiments.serve.server.SILENCE", 0.05)
    room = Room(tmp_path, 600, LIMIT)
    part = {"type": "http.request", "body": b"--x\r\n", "more_body": True}

    def body(*messages: Any) -> Any:
        left = iter(messages)

        async def receive() -> Any:
            for message in left:
                return message
            return await asyncio.get_running_loop().create_future()  # nothing for ever

        return receive

    assert upload_by(body(), room, tmp_path, monkeypatch) == 408
    assert upload_by(body(part), room, tmp_path, monkeypatch) == 408
    assert upload_by(body(part, {"type": "http.disconnect"}), room, tmp_path, monkeypatch) == 400
    with room.reserved(LIMIT - 2**14):  # all of it
        assert upload_by(body(), room, tmp_path, monkeypatch) == 507


def test_uploads_leave_room_for_results(tmp_path: Path) -> None:
    room = Room(tmp_path, 600, LIMIT)
    with room.reserved(LIMIT // 2 - 2**14, share=0.5):
        with pytest.raises(InputError, match="no room"), room.reserved(1, share=0.5):
            pass
        with room.reserved(LIMIT // 2 - 2**14):
            pass


def used(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def test_uploads_never_take_more_than_there_is_room(ask: Callable[..., httpx.Response], tmp_path: Path) -> None:
    folder = tmp_path / "files"
    for number in range(5):  # the older ones make room, before the new one is accepted
        content = {"files": (f"{number}.png", os.urandom(40_000))}
        assert ask(LOCAL, "POST", "/gradio_api/upload", files=content).status_code == 200
        assert used(folder) <= LIMIT
        time.sleep(0.02)  # the clock of a file system is coarse
    assert {path.name for path in folder.rglob("*.png")} == {"2.png", "3.png", "4.png"}
    large = {"files": ("5.png", bytes(65_000))}
    assert ask(LOCAL, "POST", "/gradio_api/upload", files=large).status_code == 507
    assert used(folder) <= LIMIT


def test_room_is_promised_once(tmp_path: Path) -> None:
    room = Room(tmp_path, 600, 100_000)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a.png").write_bytes(bytes(20_000))
    with room.reserved(40_000):
        begun = tmp_path / "tmpabc"  # an upload, or another file that is being written
        begun.write_bytes(bytes(40_000))
        with pytest.raises(InputError, match="no room"), room.reserved(40_000):
            pass
        with room.reserved(20_000):  # takes the place of what is old, not of what is begun
            assert [path.name for path in tmp_path.iterdir()] == ["tmpabc"]
        begun.rename(tmp_path / "old")
    room.sweep()
    assert [path.name for path in tmp_path.iterdir()] == []  # a file that nobody promised was broken off


def test_what_is_begun_may_take_more_blocks_than_its_length(tmp_path: Path) -> None:
    room, begun = Room(tmp_path, 600, LIMIT), tmp_path / ".begun"
    with room.reserved(20):
        begun.mkdir()
        for number in range(20):
            (begun / f"{number}.png").write_bytes(b"1")
        assert used(tmp_path) > 40_000
        room.sweep()
        assert len(list(begun.iterdir())) == 20
    room.sweep()
    assert not begun.exists()


def test_files_are_looked_at_only_when_there_may_be_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, sweep = [], Room._sweep
    monkeypatch.setattr(Room, "_sweep", lambda room, coming=0: (looked.append(coming), sweep(room, coming)))
    room = Room(tmp_path, 600, 100 * LIMIT)
    for number in range(200):
        with room.reserved(LIMIT):  # a file is never longer than that, and here much shorter
            (tmp_path / ".a").mkdir()
            (tmp_path / ".a" / "a.png").write_bytes(bytes(5000))
            (tmp_path / ".a").rename(tmp_path / f"{number}")
    assert len(looked) <= 5
    assert len(list(tmp_path.iterdir())) == 200


def test_room_of_many_at_a_time(tmp_path: Path) -> None:
    room, most, stop = Room(tmp_path, 600, LIMIT), [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            total = 0
            for folder, _, names in os.walk(tmp_path):
                for name in names:
                    try:
                        total += os.lstat(os.path.join(folder, name)).st_blocks * 512
                    except OSError:
                        continue
            most[0] = max(most[0], total)

    def write(number: int) -> None:
        for turn in range(20):
            try:
                with room.reserved(20_000):
                    part = tmp_path / f".{number}-{turn}"
                    part.mkdir()
                    (part / "a.png").write_bytes(bytes(20_000))
                    part.rename(tmp_path / f"{number}-{turn}")
            except InputError:
                continue

    watching = threading.Thread(target=watch)
    watching.start()
    writing = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in writing:
        thread.start()
    for thread in writing:
        thread.join()
    stop.set()
    watching.join()
    assert 20_000 <= most[0] <= LIMIT


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("size", [(1, 1), (300, 257), (256, 512)])
def test_no_file_is_larger_than_it_is_taken_for(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    write_photograph(tmp_path / f"a{suffix}", Photograph(noise))
    assert (tmp_path / f"a{suffix}").stat().st_size <= largest_file(size, 3)


def test_root_path_is_a_path_or_an_address(cli: Cli) -> None:
    outcome = cli("task=serve", "model=bicubic", "root_path=photos")
    assert outcome.status == 2
    assert outcome.err.startswith("root_path: found 'photos'")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("address", ["https://[::1/photos", "https:///photos"])
def test_root_path_has_a_host(cli: Cli, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("experiments.serve.models.models_of", lambda cfg: pytest.fail("a network was loaded"))
    outcome = cli("task=serve", "model=bicubic", f"root_path={address}")
    assert outcome.status == 2
    expected = "expected a path or an address, such as https://example.org/photos\n"
    assert outcome.err == f"root_path: found '{address}', {expected}"


@pytest.mark.slow
def test_behind_a_proxy_and_for_everyone(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The page, what it loads and a restoration under the path of a proxy, by a server for the whole network."""
    served = serve(tmp_path, ["model=bicubic", "host=0.0.0.0", "root_path=/photos"])
    request.addfinalizer(served.process.kill)  # where it fails before the end
    port = served.address.rpartition(":")[2]
    assert "localhost" not in served.address
    Image.fromarray(photograph(20, 30, 1)).save(tmp_path / "a.png")
    with proxy("/photos", f"http://127.0.0.1:{port}") as address:
        served.address = address.rstrip("/")
        page = served.ask("/")
        assert f'"root":"{served.address}"' in page.text
        assets = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page.text)
        assert len(assets) >= 2
        for asset in (*assets, "config", "theme.css"):
            assert served.ask(f"/{asset}").status_code == 200
        file, _ = served.restore(tmp_path / "a.png", model="bicubic", scale=2)
        assert Image.open(file).size == (60, 40)
    status, said = served.stop()
    assert status == 130
    assert "host=0.0.0.0: everyone in the network can use this page, without a password" in said
    assert "Traceback" not in said
    assert served.own == []  # nor an empty folder of torch's
