"""MetricsCSV: its file by itself, under SIGKILL, and as the logger of a real Trainer that is resumed."""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader, TensorDataset

from datamodules.errors import InputError
from lightning_modules.loggers.csv import MetricsCSV
from lightning_modules.loggers.wandb import finish, wandb_logger, where_line

REPOSITORY = Path(__file__).parents[3]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(path: Path, name: str) -> list[str]:
    return [row[name] for row in rows(path)]


def test_header_grows_and_rows_of_one_step_are_merged(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    for step in (0, 1):
        logger.log_metrics({"train/loss": 1 / (step + 3), "epoch": 0}, step)
        logger.save()
    logger.log_metrics({"val/psnr": math.inf, "val/a,b": math.nan}, 1)
    logger.save()
    logger.log_metrics({"train/loss": 0.5}, 2)
    logger.save()
    expected = f'step,epoch,train/loss,val/psnr,"val/a,b"\n0,0,{1 / 3!r},,\n1,0,0.25,inf,nan\n2,,0.5,,\n'
    assert logger.path.read_text() == expected
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_last_line_is_extended_in_place_and_an_older_one_by_rewriting(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1, "b": 1}, 0)
    logger.save()
    for metrics in ({"a": 0.123456789}, {"a": 2.0}, {"b": 3.0}):
        logger.log_metrics(metrics, 1)
        logger.save()
        last = [repr(metrics.get("a", 2.0)), repr(metrics["b"]) if "b" in metrics else ""]
        assert [list(row.values()) for row in rows(logger.path)] == [["0", "", "1.0", "1.0"], ["1", "", *last]]
    for step, metrics in [(2, {"a": 4.0}), (1, {"b": 5.0})]:
        logger.log_metrics(metrics, step)
        logger.save()
    assert [list(row.values()) for row in rows(logger.path)] == [
        ["0", "", "1.0", "1.0"],
        ["1", "", "2.0", "5.0"],
        ["2", "", "4.0", ""],
    ]


def test_later_steps_are_appended(tmp_path: Path) -> None:
    """A training logs for days: the file is not written anew for every row."""
    logger = MetricsCSV(tmp_path)
    inodes = set()
    for step in range(5):
        logger.log_metrics({"a": step}, step)
        logger.save()
        inodes.add(logger.path.stat().st_ino)
    assert len(inodes) == 1
    whole = MetricsCSV(tmp_path)
    whole.rewind(3)  # reads, and writes anew
    whole.log_metrics({"a": 4}, 4)
    whole.save()
    assert [list(row.values()) for row in rows(logger.path)] == [[str(i), "", f"{i}.0"] for i in range(5)]


def test_what_a_full_disk_cut_off_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 0.0}, 0)
    logger.save()
    logger.log_metrics({"a": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(MetricsCSV, "_cells", lambda self, step: ["1", "", 1 / 0])
        with pytest.raises(ZeroDivisionError):
            logger.save()
    with logger.path.open("a") as file:
        file.write("1,,")  # as much as there was space for
    logger.save()
    assert column(logger.path, "a") == ["0.0", "1.0"]


def test_a_failed_rewrite_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    before = logger.path.read_bytes()

    def fail(source: Path, target: Path) -> None:
        assert logger.path.read_bytes() == before
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        logger.log_metrics({"psnr": 2.0}, 1)
        with pytest.raises(OSError, match="no space left"):
            logger.save()
    assert logger.path.read_bytes() == before
    logger.save()
    assert column(logger.path, "psnr") == ["", "2.0"]


def test_a_row_reaches_the_disk_every_n_rows_without_a_call_of_save(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path, flush_every=3)
    for step in range(5):
        logger.log_metrics({"loss": torch.tensor(1.5).item()}, step)
    assert column(logger.path, "step") == ["0", "1", "2"]
    logger.finalize("success")
    assert column(logger.path, "step") == ["0", "1", "2", "3", "4"]


def test_resume_keeps_rows_and_rewind_drops_the_later_ones(tmp_path: Path) -> None:
    first = MetricsCSV(tmp_path)
    for step in range(6):
        first.log_metrics({"loss": float(step), "epoch": step // 2}, step)
    first.save()

    second = MetricsCSV(tmp_path)
    second.rewind(3)
    assert column(second.path, "step") == ["0", "1", "2", "3"]
    second.log_metrics({"lr": 0.1}, 4)
    second.log_metrics({"loss": 9.0}, None)
    second.save()
    assert column(second.path, "loss") == ["0.0", "1.0", "2.0", "3.0", "", "9.0"]
    assert column(second.path, "step") == ["0", "1", "2", "3", "4", "5"]
    assert column(second.path, "epoch") == ["0", "0", "1", "1", "", ""]


def test_rewind_of_a_new_run_writes_nothing(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).rewind(0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tail", ["2,0,0.", "2,0,0.5", "2,0\n", "2,0,0.5.1\n", "2", ",,\n"])
def test_damaged_last_line_is_dropped_and_said(tmp_path: Path, tail: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.csv").write_text("step,epoch,loss\n0,0,0.1\n1,0,0.2\n" + tail)
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 0.7}, 2)
    logger.save()
    assert logger.path.read_text() == "step,epoch,loss\n0,0,0.1\n1,0,0.2\n2,,0.7\n"
    assert "skipped 1 unreadable line" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"step,epoch,loss\n0,0,0.1\n\0\0\0\0\n"])
def test_a_damaged_file_is_kept_and_said(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 0.7}, 2)
    logger.save()
    assert column(logger.path, "loss") == (["0.1", "0.7"] if b"step" in content else ["0.7"])
    assert (tmp_path / "metrics.damaged.csv").read_bytes() == content
    assert "metrics.csv: is damaged: kept as metrics.damaged.csv" in caplog.text


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("name,value\na,1\n")
    with pytest.raises(InputError, match=r"metrics\.csv: is no metrics file of this suite .*: move it away"):
        MetricsCSV(tmp_path).log_metrics({"loss": 1.0}, 0)
    assert (tmp_path / "metrics.csv").read_text() == "name,value\na,1\n"


def test_sigkill_leaves_a_readable_file(tmp_path: Path) -> None:
    script = """
        from itertools import count
        from pathlib import Path
        from lightning_modules.loggers.csv import MetricsCSV

        logger = MetricsCSV(Path("run"))
        for step in count():
            logger.log_metrics({"loss": 1 / (step + 1), f"metric{step // 40}": step}, step)
            logger.save()
            logger.log_metrics({"loss": 1.0}, step)
            logger.save()
        """
    path = tmp_path / "run" / "metrics.csv"
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    try:
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < 150:
            assert time.monotonic() < deadline, "the process logged nothing"
            assert process.poll() is None, "the process ended by itself"
            time.sleep(0.01)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL

    text = path.read_text()
    complete = text[: text.rindex("\n") + 1]
    header, *lines = list(csv.reader(io.StringIO(complete)))
    assert len(lines) > 100
    assert {len(line) for line in lines} == {len(header)}
    resumed = MetricsCSV(tmp_path / "run")
    resumed.log_metrics({"loss": 1.0}, 10**6)
    resumed.save()
    steps = [int(step) for step in column(path, "step")]
    assert steps == [*range(len(steps) - 1), 10**6]


class Tiny(pl.LightningModule):
    def __init__(self, attempt: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.attempt = attempt

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        self.log_dict({"train/loss": loss, "attempt": float(self.attempt)})
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val/mean", self.layer(batch[0]).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # of the checkpoints: on purpose
def test_trainer_writes_each_step_once_also_when_resumed(tmp_path: Path) -> None:
    def fit(attempt: int, epochs: int, checkpoint: Path | None) -> str:
        logger = MetricsCSV(tmp_path)
        if checkpoint:
            logger.rewind(torch.load(checkpoint)["global_step"])
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=logger,
            log_every_n_steps=1,
            callbacks=[ModelCheckpoint(tmp_path / f"attempt{attempt}", save_top_k=-1, filename="{epoch}")],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader(TensorDataset(torch.randn(8, 2)), batch_size=2)
        trainer.fit(Tiny(attempt), data, data, ckpt_path=checkpoint)
        return logger.path.read_text()

    before = fit(attempt=1, epochs=2, checkpoint=None).splitlines()
    after = fit(attempt=2, epochs=3, checkpoint=tmp_path / "attempt1" / "epoch=0.ckpt").splitlines()
    table = rows(tmp_path / "metrics.csv")
    assert [int(row["step"]) for row in table] == list(range(12))
    assert [row["attempt"] for row in table] == ["1.0"] * 4 + ["2.0"] * 8
    assert [row["epoch"] for row in table] == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    assert [row["step"] for row in table if row["val/mean"]] == ["3", "7", "11"]
    assert after[:5] == before[:5], "the rows before the checkpoint changed"


def test_only_rank_zero_writes_and_starts_a_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.rewind(0)
    logger.finalize("success")
    names = {"run_id": "aaa", "name": "n", "project": "p", "job_type": "train"}
    other = wandb_logger(tmp_path, **names, group=None, tags=[], config={})
    other.log_hyperparams({"lr": 1.0})
    assert where_line(other) == ""
    finish(other, 0)
    assert not list(tmp_path.iterdir())


def test_loggers_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    finish(MetricsCSV(tmp_path), 0)
    assert where_line(CSVLogger(tmp_path)) == ""
