"""The files in experiments/sweeps/: what an agent makes of them is a valid experiment, and a real agent runs one."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

import run
from experiments.config.check import check
from experiments.runtime.run_folder import run_name
from tests.conftest import photograph
from tests.helpers.wandb_backend import ENTITY, KEY, REPOSITORY, Backend, environment

SWEEPS = sorted((REPOSITORY / "experiments" / "sweeps").glob("*.yaml"))


def values(parameter: dict[str, Any]) -> list[Any]:
    """All values of a parameter, or the ends of its range."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def command_line(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What the installed client starts for a trial, without the interpreter before it."""
    from wandb.sdk.launch.sweeps import utils

    made = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
    known = made | {"env": [], "interpreter": [], "program": [sweep["program"]]}
    command = utils.create_sweep_command(list(sweep["command"]))
    return list(itertools.chain(*(known[part[2:-1]] if part.startswith("${") else [part] for part in command)))


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
@pytest.mark.filterwarnings("ignore:Valid config keys have changed in V2:UserWarning")
def test_file_follows_the_schema_of_the_client(file: Path) -> None:
    schema_violations_from_proposed_config = pytest.importorskip("sweeps.config").schema_violations_from_proposed_config
    sweep = yaml.safe_load(file.read_text())
    assert schema_violations_from_proposed_config(sweep) == []
    sweep["metric"]["goal"] = "up"
    assert "'up' is not one of" in str(schema_violations_from_proposed_config(sweep))


@pytest.mark.slow
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_value_makes_a_valid_experiment(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    parameters = {key: values(parameter) for key, parameter in sweep["parameters"].items()}
    for i in range(max(map(len, parameters.values()))):
        program, *overrides = command_line(sweep, {key: found[i % len(found)] for key, found in parameters.items()})
        assert (REPOSITORY / program).is_file()
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(run.CONF), version_base="1.3"):
            cfg = hydra.compose("config", overrides=overrides, return_hydra_config=True)
        choices = cfg.hydra.runtime.choices
        cfg.name, cfg.label = "trial", choices.model
        cfg.choices = {key: choices[key] for key in cfg.choices}
        check(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), choices)
        assert sweep["metric"] == {"name": f"val/psnr/{next(iter(cfg.protocol))}", "goal": "maximize"}


def test_two_trials_with_the_same_values_have_two_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {"model": "ed_dsrn", "data": "div2k", "experiment": None}
    monkeypatch.setenv("WANDB_RUN_ID", "t1")  # without a sweep this only names a W&B run
    assert run_name(choices, ["seed=3"]) == "ed_dsrn-div2k-seed=3"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert run_name(choices, ["seed=3"]) == "ed_dsrn-div2k-seed=3-t1"
    monkeypatch.setenv("WANDB_RUN_ID", "t2")
    assert run_name(choices, [f"model.widths=[{'64,' * 60}3]"]).endswith("-t2")


@pytest.mark.slow
def test_a_real_agent_runs_a_trial_that_belongs_to_the_sweep(tmp_path: Path) -> None:
    """`wandb sweep FILE` and `wandb agent`, the clients as they are, and run.py with a network of four channels."""
    (tmp_path / "photographs").mkdir()
    for i in range(4):
        Image.fromarray(photograph(64, 72, i)).save(tmp_path / "photographs" / f"image{i}.png")
    (tmp_path / "run.py").symlink_to(REPOSITORY / "run.py")
    chosen: dict[str, Any] = {"data": "folder", "data.root": "photographs", "data.patch": 32, "data.batch_size": 2}
    chosen |= {"data.samples_per_epoch": 4, "data.num_workers": 0, "model.widths": [4, 4, 4, 4], "model.n_units": 1}
    chosen |= {"trainer.max_epochs": 1, "trainer.accelerator": "cpu", "loss.terms.deblurred.weight": 0.05}
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    sweep["command"] = [sys.executable if part == "${interpreter}" else part for part in sweep["command"]]
    sweep["parameters"] = {key: {"values": [value]} for key, value in chosen.items()}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with Backend() as backend:
        env = environment(tmp_path, WANDB_BASE_URL=backend.url, WANDB_API_KEY=KEY, WANDB_ERROR_REPORTING="false")
        env |= {"WANDB_INIT_TIMEOUT": "60", "OMP_NUM_THREADS": "1", "DEBLUR_SR_CACHE": str(tmp_path / "cache")}
        env.pop("WANDB_MODE", None)

        def wandb(*arguments: str) -> str:
            command = [sys.executable, "-m", "wandb", *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
            return done.stdout + done.stderr

        said = wandb("sweep", "sweep.yaml")
        ((sweep_id, known),) = backend.sweeps.items()
        assert yaml.safe_load(known)["parameters"]["data.patch"] == {"values": [32]}
        assert f"wandb agent {ENTITY}/deblur-sr/{sweep_id}" in said
        arguments = {key: {"value": value} for key, value in chosen.items()}
        backend.orders = [{"type": "run", "run_id": "trial1", "program": "run.py", "args": arguments}, {"type": "exit"}]
        said = wandb("agent", f"{ENTITY}/deblur-sr/{sweep_id}")
    assert list(backend.runs) == ["trial1"], said
    trial = backend.runs["trial1"]
    assert (trial.sweep, trial.project, trial.job_type, trial.exit_code) == (sweep_id, "deblur-sr", "train", 0)
    assert trial.config["loss"]["terms"]["deblurred"]["weight"] == 0.05
    assert trial.config["data.patch"] == 32  # as the sweep names it, for the plots of W&B
    assert len(trial.values("val/psnr/y_shave4")) == 1
    assert "Ignoring" not in said
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert folder.name.endswith("-trial1")
    assert not trial.group.endswith("-trial1")
    assert json.loads((folder / "meta.json").read_text())["wandb_id"] == "trial1"
