"""half=true: parameters as float16, in half the bytes, read as float32 wherever weights are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datamodules.errors import InputError
from experiments.restore import Restorer
from experiments.zoo.cards import mistakes
from experiments.zoo.catalogue import weights_file
from lightning_modules.checkpoints.checkpoint import load_network, read_weights
from lightning_modules.checkpoints.safetensors import save_weights
from networks.baselines.edsr import EDSR
from networks.dan_usrnet import DANUSRNet
from tests.conftest import Outcome, photograph
from tests.helpers.zoo import OPTIONS, fill, write_card

Cli = Callable[..., Outcome]


def test_a_half_file_is_read_wherever_weights_are(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = fill(tmp_path / "zoo", monkeypatch, "mine")
    outcome = cli("task=export", "weights=mine", "formats=[safetensors,hub]", "half=true", "output=out")
    assert outcome.status == 0, outcome.err
    assert "at most 0.0e+00" not in outcome.out  # what rounding costs is said
    exact, stored = load_file(zoo / "mine.safetensors"), load_file("out/mine.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert all(torch.equal(stored[name], value.half()) for name, value in exact.items())
    assert not all(torch.equal(stored[name].float(), value) for name, value in exact.items())
    assert json.loads(Path("out/mine.json").read_text())["dtype"] == "float16"
    assert json.loads(Path("out/mine-hub/config.json").read_text())["dtype"] == "float16"
    assert "Parameters are stored as float16." in Path("out/mine-hub/README.md").read_text()

    shutil.copy("out/mine.safetensors", zoo / "halved.safetensors")
    write_card(zoo, "halved")
    assert [*mistakes()] == []
    networks = [load_network(Path("out/mine-hub/mine.safetensors"))[0]]
    for start in (False, True):  # of a training
        networks.append(EDSR(scale=2, **OPTIONS))  # type: ignore[arg-type]
        read_weights(networks[-1], weights_file("halved"), start=start)
    for network in networks:
        state = network.state_dict()
        assert all(value.dtype == torch.float32 for value in state.values())
        assert all(torch.equal(state[name], value.half().float()) for name, value in exact.items())
    image = photograph(12, 16, 0)
    overrides = ["degradation.scale=2", *(f"model.{key}={value}" for key, value in OPTIONS.items())]
    restorers = [Restorer.load("out/mine.safetensors"), Restorer.load("halved")]
    restorers.append(Restorer.load("halved", model="edsr", overrides=overrides))
    first, *others = [restorer.restore(torch.from_numpy(image).permute(2, 0, 1) / 255).sr for restorer in restorers]
    assert first.dtype == torch.float32
    assert all(np.array_equal(first, other) for other in others)
    unrounded = Restorer.load("mine").restore(torch.from_numpy(image).permute(2, 0, 1) / 255).sr
    assert 0 < (first - unrounded).abs().max() < 1 / 255

    content = bytearray(Path("out/mine.safetensors").read_bytes())
    content[-1] ^= 1
    Path("out/mine.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="its bytes have changed since it was written"):
        load_network(Path("out/mine.safetensors"))


def test_a_file_does_not_come_in_its_own_place(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = fill(tmp_path / "zoo", monkeypatch, "mine")
    (tmp_path / "out" / "edsr-hub").mkdir(parents=True)
    for form, target in (("safetensors", "out/edsr.safetensors"), ("hub", "out/edsr-hub/edsr.safetensors")):
        shutil.copy(zoo / "mine.safetensors", target)
        outcome = cli("task=export", f"weights={target}", f"formats={form}", "half=true", "output=out")
        assert outcome.status == 1
        assert outcome.err == f"{target}: is the file that is exported, and would be replaced: choose another output=\n"
        assert Path(target).read_bytes() == (zoo / "mine.safetensors").read_bytes()


def test_buffers_are_not_rounded(tmp_path: Path) -> None:
    model: dict[str, Any] = {"scale": 2, "n_loops": 1, "kernel_size": 5, "restorer": {"n_iter": 1, "widths": [2] * 4}}
    network = DANUSRNet(**model)
    network.fit_basis(torch.rand(30, 1, 5, 5).softmax(-1) / 5, seed=7)
    save_weights(network, tmp_path / "a.safetensors", {"model": {}, "dtype": "float16"})
    stored, buffers = load_file(tmp_path / "a.safetensors"), dict(network.named_buffers())
    assert {name for name, value in stored.items() if value.dtype != torch.float16} == {*buffers}
    assert all(torch.equal(stored[name], value) for name, value in buffers.items())
    parameters = sum(value.numel() for value in network.parameters())
    assert sum(value.nbytes for name, value in stored.items() if name not in buffers) == 2 * parameters


@pytest.mark.parametrize("value", [65520.0, -1e9, float("nan")])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    network = EDSR(scale=2, **OPTIONS)  # type: ignore[arg-type]
    name, weights = next(network.named_parameters())
    with torch.no_grad():
        weights.view(-1)[0] = value
    with pytest.raises(InputError, match=f"half: found true, but {name} goes up to .*, float16 to 65504: omit half="):
        save_weights(network, tmp_path / "a.safetensors", {"model": {}, "dtype": "float16"})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("formats", [[], ["formats=[safetensors,onnx]"]])
def test_graphs_are_not_rounded(cli: Cli, formats: list[str]) -> None:
    outcome = cli("task=export", "model=bicubic", "scale=2", "half=true", *formats)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("half: found true and formats=safetensors,onnx")
    assert "of which only safetensors and hub hold float16: python run.py task=export model=bicubic" in outcome.err
