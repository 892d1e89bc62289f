"""TensorBoard and MLflow, several at once: a training that is continued, read back by their own readers."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from experiments.results import loggers
from tests.conftest import Outcome, photograph

LOGGERS = "logger=[tensorboard,mlflow]"
Cli = Callable[..., Outcome]


def start(folder: Path, *overrides: str) -> Outcome:
    """`python run.py` in a folder, of a network of four channels on photographs that are there."""
    import run

    tiny = [
        *("data=folder", f"data.root={folder / 'photographs'}", "data.patch=32", "data.batch_size=2"),
        *("data.samples_per_epoch=4", "data.num_workers=0", "model.widths=[4,4,4,4]", "model.n_units=1"),
        *("trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "name=tiny", "pictures=none"),
    ]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("DEBLUR_SR_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["run.py", *tiny, *overrides])
        try:
            status = run.main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


@dataclass
class Logged:
    """A run of three epochs of two steps, the second of them trained twice, and what stands in its files."""

    run: Path
    err: str

    def column(self, name: str) -> dict[int, float]:
        """The values of metrics.csv by their steps."""
        with (self.run / "metrics.csv").open() as file:
            return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}

    def results(self) -> dict[str, float]:
        """test/DATASET/psnr/PROTOCOL/MODEL -> the mean, of results.json."""
        records = json.loads((self.run / "results.json").read_text())["records"]
        return {f"test/photographs/psnr/{r['protocol']['name']}/{r['model']}": r["psnr"] for r in records}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    if not all(map(find_spec, ("tensorboard", "mlflow"))):  # not imported: MLflow has to be told to be quiet before
        pytest.skip("needs the extras tensorboard and mlflow")
    folder = tmp_path_factory.mktemp("logged")
    (folder / "photographs").mkdir()
    for i in range(4):
        Image.fromarray(photograph(64, 72, i)).save(folder / "photographs" / f"image{i}.png")
    first = start(folder, LOGGERS, "trainer.max_epochs=1")
    assert first.status == 0, first.err
    checkpoints, kept = folder / "runs" / "tiny" / "checkpoints", folder / "kept"
    shutil.copytree(checkpoints, kept)
    for epochs in (2, 3):
        shutil.copytree(kept, checkpoints, dirs_exist_ok=True)  # as after a kill before the next ones were written
        again = start(folder, LOGGERS, f"trainer.max_epochs={epochs}", "resume=auto")
        assert again.status == 0, again.err
    return Logged(folder / "runs" / "tiny", first.err)


@pytest.fixture(scope="module")
def events(logged: Logged) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(logged.run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


@pytest.fixture(scope="module")
def client(logged: Logged) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{logged.run.parent / 'mlflow.db'}")


@pytest.fixture(scope="module")
def mlflow_run(client: Any) -> Any:
    """The only run there is."""
    (experiment,) = [e for e in client.search_experiments() if e.name == "deblur-sr"]
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_tensorboard_has_the_curves_of_both_parts(logged: Logged, events: Any) -> None:
    for name in ("train/loss", "val/psnr/y_shave4"):
        written = {event.step: event.value for event in events.Scalars(name)}
        assert written == pytest.approx(logged.column(name), rel=1e-6), name
        assert len(events.Scalars(name)) == len(written), f"{name}: a step is there twice"
    assert max(logged.column("train/loss")) == 5, "the second part is missing"


def test_tensorboard_has_the_pictures_of_every_validation(events: Any) -> None:
    tags = events.Tags()["images"]
    assert tags
    assert all(tag.startswith("val/image") for tag in tags)
    for tag in tags:
        pictures = events.Images(tag)
        assert [picture.step for picture in pictures] == [1, 3, 5]
        assert Image.open(io.BytesIO(pictures[0].encoded_image_string)).width > 200


def test_tensorboard_has_the_test_beside_the_configuration(logged: Logged, events: Any) -> None:
    assert logged.results()
    for name, value in logged.results().items():
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6)
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert "widths" in (logged.run / "tensorboard" / "hparams.yaml").read_text()


def test_mlflow_goes_on_in_the_same_run(logged: Logged, client: Any, mlflow_run: Any) -> None:
    assert (mlflow_run.info.run_name, mlflow_run.info.status) == ("tiny", "FINISHED")
    for name in ("train/loss", "val/psnr/y_shave4"):
        written = {m.step: m.value for m in client.get_metric_history(mlflow_run.info.run_id, name)}
        assert written == pytest.approx(logged.column(name), rel=1e-6), name
    assert mlflow_run.data.params["model/widths"] == "[4, 4, 4, 4]"
    assert mlflow_run.data.tags["job_type"] == "train"


def test_mlflow_has_results_files_and_pictures(logged: Logged, client: Any, mlflow_run: Any) -> None:
    for name, value in logged.results().items():
        assert mlflow_run.data.metrics[name] == pytest.approx(value)
    artifacts = {artifact.path for artifact in client.list_artifacts(mlflow_run.info.run_id)}
    assert {"results.json", "config.yaml", "meta.json", "metrics.csv", "images"} <= artifacts
    pictures = [artifact.path for artifact in client.list_artifacts(mlflow_run.info.run_id, "images")]
    parts = [path.split("+") for path in pictures if path.endswith(".png")]
    assert {step for _, _, step, *_ in parts} == {"2", "4", "6"}, "the pictures of a validation are missing"
    assert Path(mlflow_run.info.artifact_uri.removeprefix("file://")).is_relative_to(logged.run.parent / "mlflow")


def test_the_user_is_told_where_it_is(logged: Logged) -> None:
    assert f"TensorBoard: {Path('runs/tiny/tensorboard')}" in logged.err
    assert "tensorboard --logdir runs\n" in logged.err
    assert f"mlflow ui --backend-store-uri sqlite:///{logged.run.parent / 'mlflow.db'}" in logged.err
    # The tables of a new file, say, or that an experiment of this name is not there yet.
    foreign = [line for line in logged.err.splitlines() if "mlflow" in line.lower() and not line.startswith("MLflow: ")]
    assert not foreign, "MLflow or Lightning said something of its own"


def test_an_evaluation_is_a_run_of_its_own(logged: Logged, client: Any, mlflow_run: Any) -> None:
    overrides = ("task=evaluate", "run=runs/tiny", "logger=mlflow", "name=null")
    outcome = start(logged.run.parents[1], *overrides)
    assert outcome.status == 0, outcome.err
    runs = client.search_runs([mlflow_run.info.experiment_id], "tags.job_type = 'evaluate'")
    assert [run.info.run_name for run in runs] == ["tiny on photographs"]
    for name, value in logged.results().items():
        assert runs[0].data.metrics[name] == pytest.approx(value)


def test_a_dead_server_is_named_before_the_training(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = "http://user:secret@127.0.0.1:9"
    overrides = ("logger=mlflow", f"logger.mlflow.tracking_uri={server}", "name=dead", "trainer.max_epochs=1")
    outcome = start(logged.run.parents[1], *overrides)
    assert outcome.status == 1
    assert "logger.mlflow: http://127.0.0.1:9 cannot be used (" in outcome.err.splitlines()[-1]
    assert "secret" not in outcome.err


def test_a_server_that_is_lost_does_not_end_the_training(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    if not find_spec("mlflow"):
        pytest.skip("needs the extra mlflow")
    from lightning_modules.loggers.mlflow import MLflowRecorder

    class Lost(MLflowRecorder):
        asked = 0

        @property
        def experiment(self) -> Any:
            self.asked += 1
            raise ConnectionError("gone")

    logger = Lost("e", tracking_uri="http://user:secret@host", run_id="r")
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"a": 2.0}, 1)
    logger.log_image("a", [Image.new("RGB", (4, 4))], 1)
    logger.log_results({"a": 1.0}, {"f": tmp_path / "f"}, {}, 2)
    logger.finish(0)
    assert logger.asked == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("MLflow at http://host takes no more (gone)")


def test_every_logger_of_an_evaluation_is_closed_where_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = []

    def log_it(logger: str) -> None:
        if logger == "b":
            raise OSError("gone")

    chosen = OmegaConf.create({"overrides": {"task": ["logger=[a,b,c]"]}})
    monkeypatch.setattr(loggers.HydraConfig, "get", lambda: chosen)
    monkeypatch.setattr(loggers, "start_loggers", lambda *_, **__: ["a", "b", "c"])
    monkeypatch.setattr(loggers, "finish", lambda *ended: closed.append(ended))
    with pytest.raises(OSError, match="gone"):
        loggers._job(OmegaConf.create({}), tmp_path, log_it, [])
    assert closed == [("a", 1), ("b", 1), ("c", 1)]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_any_data_is_read(
    cli: Cli, tiny: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from lightning_modules.loggers import recorder

    real = recorder.find_spec
    monkeypatch.setattr(recorder, "find_spec", lambda package: None if package == name else real(package))
    monkeypatch.delitem(sys.modules, f"lightning_modules.loggers.{name}", raising=False)
    monkeypatch.delattr(f"lightning_modules.loggers.{name}", raising=False)
    outcome = cli(*tiny, f"logger=[csv,{name}]")
    assert outcome.status == 2
    assert outcome.err == (
        f"logger.{name}._target_ (conf/logger/): needs {name}, which is not installed: "
        f"pip install -c constraints.txt -e '.[{name}]'\n"
    )


@pytest.mark.parametrize("choice", ["csv", "none", "[]"])
def test_metrics_csv_is_written_without_other_loggers(cli: Cli, tiny: list[str], tmp_path: Path, choice: str) -> None:
    outcome = cli(*tiny, f"logger={choice}", "trainer.max_epochs=1", "pictures=none")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs" / "tiny"
    assert (run / "metrics.csv").read_text().count("\n") > 1
    assert not {"wandb", "tensorboard"} & {path.name for path in run.iterdir()}
