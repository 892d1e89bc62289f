"""Runs of MLflow: in a file of this disk, which needs no server, or on a server."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError
from lightning_modules.loggers.recorder import Recorder, require
from lightning_modules.loggers.wandb import rank_zero

require("mlflow")

log = logging.getLogger(__name__)
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it would tell of the tables of a new file
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take minutes, of a dead server
_IDENTITY = "deblur_sr.id"  # the tag by which a run is found again
_SQLITE = "sqlite:///"


def mlflow_logger(
    run_dir: Path,
    *,
    run_id: str,
    name: str,
    group: str | None,
    job_type: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    experiment: str,
    file: Path,
    tracking_uri: str | None = None,
    first_step: int = 0,
) -> Logger:
    """Start a run of MLflow or, for a known `run_id`, continue it. Processes but the first get a logger of nothing.

    Args:
        run_dir: folder of the run.
        run_id: of the run folder, by which MLflow's run is found again.
        group, job_type, tags: become tags of the run.
        config: of the experiment, plain; its values become the parameters of a new run.
        experiment: of MLflow, which holds the runs.
        file: SQLite's, of all runs, where there is no server; pictures and files are in the folder beside it.
        tracking_uri: of a server; None: that of the environment, MLFLOW_TRACKING_URI, if there is one.
        first_step: of no matter: MLflow takes nothing back, and what is trained again has the same values.

    Raises:
        InputError: if the file or the server cannot be used.
    """
    if not rank_zero():
        return DummyLogger()
    from mlflow import MlflowClient

    # Not in the config, which is saved and logged: the address of a server may hold a password.
    uri, files = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), None
    with _usable(uri or str(file)), contextlib.ExitStack() as until_open:
        if not uri:
            file = Path(file).absolute()
            file.parent.mkdir(parents=True, exist_ok=True)
            uri, files = f"{_SQLITE}{file}", file.with_suffix("").as_uri()
            until_open.enter_context(FileLock(file.with_suffix(".lock")))  # one job of a sweep makes the tables
        client = MlflowClient(uri)
        known = client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else client.create_experiment(experiment, files)
        runs = client.search_runs([number], f"tags.`{_IDENTITY}` = '{run_id}'")
        about = {_IDENTITY: run_id, "job_type": job_type, "group": group or "", "tags": ", ".join(tags)}
        run = runs[0] if runs else client.create_run(number, tags=about, run_name=name)
        logger = MLflowRecorder(experiment, tracking_uri=uri, run_id=run.info.run_id)
        if runs:
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            logger.log_hyperparams(dict(config))
    return logger


@contextlib.contextmanager
def _usable(place: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise InputError(
            f"logger.mlflow: {_shown(place)} cannot be used ({_reason(error)}): start a server there, or give another "
            "logger.mlflow.tracking_uri= or logger.mlflow.file="
        ) from error


def _shown(uri: str) -> str:
    return re.sub("//[^/@]*@", "//", uri)


def _reason(error: Exception) -> str:
    return _shown(" ".join(str(error).split()))[:300]


class MLflowRecorder(MLFlowLogger, Recorder):
    """Lightning's logger with pictures and files. A server that is lost ends the logging, not the training."""

    lost = False

    @contextlib.contextmanager
    def _may_be_lost(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            self.lost = True
            log.warning(
                "MLflow at %s takes no more (%s); metrics.csv and results.json of the run have it all",
                _shown(self._tracking_uri),
                _reason(error),
            )

    def where(self) -> str:
        uri = self._tracking_uri
        if uri.startswith(_SQLITE):
            return f"MLflow: {uri}  To look at all runs: mlflow ui --backend-store-uri {shlex.quote(uri)}"
        return f"MLflow: {_shown(uri)}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.lost:
            with self._may_be_lost():
                super().log_metrics({_allowed(name): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Image.Image], step: int | None = None) -> None:
        for picture in images if not self.lost else ():
            with self._may_be_lost():
                self.experiment.log_image(self.run_id, picture, key=_allowed(key), step=step)

    def log_results(
        self, values: Mapping[str, float], files: Mapping[str, Path], config: Mapping[str, Any], step: int
    ) -> None:
        self.log_metrics(values, step)
        for name, path in files.items() if not self.lost else ():
            with self._may_be_lost():
                self.experiment.log_artifact(self.run_id, str(path), os.path.dirname(name) or None)

    def finalize(self, status: str = "success") -> None:
        """Lightning calls this when the training ends, and the test is still to come: `finish` does it."""

    def finish(self, exit_code: int) -> None:
        if not self.lost:
            with self._may_be_lost():
                self.experiment.set_terminated(self.run_id, "FAILED" if exit_code else "FINISHED")


def _allowed(name: str) -> str:
    """A name of a metric or picture as MLflow takes it."""
    return re.sub("[^a-zA-Z0-9_/. -]+", "_", name)
