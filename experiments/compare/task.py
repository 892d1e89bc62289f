"""task=compare: what several runs reached on the same images, as tables, intervals and a page."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import NonNegativeInt

from datamodules.errors import ConfigError, InputError
from experiments.compare.build import compare
from experiments.compare.read_runs import read_runs
from experiments.compare.types import Comparison, to_json
from experiments.compare.writers import csv_text, latex, markdown, value_lines
from experiments.named_network import named_folders
from experiments.runtime.run_folder import write_text

KEYS: dict[str, Any] = {
    **dict.fromkeys(("runs", "suites", "datasets", "protocols"), str | list[str] | None),
    "reference": str | None,
    "mixed_ensemble": bool,
    "wandb": str | None,
    "shown": NonNegativeInt,
}


def check(cfg: DictConfig) -> None:
    """Verify that there is something to compare.

    Raises:
        ConfigError: if there is not.
    """
    if not cfg.runs and not cfg.wandb:
        raise ConfigError("runs: empty, expected run folders: task=compare runs=[runs/A,runs/B]")


def run(cfg: DictConfig) -> None:
    """Compare the folders of `runs=` (patterns too), or the runs of a W&B project, and write everything into `run_dir`.

    Raises:
        InputError: for runs that are missing, were not measured, or were not measured alike.
    """
    names: list[str] = _list(cfg.runs)
    if cfg.wandb:
        from experiments.compare.read_wandb import read_wandb

        sources = read_wandb(cfg.wandb, names)
    else:
        folders = [folder for name in names for folder in _folders(name)]
        sources = read_runs(named_folders("runs", list(map(str, folders)), Path(cfg.runs_dir)))
    comparison = compare(
        sources,
        cfg.name,
        chosen={key: _list(cfg[key]) for key in ("suites", "datasets", "protocols")},
        reference=cfg.reference,
        mixed_ensemble=cfg.mixed_ensemble,
    )
    folder = Path(cfg.run_dir)
    write(comparison, folder, cfg.shown)
    print(f"\n{markdown(comparison)}\ncomparison: {folder}\npage: {folder / 'index.html'}", flush=True)
    from experiments.results.loggers import log_comparison

    log_comparison(cfg, folder, value_lines(comparison))


def write(comparison: Comparison, folder: Path, shown: int = 8) -> None:
    """Write comparison.{md,tex,csv,json} and index.html; what an earlier comparison left under these names is replaced.

    Raises:
        InputError: if the folder is that of a run, or cannot be written.
    """
    if (folder / "results.json").exists() or (folder / "checkpoints").exists():
        raise InputError(f"{folder}: a run of this name exists: give the comparison another name with name=...")
    from experiments.compare.page import page

    made = (("md", markdown), ("tex", latex), ("csv", csv_text), ("json", to_json))
    texts = {f"comparison.{kind}": content(comparison) for kind, content in made}
    texts["index.html"] = page(comparison, shown)  # all before one is written: a picture may be damaged
    for name, text in texts.items():
        write_text(folder / name, text)


def _folders(name: str) -> list[Path]:
    """A folder, or for a pattern such as runs/ed_* the measured runs that it fits."""
    if Path(name).is_dir() or not any(character in name for character in "*?["):
        return [Path(name)]
    folders = sorted(Path(path) for path in glob.glob(name) if (Path(path) / "results.json").is_file())
    if not folders:
        raise InputError(f"runs={name}: fits no folder with results.json: measure runs by task=evaluate run=...")
    return folders


def _list(value: str | Iterable[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
