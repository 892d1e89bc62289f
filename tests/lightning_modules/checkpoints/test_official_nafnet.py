"""NAFNet's published files: bare or as BasicSR wraps them, complete or refused; a start for nafnet_sr."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.checkpoints.checkpoint import read_weights
from lightning_modules.checkpoints.safetensors import save_weights
from networks.base import RestorationNetwork
from networks.nafnet import NAFNet
from networks.nafnet_sr import NAFNetSR

OPTIONS: dict[str, Any] = {"width": 4, "enc": (1, 2), "mid": 1, "dec": (1, 1)}


def random_state(**options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(value) for name, value in NAFNet(**{**OPTIONS, **options}).state_dict().items()}


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "NAFNet.pth")
    return tmp_path / "NAFNet.pth"


def refusal(network: RestorationNetwork, path: Path, start: bool = False) -> str:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError) as error:
        read_weights(network, path, start)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "params", "params_ema"])
def test_bare_or_wrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = random_state()
    named = {prefix + name: value for name, value in state.items()}
    network = NAFNet(**OPTIONS, local_pooling=(8, 8))  # which has no weights
    read_weights(network, saved(tmp_path, {wrapper: named} if wrapper else named))
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "content", [{"params": {"a": 1}}, {"params": {}}, {"params": [1]}, {"params": {"a": torch.ones(1)}, "epoch": 3}]
)
def test_other_wrappers(tmp_path: Path, content: Any) -> None:
    assert "expected a state dict: tensors by name" in refusal(NAFNet(**OPTIONS), saved(tmp_path, content))


def test_wrapped_tensors_take_no_more_memory_than_their_file(tmp_path: Path) -> None:
    one = torch.zeros(1000)
    path = saved(tmp_path, {"params": {str(i): one for i in range(1000)}})
    assert "take more memory" in refusal(NAFNet(**OPTIONS), path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": 8}, "width=8 enc=[1,2] mid=1 dec=[1,1]"),
        ({"enc": (1, 2, 1), "dec": (2, 1, 1)}, "width=4 enc=[1,2,1] mid=1 dec=[2,1,1]"),
    ],
)
def test_another_size_is_told(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    message = refusal(NAFNet(**OPTIONS), saved(tmp_path, {"params": random_state(**options)}))
    assert "published weights of another size, which does not fit NAFNet as configured" in message
    assert message.endswith(f": its tensors are those of {told}")


def test_incomplete_or_more(tmp_path: Path) -> None:
    state = random_state()
    network = NAFNet(**OPTIONS)
    lacking = {name: value for name, value in state.items() if name != "downs.0.bias"}
    assert "first: missing downs.0.bias" in refusal(network, saved(tmp_path, lacking))
    assert "first: unexpected extra" in refusal(network, saved(tmp_path, {**state, "extra": torch.ones(1)}))
    headless = {name: value for name, value in state.items() if name != "ending.weight"}
    assert "not published weights of NAFNet: " in refusal(network, saved(tmp_path, headless))


@pytest.mark.parametrize("published", [True, False])
def test_body_and_branch_of_nafnet_sr(tmp_path: Path, published: bool, caplog: pytest.LogCaptureFixture) -> None:
    state = random_state()
    network = NAFNetSR(**OPTIONS, scale=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    path = saved(tmp_path, {"params": state})
    if not published:
        path, source = tmp_path / "nafnet.safetensors", NAFNet(**OPTIONS)
        source.load_state_dict(state)
        save_weights(source, path, {"model": {"_target_": "networks.nafnet.NAFNet", **OPTIONS}, "label": "nafnet"})
    assert "first: missing sr_blocks.0.beta" in refusal(network, path)  # it would restore with an untrained part
    with caplog.at_level("INFO"):
        read_weights(network, path, start=True)
    own = [name for name in before if name not in state]
    assert all(name.startswith("sr_") for name in own)
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in own)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in state.items())
    line = f"{path}: has no sr_*: {len(own)} tensors keep their initial values"
    assert caplog.messages == [line]


def test_nafnet_sr_takes_all_of_a_file_or_nothing(tmp_path: Path) -> None:
    state = random_state()
    path = saved(tmp_path, state)
    headless = refusal(NAFNetSR(**OPTIONS, scale=2, deblur_branch=False), path, start=True)
    assert "first: unexpected ending.weight" in headless
    assert "its tensors are those of" not in headless  # they are of its size
    network = NAFNetSR(**OPTIONS, scale=2)
    partly = {**state, "sr_out.bias": torch.zeros(3)}
    assert "first: missing sr_blocks.0.beta" in refusal(network, saved(tmp_path, partly), start=True)
    lacking = {name: value for name, value in state.items() if name != "middle_blks.0.beta"}
    assert "first: missing middle_blks.0.beta" in refusal(network, saved(tmp_path, lacking), start=True)
