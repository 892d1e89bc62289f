"""Runs of Weights & Biases: where and how one starts, what it says of itself, how it ends.

W&B is online when the machine has an API key and offline otherwise; `metrics.csv` is written in any case, so
neither a dead server nor a killed job loses a curve.
"""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from datamodules.errors import InputError
from lightning_modules.loggers.agents import agent_trial

log = logging.getLogger(__name__)
STEP = "trainer/global_step"  # the x axis of every curve
LONGEST_TAG = 64  # W&B refuses a run with a longer one
_USERS_DATA_DIR = os.environ.get("WANDB_DATA_DIR")


def wandb_logger(
    run_dir: Path,
    *,
    run_id: str,
    name: str,
    project: str,
    group: str | None,
    job_type: str,
    tags: Sequence[str],
    config: dict[str, Any],
    entity: str | None = None,
    first_step: int = 0,
) -> WandbLogger:
    """Start (or, for a known `run_id`, continue) a W&B run; without a usable server it is recorded offline.

    It starts here and not at the first number, so that a wrong key or a dead server shows at once. Under an agent of a
    W&B sweep, id, project and entity are those of the sweep.

    Args:
        run_dir: folder of the run; W&B's own files go into `wandb/` there.
        group: of runs that belong together in W&B's table, such as the seeds of a setting.
        job_type: train, evaluate, compare or preview.
        tags: those longer than W&B takes are cut.
        first_step: of no matter: W&B takes nothing back, and what is trained again has the same values.
    """
    folder = Path(run_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run = None
    if rank_zero():
        about: dict[str, Any] = {"name": name, "group": group, "job_type": job_type, "config": config}
        about |= {"dir": str(folder), "tags": list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags))}
        if agent_trial() is None:
            about |= {"id": run_id, "project": project, "entity": entity}
        # What is to be uploaded waits in the folder of the run, not in the user's home: it may be synced elsewhere.
        os.environ["WANDB_DATA_DIR"] = _USERS_DATA_DIR or str(folder / "wandb")
        run = _start(_wandb(), about)
    return WandbLogger(experiment=run, id=run_id, name=name, project=project, save_dir=folder)


def keep_best(logger: Logger, highest: Iterable[str], lowest: Iterable[str]) -> None:
    """Have W&B's table of runs show the best value of these metrics (as `NAME.max`, `NAME.min`), not the last one.

    Names in full: where several patterns match a metric, the client takes any of them.
    """
    if isinstance(logger, WandbLogger) and rank_zero():
        for kind, names in (("max", highest), ("min", lowest)):
            for name in names:
                logger.experiment.define_metric(name, summary=kind, step_metric=STEP, step_sync=True)


def _start(wandb: Any, about: dict[str, Any]) -> Any:
    if wandb.run is not None:
        log.warning("W&B run %s was still open and is closed now.", wandb.run.id)
        _close(wandb.run, None)  # wandb.init would continue it
    mode, server = _mode(wandb), wandb.setup().settings.base_url
    try:
        run = wandb.init(**about, resume="allow", mode=mode, settings=_settings(wandb, mode))
    except wandb.Error as error:
        if mode in ("offline", "disabled"):
            raise
        wandb.teardown()  # W&B's service process still holds the run id of the failed attempt
        run = wandb.init(**about, resume="allow", mode="offline", settings=_settings(wandb, "offline"))
        reason = " ".join(str(error).split())
        log.warning("W&B server %s is not usable (%s); recording offline. %s", server, reason, _sync_line(run))
    # W&B's own step counter would restart at 0 in an offline run that is resumed.
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def where_line(logger: Logger) -> str:
    """One line that tells the user where the numbers of a W&B run are; empty for other loggers."""
    if not isinstance(logger, WandbLogger) or not rank_zero():
        return ""
    run = logger.experiment
    if getattr(run, "disabled", False):
        return "W&B: disabled by WANDB_MODE"
    if not run.offline:
        return f"W&B: {run.url}"
    return _sync_line(run)


def _sync_line(run: Any) -> str:
    # Each resume of an offline run adds a folder; they belong to one run and are uploaded in the order of their names.
    folder = Path(run.settings.sync_dir).resolve()
    pending = [p for p in folder.parent.glob(f"offline-run-*-{run.id}") if not any(p.glob("*.synced"))]
    paths = shlex.join(str(p) for p in sorted({folder, *pending}))
    return f"W&B offline: {folder}  To upload: wandb sync {paths}"


def finish(logger: Logger, exit_code: int) -> None:
    """Close a W&B run, so that the next job of a sweep in this process starts its own. Never raises."""
    if isinstance(logger, WandbLogger) and rank_zero():
        _close(logger.experiment, exit_code)


def mark_preempting(logger: Logger) -> None:
    """Tell W&B that the machine takes its place back, so that the run counts as preempted. Never raises."""
    if isinstance(logger, WandbLogger) and rank_zero():
        try:
            logger.experiment.mark_preempting()
        except Exception as error:  # the checkpoint is written; whatever W&B has to say must not stop the requeueing
            log.warning("W&B could not be told of the preemption (%s).", error)


def _close(run: Any, exit_code: int | None) -> None:
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:  # the training's own result or error matters more than anything W&B has to say
        log.warning("W&B could not close its run (%s); the data on disk can still be uploaded.", error)
        with contextlib.suppress(Exception):
            _wandb().teardown(exit_code=exit_code)  # makes W&B forget the run, or the next job would log into it


def rank_zero() -> bool:
    """Whether this process is the one that has a W&B run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _wandb() -> Any:
    """W&B, imported late because that takes about a second; its crash reports to a third party are switched off."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def api_or_refuse(purpose: str) -> Any:
    """The client that reads runs back from the server of W&B.

    Args:
        purpose: what needs it, for the message: "wandb=ENTITY/PROJECT".

    Raises:
        InputError: one line, if W&B is offline here or its server cannot be used.
    """
    wandb = _wandb()
    server = wandb.setup().settings.base_url
    if (mode := _mode(wandb)) not in ("online", "shared"):
        wish = " by WANDB_MODE" if os.environ.get("WANDB_MODE") else f": there is no API key for {server}"
        raise InputError(
            f"{purpose}: W&B is {mode}{wish}: log in with `wandb login`, or give run folders of this machine instead"
        )
    try:
        api = wandb.Api(timeout=round(float(os.environ.get("WANDB_INIT_TIMEOUT", 30))))
        _ = api.viewer  # the first question to the server
    except Exception as error:  # requests', wandb's and its service's own, with no base in common
        reason = " ".join(str(error).split())
        raise InputError(
            f"{purpose}: W&B server {server} is not usable ({reason}): "
            "try later, or give run folders of this machine instead"
        ) from error
    return api


def _mode(wandb: Any) -> str:
    """An explicit wish wins (environment, or `wandb offline` in this folder); otherwise a key means online."""
    settings = wandb.setup().settings
    if wish := os.environ.get("WANDB_MODE", "").lower() or (settings.mode != "online" and settings.mode):
        return {"dryrun": "offline", "run": "online"}.get(wish, wish)
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "online"
    return "online" if _key_in_netrc(urlsplit(settings.base_url).netloc) else "offline"


def _key_in_netrc(server: str) -> bool:
    """Whether `wandb login` left a key for this server."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        machines = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    # The public service moved; a login from before the move is filed under its old name and is still valid.
    return server in machines or (server.endswith(".coreweave.com") and "api.wandb.ai" in machines)


def _settings(wandb: Any, mode: str) -> Any:
    """The choices made for every run; WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT (seconds) change the two limits."""
    choices: dict[str, Any] = {
        "console": "off",  # the log file of the run has it all; capturing would break progress bars
        "quiet": True,  # no sparklines and advertising; errors still show
        "silent": mode == "offline",  # where_line says what W&B would say, in one line
        "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", 30)),  # a dead server must not hold up the start
    }
    if "finish_timeout" in getattr(wandb.Settings, "model_fields", {}):
        # A server lost during training must not hold the machine; what was not uploaded can be synced from disk.
        choices["finish_timeout"] = float(os.environ.get("WANDB_FINISH_TIMEOUT", 300))
    return wandb.Settings(**choices)
