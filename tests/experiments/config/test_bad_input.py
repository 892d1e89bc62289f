"""A mistake ends in one line that says what to do, and leaves nothing behind."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from PIL import Image

from tests.conftest import Outcome, photograph
from tests.experiments.conftest import Trained

Cli = Callable[..., Outcome]


def messages(err: str) -> list[str]:
    """The lines on stderr but for progress bars."""
    return [line for line in re.split(r"[\r\n]+", err) if line.strip() and not re.search(r"\d+%\||\?img/s", line)]


def assert_refused(outcome: Outcome, status: int, *parts: str) -> None:
    lines = messages(outcome.err)
    assert len(lines) == 1, outcome.err
    assert [part for part in parts if part not in lines[0]] == [], lines[0]
    assert outcome.status == status, lines[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["modle=ed_srn"], ["modle: no such key or group (conf/)", "did you mean model?"]),
        (["model=ed_dsrm"], ["model=ed_dsrm: no such option (conf/model/)", "did you mean ed_dsrn?"]),
        (["model.n_unit=2"], ["model.n_unit: unknown key (conf/model/)", "did you mean n_units?"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch: unknown key (conf/trainer/)", "did you mean max_epochs?"]),
        (["+trainr.max_epochs=3"], ["trainr: unknown key at the top of the config", "did you mean trainer?"]),
        (["sed=1"], ["sed: no such key or group", "did you mean seed?"]),
        (["checkpoint.every_n_step=1"], ["checkpoint.every_n_step: unknown key", "did you mean every_n_steps?"]),
        (["optimizer.lr=fast"], ["optimizer.lr: found 'fast' (conf/optimizer/adam.yaml)", "expected a valid number"]),
        (["optimizer.lr=-1"], ["optimizer: ", "-1"]),
        (["data.patch=big"], ["data.patch: found 'big' (conf/data/folder.yaml)", "expected a valid integer"]),
        (["seed=x"], ["seed: found 'x'", "expected a valid integer"]),
        (["seed=-1"], ["seed: found -1", "expected greater than or equal to 0"]),
        (
            ["data.patch=30"],
            ["data.patch: found 30", "multiple of 32 (4 for degradation=ed_dsrn, 32 for EDDSRN)", "is data.patch=32"],
        ),
        (["data.patch=36"], ["data.patch: found 36", "expected a multiple of 32", "nearest is data.patch=32"]),
        (["data.batch_size=0"], ["data.batch_size: found 0", "expected greater than 0"]),
        (["model=ed_srn", "loss=ed_dsrn"], ["loss.terms.deblurred: EDDSRN has no such branch", "choose another loss="]),
        (["degradation.scale=2"], ["model: EDDSRN enlarges x4, degradation.scale is 2"]),
        (["data.root=???"], ["data.root: a value is required", "data.root=..."]),
        *(([f"{key}="], [f"{key}: found '', expected a value"]) for key in ("data.root", "weights", "data.cache_dir")),
        (["runs_dir= "], ["runs_dir: found '', expected a value"]),
        (["~scheduler"], ["scheduler: is missing, deleted on the command line: omit ~scheduler"]),
        (["~data.patch"], ["data.patch: is missing, deleted on the command line: omit ~data.patch"]),
        (["protocol=[y_shave5]"], ["protocol=y_shave5: no such option (conf/protocol/)", "did you mean y_shave4?"]),
        (["protocol=[]"], ["protocol: empty", "protocol=[y_shave4]"]),
        (
            ["degradation=dan_setting1", "degradation.kernels.low=0", "degradation.kernels.high=0"],
            ["degradation: [kernels.low, kernels.high] is [0, 0]", "0 < low <= high"],
        ),
        (["degradation=dan_setting2", "degradation.kernels.noise=-3"], ["degradation: kernels.noise is -3"]),
        (["degradation.sigma=[2.0,1.0]"], ["degradation: sigma is [2.0, 1.0]", "low <= high"]),
        (
            ["validation_sheets.every_n_epochs=0"],
            ["validation_sheets.every_n_epochs: found 0", "expected greater than 0"],
        ),
        (["trainer.max_epochs=0"], ["trainer.max_epochs: found 0", "expected greater than 0"]),
        (["trainer.accelerator=gqu"], ["trainer.accelerator: found 'gqu', expected 'auto'", "did you mean gpu?"]),
        (["trainer.accelerator=tpu"], ["found 'tpu', which this machine does not have", "trainer.accelerator=auto"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_configuration_that_cannot_be(
    cli: Cli, tiny: list[str], tmp_path: Path, overrides: list[str], parts: list[str]
) -> None:
    model = [] if overrides[0].startswith(("model=", "modle=")) else ["model=ed_dsrn"]
    outcome = cli(*(item for item in tiny if model or not item.startswith("model.")), *model, *overrides)
    assert_refused(outcome, 2, *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photographs"]


def test_nothing_to_train(cli: Cli, tmp_path: Path) -> None:
    assert_refused(cli("model=bicubic"), 2, "model=bicubic has nothing to train", "task=evaluate model=bicubic")
    line = "model=dpir_small has nothing to train but DRUNet, which is trained by itself"
    assert_refused(cli("model=dpir_small"), 2, line, "task=evaluate model=dpir_small weights=FILE")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_read_before_the_data(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("no weights\n")
    refused = cli(*tiny, "data.root=nowhere", "weights=w.pth")
    assert_refused(refused, 1, "w.pth: cannot be read as a checkpoint or as weights")
    assert_refused(cli(*tiny, "data.root=nowhere"), 1, "data.root=nowhere: does not exist")


def spoil(folder: Path, how: str) -> str:
    """Does what `how` says to a folder of photographs; returns what the message has to name."""
    victim = folder / "image3.png"
    if how == "missing":
        shutil.rmtree(folder)
        return f"data.root={folder}: does not exist"
    if how == "empty":
        for file in folder.iterdir():
            file.unlink()
        return f"data.root={folder}: holds no image"
    if how == "small":
        for i, file in enumerate(folder.iterdir()):
            Image.fromarray(photograph(24, 40, i)).save(file)
        return "image is 40x24 (and 3 more), smaller than data.patch=32: give larger images"
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:-100])
    else:
        victim.write_text("a text\n")
    return f"{victim}: "


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "empty", "small", "truncated", "text"])
def test_data_that_cannot_be_used(cli: Cli, tiny: list[str], tmp_path: Path, how: str) -> None:
    named = spoil(tmp_path / "photographs", how)
    outcome = cli(*tiny)
    assert_refused(outcome, 1, named)
    assert not (tmp_path / "runs").exists()
    if how != "small":  # the same mistake in an evaluation
        overrides = [
            "model=bicubic",
            "data=folder",
            f"data.root={tmp_path / 'photographs'}",
            "data.source.holdout=false",
        ]
        assert_refused(cli("task=evaluate", *overrides), 1, named)
        assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_corrupt_images_can_be_skipped(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    spoil(tmp_path / "photographs", "truncated")
    outcome = cli(*tiny, "data.on_corrupt=skip", "data.source.holdout=false", "trainer.max_epochs=1")
    assert outcome.status == 0, outcome.err
    assert "1 of 6 images are skipped: " in outcome.err
    assert f"{tmp_path / 'photographs' / 'image3.png'}: " in outcome.err


@pytest.mark.slow
def test_nothing_to_evaluate(cli: Cli, tmp_path: Path) -> None:
    assert_refused(
        cli("task=evaluate"), 1, "model=ed_dsrn has weights to load", "run=FOLDER, ckpt=FILE or weights=FILE"
    )
    assert_refused(cli("task=evaluate", "run=runs/nowhere"), 1, "run=runs/nowhere: no run folder", "config.yaml")
    assert_refused(cli("task=evaluate", "ckpt=nowhere.ckpt"), 1, "nowhere.ckpt: no such checkpoint")
    assert list(tmp_path.iterdir()) == []


class Payload:
    """Unpickling this creates a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("called",))


def call(target: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": target, **arguments}


def forge(path: Path, kind: str) -> None:
    checkpoint = torch.load(path, weights_only=True)
    model: dict[str, Any] = checkpoint["config"]["model"]
    mkdir = call("os.mkdir", path="called")
    forged: dict[str, Any] = {
        "os.mkdir": mkdir,
        "builtins.print": call("builtins.print"),
        "nested": {**model, "widths": [4, 4, 4, mkdir]},
        "through a module": call("networks.ed_dsrn.pairwise.__class__"),
        "imported name": call("networks.bicubic.nn.Linear", in_features=1, out_features=1),
        "dunder": call("networks.__loader__.set_data", path="called", data=""),
        "interpolation": {**model, "pooling": "${oc.create:{_target_: os.mkdir, path: called}}"},
        "no name": {**model, "_target_": 3},
        "no mapping": "networks.bicubic.Bicubic",
    }
    if kind in forged:
        checkpoint["config"]["model"] = forged[kind]
        torch.save(checkpoint, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("no checkpoint\n")
    elif kind == "pickle":
        torch.save({**checkpoint, "extra": Payload()}, path)
    elif kind == "weights only":
        torch.save(checkpoint["state_dict"], path)
    elif kind == "no config":
        torch.save({**checkpoint, "config": None}, path)


UNREADABLE = "cannot be read as a checkpoint"
REFUSED = "expected a class in networks/"


@pytest.mark.many
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("truncated", UNREADABLE),
        ("text", UNREADABLE),
        ("pickle", UNREADABLE),
        ("weights only", "holds no 'config'"),
        ("no config", "holds no 'config'"),
        ("no mapping", "holds no 'config'"),
        ("os.mkdir", f"names 'os.mkdir', {REFUSED}"),
        ("builtins.print", f"names 'builtins.print', {REFUSED}"),
        ("nested", f"names 'os.mkdir', {REFUSED}"),
        ("through a module", REFUSED),
        ("imported name", REFUSED),
        ("dunder", REFUSED),
        ("interpolation", "'${oc.create:{_target_: os.mkdir, path: called}}'"),
        ("no name", f"names '3', {REFUSED}"),
    ],
)
def test_checkpoint_that_cannot_be_trusted(cli: Cli, runs: Path, tmp_path: Path, kind: str, part: str) -> None:
    forge(runs / "tiny" / "checkpoints" / "best.ckpt", kind)
    before = snapshot(runs)
    assert_refused(cli("task=evaluate", "run=runs/tiny"), 1, "runs/tiny/checkpoints/best.ckpt: ", part)
    assert snapshot(runs) == before
    assert not (tmp_path / "called").exists()


def test_checkpoint_of_another_model(cli: Cli, runs: Path) -> None:
    before = snapshot(runs)
    outcome = cli("task=evaluate", "ckpt=runs/tiny/checkpoints/best.ckpt", "model=ed_srn")
    assert_refused(outcome, 1, "best.ckpt: a checkpoint of another model", "networks.ed_dsrn.EDDSRN", "omit model=")
    assert snapshot(runs) == before


@pytest.mark.parametrize("kind", ["truncated", "text", "pickle"])
def test_damaged_checkpoint_is_not_continued(cli: Cli, runs: Path, trained: Trained, tmp_path: Path, kind: str) -> None:
    forge(runs / "tiny" / "checkpoints" / "last.ckpt", kind)
    before = snapshot(runs)
    outcome = cli(*trained.overrides, "trainer.max_epochs=3", "resume=auto")
    assert_refused(outcome, 1, "runs/tiny/checkpoints/last.ckpt: ", UNREADABLE, "best.ckpt")
    assert snapshot(runs) == before
    assert not (tmp_path / "called").exists()


def test_another_configuration_is_not_continued(cli: Cli, runs: Path, trained: Trained) -> None:
    before = snapshot(runs)
    outcome = cli(*trained.overrides, "optimizer.lr=1e-3", "resume=auto")
    assert_refused(outcome, 1, "optimizer.lr was 0.0005 in this run and is 0.001 now", "name=")
    assert snapshot(runs) == before


@pytest.mark.parametrize("file", ["config.yaml", "meta.json"])
def test_damaged_run_folder_is_not_continued(cli: Cli, runs: Path, trained: Trained, file: str) -> None:
    (runs / "tiny" / file).write_text("{")
    assert_refused(cli(*trained.overrides, "resume=auto"), 1, f"runs/tiny/{file}: ")


def test_folder_that_cannot_be_written(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(cli(*tiny, "runs_dir=file/runs"), 1, "file/runs/tiny/", "cannot be written", "runs_dir=")
    assert_refused(cli("task=evaluate", "model=bicubic", *tiny[:2], "runs_dir=file/runs"), 1, "cannot be written")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system of its own needs the right to mount one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("free", [60_000, 0])
def test_disk_full_while_training(cli: Cli, trained: Trained, small_disk: Path, free: int) -> None:
    """With some room left the checkpoint is what fails, without any an earlier and smaller file."""
    run = small_disk / "tiny"
    shutil.copytree(trained.run, run, ignore=shutil.ignore_patterns("images"))
    before = snapshot(run / "checkpoints")
    with (small_disk / "ballast").open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), b"x" * 4096)
    with (small_disk / "ballast").open("r+b") as file:
        file.truncate((small_disk / "ballast").stat().st_size - free)
    outcome = cli(*trained.overrides, f"runs_dir={small_disk}", "trainer.max_epochs=3", "resume=auto")
    assert outcome.status == 1
    assert "No space left on device" in messages(outcome.err)[-1]
    assert "Traceback" not in outcome.err
    if free:
        assert ".ckpt: cannot write the checkpoint (the previous one is untouched)" in messages(outcome.err)[-1]
    assert snapshot(run / "checkpoints") == before
    assert not list(small_disk.rglob("*.part"))


def test_write_error_in_mid_checkpoint(cli: Cli, runs: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(runs / "tiny" / "checkpoints")

    def fail(checkpoint: Any, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", fail)
    outcome = cli(*trained.overrides, "trainer.max_epochs=3", "resume=auto")
    assert outcome.status == 1
    line = messages(outcome.err)[-1]
    assert "cannot write the checkpoint (the previous one is untouched): No space left on device" in line
    assert "Traceback" not in outcome.err
    assert snapshot(runs / "tiny" / "checkpoints") == before
