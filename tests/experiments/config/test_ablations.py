"""Every ablation of conf/experiment/: each of its points is a valid experiment, different from the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import run
from experiments.config.check import check
from experiments.runtime.run_folder import run_name
from tests.conftest import Outcome

Cli = Callable[..., Outcome]

ABLATIONS = sorted(file.stem for file in run.CONF.glob("experiment/ablation_*.yaml"))


def compose(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(run.CONF), version_base="1.3"):
        return hydra.compose("config", overrides=overrides, return_hydra_config=True)


def one_by_one(*changes: str) -> Any:
    """The sweeper, from where Hydra has it: its search for plugins imports their modules anew."""
    return hydra.utils.instantiate({"_target_": "hydra_plugins.sweepers.OneByOne", "changes": list(changes)})


def jobs_of(sweeper: Any, *overrides: str) -> list[list[str]]:
    batches = sweeper.sweeper.split_arguments(OverridesParser.create().parse_overrides(list(overrides)), None)
    return [job for batch in batches for job in batch]


def sections(cfg: DictConfig) -> dict[str, Any]:
    """What an experiment computes: everything but its name."""
    found: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    return {key: value for key, value in found.items() if key not in ("hydra", "name", "choices")}


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_point_is_a_valid_experiment_of_its_own(ablation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    given = f"experiment={ablation}"
    base = compose([given])
    assert (base.hydra.mode.name, base.group, base.resume) == ("MULTIRUN", ablation, "auto")
    sweeper = hydra.utils.instantiate(base.hydra.sweeper)
    jobs = jobs_of(sweeper, given)
    assert len(jobs) == len(base.hydra.sweeper.changes) + 1
    names, seen = [], []
    for job in jobs:
        cfg = compose(job)
        names.append(run_name(cfg.hydra.runtime.choices, list(cfg.hydra.overrides.task)))
        seen.append(sections(cfg))
        cfg.name = names[-1]
        cfg.choices = {key: cfg.hydra.runtime.choices[key] for key in cfg.choices}
        cfg.label = cfg.hydra.runtime.choices.model
        choices = cfg.hydra.runtime.choices
        cfg = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
        check(cfg, choices)
    assert names[0] == ablation
    assert len(set(names)) == len(names)
    for i, one in enumerate(seen):
        assert one not in seen[:i], f"{jobs[i]} is the same experiment as an earlier one"


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_comment_counts_the_trainings(ablation: str) -> None:
    words = {2: "Two", 6: "Six", 7: "Seven", 8: "Eight", 10: "Ten", 11: "Eleven"}
    text = Path(run.CONF, "experiment", f"{ablation}.yaml").read_text()
    changes = OmegaConf.create(text).hydra.sweeper.changes
    assert f"{words[len(changes) + 1]} trainings" in " ".join(text.replace("# ", "").split())


def test_command_line_multiplies_and_a_change_wins_over_it() -> None:
    sweeper = one_by_one("model=ed_srn", "model.alpha=1 +model.beta=2")
    assert jobs_of(sweeper, "seed=1,2", "model=small", "model.alpha=3") == [
        ["seed=1", "model=small", "model.alpha=3"],
        ["seed=2", "model=small", "model.alpha=3"],
        ["seed=1", "model.alpha=3", "model=ed_srn"],
        ["seed=2", "model.alpha=3", "model=ed_srn"],
        ["seed=1", "model=small", "model.alpha=1", "+model.beta=2"],
        ["seed=2", "model=small", "model.alpha=1", "+model.beta=2"],
    ]


def test_jobs_come_in_batches() -> None:
    overrides = OverridesParser.create().parse_overrides(["seed=1,2"])
    batches = one_by_one("a=1", "a=2").sweeper.split_arguments(overrides, 4)
    assert [len(batch) for batch in batches] == [4, 2]


@pytest.mark.slow
def test_point_that_fails_does_not_stop_the_others(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    overrides = [item for item in tiny if not item.startswith(("data.root", "name", "trainer.max_epochs"))]
    outcome = cli("-m", *overrides, "data.root=nowhere,photographs", "trainer.max_epochs=1", "runs_dir=runs")
    assert outcome.status == 1
    lines = outcome.err.splitlines()
    assert sum(line.startswith("data.root=nowhere: does not exist") for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
    (folder,) = (tmp_path / "runs").glob("ed_dsrn-*")
    assert (folder / "results.json").is_file()
