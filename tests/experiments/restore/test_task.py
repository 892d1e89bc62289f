"""task=restore, by the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from datamodules.degradations.kernel_spec import given_kernel
from datamodules.degradations.kernels import isotropic_gaussian
from datamodules.io.read_photo import read_photograph
from experiments.restore import Restorer
from experiments.zoo import catalogue
from lightning_modules.checkpoints.safetensors import save_weights
from networks.dan_usrnet import DANUSRNet
from networks.srn import SRN
from tests.conftest import Outcome, photograph
from tests.helpers.marks import quick
from tests.helpers.photo_folder import write_mixed

Cli = Callable[..., Outcome]
BICUBIC = ["task=restore", "model=bicubic", "trainer.accelerator=cpu"]
SMALL = ["tile=32", "max_pixels=1_000_000"]


def result_name(name: str) -> str:
    path = Path(name)
    keeps = path.suffix.lower() in (".png", ".tif", ".tiff")
    return str(path if keeps else path.with_suffix(".png"))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def save(folder: Path, *names: str, size: tuple[int, int] = (12, 14)) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(*size, i)).save(folder / name)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    folder = tmp_path_factory.mktemp("mixed") / "photo s"
    folder.mkdir()
    return folder, *write_mixed(folder)


@pytest.mark.parametrize("engine", quick(["auto", "openvino"], "auto"))
def test_mixed_folder(cli: Cli, tmp_path: Path, mixed: tuple[Path, list[str], list[str]], engine: str) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    folder, good, bad = mixed
    outcome = cli(*BICUBIC, *SMALL, f"engine={engine}", f"input={folder}", "output=out", "scale=2")
    assert outcome.status == 1
    *lines, last = outcome.err.strip().splitlines()
    assert last == "3 of 30 photographs could not be restored, see above; the others are in out"
    for name in bad:
        assert len([line for line in lines if line.startswith(f"{folder / name}: ")]) == 1, name
    assert "Traceback" not in outcome.err
    assert files(tmp_path / "out") == {*map(result_name, good), ".restored.jsonl"}

    restorer = Restorer.load(None, model="bicubic", device="cpu")
    for name in good:
        before, after = read_photograph(folder / name), read_photograph(tmp_path / "out" / result_name(name))
        expected = restorer.restore(before.filled(), scale=2).sr
        assert isinstance(expected, np.ndarray)
        assert after.pixels.dtype == before.pixels.dtype, name
        assert np.abs(after.pixels.astype(int) - expected).max() <= (1 if before.pixels.dtype == np.uint8 else 2), name
        assert (after.alpha is None) == (before.alpha is None), name
        if before.alpha is not None:
            enlarged = restorer.restore(before.alpha, scale=2).sr
            assert isinstance(enlarged, np.ndarray)
            assert np.array_equal(after.alpha, enlarged), name
        assert (after.icc, after.xmp is None) == (before.icc, before.xmp is None), name
    # With other eyes: modes, depth and tags as the files had them.
    modes = {
        "gray.png": "L",
        "palette.png": "RGB",
        "alpha.png": "RGBA",
        "gray_alpha.png": "LA",
        "deep_gray.png": "I;16",
    }
    for name, mode in modes.items():
        with Image.open(tmp_path / "out" / name) as image:
            assert image.mode == mode, name
    assert tifffile.imread(tmp_path / "out" / "deep.tif").dtype == np.uint16
    with Image.open(tmp_path / "out" / "camera.png") as image:
        exif = image.getexif()
        assert image.size == (72, 96)
        assert (exif.get(274, 1), exif[271]) == (1, "Camera")
        assert exif.get_ifd(34665)[40962] == 72
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


@pytest.mark.slow
def test_again_leaves_results_and_reports_the_rest(
    cli: Cli, tmp_path: Path, mixed: tuple[Path, list[str], list[str]]
) -> None:
    save(tmp_path / "in", "a.png", "b.jpg", "c.png")
    (tmp_path / "in" / "d.png").write_text("broken")
    (tmp_path / "in" / "c.png").rename(tmp_path / "c.png")
    command = [*BICUBIC, "input=in", "output=out", "scale=2"]
    assert cli(*command).status == 1
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("a.png", "b.png")}
    (tmp_path / "c.png").rename(tmp_path / "in" / "c.png")
    save(tmp_path / "in", "d.png")
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert "2 of 4 photographs are restored already and stay as they are" in outcome.err
    assert outcome.out == "restored: 4 in out, 2 of them before\n"
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before
    save(tmp_path / "in", "b.jpg", size=(9, 9))
    assert cli(*command).status == 0
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.size == (18, 18)  # of the new photograph


@pytest.mark.slow
def test_results_of_other_settings_are_not_mistaken(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "in", "a.png", "b.png")
    assert cli(*BICUBIC, "input=in", "output=out", "scale=2").status == 0
    first = (tmp_path / "out" / "a.png").read_bytes()
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=3")
    assert outcome.status == 1
    assert outcome.err == (
        "out/a.png: exists (and 1 more) and was made with scale=2, this is 3: give another output=, or make it anew "
        "with replace=true\n"
    )
    assert (tmp_path / "out" / "a.png").read_bytes() == first
    assert cli(*BICUBIC, "input=in", "output=out", "scale=3", "replace=true").status == 0
    with Image.open(tmp_path / "out" / "b.png") as image:
        assert image.size == (42, 36)
    save(tmp_path / "other", "a.png")
    outcome = cli(*BICUBIC, "input=in", "output=other", "scale=2")
    assert outcome.status == 1
    assert outcome.err.startswith("other/a.png: exists and was not made by task=restore: ")


def test_tiles_are_no_setting(cli: Cli, tmp_path: Path) -> None:
    """Who runs out of memory continues with smaller ones."""
    save(tmp_path / "in", "a.png", size=(50, 60))
    assert cli(*BICUBIC, "input=in", "output=out", "scale=2").status == 0
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=2", "tile=32", "batch=2")
    assert "1 of 1 photographs are restored already" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_killed_folder_continues(cli: Cli, tmp_path: Path, engine: str) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    save(tmp_path / "in", *(f"{i}.png" for i in range(6)), size=(200, 300))
    command = [*BICUBIC, f"engine={engine}", "input=in", "output=out", "scale=4"]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, root / "run.py", *command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    waiting = time.monotonic() + 120
    while not list((tmp_path / "out").glob("[0-9].png")) and time.monotonic() < waiting:
        time.sleep(0.01)
    process.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert_continues(cli, tmp_path, command, clean=False)


@pytest.mark.parametrize(
    ("number", "engine"),
    [(signal.SIGINT, "auto"), (signal.SIGTERM, "auto"), *quick([(signal.SIGTERM, "openvino")])],
)
def test_interrupted_folder_continues(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, engine: str
) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    save(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    command = [*BICUBIC, f"engine={engine}", "input=in", "output=out", "scale=2"]
    restore, calls = Restorer.restore, []

    def interrupted(self: Restorer, *arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return restore(self, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Restorer, "restore", interrupted)
        outcome = cli(*command)
    assert outcome.status == 128 + number
    assert "Traceback" not in outcome.err
    assert_continues(cli, tmp_path, command, clean=True)


def assert_continues(cli: Cli, tmp_path: Path, command: list[str], clean: bool) -> None:
    """What is there is complete and stays, the rest is made by the same command."""
    there = sorted((tmp_path / "out").glob("[0-9].png"))
    assert 1 <= len(there) < 6
    for path in there:
        with Image.open(path) as image:
            image.load()
    times = {path: path.stat().st_mtime_ns for path in there}
    if clean:
        assert files(tmp_path / "out") == {*(path.name for path in there), ".restored.jsonl"}
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"restored: 6 in out, {len(there)} of them before\n"
    assert {path: path.stat().st_mtime_ns for path in there} == times
    assert files(tmp_path / "out") == {*(f"{i}.png" for i in range(6)), ".restored.jsonl"}


@pytest.mark.slow
def test_patterns_lists_and_single_files(cli: Cli, tmp_path: Path) -> None:
    save(
        tmp_path,
        "in/a.png",
        "in/b.jpg",
        "in/deep/c.jpg",
        "in/deep/d.png",
        "e, f (1).png",
        "in/[1].png",
        "[2] h/g [3]/x.png",
    )
    for given, expected in (
        ("in/*.jpg", {"b.png"}),
        ("in/**/*.jpg", {"b.png", "deep/c.png"}),
        ("[in/deep,in/a.png]", {"c.png", "d.png", "a.png"}),
        ("[in/a.png,in/a.png]", {"a.png"}),
        ("e, f (1).png", {"e, f (1).png"}),
        ("in/[1].png", {"[1].png"}),
        ("[2] h/g [3]/*.png", {"x.png"}),
    ):
        outcome = cli(*BICUBIC, f"input={given}", "output=out", "scale=1")
        assert outcome.status == 0, outcome.err
        assert files(tmp_path / "out") == {*expected, ".restored.jsonl"}
        shutil.rmtree(tmp_path / "out")
    assert cli(*BICUBIC, "input=in/a.png", "output=large.jpg", "scale=2").status == 0
    with Image.open(tmp_path / "large.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (28, 24))


@pytest.mark.slow
def test_results_below_the_photographs_are_no_photographs(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path, "in/a.png", "in/b.png")
    for _ in range(2):
        outcome = cli(*BICUBIC, "input=in", "output=in/restored", "scale=1")
        assert outcome.status == 0, outcome.err
        assert files(tmp_path / "in" / "restored") == {"a.png", "b.png", ".restored.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("lossless", {"a.png", "b.tif", "c.png", "d.png", "e.png"}),
        ("same", {"a.jpg", "b.tif", "c.webp", "d.png", "e.png"}),
        ("tif", {"a.tif", "b.tif", "c.tif", "d.tif", "e.tif"}),
        ("jpg", {"a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"}),
    ],
)
def test_formats(cli: Cli, tmp_path: Path, form: str, names: set[str]) -> None:
    save(tmp_path, "in/a.jpg", "in/c.webp", "in/d.bmp", "in/e.png")
    deep = photograph(12, 14, 5).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "in" / "b.tif", deep, photometric="rgb")
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=1", f"format={form}")
    assert outcome.status == 0, outcome.err
    assert files(tmp_path / "out") == {*names, ".restored.jsonl"}
    found = read_photograph(tmp_path / "out" / ("b.jpg" if form == "jpg" else "b.tif"))
    assert found.pixels.dtype == (np.uint8 if form == "jpg" else np.uint16)
    assert np.abs(found.pixels / (1 if form == "jpg" else 257) - photograph(12, 14, 5)).mean() < 8


NOT_NAMED = [["input=null", "output=out"], ["input=[]", "output=out"]]


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        ([], 2, "task=restore: needs input= "),
        (["input=in", "output=null"], 2, "output: a value is required (conf/task/restore.yaml): found null"),
        (["input=absent", "output=out", "scale=2"], 1, "input=absent: does not exist"),
        (["input=empty", "output=out", "scale=2"], 1, "input=empty: holds no image, and no other file either"),
        (["input=in/*.gif", "output=out", "scale=2"], 1, "input=in/*.gif: finds no image, and no other file either"),
        (["input=in", "output=in", "scale=2"], 1, "output=in: is the folder of the photographs"),
        (["input=in/a.png", "output=in", "scale=2"], 1, "in/a.png: the result would replace a photograph"),
        (["input=twice", "output=out", "scale=2"], 1, "out/a.png: is the result of twice/a.jpg and of twice/a.png"),
        (["input=in", "output=out.png", "scale=2"], 1, "output=out.png: is a file, and input= names 2 photographs"),
        (["input=in/a.png", "output=out.bmp", "scale=2"], 1, "output=out.bmp: found .bmp, expected .png"),
        (["input=in", "output=out"], 2, "scale: bicubic enlarges by 1, 2, 3, 4: say by which"),
        (["input=in", "output=out", "scale=7"], 2, "scale: found 7, bicubic enlarges by 1, 2, 3, 4"),
        (
            ["input=in", "output=out", "scale=2", "kernel=disk:2"],
            2,
            "kernel: given, but bicubic takes none",
        ),
        (["input=in", "output=out", "scale=2", "noise_level=0.1"], 2, "noise_level: found 0.1, but bicubic takes none"),
        (["input=in", "output=out", "scale=2", "tile=wide"], 2, "tile: "),
        (["input=in", "output=out", "scale=2", "tile=1"], 2, "tile: found 1"),
        (["input=in", "output=in/a.png/out", "scale=2"], 1, "output=in/a.png/out: cannot be used"),
        (["input=in", "output=out", "scale=1", "deblurred=true"], 2, "deblurred: found true, but bicubic"),
        (
            ["input=in", "output=out", "scale=1", "format=gif"],
            2,
            "format: found 'gif' (conf/task/restore.yaml), expected 'lossless'",
        ),
        (
            ["model=wiener", "input=in", "output=out", "scale=2"],
            2,
            "kernel: wiener needs the blur kernel",
        ),
        *(([*given, "scale=2"], 2, "task=restore: needs input= (a photograph") for given in NOT_NAMED),
        *(
            (["input=in", "output=out", f"{key}="], 2, f"{key}: found '', expected a value")
            for key in ("input", "output", "run", "ckpt", "kernel")
        ),
        (["model=wiener", "input=in", "output=out", "scale=2", "kernel=x"], 1, "kernel=x: no such file, nor a formula"),
        (
            ["run=a", "ckpt=null", "weights=b", "input=in", "output=out"],
            2,
            "run= and weights=: each says which network is meant",
        ),
        (["run=absent", "input=in", "output=out"], 1, "run=absent: no run folder"),
        (["input=in", "output=out", "scale=2", "optimizer.lr=fast"], 2, "optimizer.lr: found 'fast'"),
        (["trainer.precision=16-mixed", "input=in", "output=out"], 2, "trainer.precision: found 16-mixed"),
        (
            ["engine=onnx", "input=in", "output=out"],
            2,
            "engine: found 'onnx' (conf/task/restore.yaml), expected 'auto'",
        ),
        (
            ["model=wiener", "input=in", "output=out", "scale=2", "kernel=none", "engine=onnxruntime"],
            1,
            "engine: found onnxruntime: Wiener computes Fourier transforms",
        ),
    ],
)
def test_mistakes_are_one_line(cli: Cli, tmp_path: Path, overrides: list[str], status: int, message: str) -> None:
    save(tmp_path, "in/a.png", "in/b.png", "twice/a.png", "twice/a.jpg")
    (tmp_path / "empty").mkdir()
    outcome = cli(*BICUBIC, *overrides)
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith(message)
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.png"))


def test_nothing_says_which_network(cli: Cli, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "FOLDER", tmp_path)
        outcome = cli("task=restore", "input=in", "output=out")
    assert outcome.status == 2
    assert outcome.err.endswith("python run.py task=restore input=in output=out run=runs/NAME\n")
    outcome = cli("task=restore", "input=in", "output=out", "model=ed_dsrn")
    assert outcome.status == 1
    assert outcome.err == "model=ed_dsrn has weights to load: give run=FOLDER, ckpt=FILE or weights=FILE\n"


@pytest.mark.slow
@pytest.mark.usefixtures("runs")
def test_run_and_its_checkpoint(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path, "in/a.png", size=(40, 44))
    common = ["task=restore", "input=in", "trainer.accelerator=cpu"]
    assert cli(*common, "run=runs/tiny", "output=out", "deblurred=true").status == 0
    assert cli(*common, "ckpt=runs/tiny/checkpoints/best.ckpt", "output=same").status == 0
    pixels = read_photograph(tmp_path / "in" / "a.png").pixels
    expected = Restorer.load(tmp_path / "runs" / "tiny", device="cpu").restore(pixels)
    assert np.array_equal(read_photograph(tmp_path / "out" / "a.png").pixels, expected.sr)
    assert np.array_equal(read_photograph(tmp_path / "same" / "a.png").pixels, expected.sr)
    assert np.array_equal(read_photograph(tmp_path / "out" / "a_deblurred.png").pixels, expected.deblurred)
    outcome = cli(*common, "run=runs/tiny", "output=bf16", "precision=bf16", "engine=torch", "self_ensemble=true")
    assert outcome.status == 0, outcome.err
    assert not np.array_equal(read_photograph(tmp_path / "bf16" / "a.png").pixels, expected.sr)


@pytest.mark.slow
def test_given_kernel_reaches_the_network(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path, "in/a.png", size=(40, 44))
    command = ["task=restore", "model=wiener", "input=in", "scale=1", "noise_level=0.02", "trainer.accelerator=cpu"]
    assert cli(*command, "output=out", "kernel=motion:7,30").status == 0
    restorer = Restorer.load(None, model="wiener", device="cpu")
    pixels = read_photograph(tmp_path / "in" / "a.png").pixels
    expected = restorer.restore(pixels, scale=1, kernel=given_kernel("motion:7,30"), noise_level=0.02).sr
    assert np.array_equal(read_photograph(tmp_path / "out" / "a.png").pixels, expected)
    np.save(tmp_path / "k.npy", given_kernel("motion:7,-30").numpy())
    outcome = cli(*command, "output=out", "kernel=k.npy")
    assert outcome.status == 1
    assert "was made with kernel=motion:7,30, this is k.npy" in outcome.err
    np.save(tmp_path / "k.npy", given_kernel("disk:2").numpy())
    assert cli(*command, "output=other", "kernel=k.npy").status == 0
    np.save(tmp_path / "k.npy", given_kernel("disk:3").numpy())  # another kernel by the same name
    outcome = cli(*command, "output=other", "kernel=k.npy")
    assert outcome.status == 1
    assert "was made with kernel_sha256=" in outcome.err


def test_estimated_kernel_is_saved(cli: Cli, tmp_path: Path) -> None:
    config = {
        "scale": 2,
        "n_loops": 1,
        "code_dim": 4,
        "kernel_size": 9,
        "restorer": {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1, "hyper_width": 4},
        "estimator": {"width": 16, "n_blocks": 1},
    }
    torch.manual_seed(0)
    network = DANUSRNet(**config)
    network.basis.fit(isotropic_gaussian(torch.linspace(0.7, 2, 12), 9), 0)
    about = {"model": {"_target_": "networks.dan_usrnet.DANUSRNet", **config}, "label": "dan_usrnet", "seed": 0}
    save_weights(network, tmp_path / "dan.safetensors", about)
    save(tmp_path, "in/a.png", size=(24, 28))
    outcome = cli("task=restore", "weights=dan.safetensors", "input=in", "output=out", "trainer.accelerator=cpu")
    assert outcome.status == 0, outcome.err
    assert files(tmp_path / "out") == {"a.png", "a_kernel.png", "a_kernel.npy", ".restored.jsonl"}
    kernel = np.load(tmp_path / "out" / "a_kernel.npy")
    assert kernel.shape == (9, 9)
    assert kernel.sum() == pytest.approx(1, abs=1e-4)
    picture = read_photograph(tmp_path / "out" / "a_kernel.png").pixels[:, :, 0]
    assert picture.shape == (261, 261)
    assert np.abs(picture[14::29, 14::29] - kernel.clip(0) / kernel.max() * 255).max() <= 0.5
    outcome = cli("task=restore", "weights=dan.safetensors", "kernel=disk:2", "input=in", "output=out")
    assert outcome.status == 2
    assert "estimates the kernel itself" in outcome.err


@pytest.mark.slow
def test_large_result_is_kept_in_a_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.restore.image_buffer.MAPPED", 1000)
    image = Image.fromarray(photograph(70, 90, 0))
    image.putalpha(Image.fromarray(photograph(70, 90, 1)[:, :, 0]))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png")
    assert cli(*BICUBIC, "input=in", "output=mapped", "scale=3", "tile=32").status == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli(*BICUBIC, "input=in", "output=memory", "scale=3", "tile=32").status == 0
    assert (tmp_path / "mapped" / "a.png").read_bytes() == (tmp_path / "memory" / "a.png").read_bytes()
    assert files(tmp_path / "mapped") == {"a.png", ".restored.jsonl"}


def test_shortage_of_memory_names_the_tile(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "in/a.png", "in/b.png")
    restore = Restorer.restore
    calls = []

    def short(self: Restorer, *arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 9 bytes"
            )
        return restore(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Restorer, "restore", short)
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=1")
    assert outcome.status == 1
    assert outcome.err.startswith("in/a.png: out of memory (")
    assert "set a smaller tile= or batch=" in outcome.err
    assert files(tmp_path / "out") == {"b.png", ".restored.jsonl"}


def test_full_temporary_folder_ends_the_work_of_srn(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it keeps what goes from scale to scale."""
    config: dict[str, Any] = {"widths": [4, 4, 4], "n_blocks": 1, "n_scales": 2}
    torch.manual_seed(0)
    about = {"model": {"_target_": "networks.srn.SRN", **config}, "label": "srn", "seed": 0}
    save_weights(SRN(**config), tmp_path / "srn.safetensors", about)
    for name in "ab":
        save(tmp_path, f"in/{name}.png", size=(70, 90))
    on_disk = tempfile.TemporaryFile

    def full(**options: Any) -> IO[bytes]:
        if options["dir"] is None:
            raise OSError(28, "No space left on device")
        return on_disk(**options)

    monkeypatch.setattr("experiments.restore.image_buffer.tempfile.TemporaryFile", full)
    monkeypatch.setattr("experiments.restore.image_buffer.MAPPED", 1000)
    command = ["task=restore", "weights=srn.safetensors", "input=in", "output=out", "trainer.accelerator=cpu"]
    outcome = cli(*command, "tile=48", "overlap=16")
    assert outcome.status == 1
    assert ": no room for a file of 0.0 GiB (No space left on device): free disk space, or set TMPDIR" in outcome.err
    assert outcome.err.count("no room") == 1
    assert files(tmp_path / "out") <= {".restored.jsonl"}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    outcome = cli(*command, "tile=48", "overlap=16")
    assert outcome.status == 0, outcome.err
    assert "srn looks 80 pixels far at each of its scales: tiles of 48 pixels that overlap by 16" in outcome.err
    assert files(tmp_path / "out") == {"a.png", "b.png", ".restored.jsonl"}


@pytest.mark.parametrize("engine", quick(["auto", "openvino"], "auto"))
def test_full_disk_ends_the_work(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    save(tmp_path, "in/a.png", "in/b.png")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datamodules.io.write_photo._write_png", full)
    outcome = cli(*BICUBIC, f"engine={engine}", "input=in", "output=out", "scale=2")
    assert outcome.status == 1
    assert outcome.err.startswith("out/a.png: cannot be written: No space left on device")
    assert outcome.err.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.png"))


def test_records_name_what_was_done(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path, "in/a.png")
    assert cli(*BICUBIC, "input=in", "output=out", "scale=2").status == 0
    (line,) = map(json.loads, (tmp_path / "out" / ".restored.jsonl").read_text().splitlines())
    assert line["name"] == "a.png"
    assert (line["settings"]["model"], line["settings"]["scale"]) == ("bicubic", 2)


@pytest.mark.slow
@pytest.mark.parametrize("torn", ['{"name": "a.p', "null\n", "[1]\n", "\xff"])
def test_torn_records_do_not_matter(cli: Cli, tmp_path: Path, torn: str) -> None:
    save(tmp_path, "in/a.png", "in/b.png")
    assert cli(*BICUBIC, "input=in", "output=out", "scale=2").status == 0
    with (tmp_path / "out" / ".restored.jsonl").open("a") as file:
        file.write(torn)
    (tmp_path / "out" / "b.png").unlink()
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=2")
    assert outcome.status == 0, outcome.err
    assert outcome.out == "restored: 2 in out, 1 of them before\n"
