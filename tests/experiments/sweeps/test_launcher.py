"""Sweeps: what is finished is skipped, a failure leaves the others alone, a signal ends all, a table tells."""

import csv
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from experiments.sweeps.table import Row, job_table, read_row, score_of_finished
from tests.conftest import Outcome
from tests.experiments.conftest import Trained
from tests.helpers.results import read_records

Cli = Callable[..., Outcome]
HERE = "tests.experiments.sweeps.test_launcher"


class Break(pl.Callback):
    """A fault of the program in the second step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            raise RuntimeError("out of\nluck")


class Signal(pl.Callback):
    """Sends this process a signal in the second step, once."""

    def __init__(self, number: int, marker: str) -> None:
        self.number, self.marker = number, Path(marker)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.number)


class Linger(pl.Callback):
    """Says that the second step has come, and waits there until a signal arrives or the test is gone."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            parent = os.getppid()
            (self.folder / f"there-{os.getpid()}").touch()
            while os.getppid() == parent and not any(getattr(c, "received", None) for c in trainer.callbacks):  # type: ignore[attr-defined]
                time.sleep(0.01)


@pytest.fixture
def quick(tiny: list[str]) -> list[str]:
    """Trainings of one epoch with four steps, without a name."""
    return [item for item in tiny if not item.startswith(("name", "trainer.max_epochs"))] + ["trainer.max_epochs=1"]


def table(folder: Path) -> dict[str, dict[str, str]]:
    """The lines of the one sweep.csv, by run."""
    (file,) = (folder / "runs" / "multirun").glob("*/sweep.csv")
    with file.open() as text:
        return {row["run"]: row for row in csv.DictReader(text)}


def states(folder: Path) -> dict[str, str]:
    return {run: row["state"] for run, row in table(folder).items()}


@pytest.mark.slow
def test_finished_jobs_are_skipped(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    command = ["-m", *quick, "name=a,b,a", "resume=auto"]
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("epoch 1/1") == 2  # the second `a` is the first
    found = table(tmp_path)
    assert list(found) == ["a", "b"]
    for name, row in found.items():
        run = tmp_path / "runs" / name
        assert (row["overrides"], row["state"], row["message"]) == (f"name={name}", "done", "")
        assert float(row["best_val_psnr"]) == json.loads((run / "meta.json").read_text())["finished"]["score"]
        assert float(row["minutes"]) > 0
        (record,) = (
            r
            for r in read_records(run / "results.json")
            if (r["protocol"]["name"], r["model"], r["branch"]) == ("rgb_shave4", "ed_dsrn", "sr")
        )
        assert float(row["test/psnr/rgb_shave4"]) == record["psnr"]
    (printed,) = (line for line in outcome.out.splitlines() if line.startswith("name=b"))
    assert f"{float(found['b']['best_val_psnr']):.2f}" in printed.split()
    assert "| name=b |" in next((tmp_path / "runs" / "multirun").glob("*/sweep.md")).read_text()

    # As a kill in the test at the end leaves it.
    (tmp_path / "runs" / "b" / "results.json").unlink()
    before = (tmp_path / "runs" / "a" / "meta.json").read_bytes()
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("finished already: runs/a\n") == 2
    assert "finished already: runs/b" not in outcome.out
    assert (tmp_path / "runs" / "a" / "meta.json").read_bytes() == before
    again = table(tmp_path)
    assert [{**row, "minutes": ""} for row in again.values()] == [{**row, "minutes": ""} for row in found.values()]


def changed(cfg: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {**cfg, first: changed(cfg[first], rest, value) if rest else value}


def test_what_counts_as_finished(trained: Trained, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    run = runs / "tiny"
    cfg = yaml.safe_load((run / "config.yaml").read_text())
    best = max(float(row["val/psnr/y_shave4"] or 0) for row in csv.DictReader((run / "metrics.csv").open()))
    assert score_of_finished(cfg) == pytest.approx(best, abs=1e-6)
    for path, value in (("data.num_workers", 3), ("trainer.accelerator", "gpu"), ("resume", "auto"), ("logger", {})):
        assert score_of_finished(changed(cfg, path, value)) is not None, path
    for path, value in (
        ("trainer.max_epochs", 3),
        ("trainer.precision", "bf16-mixed"),
        ("optimizer.lr", 1.0),
        ("data.batch_size", 1),
        ("protocol", {}),
        ("metric", {"niqe": {}}),
        ("seed", 5),
    ):
        assert score_of_finished(changed(cfg, path, value)) is None, path
    # Runs of before have saved the keys of all tasks.
    (run / "config.yaml").write_text(yaml.safe_dump({**cfg, "run": None, "input": None, "self_ensemble": False}))
    assert score_of_finished(cfg) == pytest.approx(best, abs=1e-6)
    own = read_row(cfg, "", "", trains=True).test
    content = json.loads((run / "results.json").read_text())
    later = [{**record, "dataset": "set5", "psnr": 1.0} for record in content["records"]]
    (run / "results.json").write_text(json.dumps({**content, "records": content["records"] + later}))
    meta = json.loads((run / "meta.json").read_text())
    for keys in ({"test"}, {"test", "checkpoint_sha256"}, set()):  # of earlier versions, and this one
        kept = {key: value for key, value in meta["finished"].items() if key not in keys}
        (run / "meta.json").write_text(json.dumps({**meta, "finished": kept}))
        assert read_row(cfg, "", "", trains=True).test == ({} if "checkpoint_sha256" in keys else own)
    assert own["y_shave4"]["psnr"] > 1
    row = read_row(changed(cfg, "trainer.max_epochs", 3), "", "", trains=True)
    assert (row.state, row.test) == ("unfinished", {})
    assert row.best == pytest.approx(best)
    (run / "results.json").unlink()
    assert score_of_finished(cfg) is None


def test_run_that_goes_on_is_no_longer_finished(runs: Path) -> None:
    from experiments.runtime.run_folder import open_run

    run = runs / "tiny"
    open_run(run, yaml.safe_load((run / "config.yaml").read_text()), "auto")
    assert "finished" not in json.loads((run / "meta.json").read_text())


@pytest.mark.slow
def test_failures_leave_the_others_alone(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    changes = [
        f"+callbacks.bad={{_target_:{HERE}.Break}} name=bug",
        "model.pooling=nonsense name=mistake",
        "data.root=nowhere name=nothing",
    ]
    options = ["hydra/sweeper=one_by_one", f"hydra.sweeper.changes={json.dumps(changes)}"]
    # One after the other, in batches, the failing ones between: the last change repeats what works.
    outcome = cli("-m", *quick, "name=fine", *options, "hydra.sweeper.max_batch_size=1")
    assert outcome.status == 1
    assert states(tmp_path) == {"fine": "done", "bug": "failed", "mistake": "failed", "nothing": "failed"}
    assert table(tmp_path)["bug"]["message"] == "RuntimeError: out of luck"
    assert "Traceback" in outcome.err  # a fault of the program is shown where it is
    assert outcome.err.count("model.pooling: found 'nonsense'") == 1
    assert outcome.err.endswith("3 of 4 jobs failed\n")
    assert "bug: RuntimeError: out of luck" in outcome.out


@pytest.mark.slow
def test_sweep_of_mistakes_exits_as_one(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    assert cli("-m", *quick, "model.pooling=one,two").status == 2
    assert list(states(tmp_path).values()) == ["failed", "failed"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_sweep(cli: Cli, quick: list[str], tmp_path: Path, number: int, status: int) -> None:
    node = f"+callbacks.signal={{_target_:{HERE}.Signal,number:{int(number)},marker:{tmp_path}/sent}}"
    command = ["-m", *quick, node, "name=a,b", "resume=auto"]
    outcome = cli(*command)
    assert outcome.status == status, outcome.err
    assert states(tmp_path) == {"a": "unfinished", "b": "unfinished"}
    assert not (tmp_path / "runs" / "b").exists()
    assert outcome.err.endswith("the same command with resume=auto continues the sweep\n")
    assert "Traceback" not in outcome.err
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert "continuing runs/a after step 2" in outcome.err
    assert states(tmp_path) == {"a": "done", "b": "done"}


@pytest.mark.slow
def test_ctrl_c_with_jobs_side_by_side(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    """Both running jobs write their checkpoints, the third never begins, no process is left."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

    def press(there: Path = tmp_path) -> None:
        for _ in range(2000):
            if len(list(there.glob("there-*"))) == 2:
                return os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    node = f"+callbacks.linger={{_target_:{HERE}.Linger,folder:{tmp_path}}}"
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=press)
    thread.start()
    workers = "data.num_workers=1"  # as in every experiment, and not the method of joblib
    outcome = cli("-m", *quick, workers, node, "name=a,b,c", "resume=auto", "hydra/launcher=joblib")
    thread.join()
    assert outcome.status == 130, outcome.err
    assert signal.getsignal(signal.SIGINT) is before
    assert states(tmp_path) == {"a": "unfinished", "b": "unfinished", "c": "unfinished"}
    for name in "ab":
        checkpoint = torch.load(tmp_path / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 2
    assert not (tmp_path / "runs" / "c").exists()
    assert not list((tmp_path / "runs").rglob(".stop-*"))
    assert "DEBLUR_SR_STOP_FILE" not in os.environ


@pytest.mark.slow
def test_search_continues_without_a_storage(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    command = ["-m", *quick, "hydra/sweeper=optuna", "optimizer.lr=tag(log, interval(1e-4, 1e-2))", "resume=auto"]
    outcome = cli(*command, "hydra.sweeper.n_trials=2")
    assert outcome.status == 0, outcome.err
    first = table(tmp_path)
    assert len({row["overrides"] for row in first.values()}) == 2
    outcome = cli(*command, "hydra.sweeper.n_trials=3")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("finished already") == 2
    then = table(tmp_path)
    assert list(then)[:2] == list(first)
    assert len(then) == 3
    (best,) = (tmp_path / "runs" / "multirun").glob("*/optimization_results.yaml")
    scores = [float(row["best_val_psnr"]) for row in then.values()]
    assert yaml.safe_load(best.read_text())["best_value"] == max(scores)


def test_trial_that_fails_does_not_end_a_search(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    outcome = cli("-m", *quick, "hydra/sweeper=optuna", "model.pooling=one,two", "hydra.sweeper.n_trials=2")
    assert outcome.status == 2
    assert outcome.err.endswith("2 of 2 jobs failed\n")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("option", "module", "package"),
    [
        ("hydra/sweeper=optuna", "hydra_plugins.hydra_optuna_sweeper._impl", "hydra-optuna-sweeper"),
        ("hydra/launcher=joblib", "hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher"),
    ],
)
def test_plugin_that_is_missing(
    cli: Cli, quick: list[str], monkeypatch: pytest.MonkeyPatch, option: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    outcome = cli("-m", *quick, option, "seed=1,2")
    assert outcome.status == 2
    assert (
        outcome.err == f"{option}: its package {package} is not installed: pip install -c constraints.txt {package}\n"
    )


@pytest.mark.slow
def test_sweep_of_another_task_has_a_table_too(cli: Cli, runs: Path, tmp_path: Path) -> None:
    outcome = cli("-m", "task=evaluate", "run=runs/tiny,runs/none", "logger=none", "trainer.accelerator=cpu")
    assert outcome.status == 1
    (file,) = (runs / "multirun").glob("*/sweep.csv")
    with file.open() as text:
        assert [(row["overrides"], row["state"]) for row in csv.DictReader(text)] == [
            ("run=runs/tiny", "done"),
            ("run=runs/none", "failed"),
        ]


def test_columns_that_nobody_fills_are_left_out() -> None:
    table = job_table([Row("a", "seed=1", "unfinished", 20.0), Row("b", "seed=2", "failed", message="no")], [])
    assert [column.title for column in table.columns] == ["overrides", "best val dB", "state", "run"]
    cells = [[cell.text for cell in row] for row in table.rows]
    assert cells == [["seed=1", "20.00", "unfinished", "a"], ["seed=2", "-", "failed", "b"]]
    assert table.notes == ["b: no"]


def test_best_of_the_last_stage(tmp_path: Path) -> None:
    lines = ["step,epoch,train/stage,val/psnr/y,speed/minutes", "1,0,0.0,,", "2,0,,30.0,1.5", "3,1,1.0,,"]
    (tmp_path / "metrics.csv").write_text("\n".join([*lines, "4,1,,25.0,3.0", "5,2,,24.0,4.5", "6,3,,oops"]))
    row = read_row({"run_dir": str(tmp_path), "name": "x"}, "", "", trains=True)
    assert (row.best, row.minutes, row.state) == (25.0, 4.5, "unfinished")


@pytest.mark.slow
def test_different_jobs_of_one_name_are_refused(cli: Cli, quick: list[str], tmp_path: Path) -> None:
    outcome = cli("-m", *quick, "name=same", "seed=1,2")
    assert outcome.status == 2
    assert "runs/same: two different jobs of this sweep would train in this folder" in outcome.err
    assert not (tmp_path / "runs" / "same").exists()
