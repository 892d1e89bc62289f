"""Several processes train as one with the batch of all of them, validate every image once, and stop together."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from datamodules import distributed as ranks
from experiments.runtime import distributed
from tests.conftest import Outcome, figures, photograph

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 600  # seconds; only processes that hang use them up
COMMON = [
    "data=folder",
    "data.root=photographs",
    "data.source.val_root=validation",
    "data.source.test_root=test",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "logger=none",
    "pictures=none",
]
ED_DSRN = ["model.widths=[4,4,4,4]", "model.n_units=1", "data.patch=32"]
SRN = ["model.widths=[4,6,8]", "model.n_blocks=1", "degradation=camera_shake", "data.patch=32"]
USRNET = ["model.widths=[4,4,4,4]", "model.hyper_width=4"]
TWENTY = ["trainer.max_epochs=2", "data.samples_per_epoch=40"]
FEW = ["trainer.max_epochs=1", "data.samples_per_epoch=8"]


def epochs(*stages: str) -> list[str]:
    return [f"procedure.stages.{stage}.epochs=1" for stage in stages]


# Four crops a step: of one process, or of two with two each.
TRAININGS = {
    "ed_dsrn": [*ED_DSRN, *TWENTY],
    "srn": ["model=srn", *SRN, *TWENTY],
    # The scale is drawn for every step: the processes have to draw the same.
    "usrnet_tiny": ["model=usrnet_tiny", "model.n_iter=2", *USRNET, "data.patch=48", *TWENTY],
    # Biases before a batch normalization have gradients of nothing but rounding, which Adam enlarges but for its eps.
    "cooperative": [
        *("model=cooperative", "model.widths=[4,4,4,4]", "model.n_units=1", "degradation=cooperative_old"),
        *("data.patch=32", "data.samples_per_epoch=20", "optimizer.eps=1e-4"),
        *epochs("deblur", "superres", "joint", "all"),
    ],
    "srn_lstm": ["model=srn_lstm", *SRN, *FEW],
    # Batch normalization of PyTorch's own class.
    "srresnet": ["model=srresnet", "model.width=8", "model.n_blocks=1", "optimizer.eps=1e-4", "data.patch=32", *FEW],
    "gfn": [
        *("model=gfn", "model.width=4", "model.n_blocks=[1,1]", "degradation=ed_dsrn", "data.patch=32"),
        *("data.samples_per_epoch=8", *epochs("features", "restart", "gate")),
    ],
    "dan_usrnet": [
        *("model=dan_usrnet_tiny", "model.n_loops=2", "model.estimator={width: 16, n_blocks: 1}", "data.patch=48"),
        "model.restorer={n_iter: 1, widths: [4,4,4,4], n_blocks: 1, hyper_width: 4}",
        *("data.samples_per_epoch=8", *epochs("restorer", "estimator", "joint")),
    ],
    "accumulated": [*ED_DSRN, "trainer.max_epochs=1", "data.samples_per_epoch=24"],
    "usrgan": [
        *("model=usrgan_tiny", "procedure.continues=false", "degradation.scale=2", "model.n_iter=1"),
        *(*USRNET, "data.patch=96", *FEW),
    ],
}
STEPS = {"ed_dsrn": 20, "srn": 20, "usrnet_tiny": 20, "cooperative": 20}


def make_images(folder: Path) -> None:
    for name, count, first in (("photographs", 6, 0), ("validation", 7, 20), ("test", 3, 40)):
        (folder / name).mkdir()
        for i in range(count):
            height, width = (100, 96 + 4 * i) if name == "photographs" else (48 + 4 * i, 52)
            Image.fromarray(photograph(height, width, first + i)).save(folder / name / f"{name}{i}.png")


def recording(name: str, kind: str) -> list[str]:
    double = str(name != "usrgan").lower()  # the networks of its losses compute in float32
    record = f"{{_target_: tests.helpers.rank_runs.Record, out: {name}-{kind}, double: {double}}}"
    return [f"name={name}-{kind}", f"+callbacks.record={record}"]


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every training was run by one process and by two, each of these with half of the batch."""
    folder = tmp_path_factory.mktemp("ranks")
    make_images(folder)
    jobs = []
    for name, options in TRAININGS.items():
        half = ["data.batch_size=2", "trainer.sync_batchnorm=true"]
        if name == "accumulated":
            half = ["data.batch_size=1", "trainer.accumulate_grad_batches=2"]
        jobs.append(
            {
                "alone": [*COMMON, *options, "data.batch_size=4", *recording(name, "alone")],
                "ranks": [*COMMON, *options, *half, *recording(name, "ranks")],
            }
        )
    (folder / "jobs.json").write_text(json.dumps(jobs))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.rank_runs", str(folder), str(folder / "jobs.json")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DEBLUR_SR_CACHE": str(folder / "cache")},
        start_new_session=True,
    )
    try:
        status = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        status = None
    assert status == 0, [(log.name, log.read_text()[-2000:]) for log in folder.glob("*.log")]
    return folder


def load(folder: Path, name: str) -> tuple[Any, Any, Any]:
    """What was recorded of one process, and of the two."""
    return tuple(torch.load(folder / f"{name}-{which}") for which in ("alone.0", "ranks.0", "ranks.1"))  # type: ignore[return-value]


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAININGS if name != "usrgan"])
def test_two_ranks_equal_one_process_with_the_doubled_batch(trained_twice: Path, name: str) -> None:
    alone, *both = load(trained_twice, name)
    if name in STEPS:
        assert len(alone["losses"]) == STEPS[name]
    largest = max(gradient.abs().max().item() for gradient in alone["gradients"].values())
    for rank in both:
        assert difference(rank["gradients"], alone["gradients"]) < 1e-6 * max(1, largest)
        assert difference(rank["weights"], alone["weights"]) < 1e-5
    if name != "accumulated":
        losses = [(a + b) / 2 for a, b in zip(both[0]["losses"], both[1]["losses"], strict=True)]
        assert losses == pytest.approx(alone["losses"], rel=1e-5)
    assert both[0]["losses"] != both[1]["losses"]  # each has images of its own
    assert difference(both[0]["weights"], both[1]["weights"]) == 0


@pytest.mark.slow
def test_adversarial_training_keeps_the_ranks_equal(trained_twice: Path) -> None:
    """The relativistic averages are those of each process, so the gradients differ a little from one process's."""
    alone, first, second = load(trained_twice, "usrgan")
    assert difference(first["weights"], second["weights"]) == 0
    assert first["losses"] == pytest.approx(second["losses"], rel=0.5)
    assert all(torch.isfinite(weights).all() for weights in first["weights"].values())
    assert difference(first["weights"], alone["weights"]) < 1e-4
    saved = torch.load(trained_twice / "runs/usrgan-ranks/checkpoints/last.ckpt", weights_only=True)
    start = torch.load(trained_twice / "runs/usrgan-alone/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == start["state_dict"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ed_dsrn", "srn", "usrnet_tiny", "cooperative"])
def test_seven_images_over_two_ranks_give_the_figures_of_one_process(trained_twice: Path, name: str) -> None:
    def validated(kind: str) -> list[dict[str, float]]:
        rows = csv.DictReader((trained_twice / f"runs/{name}-{kind}/metrics.csv").open())
        found = [{k: float(v) for k, v in row.items() if k.startswith("val/") and v} for row in rows]
        return [row for row in found if row]

    alone, both = validated("alone"), validated("ranks")
    assert len(alone) == (4 if name == "cooperative" else 2)
    for one, two in zip(alone, both, strict=True):
        assert {key: f"{value:.4f}" for key, value in two.items()} == {
            key: f"{value:.4f}" for key, value in one.items()
        }
    tested = [figures(trained_twice / f"runs/{name}-{kind}", "checkpoint_sha256") for kind in ("alone", "ranks")]
    for one, two in zip(*tested, strict=True):
        assert list(two["images"]) == list(one["images"]) == ["test0", "test1", "test2"]
        assert [f"{r['psnr']:.2f}, {r['ssim']:.4f}" for r in (one, two)] == [
            f"{one['psnr']:.2f}, {one['ssim']:.4f}"
        ] * 2


@pytest.mark.slow
def test_only_the_first_rank_prints(trained_twice: Path) -> None:
    first, second = ((trained_twice / f"rank{rank}.log").read_text() for rank in (0, 1))
    assert first.count("mean") + first.count("PSNR dB") >= len(TRAININGS)
    assert "PSNR" not in second
    assert "effective batch" not in second
    assert "effective batch 4 (data.batch_size=2 x 2 processes), learning rate 0.0005; the recipe is one for a" in first
    assert "(data.batch_size=1 x 2 processes x trainer.accumulate_grad_batches=2)" in first


@dataclass
class Started:
    """What processes that were started by `python run.py trainer=ddp_cpu` left behind."""

    folder: Path
    sweep: Outcome
    killed: Outcome
    resumed: Outcome


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    """A sweep of two jobs on two ranks; the second job again, with a rank that is killed, and continued."""
    import run

    folder = tmp_path_factory.mktemp("started")
    make_images(folder)
    options = [*COMMON, *ED_DSRN, "trainer=ddp_cpu", "data.batch_size=1", "data.samples_per_epoch=8"]
    options += ["trainer.max_epochs=2", "checkpoint.every_n_steps=1"]
    fail = "+callbacks.fail={_target_: tests.helpers.rank_runs.Fail, rank: 1, step: 3, how: SIGKILL}"
    found = []
    commands = (
        ["-m", *options, "seed=1,2", "logger=wandb", "name=sweep${seed}"],
        [*options, "seed=2", "name=killed", fail],
        [*options, "seed=2", "name=killed", "resume=auto"],
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DEBLUR_SR_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for number, command in enumerate(commands):
            patch.setattr(sys, "argv", ["run.py", *command])
            out, err = folder / f"{number}.out", folder / f"{number}.err"
            with out.open("w") as stdout, err.open("w") as stderr:
                patch.setattr(sys, "stdout", stdout)
                patch.setattr(sys, "stderr", stderr)
                try:
                    status = run.main()
                except SystemExit as leaving:
                    status = int(leaving.code or 0)
            found.append(Outcome(status, out.read_text(), err.read_text()))
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    return Started(folder, *found)


@pytest.mark.slow
def test_every_job_of_a_sweep_starts_ranks_of_its_own(started: Started) -> None:
    assert started.sweep.status == 0, started.sweep.err
    assert sorted(path.name for path in (started.folder / "runs").iterdir()) == [
        "killed",
        "multirun",
        "sweep1",
        "sweep2",
    ]
    for seed in (1, 2):
        run = started.folder / f"runs/sweep{seed}"
        assert OmegaConf.load(run / "config.yaml").seed == seed
        assert json.loads((run / "meta.json").read_text())["processes"] == 2
        assert len(list((run / "wandb").glob("offline-run-*"))) == 1
        logs = [(run / f"logs/rank{rank}.log").read_text() for rank in (0, 1)]
        assert "epoch 2/2, step 8" in logs[0]
        assert "effective batch 2" in logs[1]
        rows = list(csv.DictReader((run / "metrics.csv").open()))
        assert [row["step"] for row in rows] == [str(step) for step in range(8)]
    assert started.sweep.out.count("results: ") == 2
    assert not distributed._jobs
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_killed_rank_stops_the_job_with_one_line(started: Started) -> None:
    assert started.killed.status == 4
    assert started.killed.err.splitlines()[-1].startswith("rank 1 was ended by SIGKILL")
    assert "Traceback" not in started.killed.err
    assert started.killed.out == ""


@pytest.mark.slow
def test_two_ranks_continue_in_mid_epoch_to_the_same_weights(started: Started) -> None:
    assert started.resumed.status == 0, started.resumed.err
    assert "continuing runs/killed after step 2" in started.resumed.err
    paths = [started.folder / f"runs/{name}/checkpoints/last.ckpt" for name in ("sweep2", "killed")]
    whole, killed = (torch.load(path, weights_only=True) for path in paths)
    assert whole["global_step"] == killed["global_step"] == 8
    assert all(torch.equal(whole["state_dict"][name], killed["state_dict"][name]) for name in whole["state_dict"])
    assert not list((started.folder / "runs").rglob("*.part"))


def test_a_process_alone_talks_to_nobody() -> None:
    assert ranks.gather(3) == [3]
    assert ranks.on_rank_zero(lambda: "made") == "made"
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    with ranks.rank_zero_first():
        pass
