"""task=restore: photographs in, restored photographs out, by any network of the suite."""

import contextlib
import hashlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import PositiveInt
from torch import Tensor

from datamodules.degradations.kernel_spec import given_kernel
from datamodules.errors import ConfigError, InputError
from datamodules.io.write_photo import NotWritten
from experiments.models import checksum, find, refuse_several
from experiments.restore import Restorer
from experiments.restore.manifest import Manifest
from experiments.restore.paths import Format, Item, plan
from experiments.restore.restore_file import FileRestorer, Progress
from experiments.runtime.speed import settle

log = logging.getLogger(__name__)

_PRECISIONS = {"32-true": "32", "32": "32", "bf16-mixed": "bf16", "bf16-true": "bf16", "bf16": "bf16"}
_HOW = (
    "kernel=gaussian:1.6 (width in pixels of the result), motion:15,30 (length, degrees), disk:2.5 (radius), none, or "
    "an image, .npy or .mat; docs/restore.md says how to find one"
)


KEYS: dict[str, Any] = {
    "input": str | list[str] | None,
    "run": str | None,
    "cascade": list[str] | None,
    **dict.fromkeys(("output", "ckpt", "kernel"), str | None),
    "noise_level": float | None,
    **dict.fromkeys(("scale", "tile", "overlap"), int | None),
    "format": Format,
    **dict.fromkeys(("self_ensemble", "replace", "deblurred"), bool),
    **dict.fromkeys(("batch", "max_pixels"), PositiveInt),
}


def check(cfg: DictConfig) -> None:
    """Verify that photographs, results and one network are named.

    Raises:
        ConfigError: if they are not.
    """
    if cfg.input is None or cfg.output is None:
        raise ConfigError("task=restore: needs input= (a photograph, a folder or a pattern) and output= (a folder)")
    refuse_several(cfg)


def run(cfg: DictConfig) -> None:
    """Restore the photographs of `input=` into `output=` with `run=`, `ckpt=`, `weights=`, `cascade=` or `model=`.

    Results that are there already are left as they are, if they were made of the same file with the same settings.

    Raises:
        ConfigError: for a combination that cannot be.
        InputError: if a network or a folder cannot be used; at the end, if photographs could not be restored.
    """
    restorer, identity = load(cfg)
    arguments = restoration_arguments(cfg, restorer)
    if cfg.deblurred and not restorer.deblurs:
        raise ConfigError(f"deblurred: found true, but {restorer.name} makes no deblurred photograph")
    endings = ["_kernel.png", "_kernel.npy"] if restorer.estimates_kernel else []
    given = cfg.input if isinstance(cfg.input, str) else [str(part) for part in cfg.input]
    folder, items = plan(given, cfg.output, cfg.format, [*endings, *(["_deblurred"] if cfg.deblurred else [])])
    settings = {**identity, **_settings(cfg, arguments), "format": cfg.format}
    kept = items[0].target != Path(cfg.output).expanduser()  # a folder of somebody's gets no hidden file
    with _stopping(), Manifest(folder, settings, kept) as manifest:
        done = manifest.finished(items, cfg.replace)
        if done:
            log.info("%d of %d photographs are restored already and stay as they are", len(done), len(items))
        todo = [item for item in items if item not in done]
        work = FileRestorer(restorer, {**arguments, "batch": cfg.batch}, manifest, cfg.max_pixels)
        failed = _go_through(work, todo, Progress(todo, bool(cfg.trainer.enable_progress_bar), cfg.max_pixels))
    if failed:
        rest = "the others are" if failed < len(items) else "nothing is"
        raise InputError(f"{failed} of {len(items)} photographs could not be restored, see above; {rest} in {folder}")
    print(f"restored: {len(items)} in {folder}" + (f", {len(done)} of them before" if done else ""), flush=True)


def _go_through(work: FileRestorer, items: Sequence[Item], progress: Progress) -> int:
    """How many could not be restored."""
    failed, said = 0, set()
    try:
        for item in items:
            progress.begin(item)
            try:
                notes = work.restore(item, progress.tiles)
            except NotWritten:  # nor could the next one be
                raise
            except InputError as error:
                failed += 1
                progress.end(str(error))
                continue
            progress.end()
            for note in notes:
                # What the network assumed is the same for all.
                if note not in said:
                    progress.say(f"{item.source}: {note}")
                    said.add(note)
    finally:
        progress.close()
    return failed


def load(cfg: DictConfig) -> tuple[Restorer, dict[str, Any]]:
    """The network that the config asks for, and what identifies it in the records of results."""
    settle(cfg)
    precision = _PRECISIONS.get(str(cfg.trainer.precision))
    if precision is None:
        raise ConfigError(f"trainer.precision: found {cfg.trainer.precision}, expected 32-true, bf16-mixed or auto")
    accelerator = str(cfg.trainer.accelerator)
    options: dict[str, Any] = {
        "device": "cuda" if accelerator == "gpu" else accelerator,
        "precision": precision,
        "self_ensemble": bool(cfg.self_ensemble),
    }
    (model,) = find(cfg)
    restorer = Restorer(model, **options)
    identity = {
        "model": restorer.name,
        "options": [item for item in HydraConfig.get().overrides.task if item.lstrip("+~").startswith("model.")],
        "weights": [checksum(file) for file in model.files],
        "precision": precision,
        "self_ensemble": bool(cfg.self_ensemble),
    }
    return restorer, identity


def restoration_arguments(cfg: DictConfig, restorer: Restorer) -> dict[str, Any]:
    """The arguments of every restoration, checked before a photograph is read."""
    name, scales = restorer.name, ", ".join(map(str, restorer.scales))
    if cfg.scale is None and len(restorer.scales) > 1:
        raise ConfigError(f"scale: {name} enlarges by {scales}: say by which, scale={restorer.scales[0]}")
    if cfg.scale is not None and cfg.scale not in restorer.scales:
        raise ConfigError(f"scale: found {cfg.scale}, {name} enlarges by {scales}")
    kernel: Tensor | None = None
    if restorer.needs_kernel:
        if cfg.kernel is None:
            raise ConfigError(f"kernel: {name} has to be told the blur of the photographs: {_HOW}")
        kernel = given_kernel(str(cfg.kernel))
    elif cfg.kernel is not None:
        why = "estimates the kernel itself" if restorer.estimates_kernel else "takes no kernel"
        raise ConfigError(f"kernel: found {cfg.kernel}, but {name} {why}: omit it")
    if cfg.noise_level is not None and "noise_level" not in restorer.inputs:
        raise ConfigError(f"noise_level: found {cfg.noise_level}, but {name} takes none: omit it")
    if cfg.noise_level is not None and not 0 <= cfg.noise_level <= 1:
        raise ConfigError(f"noise_level: found {cfg.noise_level}, expected 0 to 1, such as 0.01")
    return {
        "scale": cfg.scale or restorer.scales[0],
        "kernel": kernel,
        "noise_level": cfg.noise_level,
        "tile": cfg.tile,
        "overlap": cfg.overlap,
    }


def _settings(cfg: DictConfig, fixed: dict[str, Any]) -> dict[str, Any]:
    """What a result depends on. Not the tiles: who runs out of memory continues with smaller ones."""
    kernel = fixed["kernel"]
    return {
        "scale": fixed["scale"],
        "kernel": None if kernel is None else str(cfg.kernel),
        "kernel_sha256": None if kernel is None else hashlib.sha256(kernel.numpy().tobytes()).hexdigest()[:16],
        "noise_level": fixed["noise_level"],
    }


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: what is half done is removed."""

    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
