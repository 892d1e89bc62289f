"""The perceptual loss with random weights in torchvision's layout, most of them of a VGG19 with few channels."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.errors import InputError
from lightning_modules.losses import perceptual
from lightning_modules.losses.perceptual import PerceptualLoss

# torchvision's configuration E; 0 is a max pooling.
VGG19 = [64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0]


def vgg19(divide: int = 1) -> nn.Sequential:
    """`features` of torchvision's model, written again from its configuration."""
    layers: list[nn.Module] = []
    before = 3
    for v in VGG19:
        if v == 0:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            width = v // divide
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*layers)


def names(net: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in net.state_dict().items()}


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, tensor in state.items():
        blob = tensor.numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """A VGG19 of 4 to 32 channels, which the module under test then takes for the real one."""
    monkeypatch.setattr(perceptual, "WIDTHS", (4, 8, 16, 32, 32))
    torch.manual_seed(0)
    net = vgg19(divide=16)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)  # or the image would be lost on the way down
    return net


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], str]:
    def write(state: object) -> str:
        torch.save(state, tmp_path / "vgg19.pth")
        return str(tmp_path / "vgg19.pth")

    return write


def test_the_real_size(save: Callable[[object], str]) -> None:
    """Names and shapes of the published file; 20.024 M parameters up to conv5_4."""
    with torch.device("meta"):
        shapes = names(vgg19())
    assert sum(value.numel() for value in shapes.values()) == 20_024_384
    state = {name: torch.zeros(value.shape) for name, value in shapes.items()}
    state["features.34.bias"].fill_(2.0)
    loss = PerceptualLoss(save({**state, "classifier.0.bias": torch.zeros(4096)}))
    features = loss.features(torch.rand(1, 3, 16, 16))
    assert features.shape == (1, 512, 1, 1)
    assert (features == 2).all()
    assert sum(value.numel() for value in loss.buffers()) == 20_024_384 + 6


@pytest.mark.parametrize("layer", [0, 1, 2, 4, 34, 36])
def test_features_and_loss(narrow: nn.Sequential, save: Callable[[object], str], layer: int) -> None:
    loss = PerceptualLoss(save(names(narrow)), layer=layer).double()
    a, b = torch.rand(2, 3, 32, 48, dtype=torch.float64), torch.rand(2, 3, 32, 48, dtype=torch.float64)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        wanted = [narrow.double()[: layer + 1]((x - mean.float()) / std.float()) for x in (a, b)]
        torch.testing.assert_close(loss.features(a), wanted[0], rtol=0, atol=1e-12)
        assert loss(a, b).item() == pytest.approx((wanted[0] - wanted[1]).abs().mean().item(), rel=1e-12)
        assert loss(a, b).item() > 0.01
        assert loss(a, a).item() == 0
    # Before the ReLU there are negative values, behind it none.
    negative = (wanted[0] < 0).any().item()
    assert negative == (layer in (0, 2, 34))


def test_gradient_reaches_the_restored_image_only(narrow: nn.Sequential, save: Callable[[object], str]) -> None:
    loss = PerceptualLoss(save(names(narrow))).double()
    a = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    loss(a, b).backward()
    assert a.grad is not None
    assert b.grad is None
    direction = torch.randn(a.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = [loss(a + step * direction, b).item() for step in (1e-6, -1e-6)]
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((a.grad * direction).sum().item(), rel=1e-5)


def test_weights_move_but_are_neither_trained_nor_saved(narrow: nn.Sequential, save: Callable[[object], str]) -> None:
    loss = PerceptualLoss(save(names(narrow)))
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    loss.load_state_dict({})
    assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}


def test_float32_under_autocast(narrow: nn.Sequential, save: Callable[[object], str]) -> None:
    loss = PerceptualLoss(save(names(narrow)))
    a, b = torch.rand(1, 3, 16, 16).bfloat16(), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert F.conv2d(b, torch.rand(1, 3, 3, 3)).dtype == torch.bfloat16
        value = loss(a, b)
    assert value.dtype == torch.float32
    assert value.item() == loss(a.float(), b).item()


def test_safetensors(narrow: nn.Sequential, save: Callable[[object], str], tmp_path: Path) -> None:
    write_safetensors(tmp_path / "vgg19.safetensors", {**names(narrow), "classifier.0.bias": torch.zeros(4)})
    one, other = PerceptualLoss(str(tmp_path / "vgg19.safetensors")), PerceptualLoss(save(names(narrow)))
    assert len(list(one.buffers())) == 34
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


def test_the_last_layers_may_be_absent_when_they_are_not_needed(
    narrow: nn.Sequential, save: Callable[[object], str]
) -> None:
    state = names(narrow)
    del state["features.34.weight"]
    PerceptualLoss(save(state), layer=33)
    with pytest.raises(InputError, match=r"it holds no tensor 'features\.34\.weight'"):
        PerceptualLoss(save(state))


def refused(path: Path | str) -> str:
    with pytest.raises(InputError) as error:
        PerceptualLoss(str(path))
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert "expected torchvision's VGG19 ImageNet weights, https://download.pytorch.org/models/vgg19-dcb" in line
    return line.removeprefix(f"{path}: ").split(";")[0]


def test_files_that_are_refused(narrow: nn.Sequential, save: Callable[[object], str], tmp_path: Path) -> None:
    state = names(narrow)
    assert refused(tmp_path / "none.pth") == "no such file"
    (tmp_path / "text.pth").write_text("not weights")
    assert refused(tmp_path / "text.pth") == "cannot be read as weights (11 bytes, UnpicklingError)"
    (tmp_path / "text.safetensors").write_text("not weights")
    assert refused(tmp_path / "text.safetensors") == "cannot be read as weights (11 bytes, SafetensorError)"
    write_safetensors(tmp_path / "whole.safetensors", state)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    assert refused(tmp_path / "cut.safetensors").startswith("cannot be read as weights (")
    assert refused(save([1])) == "holds a list, not a state dict"
    assert refused(save({"state_dict": state})) == (
        "weights of another network: it holds 'state_dict', which VGG19 has not"
    )
    normalised = {**state, "features.1.running_mean": torch.zeros(1)}
    assert "it holds 'features.1.running_mean', which VGG19 has not" in refused(save(normalised))
    assert refused(save({k: v for k, v in state.items() if k != "features.16.bias"})) == (
        "incomplete or of another network: it holds no tensor 'features.16.bias'"
    )
    assert "it holds no tensor 'features.0.weight'" in refused(save({**state, "features.0.weight": 1}))
    wide = {**state, "features.28.weight": torch.zeros(32, 16, 3, 3)}
    assert refused(save(wide)) == (
        "weights of another network: features.28.weight is [32, 16, 3, 3], VGG19 has [32, 32, 3, 3]"
    )


def test_bad_layer(save: Callable[[object], str]) -> None:
    with pytest.raises(ValueError, match=r"^layer is 37, expected 0 to 36$"):
        PerceptualLoss("unread", layer=37)
