"""Exported weights bring their network back as a checkpoint does, and are refused in one line where they cannot."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.errors import InputError
from lightning_modules.checkpoints.checkpoint import load_network, read_checkpoint, read_weights
from lightning_modules.checkpoints.safetensors import save_weights
from networks.dan_usrnet import DANUSRNet
from networks.ed_dsrn import EDDSRN
from networks.usrnet import USRNet
from tests.helpers.hostile import flipped
from tests.lightning_modules.checkpoints.test_checkpoint import (
    MODEL,
    assert_untouched,
    make_network,
    make_usrnet,
    official,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(make_network(), tmp_path / "a.safetensors", {"model": MODEL, "label": "mine", "seed": 3})
    return tmp_path / "a.safetensors"


def test_network_comes_back(path: Path) -> None:
    torch.manual_seed(0)
    expected = make_network().eval()
    network, checkpoint = load_network(path)
    assert isinstance(network, EDDSRN)
    assert not network.training
    assert checkpoint["config"] == {"format": 2, "model": MODEL, "label": "mine", "seed": 3}
    assert json.loads(path.with_suffix(".json").read_text()) == checkpoint["config"]
    lr = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(lr).sr, expected(lr).sr)
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.json", "a.safetensors"]
    other = make_network()
    read_weights(other, path)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in network.state_dict().items())


def test_buffers_memory_layout_and_shared_tensors_survive(tmp_path: Path) -> None:
    """A basis of kernels is a buffer with integers; channels last and tied weights are no part of the format."""
    model: dict[str, Any] = {"_target_": "networks.dan_usrnet.DANUSRNet", "scale": 2, "n_loops": 1, "kernel_size": 5}
    model["restorer"] = {"n_iter": 1, "widths": [2, 2, 2, 2]}
    network = DANUSRNet(**{k: v for k, v in model.items() if k != "_target_"})
    network.fit_basis(torch.rand(30, 1, 5, 5).softmax(-1) / 5, seed=7)
    network.restorer.prior.down1[1].body[2].weight = network.restorer.prior.down1[1].body[0].weight
    network = network.to(memory_format=torch.channels_last)
    save_weights(network, tmp_path / "a.safetensors", {"model": model})
    back, _ = load_network(tmp_path / "a.safetensors")
    assert {name for name, _ in back.named_buffers()} >= {"basis.n_kernels", "basis.components"}
    assert all(torch.equal(back.state_dict()[name], value) for name, value in network.state_dict().items())


def test_weights_of_another_model(path: Path) -> None:
    assert_untouched(make_usrnet(), path, "a checkpoint of another model: it holds networks.ed_dsrn.EDDSRN")
    assert_untouched(make_network(n_units=2), path, "tensors missing")


def rewrite(path: Path, metadata: dict[str, str] | None) -> None:
    tensors = load_file(path)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"format": 1, "model": {"_target_": "os.system"}}, "names 'os.system', expected a class in networks/"),
        ({"format": 1, "model": {**MODEL, "pooling": "${oc.env:HOME}"}}, "'${oc.env:HOME}'"),
        ({"format": 1}, "holds no 'config' and 'state_dict' of this suite"),
        ({"format": 3, "model": MODEL}, "is of format 3, expected 2"),
        ([], "is of format list, expected 2"),
        (None, "holds no 'config' and 'state_dict' of this suite"),
    ],
)
def test_metadata_that_builds_no_network(path: Path, about: Any, message: str) -> None:
    rewrite(path, None if about is None else {"deblur_sr": json.dumps(about)})
    with pytest.raises(InputError) as error:
        load_network(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_file(path: Path) -> None:
    rewrite(path, {"deblur_sr": "{"})
    assert_untouched(make_network(), path, "not valid JSON")
    path.write_bytes(path.read_bytes()[:-5])
    assert_untouched(make_network(), path, "it is truncated or another kind of file")
    path.write_bytes(b"")
    assert_untouched(make_network(), path, "(0 bytes)")


def test_published_weights_as_safetensors(tmp_path: Path) -> None:
    source, network = make_usrnet(), make_usrnet()
    save_file(official(source), tmp_path / "usrnet.safetensors")
    read_weights(network, tmp_path / "usrnet.safetensors")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in source.state_dict().items())
    assert_untouched(
        USRNet(n_iter=1, widths=(3, 3, 3, 3)), tmp_path / "usrnet.safetensors", "published weights of another size"
    )


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/a\.safetensors: cannot write the weights: "):
        save_weights(make_network(), tmp_path / "nowhere" / "a.safetensors", {"model": MODEL})


def test_every_flipped_bit_is_refused_or_means_nothing(path: Path) -> None:
    good, rng = path.read_bytes(), random.Random(0)
    before, header = read_checkpoint(path), 8 + int.from_bytes(good[:8], "little")
    for number in range(100):  # the header has names and numbers, where a flip could be taken for something else
        path.write_bytes(flipped(good, rng.randrange(8 * (header if number < 50 else len(good)))))
        try:
            found = read_checkpoint(path)
        except InputError:
            continue
        assert found["config"] == before["config"]
        assert all(torch.equal(found["state_dict"][name], value) for name, value in before["state_dict"].items())


def test_files_without_a_checksum_are_read(path: Path) -> None:
    """Those of earlier versions."""
    tensors = {name: value + 1 for name, value in load_file(path).items()}
    save_file(tensors, path, {"deblur_sr": json.dumps({"format": 1, "model": MODEL})})
    network, _ = load_network(path)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in tensors.items())
    save_file(tensors, path, {"deblur_sr": json.dumps({"format": 2, "model": MODEL})})
    assert_untouched(make_network(), path, "its bytes have changed since it was written")
