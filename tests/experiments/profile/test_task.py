import csv
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from datamodules.batch import Batch
from experiments.profile import task as profile
from experiments.profile import worker
from experiments.profile.table import table
from experiments.profile.worker import PeakMemory, Phase, count_macs
from experiments.results.writers import text
from networks.baselines.deblurcnn import LAYERS, DeblurCNN
from networks.baselines.edsr import EDSR
from networks.srn import SRN
from tests.conftest import Outcome

Cli = Callable[..., Outcome]
Asked = list[tuple[DictConfig, str]]
QUICK = [
    *("task=profile", "target=[16,24]", "repeats=2", "warmup=0"),
    *("data.patch=32", "data.batch_size=2", "trainer.accelerator=cpu", "logger=none"),
]
TINY = ["model=ed_dsrn", "model.widths=[4,4,4,4]", "model.n_units=1"]


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Measures without a process for each network, and collects what it was asked."""
    asked = []

    def measure(cfg: DictConfig, phase: str) -> Phase:
        settled = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        asked.append((settled, phase))
        return worker.measure(settled, phase)

    monkeypatch.setattr(profile, "in_a_process", measure)
    return asked


def macs(network: nn.Module, h: int, w: int) -> int:
    lr = torch.rand(2, 3, h, w)
    return count_macs(network, Batch(lr, ["", ""], torch.zeros(2), torch.zeros(2), lr=lr)) // 2


def srn_by_hand(pixels: int) -> int:
    """One scale of SRN-DeblurNet in colour, from the table of its layers; 5x5 unless said."""
    full = 6 * 32 + 6 * 32 * 32 + 6 * 32 * 32 + 32 * 3
    half = 32 * 64 + 12 * 64 * 64
    quarter = 64 * 128 + 12 * 128 * 128
    ups = 16 * (128 * 64 // 16 + 64 * 32 // 4)  # 4x4, every input pixel times every weight
    return pixels * (25 * full + 25 * half // 4 + 25 * quarter // 16 + ups)


def test_macs_agree_with_counts_by_hand() -> None:
    assert macs(SRN(n_scales=1), 16, 32) == srn_by_hand(16 * 32)
    assert macs(SRN(n_scales=3), 32, 16) == sum(srn_by_hand(512 // 4**k) for k in range(3))
    # EDSR-baseline: 33 layers 64 to 64 and the first at low resolution; two up-samplers; the last one, at 4h x 4w.
    edsr = 9 * (3 * 64 + 33 * 64 * 64 + 64 * 256 + 4 * 64 * 256 + 16 * 64 * 3)
    assert macs(EDSR(width=64, n_blocks=16, residual_scaling=1.0), 6, 5) == 30 * edsr
    side, channels, expected = 50 + 4, 3, 0
    for size, outputs, groups in LAYERS:
        side -= size - 1
        expected += side * (side + 3) * size**2 * channels * outputs // groups
        channels = outputs
    assert macs(DeblurCNN(), 4, 7) == expected


@pytest.mark.slow
def test_experiment_as_composed(cli: Cli, tmp_path: Path, same_process: Asked) -> None:
    outcome = cli(*QUICK, *TINY, "name=small")
    assert outcome.status == 0, outcome.err
    assert [phase for _, phase in same_process] == ["forward", "train"]
    with (tmp_path / "runs" / "profile" / "small.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["model"], row["scale"], row["train_patch"], row["train_stage"]) == ("ed_dsrn", "4", "32", "")
    sizes = ("input_height", "input_width", "output_height", "output_width")
    assert [int(row[key]) for key in sizes] == [4, 6, 16, 24]
    for phase in ("forward", "train"):
        assert 0 < float(row[f"{phase}_q1"]) <= float(row[f"{phase}_median"]) <= float(row[f"{phase}_q3"])
        assert row[f"{phase}_error"] == ""
    stored = json.loads((tmp_path / "runs" / "profile" / "small.json").read_text())
    assert stored["rows"][0]["parameters"] == int(row["parameters"]) > 1000
    assert stored["rows"][0]["macs"] == int(row["macs"])
    assert {"device", "precision", "versions", "threads", "git_commit"} <= stored["about"].keys()
    assert not list((tmp_path / "runs" / "profile").glob("*.part"))
    assert "2 x 32x32" in outcome.out
    assert "FFTs and elementwise operations are not counted" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        (["model=srn_gray", "model.widths=[2,2,2]", "model.n_blocks=1"], None),  # pairs of files, gray
        (["model=gfn", "model.width=4", "model.n_blocks=[1,1]"], "gate"),
        (["model=cooperative", "model.widths=[4,4,4,4]", "model.n_units=1"], "all"),
        (["model=usrgan_tiny", "model.n_iter=1", "model.n_blocks=1", "procedure.discriminator.width=2"], None),
        (
            ["model=dan_usrnet_tiny", "model.n_loops=1", "model.restorer.n_iter=1", "model.estimator.n_blocks=1"],
            "joint",
        ),
    ],
)
def test_every_procedure(cli: Cli, tmp_path: Path, same_process: Asked, overrides: list[str], stage: str) -> None:
    outcome = cli(*QUICK, *overrides, "name=one", "repeats=1")
    assert outcome.status == 0, outcome.err
    (row,) = json.loads((tmp_path / "runs" / "profile" / "one.json").read_text())["rows"]
    assert (row["forward_error"], row["train_error"], row["train_stage"]) == (None, None, stage)
    assert row["train_median"] > 0
    assert (row["output_height"], row["output_width"]) == (16, 24)
    assert row["input_height"] == 16 // row["scale"]
    if stage:
        module, _ = worker.build(same_process[-1][0], compiled=False)
        assert list(module.stages) == [stage]  # type: ignore[arg-type]  # by name
    if "model=usrgan_tiny" in overrides:  # its training draws the scale; measured is the largest
        assert same_process[-1][0].degradation.scale == row["scale"] == 4


@pytest.mark.slow
def test_list_of_models(cli: Cli, tmp_path: Path, same_process: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own recipe; one that fails has a row, and the others follow."""

    def fail(cfg: DictConfig) -> Phase:
        if "SCGAN" in cfg.model._target_:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return Phase(1.0, 1.0, 2.0, 3 * 2**20, 5_000_000_000)

    monkeypatch.setitem(worker.MEASURE, "forward", fail)
    outcome = cli(*QUICK, "models=[scgan,bicubic,srn]", "train=false", "model=usrnet")
    assert outcome.status == 0, outcome.err
    (file,) = (tmp_path / "runs" / "profile").glob("*.json")
    rows = json.loads(file.read_text())["rows"]
    assert [row["model"] for row in rows] == ["scgan_standin", "bicubic", "srn"]
    assert [row["scale"] for row in rows] == [4, 4, 1]
    assert [row["forward_error"] for row in rows] == ["out of memory", None, None]
    assert [row["train_patch"] for row in rows] == [None] * 3
    assert same_process[2][0].loss.terms.keys() == {"pyramid"}
    assert "scgan_standin, forward pass: out of memory" in outcome.out
    assert "1000 (1000-2000)" in outcome.out
    monkeypatch.setitem(worker.MEASURE, "forward", lambda cfg: 1 / 0)
    outcome = cli(*QUICK, "models=[bicubic]")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1].startswith("no model could be measured; bicubic: ZeroDivisionError")


def settled(nodes: dict[str, Any], precision: str = "32-true", **others: Any) -> DictConfig:
    """A config as `profile.subject` leaves it."""
    trainer = {"accelerator": "cpu", "precision": precision, "benchmark": False, "gradient_clip_val": None}
    task = {"target": [20, 24], "scale": 4, "batch": 1, "warmup": 0, "repeats": 2}
    rest = {"data": {"patch": 32, "batch_size": 1}, "seed": 0, "channels_last": False, "compile": False}
    return OmegaConf.create({**nodes, "trainer": trainer, **task, **rest, **others})


PIPELINES = "datamodules.degradations.pipelines"
BICUBIC = {
    "model": {"_target_": "networks.bicubic.Bicubic"},
    "degradation": {"_target_": f"{PIPELINES}.EDDSRNDegradation"},
    "procedure": {"_target_": "lightning_modules.restoration.RestorationModule", "_partial_": True},
    **dict.fromkeys(("loss", "optimizer", "scheduler")),
}


@pytest.mark.slow
def test_process_of_its_own() -> None:
    found = profile.in_a_process(settled(BICUBIC), "forward")
    assert found.error is None
    assert found.median is not None
    assert found.macs == 3 * 7 * 4 * (5 * 6 + 5 * 4 * 6)  # seven taps, columns first, then rows
    dying = settled({**BICUBIC, "model": {"_target_": "os._exit", "_args_": [9]}})
    assert profile.in_a_process(dying, "forward").error == "its process was killed, out of memory perhaps"


def test_inputs_that_the_recipe_does_not_provide() -> None:
    """The recipe's degradation gives no noise level, and of pairs no kernel."""
    model = {"_target_": "networks.usrnet.USRNet", "n_iter": 1, "widths": [2, 2, 2, 2], "n_blocks": 1}
    for degradation in ("EDDSRNDegradation", "ReducedPairs"):
        config = {**BICUBIC, "model": model, "degradation": {"_target_": f"{PIPELINES}.{degradation}"}}
        found = worker.measure(settled(config, batch=2), "forward")
        assert found.error is None


def test_options_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, torch.dtype]] = []
    plain = DeblurCNN.forward

    def forward(self: DeblurCNN, lr: Tensor) -> Any:
        seen.append((lr.is_contiguous(memory_format=torch.channels_last), plain(self, lr).sr.dtype))
        return plain(self, lr)

    monkeypatch.setattr(DeblurCNN, "forward", forward)
    model = {"_target_": "networks.baselines.deblurcnn.DeblurCNN", "width": 0.125, "residual": False}
    cfg = settled({**BICUBIC, "model": model}, "bf16-mixed", channels_last=True, warmup=1, batch=2)
    found = worker.measure(cfg, "forward")
    assert found.error is None
    # The first pass is the one whose multiplications are counted.
    assert seen == [(False, torch.float32)] + 3 * [(True, torch.bfloat16)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
def test_peak_memory_forgets_earlier_peaks() -> None:
    def occupy(count: int) -> None:
        """Pages from the system, not from what the allocator has kept of earlier tests."""
        with mmap.mmap(-1, count) as pages:
            for page in range(0, count, mmap.PAGESIZE):
                pages[page] = 1

    occupy(200_000_000)
    peak = PeakMemory("cpu")
    occupy(100_000_000)
    found = peak()
    assert found is not None
    assert 90e6 < found < 130e6


def test_text() -> None:
    conditions = {"device": "X", "threads": 2, "precision": "32-true", "compile": False}
    row: dict[str, Any] = {"model": "a", "parameters": 1_234_567, "macs": 2_500_000_000, "train_patch": None}
    row |= {"input_height": 180, "input_width": 320, "output_height": 720, "output_width": 1280, "train_error": None}
    row |= {"train_median": None}
    row |= {"forward_median": 0.0123, "forward_q1": 0.012, "forward_q3": 0.013, "forward_memory": 2**21}
    caption, *lines, empty, _, _, _ = text(table(conditions, [{**row, "forward_error": None}])).splitlines()
    assert (caption, empty) == ("device X, threads 2, precision 32-true, compile False", "")
    assert " ".join(lines[0].split()) == "model parameters input output MACs forward ms memory"
    assert " ".join(lines[2].split()) == "a 1.235 M 180x320 720x1280 2.5 G 12.3 (12-13) 2 MiB"
    assert len({len(line) for line in lines}) == 1


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models=[edd_srn]"], "model=edd_srn: no such option (conf/model/): available: "),
        (["models=[edd_srn]"], "did you mean ed_srn?"),
        (["models=[]"], "models: empty, expected"),
        (["models=[bicubic]", "experiment=quick_srn"], "omit experiment= or models="),
        (["models=[bicubic]", "target=[18,24]"], "expected multiples of 4, by which bicubic enlarges: the n"),
        (["models=[bicubic]", "target=[18,24]"], "the nearest is target=[16, 24]"),
        (["target=[24]"], "target: found [24] (conf/task/profile.yaml), expected item 1: required"),
        (["model=usrnet_tiny", "scale=5"], "scale: found 5, expected one of 1, 2, 3, 4, which usrnet_tiny"),
        (["batch=0"], "batch: found 0 (conf/task/profile.yaml), expected greater than 0"),
        (["repeats=0"], "repeats: found 0 (conf/task/profile.yaml), expected greater than 0"),
        (["task.model=[a]"], "task.model: unknown key"),
        (["trainer.precision=16-mixed"], "trainer.precision: found '16-mixed', expected 32-true or bf16-mixed"),
        (["trainer.accelerator=mps"], "trainer.accelerator: found 'mps'"),
        (["model.widths=[1,2]"], "widths is [1, 2], expected 4"),
        (["weights=drunet_small"], "weights: what a network costs does not depend on them"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, tmp_path: Path, overrides: list[str], message: str) -> None:
    outcome = cli(*QUICK, *overrides)
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
