"""task=restore: photographs in, restored photographs out, by any network of the suite."""

import hashlib
import logging
import signal
import sys
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import Field, NonNegativeInt, PositiveInt
from tqdm import tqdm

from datamodules.errors import ConfigError, InputError, StoppedElsewhere
from experiments.config.arguments import command
from experiments.config.tasks import lacking
from experiments.engines import names as engines
from experiments.named_network import model_is_named, refuse_several
from experiments.runtime.launchers import place
from experiments.zoo import catalogue

if TYPE_CHECKING:  # comes with torch, for which a refused config need not wait
    from experiments.restore.restorer import Restorer

log = logging.getLogger(__name__)

KEYS: dict[str, Any] = {
    "input": str | list[str] | None,
    "run": str | None,
    "cascade": list[str] | None,
    "output": str,
    **dict.fromkeys(("ckpt", "kernel", "kernels"), str | None),
    "noise_level": Annotated[float, Field(ge=0, le=1)] | None,
    **dict.fromkeys(("scale", "tile"), PositiveInt | None),
    "overlap": NonNegativeInt | None,
    **engines.KEYS,
    "format": Literal["lossless", "same", "png", "tif", "jpg", "webp"],
    **dict.fromkeys(("self_ensemble", "replace", "deblurred"), bool),
    **dict.fromkeys(("batch", "max_pixels"), PositiveInt),
}
# Of the nodes that all tasks share; see `experiments.config.check.check`.
READS: dict[str, Any] = {
    "model": dict,
    "trainer.accelerator": str,
    "trainer.devices": int | str | list[int],
    "trainer.num_nodes": int,
    "trainer.precision": str | int,
    "trainer.enable_progress_bar": bool,
    "checkpoint.use": Literal["best", "last"],
}


def check(cfg: DictConfig) -> None:
    """Verify that photographs and one network are named; without one, that of the zoo for photographs is taken.

    Raises:
        ConfigError: if they are not; it names all that is missing.
    """
    missing, there = lacking("restore", [str(key) for key in cfg if cfg[key]]), ""
    if not network_is_named(cfg) and catalogue.PHOTOGRAPHS not in (names := catalogue.names()):
        missing.append("run=runs/NAME")
        there = f", or weights= of the zoo ({', '.join(names)})" * bool(names)
    if missing:
        raise ConfigError(
            "task=restore: needs input= (a photograph, a folder or a pattern) and a network (run=, ckpt=, weights=, "
            f"cascade= or model=): {' '.join(missing)}{there} is missing: {command(*missing)}"
        )
    refuse_several(cfg)


def network_is_named(cfg: DictConfig) -> bool:
    """Whether the command line says which network restores."""
    return any(cfg[key] for key in ("run", "ckpt", "weights", "cascade")) or model_is_named()


def take_the_default(cfg: DictConfig) -> None:
    """Where no network is named, take that of the zoo for photographs, and say so and what else there is."""
    if network_is_named(cfg):
        return
    name, fitting = catalogue.PHOTOGRAPHS, catalogue.for_photographs()
    cfg.weights = f"{catalogue.PREFIX}{name}"
    taken = fitting.pop(name, name)
    others = f"; by weights=NAME also {', '.join(fitting.values())}" if fitting else ""
    if place()[0] == 0:
        print(f"network: {taken} of the zoo{others}", flush=True)


def run(cfg: DictConfig) -> None:
    """Restore the photographs of `input=` into `output=` with `run=`, `ckpt=`, `weights=`, `cascade=` or `model=`.

    Several processes, by a launcher or `trainer.devices`, take each photograph once; the first one speaks for all.
    Results that are there already are left as they are, if they were made of the same file with the same settings.

    Raises:
        ConfigError: for a combination that cannot be.
        InputError: if a network or a folder cannot be used; at the end, if photographs could not be restored.
    """
    from datamodules.distributed import gather, on_rank_zero, rank, rank_zero_first, share
    from experiments.restore.manifest import Manifest
    from experiments.restore.paths import plan
    from experiments.restore.pipeline import restore_all
    from experiments.restore.restore_file import Work
    from experiments.restore.video import names_video, restore_video

    _join(cfg)
    take_the_default(cfg)
    restorer, identity = load(cfg)
    notes: list[str] = []  # of the network, the same for every photograph
    arguments = restoration_arguments(cfg, restorer, notes)
    if cfg.deblurred and not restorer.deblurs:
        raise ConfigError(f"deblurred: found true, but {restorer.name} makes no deblurred photograph")
    endings = ["_kernel.png", "_kernel.npy"] if restorer.estimates_kernel else []
    endings += ["_deblurred"] if cfg.deblurred else []
    given = cfg.input if isinstance(cfg.input, str) else [str(part) for part in cfg.input]
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
    # As Ctrl-C does: what is half done is removed. The handler before is put back when the job ends.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if names_video(given):
        restorer.prepare(arguments["scale"])
        restore_video(cfg, restorer, {**arguments, "batch": cfg.batch}, settings, notes)
        return
    folder, items, passed_over = on_rank_zero(lambda: plan(given, cfg.output, cfg.format, endings))
    for note in passed_over:
        log.warning("%s", note)
    kept = items[0].target != Path(cfg.output).expanduser()  # a folder of somebody's gets no hidden file
    with ExitStack() as stack:
        with rank_zero_first():
            manifest = stack.enter_context(Manifest(folder, settings, kept, rank()))
        done = on_rank_zero(lambda: set(manifest.finished(items, cfg.replace)))
        if done:
            log.info("%d of %d photographs are restored already and stay as they are", len(done), len(items))
        remaining = [item for item in items if item not in done]
        with rank_zero_first():  # which keeps the graph for the others
            if remaining:
                restorer.prepare(arguments["scale"], make=len(remaining) > 1)
        todo = share(remaining)
        for note in notes if todo else ():
            log.warning("%s: %s", restorer.name, note)
        options = {"arguments": {**arguments, "batch": cfg.batch}, "max_pixels": cfg.max_pixels}
        work_on = partial(Work, restorer=restorer, manifest=manifest, **options)
        lines: list[str] = []
        tell = lines.append if rank() > 0 else partial(tqdm.write, file=sys.stderr)
        failed = restore_all(todo, work_on, {*notes}, cfg.trainer.enable_progress_bar, tell)
        outcomes = gather((failed, lines))
    if rank() > 0 and any(count for count, _ in outcomes):
        raise StoppedElsewhere  # the first process speaks for all
    for line in chain.from_iterable(lines for _, lines in outcomes):
        print(line, file=sys.stderr)
    failed = sum(count for count, _ in outcomes)
    if failed:
        rest = "the others are" if failed < len(items) else "nothing is"
        raise InputError(f"{failed} of {len(items)} photographs could not be restored, see above; {rest} in {folder}")
    if rank() == 0:
        print(f"restored: {len(items)} in {folder}" + (f", {len(done)} of them before" if done else ""), flush=True)


def _join(cfg: DictConfig) -> None:
    """Meet the processes of a launcher, or start those that `trainer.devices` asks for: each takes a share."""
    from experiments.runtime.launchers import count_devices, launched

    if launched() or count_devices(cfg.trainer.accelerator, cfg.trainer.get("devices", 1)) > 1:
        from experiments.runtime import distributed

        distributed.start(cfg)


def load(cfg: DictConfig) -> tuple["Restorer", dict[str, Any]]:
    """The network that the config asks for, and what identifies it in the records of results."""
    from experiments.models import checksum, find
    from experiments.restore.arguments import restorer_options
    from experiments.restore.restorer import Restorer

    options = restorer_options(cfg)
    (model,) = find(cfg)
    restorer = Restorer(model, **options)
    identity = {
        "model": restorer.name,
        "options": [item for item in HydraConfig.get().overrides.task if item.lstrip("+~").startswith("model.")],
        "weights": [checksum(file) for file in model.files],
        "precision": {"float32": "32"}.get(options["precision"], options["precision"]),  # as earlier versions wrote
        "self_ensemble": cfg.self_ensemble,
    }
    return restorer, identity


def restoration_arguments(cfg: DictConfig, restorer: "Restorer", notes: list[str]) -> dict[str, Any]:
    """The arguments of every restoration, checked before a photograph is read; what is assumed is added to the notes.

    Raises:
        ConfigError: if one is missing or does not fit the network.
    """
    from experiments.restore.arguments import checked_fields, checked_scale

    kernel, kernels, weights = None, None, None
    if cfg.kernel is not None:
        from datamodules.degradations.kernel_spec import given_kernel

        kernel = given_kernel(str(cfg.kernel))
    if cfg.kernels is not None:
        from datamodules.degradations.kernel_maps import given_kernels

        kernels, weights = given_kernels(str(cfg.kernels))
    try:
        scale = checked_scale(cfg.scale, restorer.scales, restorer.name)
        checked_fields(restorer, scale, kernel, cfg.noise_level, notes, kernels, weights)
    except InputError as error:
        raise ConfigError(str(error), key=error.key) from error
    blur = {"kernel": kernel, "kernels": kernels, "weights": weights}
    return {"scale": scale, **blur, "noise_level": cfg.noise_level, "tile": cfg.tile, "overlap": cfg.overlap}
