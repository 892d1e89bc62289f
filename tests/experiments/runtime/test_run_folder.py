import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.errors import ConfigError, InputError
from experiments.runtime import run_folder
from experiments.runtime.run_folder import checked_name, open_run, run_name, write_text
from tests.conftest import Outcome

CHOICES = {"model": "ed_dsrn", "data": "div2k", "experiment": None}


@pytest.mark.parametrize(
    ("choices", "overrides", "expected"),
    [
        (CHOICES, ["model=ed_dsrn", "data=div2k"], "ed_dsrn-div2k"),
        (CHOICES, ["model=ed_dsrn", "data=div2k", "resume=auto", "logger=none"], "ed_dsrn-div2k"),
        (CHOICES, ["seed=3", "model.n_units=1"], "ed_dsrn-div2k-model.n_units=1-seed=3"),
        (CHOICES, ["model.n_units=1", "seed=3"], "ed_dsrn-div2k-model.n_units=1-seed=3"),
        ({**CHOICES, "experiment": "quickstart"}, ["experiment=quickstart"], "quickstart"),
        ({**CHOICES, "experiment": "a"}, ["experiment=a", "model=ed_srn"], "a-model=ed_srn"),
        ({**CHOICES, "data": "folder"}, ["data=folder", "data.root=/x/y/train"], "ed_dsrn-folder-data.root=y_train"),
        (CHOICES, ["callbacks=ema", "+callbacks.x={a: 1}"], "ed_dsrn-div2k-callbacks=ema"),
        (CHOICES, ["callbacks.ema.decay=0.9"], "ed_dsrn-div2k-callbacks.ema.decay=0.9"),
        (CHOICES, ["model.widths=[1, 2]"], "ed_dsrn-div2k-model.widths=_1,_2_"),
        (CHOICES, ["data.num_workers=4", "task=train", "trainer.accelerator=cpu"], "ed_dsrn-div2k"),
    ],
)
def test_name_is_that_of_the_experiment(choices: dict[str, str], overrides: list[str], expected: str) -> None:
    assert run_name(choices, overrides) == expected


def test_long_names_stay_different() -> None:
    names = {run_name(CHOICES, [f"model.widths=[{'64,' * 50}{i}]"]) for i in range(5)}
    assert len(names) == 5
    assert max(map(len, names)) <= 120


def config(lr: float = 1e-3, root: str = "a") -> dict[str, object]:
    return {"seed": 0, "optimizer": {"lr": lr}, "data": {"root": root, "patch": 32}, "trainer": {"max_epochs": 1}}


def test_taken_name_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    meta = open_run(tmp_path / "r", config(), "never")
    with pytest.raises(InputError, match=r"exists already: continue it with resume=auto, or .* name=\.\.\."):
        open_run(tmp_path / "r", config(), "never")
    again = open_run(tmp_path / "r", config(root="moved"), "auto")
    assert again["wandb_id"] == meta["wandb_id"]
    assert len(again["continued"]) == 1
    assert json.loads((tmp_path / "r" / "meta.json").read_text()) == again


def test_another_configuration_cannot_continue_a_run(tmp_path: Path) -> None:
    open_run(tmp_path / "r", config(), "never")
    before = (tmp_path / "r" / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"optimizer\.lr was 0\.001 in this run and is 0\.5 now"):
        open_run(tmp_path / "r", config(lr=0.5), "auto")
    assert (tmp_path / "r" / "config.yaml").read_text() == before


def test_other_validation_images_and_weights_cannot_continue_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = {"train": "a", "val": "b"}
    open_run(tmp_path / "r", config() | {"weights": None}, "never", images=images)
    open_run(tmp_path / "r", config(root="moved") | {"weights": None}, "auto", images=images)
    assert "images" not in caplog.text
    with pytest.raises(InputError, match=r"the validation images .* are others than those by which"):
        open_run(tmp_path / "r", config() | {"weights": None}, "auto", images=images | {"val": "c"})
    with pytest.raises(InputError, match=r"weights was None in this run and is 'a\.ckpt' now"):
        open_run(tmp_path / "r", config() | {"weights": "a.ckpt"}, "auto", images=images)
    open_run(tmp_path / "r", config() | {"weights": None}, "auto", images=images | {"train": "c"})
    assert "the training images are others than before" in caplog.text


def test_restarts_are_counted_from_where_a_job_got_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    since = []
    for restarts, step in enumerate((0, 10, 20, 20, 20, 30)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        since.append(open_run(tmp_path / "r", config(), "auto", step)["slurm_since"])
    assert since == [0, 1, 2, 2, 2, 5]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert open_run(tmp_path / "r", config(), "auto", 30)["slurm_since"] == 0


def test_what_a_schedule_as_long_as_the_training_depends_on(tmp_path: Path) -> None:
    """By the length in epochs nothing else is decided: others may be prolonged."""
    one_cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR"}
    schedules: dict[str, dict[str, object]] = {
        "null": {"total_steps": None},
        "given": {"total_steps": 9},
        "one cycle": one_cycle,
        "given to one cycle": {**one_cycle, "epochs": 1, "steps_per_epoch": 4},
    }
    for name, schedule in schedules.items():
        open_run(tmp_path / name, config() | {"scheduler": schedule}, "never")
        longer = config() | {"scheduler": schedule, "trainer": {"max_epochs": 2}}
        if name.startswith("given"):
            open_run(tmp_path / name, longer, "auto")
            continue
        with pytest.raises(InputError, match=r"trainer\.max_epochs was 1 in this run and is 2 now"):
            open_run(tmp_path / name, longer, "auto")


def test_the_protocol_that_chooses_the_best_checkpoint_stays(tmp_path: Path) -> None:
    y, rgb = {"y": {"shave": 4}}, {"rgb": {"shave": 4}}
    open_run(tmp_path / "r", config() | {"protocol": y}, "never")
    open_run(tmp_path / "r", config() | {"protocol": y | rgb}, "auto")
    with pytest.raises(
        InputError, match=r"the first protocol, which .*, was y in this run and is rgb now: keep it in f"
    ):
        open_run(tmp_path / "r", config() | {"protocol": rgb | y}, "auto")
    with pytest.raises(InputError, match=r"was y in this run and is y, with other options, now: keep"):
        open_run(tmp_path / "r", config() | {"protocol": {"y": {"shave": 2}}}, "auto")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written: .* choose another runs_dir="):
        open_run(tmp_path / "file" / "r", config(), "never")


def test_write_text_leaves_the_old_file_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.json"
    write_text(target, "old")

    def full(self: Path, text: str, encoding: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_meta_says_what_ran(tmp_path: Path) -> None:
    meta = open_run(tmp_path / "r", config(), "never")
    assert {"git_commit", "versions", "device", "command", "wandb_id"} <= set(meta)
    assert meta["versions"]["torch"] == torch.__version__


def test_meta_of_a_wheel_names_its_version_and_no_commit_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "CHECKOUT", False)
    monkeypatch.setattr(run_folder, "version", lambda name: f"of {name}")
    meta = open_run(tmp_path / "r", config(), "never")
    assert (meta["git_commit"], meta["git_dirty"], meta["versions"]["deblur-sr"]) == ("", False, "of deblur-sr")


def test_what_is_taken_out_and_seeds_are_in_the_name() -> None:
    assert run_name(CHOICES, ["~loss.terms.deblurred"]).endswith("loss.terms.deblurred=removed")
    long = [f"model.widths=[{'64,' * 50}1]"]
    assert run_name(CHOICES, [*long, "seed=1"]).removesuffix("seed=1") == run_name(CHOICES, [*long, "seed=2"])[:-6]


@pytest.mark.parametrize(
    "name", ["../esc", ".", "..", "", "/tmp/esc", "a/../..", "a/b", "a ", " a", ".a", "a\nb", "a" * 300, "é" * 120]
)
def test_a_name_is_that_of_one_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name: found .*, expected the name of one folder in runs_dir="):
        checked_name(name)


@pytest.mark.parametrize("name", ["a", "a b", "x(1)", "é" * 100, "seed=1,2", "a..b", "-"])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert checked_name(name) == name


def test_names_lead_nowhere_else(cli: Callable[..., Outcome], tiny: list[str], tmp_path: Path) -> None:
    other = [item for item in tiny if not item.startswith("name=")]
    commands = (
        [*other, "name=../esc"],
        ["-m", *other, "name=../esc,."],
        ["task=evaluate", "model=bicubic", *other[:2], "name=../esc"],
    )
    for command in commands:
        outcome = cli(*command)
        assert outcome.status == 2
        assert "name: found '../esc', expected the name of one folder" in outcome.err
        assert "Traceback" not in outcome.err
    assert not (tmp_path / "esc").exists()
    assert not list(tmp_path.glob("runs/c*"))
