"""A mistake in a config ends in one line: the key, the value, what is allowed and the nearest name that exists."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn

from datamodules.errors import ConfigError
from experiments.config.errors import group_files
from experiments.config.signatures import check_root, check_targets

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

HERE = __name__
FILE = "(conf/model/ed.yaml)"
FILES = {
    "config.yaml": "{defaults: [_self_, model: ed, data: sample, protocol: [y], optional experiment: null], seed: 1}",
    "model/ed.yaml": f"{{_target_: {HERE}.Model, widths: [8, 16], n_units: 2}}",
    "model/bicubic.yaml": f"{{_target_: {HERE}.Bicubic, scale: 4}}",
    "data/sample.yaml": f"{{_target_: {HERE}.Data, root: '???', scale: 2}}",
    "protocol/y.yaml": "{y: {shave: 4}}",
    "experiment/good.yaml": "# @package _global_\ndefaults: [override /model: bicubic]\n",
    "experiment/typo.yaml": "# @package _global_\nmodle: {n_units: 3}\n",
}


def build(model: nn.Module, *, depth: int = 1, options: Mapping[str, int] | None = None) -> None: ...


def anything(first: int, **options: Any) -> None: ...


def loose(thing: Unknown, size: int = None, node: DictConfig | None = None) -> None: ...  # type: ignore  # noqa: RUF013


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


class Model:
    def __init__(
        self, widths: tuple[int, ...], n_units: int = 1, slope: float | None = None,
        colour: Literal["y", "rgb"] = "y", mode: Mode = Mode.FAST, folder: Path = Path(),
        flag: bool = False, names: Sequence[str] = (), head: nn.Module | None = None,
    ) -> None: ...  # fmt: skip

    @classmethod
    def from_file(cls, path: str) -> Model:
        return cls((1,))


@dataclass
class Bicubic:
    scale: int
    antialias: bool = True


class Data:
    def __init__(self, root: str, scale: int, batch: int = 1) -> None: ...


def call(name: str, **values: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{name}", **values}


def model(**values: Any) -> dict[str, Any]:
    return call("Model", widths=[8], **values)


def partial(name: str, **values: Any) -> dict[str, Any]:
    return {"_target_": f"torch.optim.{name}", "_partial_": True, **values}


def trainer(**values: Any) -> dict[str, Any]:
    return {"_target_": "pytorch_lightning.Trainer", **values}


def message_for(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_targets(OmegaConf.create(content), {"model": "conf/model/ed.yaml"})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def conf_dir(tmp_path: Path) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    yield tmp_path / "conf"
    GlobalHydra.instance().clear()


def compose_with(conf_dir: Path, overrides: list[str], return_hydra_config: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        return compose("config", overrides=overrides, return_hydra_config=return_hydra_config)


@pytest.mark.parametrize(
    "node",
    [
        model(slope=float("inf"), head=None),
        model(n_units=3, slope=1, colour="rgb", mode="slow", folder="a/b", flag=True, names=["a"]),
        model(n_units="${seed}"),
        model(head={"_target_": "torch.nn.ReLU", "inplace": True}),
        call("Model", _args_=[[8, 16], 2], _convert_="all", _recursive_=False),
        call("Model", _partial_=True),
        call("Model.from_file", path="x"),
        call("Bicubic", scale=2),
        call("anything", first=1, second="x", third=[1]),
        call("loose", thing=5, size=None, node={"a": 1}),
        call("Data", root="x", scale=2, batch=1),
        call("build", model={"_target_": "torch.nn.Identity"}, options={"a": 1}),
        partial("Adam", lr=1e-3, betas=[0.9, 0.99], weight_decay=0, fused=None),
        partial("lr_scheduler.StepLR", step_size=3, gamma=0.5),
        trainer(max_epochs=3, accelerator="auto", devices=[0, 1], precision="16-mixed", logger=False),
        trainer(devices=1, precision=32, gradient_clip_val=1, limit_train_batches=0.5, default_root_dir="out"),
        trainer(callbacks=[{"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "dirpath": "x"}]),
        {"anything": 1, "nested": [{"a": 1}, [2]]},
    ],
)
def test_correct_configs_pass(node: dict[str, Any]) -> None:
    check_targets(OmegaConf.create({"seed": 3, "part": node, "copy": "${part}"}))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            model(n_unit=2),
            f"n_unit: unknown key {FILE}: {HERE}.Model takes widths, n_units, slope, colour, mode, folder, flag, "
            "names, head; did you mean n_units?",
        ),
        (
            call("Bicubic", scal=2),
            f"scal: unknown key {FILE}: {HERE}.Bicubic takes scale, antialias; did you mean scale?",
        ),
        ({"a": [call("Bicubic", zz=2)]}, f"a.0.zz: unknown key {FILE}: {HERE}.Bicubic takes scale, antialias"),
        (
            call("Model"),
            f"widths: a value is required {FILE}: {HERE}.Model needs widths: "
            "set it in the file or on the command line: +model.widths=...",
        ),
        (model(_args_=[[1]]), f"_args_ {FILE}: {HERE}.Model: multiple values for argument 'widths'"),
        (call("Bicubic", _args_=[1, True, 3]), f"_args_ {FILE}: {HERE}.Bicubic: too many positional arguments"),
        (call("Bicubc"), f"_target_ {FILE}: '{HERE}.Bicubc': {HERE} has no Bicubc; did you mean Bicubic?"),
        (
            {"_target_": "torch.optin.Adam"},
            f"_target_ {FILE}: 'torch.optin.Adam': torch has no optin; did you mean optim?",
        ),
        (
            {"_target_": "experimets.x"},
            f"_target_ {FILE}: 'experimets.x': there is no module experimets; did you mean experiments?",
        ),
        (call("HERE"), f"_target_ {FILE}: '{HERE}.HERE' is a str, not a class or function"),
        (
            {"_target_": "torch..Adam"},
            f"_target_ {FILE}: 'torch..Adam' is not a dotted name such as package.module.Name",
        ),
    ],
)
def test_a_node_that_does_not_fit_its_target(node: dict[str, Any], message: str) -> None:
    assert message_for({"model": node}) == f"model.{message}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("n_units", "12", "a valid integer"),
        ("n_units", True, "a valid integer"),
        ("n_units", 1.5, "a valid integer"),
        ("slope", True, "a valid number"),
        ("flag", 1, "a valid boolean"),
        ("widths", 8, "a list"),
        ("widths", [8, "x"], "item 1: a valid integer"),
        ("names", "abc", "a list"),
        ("folder", 3, "a valid string"),
        ("colour", "rbg", "'y' or 'rgb'; did you mean rgb?"),
        ("mode", "fsat", "'fast' or 'slow'; did you mean fast?"),
        ("head", "relu", "an instance of Module"),
        ("n_units", list(range(1000)), "a valid integer"),
    ],
)
def test_a_value_of_the_wrong_type(key: str, value: object, expected: str) -> None:
    message = message_for({"model": {**model(), key: value}})
    shown = repr(value) if len(repr(value)) < 100 else repr(value)[:100] + "..."
    assert message.startswith(f"model.{key}: found {shown} {FILE}, expected {expected}")


@pytest.mark.parametrize(
    ("node", "beginning"),
    [
        (partial("Adam", lr="fast"), "lr: found 'fast', expected a valid number, or an instance of Tensor"),
        (partial("Adam", betas=[0.9]), "betas: found [0.9], expected item 1: required"),
        (partial("Adam", momentun=1), "momentun: unknown key: torch.optim.Adam takes params, lr, "),
        (partial("lr_scheduler.StepLR", step_size="3"), "step_size: found '3', expected a valid integer"),
        (trainer(precision="16-mixd"), "precision: found '16-mixd', expected 64, 32 or 16, or 'transformer-engine', "),
        (trainer(max_epochs="3"), "max_epochs: found '3', expected a valid integer"),
    ],
)
def test_libraries_in_use_are_checked_too(node: dict[str, Any], beginning: str) -> None:
    assert message_for({"part": node}).startswith(f"part.{beginning}")


def test_a_module_that_fails_to_import_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_with_a_bug.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        check_targets(OmegaConf.create({"model": {"_target_": "module_with_a_bug.Model"}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"x": "???"}}, f"model.x: a value is required {FILE}: set it on the command line: model.x=..."),
        ({"a": [1, {"b": "???"}]}, "a.1.b: a value is required: set it on the command line: a.1.b=..."),
        ({"a": {"b": "${nope}"}}, "a.b: cannot resolve '${nope}': Interpolation key 'nope' not found"),
        ({"a": "${oc.env:NOT_SET_ANYWHERE}"}, "a: cannot resolve '${oc.env:NOT_SET_ANYWHERE}': "),
        ({"a": "${unknown:1}"}, "a: cannot resolve '${unknown:1}': Unsupported interpolation type"),
        ({"a": "${b}", "b": "${a}"}, ("a: cannot resolve '${b}': ", "b: cannot resolve '${a}': ")),
        (  # which of the two depends on how deep the stack is
            {"a": call("anything", first=1, x="${b}"), "b": {"y": "${a}"}},
            ("b.y: cannot resolve '${a}': ", "a.x: cannot resolve '${b}': "),
        ),
    ],
)
def test_missing_values_and_interpolations(content: dict[str, Any], message: str | tuple[str, ...]) -> None:
    assert message_for(content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"seed": 1, "model": {}, "sed": 2},
            "sed: unknown key at the top of the config: known: seed, name, model; did",
        ),
        ({"seed": "1", "model": {}}, "seed: found '1', expected a valid integer"),
        ({"seed": 1, "model": None}, "model: a value is required: found null, expected an object: set model=..."),
        ({"model": {}}, "seed: a value is required: found null, expected a valid integer: set seed=..."),
        ({"seed": "???", "model": {}}, "seed: a value is required: set it on the command line: seed=..."),
    ],
)
def test_mistakes_at_the_top(content: dict[str, Any], message: str) -> None:
    cfg = OmegaConf.create(content)
    OmegaConf.set_struct(cfg, True)
    with pytest.raises(ConfigError) as caught:
        check_root(cfg, {"seed": int, "name": str | None, "model": dict})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_composed_config(conf_dir: Path) -> None:
    known = {"seed": int, "name": str | None, "model": dict, "data": dict, "protocol": dict}
    good = compose_with(conf_dir, ["data.root=x", "experiment=good"])
    check_root(good, known)
    check_targets(good)
    with pytest.raises(ConfigError, match=r"^modle: unknown key .*: known: seed, name, .*; did you mean model\?$"):
        check_root(compose_with(conf_dir, ["data.root=x", "experiment=typo"]), known)
    with pytest.raises(ConfigError, match=r"^data.root: a value is required \(conf/data/sample.yaml\): set it on"):
        check_targets(compose_with(conf_dir, []), {"data": "conf/data/sample.yaml"})


def test_group_files_from_runtime_choices(conf_dir: Path) -> None:
    HydraConfig.instance().set_config(compose_with(conf_dir, [], return_hydra_config=True))
    files = group_files(HydraConfig.get().runtime.choices)
    assert files == {"model": "conf/model/ed.yaml", "data": "conf/data/sample.yaml"}
    choices = {"protocol": "[y,rgb]", "test": ["a", "b"], "experiment": None, "data/blur@data.blur": "motion"}
    several = {"protocol": "conf/protocol/", "test": "conf/test/", "data.blur": "conf/data/blur/motion.yaml"}
    assert group_files(choices) == several
