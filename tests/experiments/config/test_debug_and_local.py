"""Groups of habit: `debug`, and `local`, which is there or not."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.conftest import Outcome

Cli = Callable[..., Outcome]


def test_one_batch_goes_the_whole_way(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    mine = [
        item for item in tiny if not item.startswith(("name=", "logger=", "trainer.max_epochs", "data.num_workers"))
    ]
    outcome = cli(*mine, "debug=one_batch")
    assert outcome.status == 0, outcome.err
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("debug-ed_dsrn-2")
    with (run / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["train/loss"]) > 0
    assert float(row["val/psnr/y_shave4"]) > 0
    records = json.loads((run / "results.json").read_text())["records"]
    assert {len(record["images"]) for record in records} == {1}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert not (run / "wandb").exists()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["detect_anomaly"] is True
    assert config["data"]["num_workers"] == 0


def test_a_local_file_is_read_if_it_is_there_and_names_no_run(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "local"
    folder.mkdir(parents=True)
    content = f"# @package _global_\nruns_dir: {tmp_path / 'elsewhere'}\ndata_dir: {tmp_path / 'sets'}\n"
    search = f"hydra.searchpath=[file://{folder.parent}]"
    for name in ("default", "laptop"):
        (folder / f"{name}.yaml").write_text(content.replace("elsewhere", f"runs_of_{name}"))
    without = cli("-c", "job", "-p", "runs_dir")
    assert (without.status, without.out) == (0, "runs\n"), without.err
    by_default = cli(search, "-c", "job", "-p", "runs_dir")
    assert by_default.out == f"{tmp_path / 'runs_of_default'}\n", by_default.err
    chosen = cli(search, "local=laptop", "name=x", "-c", "job", "-p", "run_dir", "--resolve")
    assert chosen.out == f"{tmp_path / 'runs_of_laptop'}/x\n", chosen.err
    from experiments.runtime.run_folder import named_overrides

    assert named_overrides(["local=laptop", "seed=1"]) == {"seed": "1"}


def test_the_composed_config_is_printed_and_nothing_else(cli: Cli) -> None:
    outcome = cli("model=ed_srn", "-c", "job")
    assert (outcome.status, outcome.err) == (0, "")
    config = yaml.safe_load(outcome.out)
    assert config["model"]["_target_"] == "networks.ed_dsrn.EDDSRN"
    assert "hydra" not in config
