"""Training in stages: what a stage trains, sees and uses, and what passes from one to the next."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.errors import InputError
from lightning_modules.losses.multi_branch import MultiBranchLoss
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.staged import StagedModule
from networks.cooperative import CooperativeNet
from networks.dan_usrnet import DANUSRNet
from networks.gfn import GFN

ADAM = partial(torch.optim.Adam, lr=1e-3)
STAGES: dict[str, dict[str, Any]] = {
    "deblur": {"epochs": 2, "train": "deblur.*", "network": {"branch": "deblur"}},
    "superres": {
        "epochs": 1,
        "lr": 4e-4,
        "train": ["superres.*"],
        "network": {"branch": "superres"},
        "inputs": {"lr": "lr_sharp"},
        "terms": {"sr": {"fn": "l1", "weight": 2.0}},
    },
    "joint": {"epochs": 2, "step": 1, "decay": 0.5, "train": "superres.*"},
}


def make_network() -> CooperativeNet:
    torch.manual_seed(0)
    return CooperativeNet(widths=(2, 2, 2, 2), n_units=1)


def make_module(network: Any = None, stages: Any = None, **options: Any) -> StagedModule:
    loss = MultiBranchLoss({"sr": {"fn": "mse", "weight": 0.5, "reduction": "literal"}})
    network = make_network() if network is None else network
    known = {"optimizer": ADAM, **options}
    return StagedModule(network, [Protocol("y", "y", 0)], loss, stages=STAGES if stages is None else stages, **known)


def samples(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    images = [[torch.rand(2, 3, 16, 16, generator=generator) for _ in range(3)] for _ in range(count)]
    return [
        Batch(hr=hr, name=["a", "b"], index=torch.arange(2), key=torch.arange(2), lr=lr, lr_sharp=lr_sharp, scale=1)
        for hr, lr, lr_sharp in images
    ]


class Watch(pl.Callback):
    """State of the network before every epoch and after the last, and what each epoch trained with."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []
        self.moments: list[set[float]] = []  # the optimiser's step counts after the epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.keep(module)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % 2 == 0:  # two an epoch
            self.moments.append({float(state["step"]) for state in trainer.optimizers[0].state.values()})

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.keep(module)

    def keep(self, module: Any) -> None:
        self.states.append({key: value.clone() for key, value in module.network.state_dict().items()})

    def changed(self, epoch: int) -> set[str]:
        return {key for key, value in self.states[epoch].items() if not torch.equal(value, self.states[epoch + 1][key])}


def fit(module: StagedModule, *callbacks: pl.Callback, epochs: int | None = None, data: Any = None) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=module.epochs if epochs is None else epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(samples() if data is None else data, batch_size=None))  # type: ignore[arg-type]
    return trainer


@pytest.fixture(scope="module")
def watch() -> Watch:
    watch = Watch()
    fit(make_module(), watch)
    return watch


def test_a_stage_trains_its_parameters_and_nothing_else(watch: Watch) -> None:
    """Statistics of normalization layers are in the state too: behind a frozen branch they rest."""
    parts = {key.split(".")[0] for key in watch.states[0]}
    assert parts == {"deblur", "superres"}
    everything = {part: {key for key in watch.states[0] if key.startswith(part)} for part in parts}
    trained = [everything[part] for part in ("deblur", "deblur", "superres", "superres", "superres")]
    assert [watch.changed(epoch) - trained[epoch] for epoch in range(5)] == [set()] * 5
    statistics = {key for key in everything["deblur"] if "running" in key}
    assert statistics <= watch.changed(0)
    # All that has a gradient at all: biases before a normalization have none but rounding errors.
    for epoch in range(5):
        assert {key for key in trained[epoch] if key.endswith("weight")} <= watch.changed(epoch)


def test_learning_rates_of_the_stages(watch: Watch) -> None:
    assert watch.rates == pytest.approx([1e-3, 1e-3, 4e-4, 1e-3, 5e-4])


def test_every_stage_starts_with_a_fresh_optimiser(watch: Watch) -> None:
    assert watch.moments == [{2.0}, {4.0}, {2.0}, {2.0}, {4.0}]


def test_each_stage_has_its_input_terms_and_options() -> None:
    """One batch: the loss of every epoch's first step against the one computed by hand."""
    losses: list[float] = []
    (batch,) = samples(1)
    assert batch.lr is not None
    assert batch.lr_sharp is not None
    inputs = [batch.lr, batch.lr_sharp, batch.lr]
    parts = ["deblur", "superres", "superres"]

    class Losses(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            network, stage = module.network, list(STAGES).index(module.stage)
            assert network.branch == ("deblur", "superres", "both")[stage]
            trains = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
            assert trains == {name for name, _ in network.named_parameters() if name.startswith(parts[stage])}
            # Statistics change in a forward pass: those of a copy.
            copy = CooperativeNet(widths=(2, 2, 2, 2), n_units=1, branch=network.branch)
            copy.load_state_dict(network.state_dict())
            for mine, theirs in zip(copy.parameters(), network.parameters(), strict=True):
                mine.requires_grad_(theirs.requires_grad)
            difference = copy(inputs[stage]).sr - batch.hr
            self.expected = (2 * difference.abs().mean() if stage == 1 else difference.square().sum() / 4).item()

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
            assert outputs["loss"].item() == pytest.approx(self.expected, rel=1e-5)
            losses.append(self.expected)

    fit(make_module(), Losses(), data=[batch])
    assert len(losses) == 5


def test_options_of_a_stage_do_not_last() -> None:
    """The stage joint says nothing of the branch: it is what the network was made with."""
    module = make_module()
    fit(module, epochs=5)
    assert module.network.branch == "both"
    assert module.stage == "joint"


def test_what_rules_freeze_rests_in_all_stages() -> None:
    rules = {"bias": {"match": "*.bias", "freeze": True}, "first": {"match": "superres.0.*", "lr": 0.1}}
    watch = Watch()
    module = make_module(parameters=rules)
    before = {key: value.clone() for key, value in module.network.state_dict().items()}
    trainer = fit(module, watch)
    changed = {key for key, value in module.network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in changed if key.endswith("bias")} == set()
    assert "superres.0.weight" in changed
    # The factor of a rule stays on top of the stage's rate.
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([2.5e-4, 2.5e-5])


@pytest.mark.parametrize(("epochs", "stage"), [(1, "deblur"), (3, "superres"), (7, "joint")])
def test_the_trainer_decides_how_long(epochs: int, stage: str) -> None:
    module = make_module()
    trainer = fit(module, epochs=epochs)
    assert module.epochs == 5
    assert trainer.global_step == 2 * epochs
    assert module.stage == stage


def test_epochs_and_rates_by_hand() -> None:
    module = make_module()
    assert [module.at(epoch) for epoch in range(6)] == [
        *(("deblur", 0), ("deblur", 1), ("superres", 0), ("joint", 0), ("joint", 1), ("joint", 2))
    ]
    assert module.learning_rate(5, 1e-3) == pytest.approx(2.5e-4)


def test_checkpoint_has_the_stage_and_its_options(tmp_path: Path) -> None:
    """So that the network which is rebuilt from it is the one that was validated."""
    module = make_module(config={"model": {"branch": "both", "n_units": 1}, "seed": 3})
    trainer = fit(module, epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["stage"] == "deblur"
    assert checkpoint["config"] == {"model": {"branch": "deblur", "n_units": 1}, "seed": 3}
    assert module.config["model"]["branch"] == "both"
    other = make_module(stages={"only": {"epochs": 1}})
    with pytest.raises(InputError, match="the checkpoint is of stage 'deblur', expected one of only"):
        other.on_load_checkpoint(checkpoint)


def test_requirements_say_what_each_stage_needs() -> None:
    network = DANUSRNet(2, code_dim=2, kernel_size=5, n_loops=1, restorer={"widths": (2, 2, 2, 2), "n_iter": 1})
    module = make_module(
        network,
        {
            "restorer": {"epochs": 1, "network": {"phase": "restorer"}},
            "joint": {"epochs": 1, "terms": {"code": {"fn": "l1"}}},
        },
    )
    found = {needs.stage: needs for needs in module.requirements()}
    assert found["restorer"].inputs == ("lr", "noise_level", "kernel")
    assert (found["restorer"].where, found["restorer"].terms) == ("loss.terms", ("sr",))
    assert found["joint"].inputs == ("lr", "noise_level")
    assert found["joint"].outputs == ("sr", "kernel", "code")
    assert (found["joint"].where, found["joint"].terms) == ("procedure.stages.joint.terms", ("code",))
    assert network.phase == "joint"
    assert [needs.inputs for needs in make_module().requirements()] == [("lr",), ("lr_sharp",), ("lr",)]


def test_a_stage_whose_loss_misses_its_parameters() -> None:
    module = make_module(stages={"a": {"epochs": 1, "train": "superres.*", "network": {"branch": "deblur"}}})
    with pytest.raises(InputError, match=r"^procedure\.stages\.a\.train: nothing of it has a part in the loss"):
        fit(module)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (3, r"stages\.a: found 3, expected epochs, lr"),
        ({"epoch": 1}, r"stages\.a: unknown key epoch, expected epochs, lr, step"),
        ({"lr": 1.0}, r"stages\.a: has no epochs"),
        ({"epochs": 0}, r"stages\.a\.epochs: found 0, expected at least 1"),
        ({"epochs": "3"}, r"stages\.a\.epochs: found '3'"),
        ({"epochs": True}, r"stages\.a\.epochs: found True"),
        ({"epochs": 1, "lr": 0}, r"stages\.a\.lr: found 0, expected a learning rate > 0 or null"),
        ({"epochs": 1, "lr": "fast"}, r"stages\.a\.lr: found 'fast'"),
        ({"epochs": 1, "step": -1}, r"stages\.a\.step: found -1"),
        ({"epochs": 1, "decay": 0}, r"stages\.a\.decay: found 0, expected a factor in \(0, 1\]"),
        ({"epochs": 1, "decay": 2}, r"stages\.a\.decay: found 2"),
        (
            {"epochs": 1, "train": "blur.*"},
            r"stages\.a\.train: no parameter of CooperativeNet matches 'blur\.\*'; its p",
        ),
        ({"epochs": 1, "train": []}, r"stages\.a\.train: found \[\], expected a pattern"),
        ({"epochs": 1, "network": 3}, r"stages\.a\.network: found 3, expected options"),
        (
            {"epochs": 1, "network": {"gate": True}},
            r"stages\.a\.network\.gate: CooperativeNet has no such option that a stage can set; it has branch$",
        ),
        ({"epochs": 1, "network": {"deblur": 1}}, r"stages\.a\.network\.deblur: CooperativeNet has no such option"),
        ({"epochs": 1, "network": {"branch": "x"}}, r"stages\.a\.network: branch is 'x', expected both, deblur or sup"),
        ({"epochs": 1, "inputs": {"hr": "lr"}}, r"stages\.a\.inputs\.hr: CooperativeNet has no such input; it has lr$"),
        ({"epochs": 1, "inputs": "lr"}, r"stages\.a\.inputs: found 'lr', expected batch fields"),
        ({"epochs": 1, "terms": "mse"}, r"stages\.a\.terms: found 'mse', expected terms"),
        ({"epochs": 1, "terms": {}}, r"stages\.a\.terms is empty"),
        ({"epochs": 1, "terms": {"sr": {"fn": "x"}}}, r"stages\.a\.terms\.sr\.fn: found 'x', expected one of"),
    ],
)
def test_mistakes_in_stages(stage: Any, message: str) -> None:
    network = make_network()
    with pytest.raises(ValueError, match=rf"^procedure\.{message}"):
        make_module(network, {"a": stage})
    assert network.branch == "both"


def test_mistakes_of_the_whole_schedule() -> None:
    with pytest.raises(ValueError, match=r"^procedure\.stages is empty"):
        make_module(stages={})
    with pytest.raises(ValueError, match=r"set scheduler=none$"):
        make_module(scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1))
    rules = {"rest": {"match": "deblur.*", "freeze": True}}
    with pytest.raises(ValueError, match=r"^procedure\.stages\.deblur\.train: the rules of parameters= freeze all"):
        make_module(parameters=rules)


def test_a_network_of_another_kind() -> None:
    network = GFN(width=2, n_blocks=(1, 1))
    with pytest.raises(ValueError, match=r"stages\.a\.network\.branch: GFN has no such option .*; it has .*gate"):
        make_module(network, {"a": {"epochs": 1, "network": {"branch": "both"}}})
    make_module(network, {"a": {"epochs": 1, "network": {"gate": False}}})
    assert network.gate
