"""task=restore: photographs in, restored photographs out, by any network of the suite."""

import hashlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import Field, NonNegativeInt, PositiveInt
from tqdm import tqdm

from datamodules.degradations.kernel_maps import given_kernels
from datamodules.degradations.kernel_spec import given_kernel
from datamodules.errors import ConfigError, InputError
from datamodules.io.write_photo import NotWritten
from experiments.config.arguments import command
from experiments.config.compose import overridden_keys
from experiments.config.tasks import lacking, refuse_several
from experiments.models import checksum, find
from experiments.restore import Restorer
from experiments.restore.arguments import checked_fields, checked_scale, restorer_options
from experiments.restore.manifest import Manifest
from experiments.restore.paths import Format, Item, plan
from experiments.restore.restore_file import restore_file

log = logging.getLogger(__name__)

KEYS: dict[str, Any] = {
    "input": str | list[str] | None,
    "run": str | None,
    "cascade": list[str] | None,
    **dict.fromkeys(("output", "ckpt", "kernel", "kernels"), str | None),
    "noise_level": Annotated[float, Field(ge=0, le=1)] | None,
    **dict.fromkeys(("scale", "tile"), PositiveInt | None),
    "overlap": NonNegativeInt | None,
    "format": Format,
    **dict.fromkeys(("self_ensemble", "replace", "deblurred"), bool),
    **dict.fromkeys(("batch", "max_pixels"), PositiveInt),
}


def check(cfg: DictConfig) -> None:
    """Verify that photographs, results and one network are named.

    Raises:
        ConfigError: if they are not; it names all that is missing.
    """
    given = [str(key) for key in cfg if key != "model" and cfg[key]]
    given += [key for key in overridden_keys() if key.partition(".")[0] in ("model", "experiment")]
    if missing := lacking("restore", given):
        raise ConfigError(
            "task=restore: needs input= (a photograph, a folder or a pattern), output= (a folder) and a network (run=, "
            f"ckpt=, weights=, cascade= or model=): {' '.join(missing)} is missing: {command(*missing)}"
        )
    refuse_several(cfg)


def run(cfg: DictConfig) -> None:
    """Restore the photographs of `input=` into `output=` with `run=`, `ckpt=`, `weights=`, `cascade=` or `model=`.

    Results that are there already are left as they are, if they were made of the same file with the same settings.

    Raises:
        ConfigError: for a combination that cannot be.
        InputError: if a network or a folder cannot be used; at the end, if photographs could not be restored.
    """
    restorer, identity = load(cfg)
    notes: list[str] = []  # of the network, the same for every photograph
    arguments = restoration_arguments(cfg, restorer, notes)
    if cfg.deblurred and not restorer.deblurs:
        raise ConfigError(f"deblurred: found true, but {restorer.name} makes no deblurred photograph")
    endings = ["_kernel.png", "_kernel.npy"] if restorer.estimates_kernel else []
    endings += ["_deblurred"] if cfg.deblurred else []
    given = cfg.input if isinstance(cfg.input, str) else [str(part) for part in cfg.input]
    folder, items, passed_over = plan(given, cfg.output, cfg.format, endings)
    for note in passed_over:
        log.warning("%s", note)
    kernel, kernels = arguments["kernel"], arguments["kernels"]
    settings = {  # what a result depends on: not the tiles, for who runs out of memory continues with smaller ones
        **identity,
        "scale": arguments["scale"],
        "kernel": None if kernel is None else str(cfg.kernel),
        "kernel_sha256": None if kernel is None else hashlib.sha256(kernel.numpy().tobytes()).hexdigest()[:16],
        "noise_level": cfg.noise_level,
        "format": cfg.format,
    }
    if kernels is not None:
        values = [part.numpy().tobytes() for part in (kernels, arguments["weights"])]
        settings["kernels"] = str(cfg.kernels)
        settings["kernels_sha256"] = hashlib.sha256(b"".join(values)).hexdigest()[:16]
    kept = items[0].target != Path(cfg.output).expanduser()  # a folder of somebody's gets no hidden file
    # As Ctrl-C does: what is half done is removed. The handler before is put back when the job ends.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with Manifest(folder, settings, kept) as manifest:
        done = set(manifest.finished(items, cfg.replace))
        if done:
            log.info("%d of %d photographs are restored already and stay as they are", len(done), len(items))
        todo = [item for item in items if item not in done]
        for note in notes if todo else ():
            log.warning("%s: %s", restorer.name, note)

        def restore(item: Item, progress: Callable[[int, int], None]) -> tuple[list[str], list[str]]:
            return restore_file(item, restorer, {**arguments, "batch": cfg.batch}, manifest, cfg.max_pixels, progress)

        failed = _restore_all(restore, todo, set(notes), bool(cfg.trainer.enable_progress_bar))
    if failed:
        rest = "the others are" if failed < len(items) else "nothing is"
        raise InputError(f"{failed} of {len(items)} photographs could not be restored, see above; {rest} in {folder}")
    print(f"restored: {len(items)} in {folder}" + (f", {len(done)} of them before" if done else ""), flush=True)


def _restore_all(
    restore: Callable[..., tuple[list[str], list[str]]], items: Sequence[Item], said: set[str], show: bool
) -> int:
    """Restore photographs behind a bar, or else with a line for each; returns how many could not be restored.

    Args:
        said: notes that are not repeated; what a photograph loses is.
    """
    failed = 0
    form = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    with tqdm(total=len(items), bar_format=form, mininterval=0.3, disable=not (show and items)) as bar:
        for before, item in enumerate(items):
            bar.set_description(f"{before + 1}/{len(items)} {item.source.name}")
            began = time.perf_counter()
            try:
                lost, further = restore(
                    item, lambda done, tiles, before=before: bar.update(before + done / tiles - bar.n)
                )
            except NotWritten:  # nor could the next one be
                raise
            except InputError as error:
                failed += 1
                tqdm.write(str(error), file=sys.stderr)
                continue
            finally:
                bar.update(before + 1 - bar.n)
            if bar.disable:
                seconds = time.perf_counter() - began
                log.info("%d/%d %s -> %s (%.1f s)", before + 1, len(items), item.source, item.target, seconds)
            for note in dict.fromkeys([*lost, *(note for note in further if note not in said)]):
                tqdm.write(f"{item.source}: {note}", file=sys.stderr)
            said.update(further)
    return failed


def load(cfg: DictConfig) -> tuple[Restorer, dict[str, Any]]:
    """The network that the config asks for, and what identifies it in the records of results."""
    options = restorer_options(cfg)
    (model,) = find(cfg)
    restorer = Restorer(model, **options)
    identity = {
        "model": restorer.name,
        "options": [item for item in HydraConfig.get().overrides.task if item.lstrip("+~").startswith("model.")],
        "weights": [checksum(file) for file in model.files],
        "precision": options["precision"],
        "self_ensemble": cfg.self_ensemble,
    }
    return restorer, identity


def restoration_arguments(cfg: DictConfig, restorer: Restorer, notes: list[str]) -> dict[str, Any]:
    """The arguments of every restoration, checked before a photograph is read; what is assumed is added to the notes.

    Raises:
        ConfigError: if one is missing or does not fit the network.
    """
    kernel = None if cfg.kernel is None else given_kernel(str(cfg.kernel))
    kernels, weights = (None, None) if cfg.kernels is None else given_kernels(str(cfg.kernels))
    try:
        scale = checked_scale(cfg.scale, restorer.scales, restorer.name)
        checked_fields(restorer, scale, kernel, cfg.noise_level, notes, kernels, weights)
    except InputError as error:
        raise ConfigError(str(error), key=error.key) from error
    blur = {"kernel": kernel, "kernels": kernels, "weights": weights}
    return {"scale": scale, **blur, "noise_level": cfg.noise_level, "tile": cfg.tile, "overlap": cfg.overlap}
