"""compile=true: every network trains as without it, in whole graphs, and keeps its names."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from experiments.profile.worker import training_batch
from lightning_modules.metrics.protocol import Protocol
from lightning_modules.restoration import RestorationModule, compile_network
from networks.baselines.vdsr import VDSR
from networks.ops.resize import pad_to_multiple
from tests.experiments.config.test_configs import MODELS, compose
from tests.helpers.marks import quick
from tests.helpers.networks import tiny, tiny_config

SIDE = 36  # no multiple of 8, which most networks pad to; at scales 2, 3 and 4 neither
# Steps of one length, whatever the loss adds up. Adam would make as much of rounding errors as of gradients.
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 1.0}
RULES = {"all": {"match": "*", "clip": 1e-2}}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Inductor keeps what it compiled, for all tests: what several networks share is compiled once."""
    return tmp_path_factory.mktemp("inductor")


def recipe(model: str) -> dict[str, Any]:
    """Nodes of the config of a small network, with two batches to train on and one to validate on."""
    cfg = compose(f"model={model}", f"data.patch={SIDE}", "trainer.accelerator=cpu")
    cfg.model = tiny_config(model)
    if "scale" in cfg.model and "scale" in cfg.degradation:
        cfg.degradation.scale = cfg.model.scale
    if "margin" in cfg.degradation:
        cfg.degradation.margin = 0  # it would leave nothing of such crops
    if "discriminator" in cfg.procedure:
        cfg.procedure.discriminator.width = 2
        cfg.data.patch = 32  # what it takes
    nodes = ("model", "procedure", "loss", "degradation")
    config: dict[str, Any] = {node: OmegaConf.to_container(cfg[node], resolve=True) for node in nodes}
    config["procedure"]["parameters"] = RULES
    for stage in config["procedure"].get("stages", {}).values():
        stage.update(epochs=1, lr=None)
    if "d_optimizer" in config["procedure"]:
        config["procedure"]["d_optimizer"] = OPTIMIZER

    def batch(scale: int | None, side: int) -> Batch:
        node = {**config["degradation"], **({} if scale is None else {"scale": scale})}
        cfg.data.patch = side
        return training_batch(cfg, hydra.utils.instantiate(node, _convert_="all"), 2)

    torch.manual_seed(1)
    scales = cfg.degradation.get("scale")
    drawn = list(scales)[-2:] if OmegaConf.is_list(scales) else [None]  # of every batch, in training
    batches = [batch(drawn[i % len(drawn)], cfg.data.patch) for i in range(2)]
    return {**config, "train": batches, "val": [batch(drawn[0], cfg.data.patch + 12)], "scales": len(drawn)}


class Watch(pl.Callback):
    """Losses and gradients of the steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, _: Any) -> None:
        # What no loss sees has a gradient of zero in a compiled graph and none otherwise.
        gradients = {k: p.grad for k, p in pl_module.named_parameters() if p.requires_grad}
        self.gradients.append({k: torch.zeros(1) if g is None else g.clone() for k, g in gradients.items()})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


class Batches(pl.LightningDataModule):
    def __init__(self, train: list[Batch], val: list[Batch]) -> None:
        super().__init__()
        self.train, self.val = train, val

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.train, batch_size=None)  # type: ignore[arg-type]  # a list is indexed too

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.val, batch_size=None)  # type: ignore[arg-type]

    def image_names(self, split: str) -> list[str]:
        return [name for batch in self.val for name in batch.name]


def train(network: nn.Module, recipe: dict[str, Any], compile: bool) -> tuple[Watch, RestorationModule]:
    """Two steps, of every stage if there are stages, each followed by a validation."""
    torch.manual_seed(2)  # of a discriminator
    module: RestorationModule = hydra.utils.instantiate(recipe["procedure"], _convert_="all")(
        network,
        [Protocol("y", "y", 0)],
        loss=hydra.utils.instantiate(recipe["loss"], _convert_="all"),
        optimizer=hydra.utils.instantiate(OPTIMIZER),
        compile=compile,
    )
    watch = Watch()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    epochs = getattr(module, "epochs", 1)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[watch], logger=False, **quiet)  # type: ignore[arg-type]
    trainer.fit(module, datamodule=Batches(recipe["train"], recipe["val"]))
    assert trainer.global_step == 2 * epochs
    return watch, module


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    """By tensor; what is small beside the largest may be rounding errors."""
    assert found.keys() == expected.keys()
    least = 1e-3 * max(value.norm().item() for value in expected.values())
    for name, value in expected.items():
        difference = (found[name] - value).norm().item()
        assert difference <= relative * max(value.norm().item(), least), f"{name}: {difference} of {value.norm()}"


# By Inductor, whose compiler takes up to a minute for each: a few kinds of networks among the slow tests, all of them
# with -m compile_slow.
INDUCTOR = ("ed_srn", "edsr_baseline", "scgan", "srn_gray", "usrnet_tiny")
BY_COST = [
    pytest.param(model, marks=pytest.mark.slow if model in INDUCTOR else pytest.mark.compile_slow) for model in MODELS
]


@pytest.mark.parametrize("model", BY_COST)
def test_trains_as_without(code: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(code))
    network = tiny(model).train()
    if not network.trainable:
        pytest.skip("nothing to train")
    made = recipe(model)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    expected, plain = train(copy.deepcopy(network), made, compile=False)
    assert not counters
    found, compiled = train(network, made, compile=True)

    assert not counters["graph_break"]
    assert counters["frames"]["total"] == counters["frames"]["ok"]
    stages = made["procedure"].get("stages", {"": {}}).values()
    different = {(str(stage.get("network")), str(stage.get("train"))) for stage in stages}
    # One for what each stage and scale asks for and none for validation: nothing was left to eager mode.
    assert counters["stats"]["unique_graphs"] == len(different) * made["scales"]

    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    for got, want in zip(found.gradients, expected.gradients, strict=True):
        assert_near(got, want, 1e-2)
    state, wanted = compiled.state_dict(), plain.state_dict()
    assert state.keys() == wanted.keys()
    assert not any("_orig_mod" in name for name in state)
    moved = [{k: values[f"network.{k}"].double() - v.double() for k, v in before.items()} for values in (state, wanted)]
    assert_near(*moved, 1e-2)


@pytest.mark.parametrize("model", quick(MODELS, "edsr", "usrnet_tiny"))
def test_one_graph(model: str) -> None:
    """Without Inductor, which takes its time."""
    network = tiny(model).train()
    if not network.trainable:
        pytest.skip("nothing to train")
    made = recipe(model)
    compiled = copy.deepcopy(network)
    compiled.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    loss = hydra.utils.instantiate(made["loss"], _convert_="all")
    batch, results = made["train"][0], []
    for each in (compiled, network):
        names: Any = each.inputs
        restored = each(**{name: getattr(batch, name) for name in names})
        loss(restored, batch, each.encode)["total"].backward()
        results.append({k: p.grad for k, p in each.named_parameters() if p.grad is not None})
    assert counters["stats"]["unique_graphs"] == 1
    assert_near(results[0], results[1], 1e-5)


def test_padding_in_a_graph() -> None:
    """There it is put together from slices, to the same bits, with the same gradient."""
    compiled = torch.compile(pad_to_multiple, backend="eager", fullgraph=True, dynamic=False)
    for height, width in ((5, 16), (8, 3), (7, 9), (1, 1), (8, 8)):
        images = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
        found, expected = compiled(images, 8), pad_to_multiple(images, 8)
        assert torch.equal(found, expected)
        weights = torch.randn_like(expected)
        torch.testing.assert_close(*(torch.autograd.grad((x * weights).sum(), images) for x in (found, expected)))


@pytest.mark.slow
def test_sweep_of_many_networks_stays_compiled() -> None:
    """Dynamo counts the graphs of all of them, and gives up at 8 by default."""
    for layers in range(2, 12):
        network = VDSR(width=2, n_layers=layers)
        compile_network(network)
        network.compile(backend="eager", dynamic=False)
        network(lr=torch.rand(1, 3, 4, 5), scale=2)
    assert counters["stats"]["unique_graphs"] == 10
