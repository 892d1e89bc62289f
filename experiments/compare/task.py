"""task=compare: what several runs reached on the same images, as tables, intervals and a page."""

import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.errors import InputError
from experiments.compare.build import compare
from experiments.compare.read_runs import read_runs
from experiments.compare.types import Comparison, to_json
from experiments.compare.writers import csv_text, latex, markdown, rows
from experiments.runtime.run_folder import write_text


def run(
    cfg: DictConfig,
    suite: str | None = None,
    datasets: list[str] | None = None,
    protocols: list[str] | None = None,
    reference: str | None = None,
    mixed_ensemble: bool = False,
    wandb: str | None = None,
    pictures: int = 8,
) -> None:
    """Compare the folders of `runs=` (patterns too), or the runs of a W&B project, and write everything into `run_dir`.

    Args:
        suite, datasets, protocols: compare records of these alone.
        reference: method or run against which gains are given; null: bicubic.
        mixed_ensemble: compare results with self-ensemble and results without it.
        wandb: read the runs from W&B; `runs=` then names some of them.
        pictures: most images that the page shows side by side.

    Raises:
        InputError: for runs that are missing, were not measured, or were not measured alike.
    """
    names: list[str] = _list(cfg.runs)
    if wandb:
        from experiments.compare.read_wandb import read_wandb

        sources = read_wandb(wandb, names)
    elif names:
        sources = read_runs([folder for name in names for folder in _folders(name)])
    else:
        raise InputError("runs: empty, expected run folders: task=compare runs=[runs/A,runs/B]")
    comparison = compare(
        sources,
        cfg.name,
        suite=suite,
        datasets=_list(datasets),
        protocols=_list(protocols),
        reference=reference,
        mixed_ensemble=mixed_ensemble,
    )
    folder = Path(cfg.run_dir)
    write(comparison, folder, pictures)
    print(f"\n{markdown(comparison)}\ncomparison: {folder}\npage: {folder / 'index.html'}", flush=True)
    from experiments.results.wandb import log_comparison

    log_comparison(cfg, folder, rows(comparison))


def write(comparison: Comparison, folder: Path, pictures: int = 8) -> None:
    """Write comparison.{md,tex,csv,json} and index.html; what an earlier comparison left under these names is replaced.

    Raises:
        InputError: if the folder is that of a run, or cannot be written.
    """
    if (folder / "results.json").exists() or (folder / "checkpoints").exists():
        raise InputError(f"{folder}: a run of this name exists: give the comparison another name with name=...")
    from experiments.compare.page import write_page

    write_text(folder / "comparison.md", markdown(comparison))
    write_text(folder / "comparison.tex", latex(comparison))
    write_text(folder / "comparison.csv", csv_text(comparison))
    write_text(folder / "comparison.json", to_json(comparison))
    write_page(comparison, folder / "index.html", pictures)


def _folders(name: str) -> list[Path]:
    """A folder, or for a pattern such as runs/ed_* the measured runs that it fits."""
    if not any(character in name for character in "*?["):
        return [Path(name)]
    found = sorted(Path(path) for path in glob.glob(name) if (Path(path) / "results.json").is_file())
    if not found:
        raise InputError(f"runs={name}: fits no folder with results.json: measure runs by task=evaluate run=...")
    return found


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    found = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return [found] if isinstance(found, str) else list(found)  # type: ignore[arg-type]  # a list, which was checked
