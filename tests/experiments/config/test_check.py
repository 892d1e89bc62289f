"""Nodes of a config that do not fit each other, weights that do not fit the network, and what fits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from experiments.config.construct import construct
from experiments.config.errors import ConfigError
from networks.usrnet import USRNet
from tests.conftest import Outcome
from tests.experiments.config.test_arguments import compose as typed
from tests.experiments.config.test_bad_input import assert_refused

Cli = Callable[..., Outcome]

NO_DATA = ["data=folder", "data.root=nowhere", "trainer.accelerator=cpu", "logger=none"]
COOPERATIVE = ["model=cooperative", "degradation=cooperative_old"]
RULE = "+procedure.parameters.mine={match: '%s', %s}"
JOINT = "procedure.stages.joint"


@pytest.mark.many
@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        # Rules for parts of the network.
        (
            [*COOPERATIVE, RULE % ("lstm.*", "clip: 3.0")],
            ["procedure.parameters.mine.match: no parameter of CooperativeNet matches 'lstm.*'; its parts are deblur"],
        ),
        ([*COOPERATIVE, RULE % ("*", "rate: 1")], ["procedure.parameters.mine: unknown key rate, expected match, lr"]),
        ([*COOPERATIVE, RULE % ("*", "clip: -1")], ["procedure.parameters.mine.clip: found -1, expected a norm > 0"]),
        (["model=ed_dsrn", RULE % ("*", "lr: x")], ["procedure.parameters.mine.lr: found 'x', expected a factor"]),
        (
            ["model=ed_dsrn", RULE % ("*", "freeze: true")],
            ["procedure.parameters: the rules freeze the whole network, nothing is left to train"],
        ),
        # Stages.
        ([*COOPERATIVE, f"{JOINT}.train=blur.*"], [f"{JOINT}.train: no parameter of CooperativeNet matches 'blur.*'"]),
        ([*COOPERATIVE, f"{JOINT}.epochs=0"], [f"{JOINT}.epochs: found 0, expected at least 1"]),
        ([*COOPERATIVE, f"+{JOINT}.network.gate=true"], [f"{JOINT}.network.gate: CooperativeNet has no such option"]),
        ([*COOPERATIVE, f"{JOINT}.network.branch=all"], [f"{JOINT}.network: branch is 'all', expected both"]),
        (
            [*COOPERATIVE, "procedure.stages.superres.inputs.lr=lr_clean"],
            ["model: CooperativeNet in stage superres takes 'lr_clean', which degradation=cooperative_old does not"],
        ),
        (
            [*COOPERATIVE, f"+{JOINT}.terms={{deblurred: {{fn: mse}}}}"],
            [f"{JOINT}.terms.deblurred: CooperativeNet in stage joint has no such branch", "it returns sr"],
        ),
        ([*COOPERATIVE, f"+{JOINT}.terms={{sr: {{fn: l2}}}}"], [f"{JOINT}.terms.sr.fn: found 'l2', expected one of"]),
        ([*COOPERATIVE, "scheduler=halving"], ["procedure: stages bring their own learning rates: set scheduler=none"]),
        (["procedure=staged", "scheduler=none"], ["procedure.stages is empty, expected at least one stage"]),
        (["model=ed_dsrn", "trainer.max_epochs=null"], ["trainer.max_epochs: found null, expected the number of epo"]),
        # Losses.
        (
            ["model=gfn", "degradation=gaussian_21"],
            ["loss.terms.deblurred: needs 'lr_sharp', which degradation=gaussian_21 does not provide"],
        ),
        (["model=usrnet", "loss=dan"], ["loss.terms.code: USRNet has no such branch", "it returns sr"]),
        # Protocols and metrics.
        (
            ["model=usrnet_tiny", "protocol=[gfn]"],
            ["protocol gfn shaves 1.5s pixels, 1.5 for s = 1: expected whole pixels"],
        ),
        (["protocol=[y_shave4]", "protocol.y_shave4.shave=2s"], ["protocol.y_shave4.shave", "2s"]),
        (["metric=[niqe]"], ["metric.niqe.model: a value is required"]),
        (["metric=[lpips]"], ["metric.lpips.weights: a value is required"]),
        (["metric=[vif]", "metric.vif._target_=torchmetrics.image.TotalVariationn"], ["metric.vif._target_"]),
        (
            ["metric=[vif]", "~metric.vif.sigma_n_sq", "metric.vif._target_=torchmetrics.CatMetric"],
            ["metric.vif: CatMetric cannot measure a restored image and its truth: ", "single images"],
        ),
        # Inputs and scales.
        (
            ["model=usrnet", "degradation=ed_dsrn"],
            ["model: USRNet takes 'noise_level', which degradation=ed_dsrn does"],
        ),
        (
            ["model=usrnet", "degradation=second_order"],
            ["model: USRNet takes 'kernel', which degradation=second_order"],
        ),
        (
            ["model=usrnet", "degradation=varying", "data.patch=144"],
            [
                "model: USRNet needs 'kernel', one blur for the whole image; degradation=varying blurs every image by "
                "4 kernels that share it (it provides kernels, weights): choose model=dmbsr, a model that takes no "
                "kernel, or degradation=usrnet_train"
            ],
        ),
        (
            ["model=dan_usrnet", "degradation=varying", "degradation.scale=4", "data.patch=176"],
            ["model: DANUSRNet in stage restorer needs 'kernel', one blur for the whole image; degradation=varying"],
        ),
        (["model=dmbsr", "degradation=ed_dsrn"], ["model: DMBSR takes 'noise_level', which degradation=ed_dsrn does"]),
        (["model=dmbsr_tiny", "degradation=second_order"], ["model: DMBSR takes 'kernels', which degradation=second"]),
        (["model=dmbsr_tiny", "data.patch=100"], ["data.patch: found 100, expected a multiple of 24 and 48 more"]),
        (["model=dmbsr_tiny", "degradation.margin=6"], ["degradation: margin is 6, expected a multiple of 12"]),
        (["model=usrnet", "degradation.scale=5"], ["USRNet enlarges x1, x2, x3, x4, degradation.scale is 5: take sca"]),
        (["model=usrnet", "degradation.scale=[2,5]"], ["degradation.scale is [2, 5]: take scales that it knows"]),
        (
            ["model=ed_dsrn", "degradation=usrnet_train"],
            ["EDDSRN enlarges x4, degradation.scale is [1, 2, 3, 4]: they"],
        ),
        (["model=srn", "degradation=ed_dsrn"], ["model: SRN enlarges x1, degradation.scale is 4: they must be equal"]),
        (["model=dan_usrnet", "degradation=ed_dsrn"], ["model: DANUSRNet learns what kernels there are", "draws none"]),
        (["model=srn", "degradation=camera_shake", "data.gray=true"], ["data.gray: SRN as configured takes colour"]),
        (
            ["model=usrnet", "degradation.scale=2", "data.patch=100"],
            ["data.patch: found 100", "nearest is data.patch=96"],
        ),
        # Schedules.
        (
            ["model=srn", "degradation=camera_shake", "scheduler.end=1"],
            ["scheduler: end is 1, expected 0 to the learning rate 0.0001"],
        ),
        (["model=srn", "degradation=camera_shake", "scheduler.power=0"], ["scheduler: power is 0, expected a number"]),
        (
            ["model=srn", "degradation=camera_shake", "scheduler=halving", "~scheduler.step_size"],
            ["scheduler.step_size: is missing, deleted on the command line: omit ~scheduler.step_size"],
        ),
        (["model=usrnet", "scheduler.milestones=5"], ["scheduler.milestones: found 5"]),
        (
            [
                "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "~scheduler.step_size",
                "~scheduler.gamma",
            ],
            ["scheduler: found ReduceLROnPlateau, which waits for a score, expected one that counts epochs or steps"],
        ),
        # Validations.
        (
            ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=5"],
            ["trainer.check_val_every_n_epoch: found 5, expected at most the 4 epochs of the training: set it lower"],
        ),
        (
            ["experiment=quick_gfn", "trainer.check_val_every_n_epoch=2"],
            ["trainer.check_val_every_n_epoch: found 2, which leaves no validation in the last stage"],
        ),
        (["trainer.check_val_every_n_epoch=null"], ["trainer.check_val_every_n_epoch: found null, expected a number"]),
        # What Lightning's Trainer has, and the suite in its place.
        (
            ["+trainer.max_steps=3"],
            ["trainer.max_steps: found 3, ", "use trainer.max_epochs= and data.samples_per_epoch="],
        ),
        (["+trainer.val_check_interval=4"], ["trainer.val_check_interval: found 4, ", "data.samples_per_epoch="]),
        (["+trainer.callbacks=[]"], ["trainer.callbacks: found [], ", "use callbacks="]),
        (["+trainer.overfit_batches=1"], ["trainer.overfit_batches: found 1, ", "use debug=one_batch"]),
        (["trainer.enable_checkpointing=true"], ["trainer.enable_checkpointing: found True, ", "checkpoint.use="]),
        # Discriminators.
        (
            ["experiment=quick_dmbsr", "procedure=gan"],
            ["procedure.discriminator: does not take crops of 48x48 of 3 channels", "images are 48x48, expected 96x96"],
        ),
        (
            ["model=srn_gray", "degradation=camera_shake", "procedure=gan", "data.patch=96"],
            ["does not take crops of 96x96 of 1 channels"],
        ),
    ],
)
def test_parts_that_do_not_fit(cli: Cli, tmp_path: Path, overrides: list[str], parts: list[str]) -> None:
    """Before any data is read: there is none."""
    assert_refused(cli(*NO_DATA, *overrides), 2, *parts)
    assert list(tmp_path.iterdir()) == []


def make_usrnet() -> USRNet:
    torch.manual_seed(5)
    return USRNet(n_iter=1, widths=(2, 2, 2, 2), hyper_width=2)


USRNET = ["model=usrnet", "model.n_iter=1", "model.widths=[2,2,2,2]", "model.hyper_width=2"]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Weights under the names of the authors' code."""
    from tests.lightning_modules.checkpoints.test_checkpoint import official

    torch.save(official(make_usrnet()), tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.mark.slow
def test_published_weights_are_measured(
    cli: Cli, published: Path, make_photographs: Callable[..., Path], tmp_path: Path
) -> None:
    data = ["data=folder", f"data.root={make_photographs(2, 32, 40)}", "data.source.holdout=false"]
    common = ["task=evaluate", *USRNET, *data, f"weights={published}", "trainer.accelerator=cpu", "name=measured"]
    outcome = cli(*common, "degradation=usrnet_test")
    assert outcome.status == 0, outcome.err
    assert str(published) in (tmp_path / "runs" / "measured" / "results.json").read_text()
    for degradation, message in (
        ("second_order", "model: USRNet takes 'kernel', which degradation=second_order does not provide"),
        ("usrnet_test degradation.scale=5", "model: USRNet enlarges x1, x2, x3, x4, degradation.scale is 5"),
    ):
        assert_refused(cli(*common, *f"degradation={degradation}".split(), "name=other"), 1, message)
    assert_refused(cli(*common, "model.n_iter=2", "name=other"), 1, f"{published}: published weights of another size")
    assert not (tmp_path / "runs" / "other").exists()


def one_step(data: Path) -> list[str]:
    sizes = ["data.patch=32", "data.batch_size=1", "data.samples_per_epoch=1", "data.num_workers=0"]
    rest = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "name=one"]
    return ["data=folder", f"data.root={data}", *sizes, *rest]


def test_training_starts_from_given_weights(
    cli: Cli, published: Path, make_photographs: Callable[..., Path], tmp_path: Path
) -> None:
    common = [*USRNET, *one_step(make_photographs(4, 32, 40)), "degradation.scale=2", "optimizer.lr=0.0"]
    assert_refused(cli(*common, "weights=nowhere.pth"), 1, "nowhere.pth: no such file of weights")
    assert not (tmp_path / "runs").exists()  # a mistake leaves nothing behind
    outcome = cli(*common, f"weights={published}")
    assert outcome.status == 0, outcome.err
    last = torch.load(tmp_path / "runs" / "one" / "checkpoints" / "last.ckpt", weights_only=True)
    for key, value in make_usrnet().state_dict().items():
        assert torch.equal(last["state_dict"][f"network.{key}"], value)


def test_a_gray_network_trains_on_colour_images_too(
    cli: Cli, make_photographs: Callable[..., Path], tmp_path: Path
) -> None:
    """Channel by channel."""
    small = ["model=srn_gray", "model.widths=[2,2,2]", "model.n_blocks=1", "degradation=camera_shake"]
    outcome = cli(*small, *one_step(make_photographs(4, 32, 40)), "data.gray=false")
    assert outcome.status == 0, outcome.err


def test_files_of_metrics_are_read_before_anything_else(cli: Cli) -> None:
    outcome = cli("metric=[niqe]", "metric.niqe.model=gone.npz", *NO_DATA)
    assert_refused(outcome, 1, "gone.npz: no such file; metric.niqe.model has to be the authors' modelparameters.mat")


def test_what_is_no_network_of_the_suite() -> None:
    cfg = OmegaConf.create({"model": {"_target_": "networks.discriminators.Discriminator96"}})
    with pytest.raises(ConfigError, match=r"^model._target_: found networks\.discriminators\.D\w+96, expected"):
        construct(cfg, "model")  # type: ignore[arg-type]


@pytest.mark.many
@pytest.mark.parametrize(
    ("words", "found"),
    [
        *(
            (f"{key}=-1", f"{key}: found -1")
            for key in ("seed", "data.num_workers", "data.suite_seed", "data.batch_size")
        ),
        *((f"trainer.{key}=0", f"trainer.{key}: found 0") for key in ("max_epochs", "devices", "limit_val_batches")),
        *(
            (f"trainer.{key}=-1", f"trainer.{key}: found -1")
            for key in ("check_val_every_n_epoch", "gradient_clip_val")
        ),
        *((f"trainer.{key}=-2", f"trainer.{key}: found -2") for key in ("num_sanity_val_steps", "log_every_n_steps")),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: found 0"),
        ("trainer.limit_train_batches=1.5", "trainer.limit_train_batches: found 1.5"),
        ("seed=4294967296", "seed: found 4294967296,"),
        ("seed=99999999999999999999", "seed: found 99999999999999999999"),
        ("data.patch=99999999999999999999", "data.patch: found 99999999999999999999"),
        ("model.n_units=99999999999999999999", "model.n_units: found 99999999999999999999"),
        ("data.num_workers=100000", "data.num_workers: found 100000"),
        ("data.timeout_minutes=0", "data.timeout_minutes: found 0"),
        ("data.val_points=[0.5,1.5]", "data.val_points: found [0.5, 1.5]"),
        ("checkpoint.every_n_minutes=-1", "checkpoint.every_n_minutes: found -1"),
        ("optimizer.lr=nan", "optimizer.lr: found nan"),
        ("loss.terms.sr.weight=inf", "loss.terms.sr.weight: found inf"),
        ("scheduler.step_size=0", "scheduler.step_size: found 0"),
        ("trainer.precision=bf16-true", "trainer.precision: found 'bf16-true'"),
        ("task=preview degradation=dan_setting2 degradation.kernels.size=0", "degradation.kernels.size: found 0"),
        ("task=restore noise_level=1.5", "noise_level: found 1.5"),
        *((f"task=restore {key}=-1", f"{key}: found -1") for key in ("scale", "tile", "overlap", "batch")),
        ("task=serve port=70000", "port: found 70000"),
        ("task=export scale=0", "scale: found 0"),
        ("experiment=quickstart callbacks=none", "callbacks.ema: found decay"),
    ],
)
def test_numbers_out_of_range(cli: Cli, tmp_path: Path, words: str, found: str) -> None:
    outcome = cli(*words.split())
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert outcome.err.startswith(found)
    assert ", expected " in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_text_in_brackets_stays_text() -> None:
    cfg = typed("data=folder", "data.root=[${nope}]")
    assert (cfg.data.root, cfg.data.source.root) == ("[${nope}]", "[${nope}]")
