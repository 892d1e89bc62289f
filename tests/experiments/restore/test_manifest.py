"""task=restore: whose a result is, and what happens to what is in its place."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.degradations.kernels import isotropic_gaussian
from datamodules.errors import InputError
from datamodules.io.atomic import part_of
from datamodules.io.read_photo import read_photograph
from datamodules.io.write_photo import write_photograph
from experiments.restore.manifest import Manifest, state
from experiments.restore.paths import Item
from lightning_modules.checkpoints.safetensors import save_weights
from networks.dan_usrnet import DANUSRNet
from tests.conftest import Outcome, photograph
from tests.datamodules.io.test_photographs import chunk, png16

Cli = Callable[..., Outcome]
BICUBIC = ["task=restore", "model=bicubic", "trainer.accelerator=cpu", "scale=1"]
DEBLURRED = ["task=restore", "run=runs/tiny", "trainer.accelerator=cpu", "deblurred=true"]


def save(*paths: Path) -> None:
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(12, 14, seed)).save(path)


@pytest.mark.slow
def test_photographs_of_one_name_are_not_mistaken(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "mon" / "a.png", tmp_path / "tue" / "a.png")
    assert cli(*BICUBIC, "input=mon", "output=out").status == 0
    first = (tmp_path / "out" / "a.png").read_bytes()
    outcome = cli(*BICUBIC, "input=tue", "output=out")
    assert outcome.status == 1
    where = tmp_path.resolve()
    assert f"exists and was made of {where}/mon/a.png, this is of {where}/tue/a.png: give another" in outcome.err
    assert (tmp_path / "out" / "a.png").read_bytes() == first
    assert cli(*BICUBIC, "input=tue", "output=out", "replace=true").status == 0
    assert (tmp_path / "out" / "a.png").read_bytes() != first


@pytest.mark.parametrize("line", [{"name": "a.png"}, {"name": "a.png", "of": "b", "source": [], "settings": 3}])
def test_records_of_something_else(cli: Cli, tmp_path: Path, line: dict[str, object]) -> None:
    save(tmp_path / "in" / "a.png", tmp_path / "out" / "a.png")
    (tmp_path / "out" / ".restored.jsonl").write_text(json.dumps(line) + "\n")
    outcome = cli(*BICUBIC, "input=in", "output=out")
    assert outcome.err.startswith("out/a.png: exists and was not made by task=restore: ")


def test_lines_of_processes_that_share_the_photographs(tmp_path: Path) -> None:
    items = [Item(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png") for name in "abc"]
    save(*(item.source for item in items))
    processes = [Manifest(tmp_path / "out", {"scale": 1}, rank=rank) for rank in range(3)]
    for manifest in processes:
        manifest.__enter__()
    with pytest.raises(InputError, match="another process restores into it"):
        Manifest(tmp_path / "out", {}).__enter__()
    for manifest, item in zip(processes, items, strict=True):
        manifest.begin(item.target, item.source, state(item.source))
        item.target.write_bytes(b"made")
    processes[0].__exit__()  # as where it was killed by itself
    processes[1].__exit__()
    with pytest.raises(InputError, match="another process restores into it"):
        Manifest(tmp_path / "out", {}).__enter__()
    processes[2].file.write('{"name": "torn')
    processes[2].__exit__()
    with Manifest(tmp_path / "out", {"scale": 1}) as manifest:
        assert manifest.finished(items, False) == items
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".restored.jsonl"]
    *lines, torn = (tmp_path / "out" / ".restored.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a.png", "b.png", "c.png"]
    assert torn == '{"name": "torn'


@pytest.mark.slow
def test_single_result_leaves_nothing_beside_it(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    assert cli(*BICUBIC, "input=in/a.png", "output=home/b.png").status == 0
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["b.png"]
    outcome = cli(*BICUBIC, "input=in/a.png", "output=home/b.png")
    assert outcome.status == 1
    assert outcome.err.startswith("home/b.png: exists and has no record of what made it: give another output=, or")
    assert cli(*BICUBIC, "input=in/a.png", "output=home/b.png", "replace=true").status == 0


def test_records_that_cannot_be_opened_leave_no_lock(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "out" / ".restored.jsonl").mkdir(parents=True)
    outcome = cli(*BICUBIC, "input=in", "output=out")
    assert outcome.err.startswith("output=out: cannot be used (Is a directory): ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".restored.jsonl"]


@pytest.mark.parametrize("name", [".restored.jsonl", ".restored.1.jsonl"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_records_are_written_to_no_link(tmp_path: Path, name: str, kind: str) -> None:
    """Of somebody else's folder, for their lines hold names that somebody else has chosen."""
    victim, place = tmp_path / ".bashrc", tmp_path / "out" / name
    place.parent.mkdir()
    if kind == "link":
        victim.write_text("mine\n")
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("../.bashrc")
    with pytest.raises(InputError, match=f"{name}: is (a link|a pipe or the like), expected a reg"):
        Manifest(place.parent, {}).__enter__()
    assert [path.read_text() for path in tmp_path.glob(".bashrc")] == ["mine\n"] * (kind == "link")
    Manifest(tmp_path / "other", {}).__enter__()


def test_what_a_power_cut_may_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item(tmp_path / "a.png", tmp_path / "out" / "a.png")
    save(item.source)
    synced = list[str]()

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", sync)
    with Manifest(tmp_path / "out", {}) as manifest:
        made = read_photograph(item.source)
        write_photograph(item.target, made, lambda path: manifest.begin(path, item.source, state(item.source)))
        assert synced == [str(part_of(item.target)), str(tmp_path / "out" / ".restored.jsonl")]
    with Manifest(tmp_path / "out", {}) as manifest:
        assert manifest.finished([item], False) == [item]
        item.target.write_bytes(b"")
        assert manifest.finished([item], False) == []  # is made again, and nobody asked whether it may be


@pytest.mark.usefixtures("runs")
def test_files_beside_a_result_are_results_too(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", tmp_path / "s" / "a_deblurred.png", tmp_path / "own" / "a_deblurred.png")
    outcome = cli(*DEBLURRED, "input=s/a_deblurred.png", "output=s/a.png")
    assert outcome.err.startswith("s/a_deblurred.png: the result would replace a photograph of input=")
    outcome = cli(*DEBLURRED, "input=in", "output=own")
    assert outcome.err.startswith("own/a_deblurred.png: exists and was not made by task=restore: ")
    assert cli(*DEBLURRED, "input=in", "output=out", "deblurred=false").status == 0
    for _ in range(2):  # not made yet; removed
        outcome = cli(*DEBLURRED, "input=in", "output=out")
        assert outcome.status == 0, outcome.err
        (tmp_path / "out" / "a_deblurred.png").unlink()


@pytest.mark.usefixtures("runs")
def test_deblurred_photograph_of_eight_bits(cli: Cli, tmp_path: Path) -> None:
    import cv2

    (tmp_path / "in").mkdir()
    deep = np.random.default_rng(0).integers(0, 65536, (12, 14, 4)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "in" / "a.png"), deep)
    outcome = cli(*DEBLURRED, "input=in", "output=out", "format=webp")
    assert outcome.status == 0, outcome.err
    alpha = read_photograph(tmp_path / "out" / "a_deblurred.webp").alpha
    assert np.array_equal(alpha, np.round(deep[:, :, 3] / 257))


def test_no_deblurred_photograph_is_said_first(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("broken")
    outcome = cli(*BICUBIC, "input=in", "output=out", "deblurred=true")
    assert outcome.status == 2
    assert outcome.err.startswith("deblurred: found true, but bicubic makes no deblurred photograph")


def test_estimated_kernel_does_not_replace_another_file(cli: Cli, tmp_path: Path) -> None:
    restorer = {"n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1, "hyper_width": 4}
    config = {"scale": 2, "n_loops": 1, "code_dim": 4, "kernel_size": 9, "restorer": restorer}
    config["estimator"] = {"width": 16, "n_blocks": 1}
    network = DANUSRNet(**config)  # type: ignore[arg-type]
    network.basis.fit(isotropic_gaussian(torch.linspace(0.7, 2, 12), 9), 0)
    about = {"model": {"_target_": "networks.dan_usrnet.DANUSRNet", **config}, "label": "dan_usrnet", "seed": 0}
    save_weights(network, tmp_path / "dan.safetensors", about)
    save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_kernel.npy").write_bytes(b"mine")
    outcome = cli("task=restore", "weights=dan.safetensors", "input=in", "output=out", "trainer.accelerator=cpu")
    assert outcome.err.startswith("out/a_kernel.npy: exists and was not made by task=restore: ")
    assert (tmp_path / "out" / "a_kernel.npy").read_bytes() == b"mine"


def test_result_stays_until_the_new_one_is_complete(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "a.png")
    assert cli(*BICUBIC, "input=in", "output=out").status == 0
    before = (tmp_path / "out" / "a.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datamodules.io.write_photo._write_png", full)
    outcome = cli(*BICUBIC, "input=in", "output=out", "scale=2", "replace=true")
    assert outcome.err.startswith("out/a.png: cannot be written: No space left on device")
    assert (tmp_path / "out" / "a.png").read_bytes() == before


def test_what_is_in_the_way_is_named_and_the_others_go_on(cli: Cli, tmp_path: Path) -> None:
    long = "日" * 82  # 246 bytes, which a further hidden name would exceed
    save(*(tmp_path / "in" / name for name in ("a.png", "deep/b.png", "folder.png", f"{long}.png")))
    (tmp_path / "in" / "gone.png").symlink_to("nowhere")
    save(tmp_path / "out" / "gone.png")
    (tmp_path / "out" / "deep").write_text("a file")
    (tmp_path / "out" / "folder.png").mkdir()
    outcome = cli(*BICUBIC, "input=in", "output=out", "replace=true")
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    assert [line.split(": ")[0] for line in outcome.err.splitlines() if " -> " not in line] == [
        "in/deep/b.png",
        "out/folder.png",
        "in/gone.png",
        "3 of 5 photographs could not be restored, see above; the others are in out",
    ]
    assert {path.name for path in (tmp_path / "out").glob("*.png") if path.is_file()} == {
        "a.png",
        "gone.png",
        f"{long}.png",
    }


def test_errors_of_the_work_are_not_called_shortage(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "a.png")
    monkeypatch.setattr("experiments.restore.image_buffer.MAPPED", 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("experiments.restore.restorer.Restorer.restore", fail)
    outcome = cli(*BICUBIC, "input=in", "output=out")
    assert outcome.err.startswith("in/a.png: cannot be restored into out/a.png: Input/output error\n")


def test_colours_that_are_not_seen_do_not_darken_edges(cli: Cli, tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :32]
    alpha = (np.clip(11 - np.hypot(y - 15.5, x - 15.5), 0, 1) * 255).round().astype(np.uint8)
    pixels = np.where(alpha[:, :, None] > 0, (230, 40, 40), 0).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "in" / "a.png")
    assert cli(*BICUBIC, "input=in", "output=out", "scale=2").status == 0
    result = read_photograph(tmp_path / "out" / "a.png")
    assert result.alpha is not None
    assert np.abs(result.pixels[result.alpha > 0].astype(int) - (230, 40, 40)).max() <= 1


def test_colours_that_a_format_cannot_describe_are_said(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    (tmp_path / "in" / "a.png").write_bytes(png16(np.zeros((12, 14, 3), np.uint16), 2, gamma))
    assert "gAMA" not in cli(*BICUBIC, "input=in", "output=out").err
    outcome = cli(*BICUBIC, "input=in", "output=out", "format=tif")
    assert outcome.status == 0, outcome.err
    assert "in/a.png: its gAMA left out, which only PNG holds: colours may look different\n" in outcome.err
