from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.errors import InputError
from lightning_modules.checkpoints.checkpoint import read_weights
from networks.baselines.edsr import EDSR, import_official

MEAN = 255 * torch.tensor([0.4488, 0.4371, 0.4040])


def official_state(scale: int, width: int, n_blocks: int) -> dict[str, Tensor]:
    """Names and shapes of the authors' code in its order."""
    state = {}
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state |= {f"{name}.weight": torch.eye(3).view(3, 3, 1, 1), f"{name}.bias": sign * MEAN}
    layers = {"head.0": (width, 3)}
    layers |= {f"body.{i}.body.{j}": (width, width) for i in range(n_blocks) for j in (0, 2)}
    layers |= {f"body.{n_blocks}": (width, width)}
    layers |= {f"tail.0.{2 * i}": (width * (9 if scale == 3 else 4), width) for i in range(2 if scale == 4 else 1)}
    layers |= {"tail.1": (3, width)}
    for name, (outputs, inputs) in layers.items():
        state |= {f"{name}.weight": 0.2 * torch.randn(outputs, inputs, 3, 3), f"{name}.bias": torch.rand(outputs)}
    return state


def reference(state: dict[str, Tensor], lr: Tensor, scale: int, n_blocks: int, scaling: float) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double(), padding=1)

    def shuffle(x: Tensor, r: int) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c // r**2, r, r, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // r**2, r * h, r * w)

    mean = MEAN.double().view(3, 1, 1)
    first = x = conv("head.0", 255 * lr - mean)
    for i in range(n_blocks):
        x = x + scaling * conv(f"body.{i}.body.2", conv(f"body.{i}.body.0", x).clamp(min=0))
    x = conv(f"body.{n_blocks}", x) + first
    for i in range(2 if scale == 4 else 1):
        x = shuffle(conv(f"tail.0.{2 * i}", x), 3 if scale == 3 else 2)
    return (conv("tail.1", x) + mean) / 255


def test_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in EDSR().parameters()) == 43_089_923
        baseline = EDSR(width=64, n_blocks=16, residual_scaling=1.0)
    assert sum(p.numel() for p in baseline.parameters()) == 1_517_571
    assert "mean" not in baseline.state_dict()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(7, 9), (1, 4)])
def test_official_weights_and_layers(tmp_path: Path, scale: int, size: tuple[int, int]) -> None:
    state = official_state(scale, 5, 3)
    torch.save(state, tmp_path / "edsr.pt")
    net = EDSR(scale=scale, width=5, n_blocks=3, residual_scaling=0.1).requires_grad_(False)
    read_weights(net, tmp_path / "edsr.pt")
    net.double()
    net.mean.copy_(MEAN.double().view(1, 3, 1, 1))
    lr = torch.rand(2, 3, *size, dtype=torch.float64)
    sr = net(lr).sr
    assert sr.shape == (2, 3, scale * size[0], scale * size[1])
    expected = reference(state, lr, scale, 3, 0.1)
    assert (sr - expected).abs().max() < 1e-11 * expected.abs().max()


def test_weights_of_another_scale_or_range(tmp_path: Path) -> None:
    torch.save(official_state(2, 5, 3), tmp_path / "x2.pt")
    net = EDSR(scale=4, width=5, n_blocks=3)
    with pytest.raises(InputError, match=r"published weights of another size.*first: missing tail\.0\.2\.weight"):
        read_weights(net, tmp_path / "x2.pt")
    state = official_state(2, 5, 3)
    with pytest.raises(ValueError, match=r"add_mean\.bias is not that of the mean of DIV2K in 0 to 255"):
        import_official({**state, "add_mean.bias": MEAN / 255})
    with pytest.raises(ValueError, match=r"missing sub_mean\.weight"):
        import_official({k: v for k, v in state.items() if k != "sub_mean.weight"})


@pytest.mark.parametrize("options", [{"scale": 5}, {"width": 0}, {"n_blocks": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*, expected"):
        EDSR(**options)


def test_one_channel_is_not_made_three() -> None:
    with pytest.raises(ValueError, match="lr has 1 channels, expected 3"):
        EDSR(4, 8, 1)(lr=torch.rand(1, 1, 6, 7))
