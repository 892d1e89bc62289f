"""task=serve, mostly through its endpoint and as bytes over HTTP; and once by a visitor with a browser."""

import contextlib
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import gradio as gr
import httpx
import numpy as np
import pytest
import skimage
import torch
from gradio_client import handle_file
from gradio_client.client import Job
from gradio_client.exceptions import AppError
from omegaconf import OmegaConf
from PIL import Image
from selenium.webdriver.common.keys import Keys

from datamodules.degradations.kernel_spec import given_kernel
from datamodules.errors import InputError
from datamodules.io.read_photo import read_photograph
from experiments.restore import Restorer
from experiments.serve.blur_controls import Blur
from experiments.serve.examples import EXAMPLES, write_examples
from experiments.serve.files import largest_file
from experiments.serve.models import KEPT, Models, add, models_of
from experiments.serve.service import Service
from experiments.serve.temp_files import (
    OF_UPLOADS,
    OVERHEAD,
    PREFIX,
    Room,
    remove_left,
    smallest_room,
    temporary_folder,
)
from experiments.zoo import catalogue
from networks.ops.resize import bicubic_resize
from tests.conftest import Outcome, photograph
from tests.experiments.conftest import Trained
from tests.helpers.served import Served, serve, wait_for
from tests.helpers.visitor import Visitor, needs_browser

Cli = Callable[..., Outcome]
RICHARDSON_LUCY = {"_target_": "networks.classical.RichardsonLucy", "iterations": 200}
BICUBIC = {"_target_": "networks.bicubic.Bicubic", "scale": 1}


@pytest.fixture(scope="module")
def served(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """ED-DSRN of 4 channels, and Richardson-Lucy, which needs a kernel and takes as long as it is given."""
    found = serve(
        tmp_path_factory.mktemp("served"),
        [
            f"run={trained.run}",
            "model=richardson_lucy",
            "model.iterations=200",
            "max_upload_mb=1",
            "max_pixels=40000",
            "max_queue=3",
        ],
    )
    yield found
    if found.process.poll() is None:
        found.stop()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(photograph(31, 37, 3)).save(path)
    return path


def header_only_png(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.slow
def test_result_is_that_of_the_python_api(served: Served, trained: Trained, picture: Path) -> None:
    file, report = served.restore(picture, model="tiny", checkpoint="best")
    expected = Restorer.load(trained.run, device="cpu").restore(np.asarray(Image.open(picture)), scale=4).sr
    assert Path(file).name == "picture_x4.png"
    assert np.array_equal(np.asarray(Image.open(file)), expected)
    assert "**148 × 124** from 37 × 31" in report
    assert "tiny, best" in report


@pytest.mark.slow
def test_kernel_by_controls_and_by_file(served: Served, picture: Path, tmp_path: Path) -> None:
    kernel = given_kernel("motion:5,30")
    np.save(tmp_path / "kernel.npy", kernel.numpy())
    network = Restorer.load(None, model=RICHARDSON_LUCY, device="cpu")
    expected = network.restore(np.asarray(Image.open(picture)), 2, kernel, 0.02).sr
    by_file = {"kind": "From a file", "kernel_file": handle_file(str(tmp_path / "kernel.npy"))}
    for given in ({"kind": "Motion", "length": 5, "angle": 30}, by_file):
        file, _ = served.restore(picture, model="richardson_lucy", scale=2, noise_level=0.02, **given)
        assert np.abs(np.asarray(Image.open(file)).astype(int) - expected).max() <= 1  # rounding of FFTs


@pytest.mark.slow
def test_sixteen_bit_and_transparency_come_back(served: Served, tmp_path: Path) -> None:
    pixels = np.dstack([photograph(20, 24, 1), np.full((20, 24), 128, np.uint8)]).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), pixels[..., [2, 1, 0, 3]])
    file, report = served.restore(tmp_path / "deep.png", model="tiny")
    found = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    assert found.dtype == np.uint16
    assert found.shape == (80, 96, 4)
    assert (found[..., 3] == 128 * 257).all()
    assert "Transparency" in report
    file, report = served.restore(tmp_path / "deep.png", model="tiny", file_format="JPEG")
    assert Path(file).name == "deep_x4.png"
    assert "JPEG holds 8" in report
    assert str(served.folder) not in report


def text_file(folder: Path) -> Path:
    (folder / "notes.jpg").write_text("no photograph\n")
    return folder / "notes.jpg"


def too_large(folder: Path) -> Path:
    Image.new("RGB", (201, 200)).save(folder / "large.png")
    return folder / "large.png"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (text_file, "notes.jpg: is no PNG, JPEG, BMP, TIFF, WebP or HEIC image"),
        (lambda folder: header_only_png(folder / "bomb.png", 50000, 50000), "bomb.png: has more than"),
        (lambda folder: header_only_png(folder / "bomb.png", 9000, 9000), "has 9000x9000 pixels, more than 40000"),
        (too_large, "large.png: has 201x200 pixels, more than 40000"),
    ],
)
def test_what_is_no_photograph_is_refused(
    served: Served, tmp_path: Path, make: Callable[[Path], Path], expected: str
) -> None:
    with pytest.raises(AppError) as refused:
        served.restore(make(tmp_path), model="tiny")
    assert expected in str(refused.value)
    assert str(served.folder) not in str(refused.value)  # the server's folders are nobody's business


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": "nobody"}, "nobody is not in the list of choices: ['tiny', 'richardson_lucy']"),
        ({"model": "tiny", "checkpoint": "worst"}, "tiny, worst: not served here"),
        ({"model": "tiny", "scale": 3}, "scale: found 3"),
        ({"model": "richardson_lucy", "scale": 2}, "needs the blur kernel"),
        ({"model": "richardson_lucy", "kind": "/etc/hostname"}, "'/etc/hostname' (type: <class 'str'>) is not in the"),
        ({"model": "richardson_lucy", "kind": "Defocus", "radius": 900}, "900 is greater than maximum value 15"),
        ({"model": "richardson_lucy", "kind": "Defocus", "radius": "/etc/hostname"}, "raised an exception"),
        ({"model": "tiny", "file_format": "PSD"}, "PSD is not in the list of choices"),
        ({"model": "richardson_lucy", "kernel_file": b"MATLAB"}, "Invalid file type"),
    ],
)
def test_settings_that_cannot_be_are_told_in_a_line(
    served: Served, picture: Path, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    if content := options.get("kernel_file"):
        (tmp_path / "kernel.mat").write_bytes(content)
        options = {**options, "kind": "From a file", "kernel_file": handle_file(str(tmp_path / "kernel.mat"))}
    with pytest.raises(AppError) as refused:
        served.restore(picture, **options)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value).strip()
    assert str(served.folder) not in str(refused.value)


@pytest.mark.slow
def test_large_requests_are_refused(served: Served) -> None:
    upload = f"{served.address}/gradio_api/upload"
    large = bytes(2 * 2**20 + 1)
    half = bytes(2**20 - 1000)
    parts = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    pieces = iter([parts, *[bytes(2**20)] * 3])  # its length is not said
    typed = {"content-type": "multipart/form-data; boundary=x"}
    with httpx.Client(trust_env=False) as http:
        assert http.post(upload, files={"files": ("a.png", half)}).status_code == 200
        assert http.post(upload, files={"files": ("a.png", large)}).status_code == 413
        assert http.post(upload, files=[("files", ("a.png", half))] * 3).status_code == 413
        for path in ("queue/join", "run/predict", "call/restore"):  # without a file: no larger than they need be
            answer = http.post(f"{served.address}/gradio_api/{path}", content=bytes(2**20 + 1))
            assert answer.status_code == 413, path
        assert http.post(upload, headers=typed, content=pieces).status_code == 413


@pytest.mark.slow
def test_other_files_and_addresses_are_not_for_the_asking(served: Served) -> None:
    for path in (
        "/etc/hostname",
        str(Path(__file__)),
        "run.py",
        str(served.folder / "out"),
        "http://example.org/a.png",
    ):
        assert served.ask(f"/gradio_api/file={path}").status_code == 403, path
    meta = {"_type": "gradio.FileData"}
    with httpx.Client(trust_env=False) as http:
        for path in ("/etc/hostname", "http://example.org/a.png", "https://huggingface.co/a.png", "https://hf.co/a"):
            data = {"data": [{"path": path, "meta": meta}, *[None] * 13]}
            event = http.post(f"{served.address}/gradio_api/call/restore", json=data).json()["event_id"]
            answer = http.get(f"{served.address}/gradio_api/call/restore/{event}").text
            assert answer.startswith("event: error"), path
    assert served.ask("/monitoring").status_code == 403
    assert not (served.folder / "asked").exists()  # nor was the name of a host looked up


@pytest.mark.slow
def test_no_way_past_the_queue(served: Served) -> None:
    config = served.ask("/config").json()
    waiting = [one["id"] for one in config["dependencies"] if one["queue"] and one["backend_fn"]]
    assert len(waiting) == 6  # a photograph is looked at, restored, converted; model or checkpoint chosen; page closed
    with httpx.Client(trust_env=False) as http:
        for way in ("run", "api"):
            assert http.post(f"{served.address}/gradio_api/{way}/restore", json={"data": []}).status_code == 404
            for number in waiting:
                body = {"data": [], "fn_index": number}
                assert http.post(f"{served.address}/gradio_api/{way}/predict", json=body).status_code == 404, number


@pytest.mark.slow
def test_example_that_does_not_exist(served: Served) -> None:
    config = served.ask("/config").json()
    pick = next(one for one in config["dependencies"] if one["targets"] and one["targets"][0][1] == "click")
    said = (served.folder / "err").read_text()
    with httpx.Client(trust_env=False) as http:
        for index, status in ((0, 200), (4, 500), (-1, 500), ("x", 500), ([1, 2], 500), (None, 500)):
            body = {"data": [index, "tiny", "best"], "fn_index": pick["id"]}
            answer = http.post(f"{served.address}/gradio_api/run/predict", json=body)
            assert answer.status_code == status, index
    assert (served.folder / "err").read_text() == said


def slow_job(served: Served, tmp_path: Path) -> Job:
    """A restoration of seconds, which has begun."""
    Image.fromarray(photograph(200, 200, 5)).save(tmp_path / "slow.png")
    options = {"model": "richardson_lucy", "scale": 2, "kind": "Gaussian", "noise_level": 0.0}
    job = served.client().submit(handle_file(str(tmp_path / "slow.png")), **options, api_name="/restore")
    wait_for(lambda: job.status().code.name == "PROCESSING", served.process, served.folder)
    return job


@pytest.mark.slow
def test_those_at_once_get_their_own_and_one_too_many_is_sent_away(served: Served, tmp_path: Path) -> None:
    """One is restored, three wait, and the queue is full."""
    jobs = [slow_job(served, tmp_path)]
    small = tmp_path / "small.png"
    Image.fromarray(photograph(20, 30, 6)).save(small)
    for _ in range(3):
        job = served.client().submit(handle_file(str(small)), model="tiny", api_name="/restore")
        wait_for(lambda job=job: job.status().code.name == "IN_QUEUE", served.process, served.folder)
        jobs.append(job)
    with pytest.raises(Exception, match=r"[Qq]ueue is full|busy"):
        served.client().predict(handle_file(str(small)), model="tiny", api_name="/restore")
    sizes = [Image.open(job.result(60)[0]).size for job in jobs]
    assert sizes == [(400, 400), *3 * [(120, 80)]]


@pytest.fixture
def visitor(served: Served, tmp_path: Path) -> Iterator[Visitor]:
    found = Visitor(served.address, tmp_path / "profile")
    yield found
    found.browser.quit()


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_a_visit(served: Served, visitor: Visitor, trained: Trained, tmp_path: Path) -> None:
    said = (served.folder / "err").read_text()
    # A blind network: upload, restore, compare, download in another format.
    pixels = photograph(40, 56, 2)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    visitor.send(tmp_path / "mine.png")
    visitor.until(lambda: "56 × 40, colour, 8 bit" in visitor.one("#preview").text)
    assert not [box for box in visitor.all("#blur, #noise_level") if box.is_displayed()]
    before, after = visitor.restore()
    assert np.array_equal(after, Restorer.load(trained.run, device="cpu").restore(pixels, 4).sr)
    assert before.shape == after.shape
    assert "224 × 160 from 56 × 40" in visitor.one("#report").text
    visitor.choose("format", "TIFF")
    visitor.until(lambda: "mine_x4.tif" in visitor.one("#file").text.replace("\n", ""))

    # A network that is told the kernel, which is drawn while a slider moves; an example brings its own.
    visitor.choose("model", "richardson_lucy")
    visitor.until(lambda: [box for box in visitor.all("#blur") if box.is_displayed()])
    visitor.one("#kind input[value=Gaussian]").click()
    drawn = visitor.until(lambda: visitor.one("#kernel img")).get_attribute("src")
    visitor.one("#width input[type=range]").send_keys(Keys.ARROW_RIGHT)
    visitor.until(lambda: visitor.one("#kernel img").get_attribute("src") != drawn)
    visitor.browser.execute_script("document.querySelector('#noise_level').scrollIntoView({block: 'end'})")
    assert visitor.browser.execute_script("return document.querySelector('#go').getBoundingClientRect().top") > 0
    visitor.all("#examples button")[1].click()
    visitor.until(lambda: "226 × 150" in visitor.one("#preview").text)
    kernel_side = "return document.querySelector('#kernel img').naturalWidth"
    visitor.until(lambda: visitor.browser.execute_script(kernel_side) == 13 * (180 // 13))
    visitor.until(lambda: visitor.one("#length input[type=number]").get_attribute("value") == "11")
    _, after = visitor.restore()
    example = next(served.folder.glob("tmp/deblur-sr-serve-*/examples/chelsea*"))
    network = Restorer.load(
        None, model={"_target_": "networks.classical.RichardsonLucy", "iterations": 200}, device="cpu"
    )
    expected = network.restore(np.asarray(Image.open(example)), 2, given_kernel("motion:11,30"), 0.01).sr
    assert np.abs(after.astype(int) - expected).max() <= 1  # rounding of FFTs

    # What is no photograph is refused in words, and taken away.
    (tmp_path / "<b>notes.jpg").write_text("no photograph\n")
    visitor.send(tmp_path / "<b>notes.jpg")
    assert "notes.jpg: is no PNG, JPEG" in visitor.message()
    visitor.until(lambda: "Drop File Here" in visitor.one("#photograph").text)
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    visitor.send(tmp_path / "large.png")
    assert "maximum allowed size" in visitor.message()
    visitor.one("#go").click()
    assert "No photograph yet" in visitor.message()
    visitor.until(lambda: visitor.one("#go").is_enabled())

    assert visitor.asked_hosts() == {visitor.address.split("/")[2]}
    assert (served.folder / "err").read_text() == said


@pytest.mark.slow
def test_nothing_is_written_elsewhere_and_nobody_asked(served: Served) -> None:
    """After all the requests above."""
    assert list((served.folder / "work").iterdir()) == []
    own = [path.name[:16] for path in served.own if not path.name.startswith("torchinductor_")]  # which goes at the end
    assert own == ["deblur-sr-serve-"]
    assert not (served.folder / "asked").exists()


@pytest.mark.slow
def test_interrupt_ends_it_and_leaves_nothing(served: Served, tmp_path: Path) -> None:
    """Comes last: the other tests' server is stopped, in the middle of a restoration."""
    before = (served.folder / "err").read_text()
    job = slow_job(served, tmp_path)
    status, said = served.stop()
    assert status == 130
    assert said.removeprefix(before) == "stopped by SIGINT\n"
    assert served.own == []
    with pytest.raises(Exception):  # noqa: B017, PT011  # of whatever kind: there is nobody to answer
        job.result(30)


# Without a server.


def test_port_that_is_taken(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = cli("task=serve", "model=bicubic", f"port={port}")
    assert outcome.status == 1
    assert outcome.err == (
        f"host=127.0.0.1 port={port}: cannot listen there: give another port=, or 0 for any that is free\n"
    )


def test_only_keys_say_what_the_server_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("GRADIO_NUM_WORKERS", "1"), ("GRADIO_ROOT_PATH", "/x"), ("GRADIO_ALLOWED_PATHS", "/")):
        monkeypatch.setenv(name, value)
    launched: dict[str, Any] = {}

    def launch(page: gr.Blocks, **options: Any) -> None:
        launched.update(options, **{name: os.environ[name] for name in os.environ if name.startswith("GRADIO_")})
        raise OSError

    monkeypatch.setattr(gr.Blocks, "launch", launch)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # to be put back
    assert cli("task=serve", "model=bicubic").status == 1
    assert (launched["num_workers"], launched["ssr_mode"]) == (0, False)
    assert {name for name in launched if name.isupper()} == {"GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"}


def test_other_faults_are_not_taken_for_the_port(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gr.Blocks, "launch", lambda page, **_: None)
    monkeypatch.setattr(gr.Blocks, "server_port", 1, raising=False)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.serve.server.addresses", full)
    assert "cannot listen" not in cli("task=serve", "model=bicubic").err


def test_port_that_does_not_exist(cli: Cli) -> None:
    outcome = cli("task=serve", "model=bicubic", "port=99999")
    assert outcome.status == 2
    assert outcome.err.startswith("port: found 99999 (conf/task/serve.yaml), expected less than or equal to 65535")
    assert outcome.err.count("\n") == 1


def test_missing_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.serve.task.find_spec", lambda name: None)
    outcome = cli("task=serve", "model=bicubic")
    assert outcome.status == 1
    assert "needs gradio, which is not installed: pip install -c constraints.txt -e '.[serve]'" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["run=nowhere"], "run=nowhere: no run folder"),
        (["ckpt=nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        (
            ["model=bicubic", "max_upload_mb=600", "max_disk_gb=1"],
            "max_disk_gb: found 1, of which uploads have 0.5, too little for one of max_upload_mb=600: set "
            "max_disk_gb=1.18 or more, or a lower max_upload_mb",
        ),
        (["model=bicubic", "max_queue=0"], "max_queue: found 0 (conf/task/serve.yaml), expected greater than"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(cli: Cli, tmp_path: Path, overrides: list[str], expected: str) -> None:
    outcome = cli("task=serve", "port=0", *overrides)
    assert outcome.status in (1, 2)
    assert outcome.err.startswith(expected)
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_room_takes_the_largest_upload(tmp_path: Path) -> None:
    upload = 3 << 20
    for size, accepted in ((smallest_room(upload), True), (smallest_room(upload) - 4, False)):
        room = Room(tmp_path, 60, size).reserved(upload + OVERHEAD, share=OF_UPLOADS)
        with contextlib.nullcontext() if accepted else pytest.raises(InputError, match="no room for this file"), room:
            pass


def test_old_files_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, upload = tmp_path / "result" / "a.png", tmp_path / "upload" / "a.png"
    for path in (result, upload):
        path.parent.mkdir()
        path.write_bytes(b"")
        os.utime(path, (0, 0))  # as old as whoever sent it says
    with Room(tmp_path, 600, 10**9).reserved(1):
        pass
    assert result.exists()
    assert upload.exists()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 601)
    with Room(tmp_path, 600, 10**9).reserved(1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_oldest_files_go_where_there_are_too_many(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" / "a.png" for number in range(4)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(bytes(8192))
        time.sleep(0.02)  # the clock of a file system is coarse
    with Room(tmp_path, 600, 3 * (8192 + 4096) + 20_000).reserved(8192):  # with that of the folders
        pass
    assert [path.parent.exists() for path in paths] == [False, False, True, True]
    with pytest.raises(InputError, match=r"a.png: was deleted, as all files are"):
        service_of({}, tmp_path).convert((str(paths[0]), "PNG"), "TIFF")


def test_folder_of_a_killed_server_is_deleted_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, foreign = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}foreign"
    for path in (left / "files", foreign):
        path.mkdir(parents=True)
    (left / "files" / "a.png").write_bytes(b"")
    (left / "lock").write_bytes(b"")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lock").write_bytes(b"")
    with temporary_folder() as folder:
        remove_left(tmp_path)
        assert not left.exists()
        assert foreign.exists()  # is just being made, or is none of ours
        assert (tmp_path / "elsewhere" / "lock").exists()
        assert folder.exists()  # is in use
    assert not folder.exists()


def service_of(networks: dict[str, Restorer], folder: Path, tile: int | None = None) -> Service:
    models = Models({name: {"best": lambda network=network: network} for name, network in networks.items()})
    (folder / "files").mkdir(exist_ok=True)
    return Service(models, Room(folder / "files", 600, 10**9), 10_000, tile, 0 if tile else None)


def test_cancel_ends_a_restoration_between_tiles(tmp_path: Path, picture: Path) -> None:
    bicubic = Restorer.load(None, model=BICUBIC, device="cpu")
    service = service_of({"bicubic": bicubic}, tmp_path, tile=16)
    mine, other = [cast(gr.Request, SimpleNamespace(session_hash=name)) for name in ("mine", "other")]
    tiles: list[int] = []

    def progress(value: tuple[int, int], **_: object) -> None:
        tiles.append(value[0])
        service.cancel(other if len(tiles) == 1 else mine)

    arguments: Any = {"photograph": str(picture), "model": "bicubic", "scale": "2"}
    assert service.restore(mine, **arguments, progress=cast(gr.Progress, progress)) == (
        None,
        "Cancelled.",
        None,
        None,
        None,
    )
    assert tiles == [1, 2]
    _, report, *_ = service.restore(mine, **arguments)
    assert report.startswith("**74 × 62** from 37 × 31, ")


def test_comparison_is_lossless_and_starts_from_our_bicubic(tmp_path: Path, picture: Path) -> None:
    service = service_of({"bicubic": Restorer.load(None, model=BICUBIC, device="cpu")}, tmp_path)
    visitor: Any = SimpleNamespace(session_hash="visitor")
    file, _, comparison, *_ = service.restore(visitor, str(picture), "bicubic", scale=3)
    pixels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None] / 255
    expected = (255 * bicubic_resize(pixels, 3).clamp(0, 1)).round().byte()[0].permute(1, 2, 0).numpy()
    for path in (*comparison, file):
        assert np.array_equal(np.asarray(Image.open(path)), expected), path


def test_a_result_makes_no_room_for_its_own_pictures(tmp_path: Path, picture: Path) -> None:
    service = service_of({"bicubic": Restorer.load(None, model=BICUBIC, device="cpu")}, tmp_path)
    visitor: Any = SimpleNamespace(session_hash="visitor")
    one = largest_file((62, 74), 3) + 2**14
    for most, converted, shown in ((1.07, ".png", False), (2.5, ".tif", False), (4.5, ".tif", True)):
        service.room = Room(service.room.folder, 600, most * one)
        file, report, comparison, _, (lossless, _) = service.restore(
            visitor, str(picture), "bicubic", scale=2, file_format="TIFF"
        )
        assert file.endswith(converted)
        for path in (file, lossless, *(comparison or ())):
            assert read_photograph(path).pixels.shape == (62, 74, 3)
        assert bool(comparison) is shown
        assert ("the result is not shown, but can be downloaded" in report) is not shown
    service.room = Room(service.room.folder, 600, 0.5 * one)
    with pytest.raises(gr.Error, match="There is no room for this file"):
        service.restore(visitor, str(picture), "bicubic", scale=2)
    assert not list(service.room.folder.glob(".*"))


def test_the_last_networks_are_kept_and_namesakes_told_apart() -> None:
    names = [f"model{i}" for i in range(KEPT + 1)]
    loaded: list[str] = []
    models = Models({name: {"best": lambda name=name: loaded.append(name)} for name in names})
    for name in (*names, names[-1], names[0]):
        models.restorer(name, "best")
    assert loaded == [*names, "model0"]
    twins: dict[str, Any] = {}
    for file in ("x.ckpt", "y.ckpt", "z.ckpt"):
        add(twins, "a", {file: lambda: None})
    assert {name: list(checkpoints) for name, checkpoints in twins.items()} == {
        "a": ["x.ckpt"],
        "a (2)": ["y.ckpt"],
        "a (3)": ["z.ckpt"],
    }


def test_runs_that_cannot_be_loaded_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that were only found below `runs_dir`; the first that can be is loaded, the rest when asked for."""
    for name in ("a", "b", "c"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "best.ckpt").write_bytes(b"damaged")
        (tmp_path / name / "config.yaml").write_text(f"label: {name}")
    loaded: list[str] = []

    bicubic = Restorer.load(None, model=BICUBIC, device="cpu")

    def load(file: Path) -> Restorer:
        loaded.append(file.parent.parent.name)
        if loaded[-1] != "b":
            raise InputError(f"{file}: damaged")
        return bicubic

    monkeypatch.setattr(Restorer, "load", load)
    monkeypatch.setattr("experiments.serve.models.restorer_options", lambda cfg: {})
    monkeypatch.setattr("experiments.serve.models._named", lambda cfg, load: {})
    monkeypatch.setattr("experiments.serve.models.asked_use", lambda cfg: None)
    cfg = OmegaConf.create({"runs_dir": str(tmp_path)})
    models = models_of(cfg)
    others = [name for name in catalogue.names() if name != catalogue.PHOTOGRAPHS]
    assert (models.names, loaded) == (["b", "c", catalogue.PHOTOGRAPHS, *others], ["a", "b"])
    assert capsys.readouterr().out == f"not served: {tmp_path}/a/checkpoints/best.ckpt: damaged\n"
    with pytest.raises(InputError, match=r"^c, best: cannot be loaded, the server has noted why"):
        models.restorer("c", "best")
    (tmp_path / "b" / "checkpoints" / "best.ckpt").rename(tmp_path / "b" / "checkpoints" / "last.ckpt")
    assert models_of(cfg).checkpoints("b") == ["last"]  # of a training that has not been validated
    (tmp_path / "b" / "config.yaml").unlink()
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    with pytest.raises(InputError, match="no run with a checkpoint there that can be loaded"):
        models_of(cfg)


def test_controls_make_the_kernels_of_the_command_line(tmp_path: Path) -> None:
    pairs = {
        Blur("Gaussian", 2.0, 0.8, 30.0): "gaussian:2.0,0.8,30",
        Blur("Motion", length=9.0, angle=-20.0): "motion:9,-20",
        Blur("Defocus", radius=2.5): "disk:2.5",
        Blur("No blur"): "none",
    }
    for blur, spec in pairs.items():
        kernel = blur.kernel()
        assert kernel is not None
        assert torch.equal(kernel, given_kernel(spec))
    np.save(tmp_path / "several.npy", np.stack([np.eye(3), np.eye(5)[:3, :3] + 1]))
    first = Blur("From a file", file=str(tmp_path / "several.npy"), number=1).kernel()
    assert first is not None
    assert torch.allclose(first, torch.eye(3) / 3)
    with pytest.raises(InputError, match="pixels, more than"):  # decoded it would be gigabytes
        Blur("From a file", file=str(header_only_png(tmp_path / "k.png", 30000, 30000))).kernel()
    (tmp_path / "kernel.mat").write_bytes(b"MATLAB")
    with pytest.raises(InputError, match=r"kernel.mat: expected a kernel as an image or .npy"):
        Blur("From a file", file=str(tmp_path / "kernel.mat")).kernel()
    assert Blur("From a file").kernel() is Blur().kernel() is None
    for shape in ((100_000, 1, 1), (2, 1, 256, 3)):
        np.save(tmp_path / "large.npy", np.ones(shape, np.uint8))
        expected = "expected at most 1000 blur kernels of at most 255x255"
        with pytest.raises(InputError, match=rf"large.npy: has shape .*, {expected}"):
            Blur("From a file", file=str(tmp_path / "large.npy")).kernel()


def test_what_programs_may_send_ends_in_a_line(tmp_path: Path, picture: Path) -> None:
    service = service_of({"bicubic": Restorer.load(None, model=BICUBIC, device="cpu")}, tmp_path)
    visitor: Any = SimpleNamespace(session_hash="visitor")
    for model in ("other", None):
        with pytest.raises(gr.Error, match="not served here: choose one of bicubic"):
            service.restore(visitor, str(picture), cast(str, model))
        with pytest.raises(gr.Error, match="not served here: choose one of bicubic"):
            service.on_model(cast(str, model), None)
    file, *_ = service.restore(visitor, str(picture), "bicubic", file_format=cast(str, None))
    assert file.endswith(".png")


def test_examples_are_what_they_say(tmp_path: Path) -> None:
    for path, example in write_examples(tmp_path).items():
        source = Image.open(Path(skimage.__file__).parent / "data" / example.source)
        sizes = tuple(-(-side // example.scale) for side in source.size)
        assert Image.open(path).size == sizes
        assert Image.open(path).mode == source.mode
    assert [example.noise_level for example in EXAMPLES] == [0.0, 0.01, 0.01, 0.0]
    cat = np.asarray(Image.open(tmp_path / "chelsea.png"))
    sharp = Restorer.load(None, model={"_target_": "networks.classical.Wiener"}, device="cpu")
    truth = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png")).astype(float)
    right, wrong = (
        sharp.restore(cat, 2, given_kernel(spec), 0.01).sr[: truth.shape[0], : truth.shape[1]]
        for spec in ("motion:11,30", "motion:11,-30")
    )
    assert np.abs(right - truth).mean() < 0.8 * np.abs(wrong - truth).mean()
