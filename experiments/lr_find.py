"""task=lr_find: a range test of the learning rate, for a network, data or a batch that no recipe was made for.

L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3, by Lightning's Tuner.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, PositiveFloat
from pytorch_lightning.tuner import Tuner

from datamodules.distributed import on_rank_zero
from datamodules.errors import ConfigError, InputError
from experiments import train
from experiments.config.construct import instantiate
from experiments.results.writers import csv_text
from experiments.runtime import distributed
from experiments.runtime.run_folder import write_text
from experiments.runtime.speed import keep_memory, settle
from lightning_modules.restoration import RestorationModule

_UNSTEADY = 10  # first losses, smoothed over hardly any steps

KEYS: dict[str, Any] = {
    "compile": bool,
    "keep_memory": bool,
    "lr_min": PositiveFloat,
    "lr_max": PositiveFloat,
    "steps": Annotated[int, Field(ge=3 * _UNSTEADY)],
}


def check(cfg: DictConfig) -> None:
    """Verify that the recipe fits together and that one learning rate is all it has.

    Raises:
        ConfigError: one line with the key, what was found and what to do.
    """
    train.check(cfg)
    if cfg.lr_min >= cfg.lr_max:
        raise ConfigError(f"lr_min: found {cfg.lr_min:g}, expected less than lr_max, which is {cfg.lr_max:g}")
    kind = str(cfg.procedure._target_).rpartition(".")[2]
    if kind != RestorationModule.__name__:
        raise ConfigError(
            f"procedure: {kind} has a learning rate for each of its optimisers or stages, and task=lr_find looks for "
            "one: choose procedure=supervised"
        )


def run(cfg: DictConfig) -> None:
    """Train for `steps` steps at a rate that grows by the same factor from one to the next, and print what it shows.

    All but the schedule is the recipe's. Writes RUN_DIR/lr_find.csv and a plot, lr_find.html; rates that `parameters`
    sets for parts of the network are not looked at.

    Raises:
        InputError: for unreadable data, a full disk, steps that an epoch does not hold, a span that the loss does not
            turn in.
    """
    distributed.start(cfg)
    settle(cfg)
    if cfg.keep_memory:
        keep_memory()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a mapping
    module = train.build_module(cfg, config)
    module.make_scheduler = None  # the range test is one of its own
    datamodule = train.load_data(cfg, module)
    train.fit_basis(module.network, datamodule, cfg.seed)
    with ExitStack() as stack:
        folder = on_rank_zero(lambda: stack.enter_context(_scratch(Path(cfg.run_dir).parent)))
        rates, losses = _range_test(cfg, module, datamodule, folder)
    on_rank_zero(lambda: _publish(cfg, rates, losses))


def _scratch(runs: Path) -> tempfile.TemporaryDirectory[str]:
    """For the weights as they were, which all processes read again, those of other nodes too."""
    runs.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".lr_find_", dir=runs)


def _range_test(
    cfg: DictConfig, module: RestorationModule, datamodule: Any, folder: str
) -> tuple[list[float], list[float]]:
    """Learning rates and smoothed losses of the steps."""
    processes = distributed.for_lightning(cfg.trainer, module)
    # Lightning's range test would validate wherever an epoch ends, whatever limit_val_batches says.
    no_validation = {"check_val_every_n_epoch": sys.maxsize, "val_check_interval": 1.0}
    quiet = {"logger": False, "max_epochs": -1, "default_root_dir": folder, "fast_dev_run": False, **no_validation}
    trainer: pl.Trainer = instantiate(cfg.trainer, **quiet, **processes)
    span = {"min_lr": cfg.lr_min, "max_lr": cfg.lr_max, "num_training": cfg.steps}
    # Lightning would end where a loss is four times its least, which one that may be negative always is.
    found = Tuner(trainer).lr_find(module, datamodule=datamodule, update_attr=False, early_stop_threshold=None, **span)
    assert found is not None  # no fast_dev_run
    if len(found.results["loss"]) < cfg.steps:  # of a step that an epoch ends before it has all of its batches, nothing
        raise InputError(
            f"trainer.accumulate_grad_batches: found {trainer.accumulate_grad_batches}, expected a divisor of the "
            f"batches of an epoch, {trainer.num_training_batches:g}: set data.samples_per_epoch"
        )
    # Lightning has divided them by the number of batches that are added up.
    return found.results["lr"], [loss * trainer.accumulate_grad_batches for loss in found.results["loss"]]


def turning(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the smoothed loss is least, those of the first steps left out.

    Raises:
        InputError: if the loss grows all the way, or falls to the end, so that the span does not show it.
    """
    pairs = [(loss, rate) for rate, loss in zip(rates, losses, strict=True)]
    seen = [pair for pair in pairs[_UNSTEADY:] if math.isfinite(pair[0])]
    if not seen and any(math.isfinite(loss) for loss in losses):
        raise InputError("lr_min: the loss was not a number soon after: set it lower")
    if not seen:
        raise InputError("the loss is not a number at any rate: debug=one_batch names the operation that is to blame")
    least = min(seen)
    if least == seen[0]:
        raise InputError("lr_min: the loss grew from there on: set it lower")
    if least == pairs[-1]:
        raise InputError("lr_max: the loss fell up to there: set it higher, or steps")
    return least[1]


def _publish(cfg: DictConfig, rates: Sequence[float], losses: Sequence[float]) -> None:
    import plotly.graph_objects as go  # only this task draws with it

    path = Path(cfg.run_dir) / "lr_find.csv"
    page = path.with_suffix(".html")
    write_text(path, csv_text([{"lr": rate, "loss": loss} for rate, loss in zip(rates, losses, strict=True)]))
    figure = go.Figure(go.Scatter(x=rates, y=losses))
    figure.update_layout(title=f"{cfg.label}, batches of {cfg.data.batch_size}")
    figure.update_xaxes(type="log", title="learning rate", exponentformat="power")
    low, high = min(filter(math.isfinite, losses), default=0.0), max(losses[: cfg.steps // 3])
    figure.update_yaxes(title="training loss, smoothed", range=[low, high + (high - low) / 2])  # not where it explodes
    write_text(page, figure.to_html())
    print(f"lr_find: {page}", flush=True)
    least = turning(rates, losses)
    given = f"; it is {cfg.optimizer.lr:g} here" if "lr" in cfg.optimizer else ""
    print(f"least loss at a rate of {least:.2g}; a tenth of it is a usual choice: optimizer.lr={least / 10:.1g}{given}")
