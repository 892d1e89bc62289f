"""Every file in conf/ is used once: a new one is covered by being there."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import save_file

import run
from datamodules.sources import div2k, sample
from lightning_modules.metrics import lpips
from tests.conftest import Outcome, photograph
from tests.helpers.marks import quick

Cli = Callable[..., Outcome]

ONE_STEP = [
    "data.patch=32",
    "data.batch_size=1",
    "data.samples_per_epoch=1",
    "data.num_workers=0",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "name=one_step",
]
FOLDER = ["data=folder", "data.root=photographs"]
SMALL = ["model=ed_dsrn", "model.widths=[4,4,4,4]", "model.n_units=1"]
PAIRS = ["data=paired_folder", "data.root=pairs"]
QUARTERS = ["data=paired_folder", "data.root=quarters", "data.source.scale=4"]
SMALL_USRNET = ["model.n_iter=1", "model.widths=[2,2,2,2]", "model.n_blocks=1", "degradation.scale=2"]
SMALL_SRN = ["model.widths=[2,2,2]", "model.n_blocks=1"]
SMALL_DMBSR = [*SMALL_USRNET, "degradation.margin=8"]
# The discriminator's deepest layers see one pixel of a patch of 32: to be normalised, it needs company.
SMALL_GAN = ["procedure.discriminator.width=2", "data.batch_size=2", "data.samples_per_epoch=2"]
ALONE = "procedure.continues=false"  # without the weights that these recipes go on with
SMALL_DAN = [
    *("model.n_loops=2", "model.restorer.n_iter=1", "model.restorer.widths=[2,2,2,2]"),
    *("model.estimator.n_blocks=1", "degradation.scale=2"),
]
SMALL_NAFNET = ["model.width=2", "model.enc=[1]", "model.mid=1", "model.dec=[1]"]
SMALL_SRRESNET = ["model.width=4", "model.n_blocks=1"]  # EDSR too
SMALL_LAPSRN = ["model.width=4", "model.n_convs=1"]
MEASURE = ["task=evaluate", "model=bicubic"]
# Overrides that an option needs to be used at all: folders it reads, a model or a loss that fits it.
NEEDS: dict[tuple[str, str], list[str]] = {
    ("data", "folder"): ["data.root=photographs"],
    ("data", "div2k"): ["data_dir=data"],
    ("data", "paired_folder"): ["data.root=quarters", "data.source.scale=4", "degradation=none", "loss=sr_mse"],
    **{("degradation", name): ["loss=sr_mse"] for name in ("bicubic", "dan_setting1", "dan_setting2", "second_order")},
    ("degradation", "linear_motion"): ["loss=sr_mse"],
    ("degradation", "photographs"): ["degradation.scale=4"],
    ("degradation", "denoising"): ["model=drunet_small"],
    ("metric", "lpips"): ["task=prepare", "metric.lpips.weights=alexnet.safetensors"],  # the photographs are too small
    ("metric", "niqe"): ["task=prepare", "metric.niqe.model=niqe.npz"],
    ("metric", "vif"): ["task=prepare"],
    **{("degradation", name): ["task=evaluate", "model=bicubic"] for name in ("cooperative_new", "cooperative_old")},
    ("degradation", "cooperative_released"): [
        "data=paired_folder",
        "data.root=pairs",
        "task=evaluate",
        "model=bicubic",
    ],
    ("degradation", "gopro"): ["data=paired_folder", "data.root=pairs"],
    ("degradation", "gaussian_motion_100k"): [f"degradation.kernels.{kind}=9" for kind in ("gaussian", "motion")]
    + ["loss=sr_mse"],
    ("degradation", "none"): ["data=paired_folder", "data.root=quarters", "data.source.scale=4", "loss=sr_mse"],
    ("degradation", "varying"): ["degradation.scale=4", "degradation.margin=4", "data.patch=40", "loss=sr_mse"],
    ("degradation", "usrnet_test"): ["task=evaluate", "model=bicubic"],
    ("degradation", "usrnet_train"): ["degradation.scale=4", "loss=sr_mse"],
    ("task", "evaluate"): ["model=bicubic"],
    ("task", "export"): ["model=bicubic", "formats=[safetensors]"],
    ("protocol", "rgb_shave_s2"): [*MEASURE, "degradation=bicubic", "degradation.scale=2"],
    ("model", "cooperative"): [*PAIRS, "model.widths=[4,4,4,4]", "model.n_units=1"],
    ("model", "gfn"): [*PAIRS, "model.width=4", "model.n_blocks=[1,1]"],
    **{("model", name): [*PAIRS, *SMALL_SRN] for name in ("srn", "srn_gray", "srn_lstm")},
    **{("model", name): SMALL_USRNET for name in ("usrnet", "usrnet_tiny")},
    **{("model", name): SMALL_DMBSR for name in ("dmbsr", "dmbsr_tiny")},
    **{("model", name): [*SMALL_USRNET, *SMALL_GAN, ALONE] for name in ("usrgan", "usrgan_tiny")},
    **{("model", name): SMALL_DAN for name in ("dan_usrnet", "dan_usrnet_tiny")},
    ("model", "deblurcnn"): ["model.width=0.125"],
    ("model", "scgan"): ["model.width=4", "model.n_layers=1", *SMALL_GAN],
    **{("model", name): [*PAIRS, *SMALL_NAFNET] for name in ("nafnet", "nafnet_64")},
    **{("model", name): SMALL_NAFNET for name in ("nafnet_sr", "nafnet_sr_small")},
    **{("experiment", name): [*PAIRS, *SMALL_NAFNET] for name in ("nafnet_gopro", "nafnet_sr_lr_gopro")},
    ("experiment", "nafnet_sr_reds"): [*QUARTERS, *SMALL_NAFNET],
    ("experiment", "ed_dsrn_reds"): [*QUARTERS, "model.widths=[4,4,4,4]", "model.n_units=1"],
    ("experiment", "gfn_reds"): [*QUARTERS, "model.width=4", "model.n_blocks=[1,1]"],
    ("degradation", "reds"): QUARTERS,
    ("suite", "ntire2021_lr"): [*MEASURE, *QUARTERS],
    ("suite", "div2krk"): [*MEASURE, *QUARTERS],
    ("suite", "reds"): [*MEASURE, *PAIRS],
    ("experiment", "nafnet_sr_div2k"): SMALL_NAFNET,
    ("experiment", "deblurcnn_div2k"): ["model.width=0.125"],
    ("loss", "deblurcnn"): ["model=deblurcnn", "model.width=0.125"],
    ("task", "restore"): ["model=bicubic", "input=photographs", "output=restored", "scale=2"],
    ("task", "lr_find"): ["lr_max=1000", "steps=40"],
    ("task", "profile"): ["target=[16,24]", "warmup=0", "repeats=1"],
    **{("model", name): SMALL_SRRESNET for name in ("srresnet", "edsr", "edsr_baseline")},
    ("model", "lapsrn"): SMALL_LAPSRN,
    ("model", "vdsr"): ["model.width=4", "model.n_layers=3", "data.patch=36"],
    ("experiment", "srresnet_finetuned"): [*SMALL_SRRESNET, "weights=null"],
    ("experiment", "lapsrn_finetuned"): [*SMALL_LAPSRN, "weights=null"],
    ("experiment", "quick_dan_usrnet"): ["model.restorer.n_iter=1"],
    ("experiment", "quick_dmbsr"): ["degradation.margin=8"],
    ("experiment", "small_dmbsr"): ["degradation.margin=0", "degradation.scale=2"],
    ("experiment", "quick_usrgan"): [*SMALL_GAN, ALONE],
    ("experiment", "cooperative_gopro"): [*PAIRS, "model.widths=[4,4,4,4]", "model.n_units=1"],
    ("experiment", "gfn_gopro"): [*PAIRS, "model.width=4", "model.n_blocks=[1,1]"],
    **{("experiment", name): [*PAIRS, *SMALL_SRN] for name in ("srn_gopro", "srn_lstm_gopro")},
    **{("experiment", name): SMALL_USRNET for name in ("usrnet_div2k", "usrnet_tiny_div2k", "small_usrnet")},
    ("experiment", "usrgan_div2k"): [*SMALL_USRNET, *SMALL_GAN, ALONE],
    ("experiment", "dan_usrnet_a"): SMALL_DAN,
    ("experiment", "dan_usrnet_b"): [
        *SMALL_DAN,
        *(f"degradation.kernels.{kind}=200" for kind in ("gaussian", "motion")),
    ],
    ("trainer", "ddp_cpu"): ["data.samples_per_epoch=2"],
    ("procedure", "gan"): SMALL_GAN,
    ("procedure", "staged"): ["scheduler=none", "+procedure.stages.only.epochs=1"],
    **{("loss", name): ["model.deblur_branch=false"] for name in ("sr_l1", "half_sse", "nafnet")},
    ("loss", "y_sse"): ["model.deblur_branch=false"],
    ("loss", "lapsrn"): ["model=lapsrn", *SMALL_LAPSRN],
    ("loss", "dan"): ["model=dan_usrnet", *SMALL_DAN],
    ("loss", "srn"): ["model=srn", *PAIRS, *SMALL_SRN],
    ("scheduler", "cosine_steps"): ["scheduler.warmup=0"],
    ("degradation", "gaussian8"): ["loss=sr_mse"],
    **{("suite", name): MEASURE for name in ("ed_dsrn_table1", "usrnet_bicubic")},
    ("suite", "usrnet_table1"): [*MEASURE, "suite.grid.degradation.kernels.number=[0,11]", "degradation.scale=2"],
    ("suite", "dan_setting1"): [*MEASURE, "suite.grid.degradation.kernels.number=[0,7]"],
    ("suite", "dpir_deblur"): [
        *(*MEASURE, "degradation.kernels.suite.path=kernels.npy", "suite.grid.degradation.kernels.number=[0,1]"),
    ],
    ("suite", "drunet_noise"): MEASURE,
    ("suite", "varying"): [*MEASURE, "degradation.margin=8", "degradation.scale=2"],
    **{("suite", name): [*MEASURE, *PAIRS] for name in ("cooperative", "gopro", "lr_gopro")},
    ("degradation", "camera_shake"): ["task=evaluate", "model=bicubic"],
    ("degradation", "gaussian_21"): ["loss=sr_l1"],
    ("degradation", "own_kernels"): ["degradation.kernels.suite.path=kernels.npy", "loss=sr_mse"],
}
# Data sets that have to be complete, which their own tests see to: here they only say that they are absent.
ABSENT: dict[str, list[str]] = {
    "bsd68": [],
    "bsd100": ["data.source.download=false"],
    "bsds500": ["data.source.download=false"],
    "div2krk": [],
    "gopro": ["data.variant=blur"],
    "lai": [],
    "reds": ["data.variant=blur_bicubic", "data.source.download=false"],
    "realblur": ["data.variant=J"],
    "rsblur": [],
    "reds_val": ["data.variant=blur_bicubic", "data.source.download=false"],
    "set5": [],
    "set14": [],
    "urban100": [],
    "kodak24": [],
}


def find_options() -> list[tuple[str, str]]:
    """(group, option) of every file that can be chosen; files right in conf/ are no options."""
    files = sorted(file.relative_to(run.CONF) for file in run.CONF.glob("*/**/*.yaml"))
    return [(file.parent.as_posix(), file.stem) for file in files if file.parts[0] != "hydra"]


OPTIONS = find_options()
MODELS = [option for group, option in OPTIONS if group == "model"]
# Comparing takes runs that are there: test_compare.py. Serving goes on until it is stopped: test_serve.py.
LEFT_OUT = {("task", "compare"), ("task", "serve"), *(("data", name) for name in ABSENT)}
OTHERS = [(g, o) for g, o in OPTIONS if g not in ("model", "experiment") and (g, o) not in LEFT_OUT]
# What every run has anyway, which takes one run for all, and a few more.
QUICK_OTHERS = [
    *(("data", "folder"), ("degradation", "ed_dsrn"), ("loss", "ed_dsrn"), ("optimizer", "adam")),
    *(("procedure", "supervised"), ("protocol", "y_shave4"), ("protocol", "rgb_shave4"), ("scheduler", "halving")),
    *(("trainer", "default"), ("task", "train"), ("logger", "none"), ("callbacks", "none")),
    *(("callbacks", "ema"), ("data", "paired_folder"), ("optimizer", "sgd"), ("task", "restore")),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What NEEDS refers to: a folder of photographs, two of pairs, two kernels and a DIV2K of six images."""
    for folder in ("photographs", "pairs/sharp", "pairs/degraded", "quarters/sharp", "quarters/degraded"):
        (tmp_path / folder).mkdir(parents=True)
        shrink = 4 if folder == "quarters/degraded" else 1
        for i in range(4):
            Image.fromarray(photograph(48, 40, i)[::shrink, ::shrink]).save(tmp_path / folder / f"{i}.png")
    np.save(tmp_path / "kernels.npy", np.full((2, 3, 3), 1 / 9))
    np.savez(tmp_path / "niqe.npz", mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36))
    alexnet, before = {}, 3
    for index, width, size, *_ in lpips.LAYERS:
        alexnet[f"features.{index}.weight"] = torch.zeros(width, before, size, size)
        alexnet[f"features.{index}.bias"] = torch.zeros(width)
        before = width
    save_file(alexnet, tmp_path / "alexnet.safetensors")
    numbers = {div2k.TRAIN: range(1, 5), div2k.VALID: range(801, 803)}
    for folder, images in numbers.items():
        monkeypatch.setitem(div2k.IMAGES, folder, images)
        (tmp_path / "data" / "DIV2K" / folder).mkdir(parents=True)
        for i in images:
            Image.fromarray(photograph(40, 48, i)).save(tmp_path / "data" / "DIV2K" / folder / f"{i:04d}.png")
    splits = {"train": (div2k.TRAIN, range(1, 4)), "val": (div2k.TRAIN, range(4, 5))}
    for split, images_of in {**splits, "test": (div2k.VALID, numbers[div2k.VALID])}.items():
        monkeypatch.setitem(div2k.SPLITS, split, images_of)
    for split, names in list(sample.SPLITS.items()):
        monkeypatch.setitem(sample.SPLITS, split, names[-1:])
    yield
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)  # checkpoints of networks in full size


def compose(*overrides: str, return_hydra_config: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(run.CONF), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides), return_hydra_config=return_hydra_config)


def assert_one_step(outcome: Outcome, group: str, option: str) -> None:
    advice = f"if it cannot be used without other overrides, add them to NEEDS in {Path(__file__).name}"
    assert outcome.status == 0, f"{group}={option}: {outcome.err}\n{advice}"


@pytest.mark.parametrize("model", quick(MODELS, "bicubic", "usrnet_tiny"))
def test_model_trains_by_its_recipe(cli: Cli, tmp_path: Path, model: str) -> None:
    """The loss, the optimiser and the schedule are those that the model's file brings."""
    needs = NEEDS.get(("model", model), [])
    data = [] if set(PAIRS) <= set(needs) else FOLDER
    cfg = compose(f"model={model}", *needs)
    with torch.device("meta"):
        network = hydra.utils.instantiate(cfg.model)
    outcome = cli(f"model={model}", *data, *ONE_STEP, "logger=none", *needs)
    if not network.trainable:
        assert outcome.status == 2
        assert f"model={model} has nothing to train" in outcome.err
        return
    assert_one_step(outcome, "model", model)
    saved = OmegaConf.load(tmp_path / "runs" / "one_step" / "config.yaml")
    assert isinstance(saved, DictConfig)
    assert (saved.model, saved.loss, saved.optimizer) == (cfg.model, cfg.loss, cfg.optimizer)
    last = torch.load(tmp_path / "runs" / "one_step" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values() if value.is_floating_point())


def base_choices() -> set[tuple[str, str]]:
    """(group, option) of what a run has that is told nothing of that group."""
    cfg = compose(*SMALL, *FOLDER, *ONE_STEP, return_hydra_config=True)
    chosen = {**cfg.hydra.runtime.choices, "logger": "none"}
    return {*chosen.items(), *(("protocol", name) for name in cfg.protocol)}


@pytest.fixture(scope="module")
def done() -> dict[tuple[str, ...], Outcome]:
    """Outcomes by overrides: the options that every run has anyway are used in one run, not in one each."""
    return {}


@pytest.mark.parametrize(("group", "option"), quick(OTHERS, *QUICK_OTHERS))
def test_option_works(cli: Cli, done: dict[tuple[str, ...], Outcome], group: str, option: str) -> None:
    needs = NEEDS.get((group, option), [])
    own = [f"{group}=[{option}]" if group in ("protocol", "metric") else f"{group}={option}", *needs]
    if (group, option) in base_choices() and set(needs) <= set(FOLDER):
        own = []
    base = [*SMALL, *FOLDER, *ONE_STEP, "logger=none"]
    # What the option says comes instead of what the base says, with the keys that belong to that.
    replaced = tuple(f"{item.split('=')[0]}{end}" for item in own for end in "=." if "." not in item.split("=")[0])
    overrides = (*(item for item in base if not item.startswith(replaced) or item in ONE_STEP), *own)
    if overrides not in done:
        done[overrides] = cli(*overrides)
    assert_one_step(done[overrides], group, option)


# Ablations are many experiments each: tests of their own look at all of them.
EXPERIMENTS = [o for g, o in OPTIONS if g == "experiment" and not o.startswith("ablation_")]


@pytest.mark.parametrize("experiment", quick(EXPERIMENTS, "quickstart"))
def test_experiment_trains_one_step(cli: Cli, experiment: str) -> None:
    needs = NEEDS.get(("experiment", experiment), [])
    data = [] if set(PAIRS) <= set(needs) else FOLDER
    outcome = cli(f"experiment={experiment}", *data, *ONE_STEP, "logger=none", *needs)
    assert_one_step(outcome, "experiment", experiment)


@pytest.mark.parametrize("file", sorted(run.CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(run.CONF)))
def test_file_parses_and_says_what_it_is(file: Path) -> None:
    OmegaConf.load(file)  # refuses a key that is given twice, which PyYAML does not
    text = file.read_text("utf-8")
    assert text.endswith("\n")
    assert "\t" not in text


def test_tables_name_what_exists() -> None:
    assert {*NEEDS, *(("data", option) for option in ABSENT)} <= set(OPTIONS)


@pytest.mark.parametrize("data", ABSENT)
def test_absent_data_set_says_so(cli: Cli, tmp_path: Path, data: str) -> None:
    outcome = cli("task=evaluate", "model=bicubic", f"data={data}", "data_dir=nowhere", *ABSENT[data])
    assert outcome.status == 1, outcome.err
    assert outcome.err.startswith("nowhere/")
    assert "data.root" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_help_lists_every_option_and_no_base(cli: Cli) -> None:
    outcome = cli("--help")
    assert outcome.status == 0
    groups = dict.fromkeys(group for group, _ in OPTIONS)
    for group in groups:
        line = ", ".join(option for g, option in OPTIONS if g == group)
        assert f"\n{group}: {line}\n" in outcome.out
    assert "_images" not in outcome.out


def test_base_of_the_data_sets_cannot_be_chosen(cli: Cli) -> None:
    outcome = cli("data=sharp_images")
    assert outcome.status == 2
    assert outcome.err.startswith("data=sharp_images: no such option (conf/data/): available: ")
    assert outcome.err.count("\n") == 1
