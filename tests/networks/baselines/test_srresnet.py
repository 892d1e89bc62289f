from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks.baselines.srresnet import SRResNet
from tests.helpers.references import imresize


class Layers:
    """The parameters of a network in their order, with the operations that take them."""

    def __init__(self, net: SRResNet, form: str) -> None:
        buffers = [v for k, v in net.state_dict().items() if "running" in k]
        self.running = iter(buffers)
        self.values = iter(net.parameters())
        self.paper = form == "paper"

    def conv(self, x: Tensor) -> Tensor:
        weight = next(self.values)
        return F.conv2d(x, weight, next(self.values) if self.paper else None, padding=weight.shape[-1] // 2)

    def act(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * (next(self.values) if self.paper else 0.2))

    def norm(self, x: Tensor) -> Tensor:
        gain, offset = (next(self.values)[:, None, None] for _ in range(2))
        if self.paper:
            mean, variance = (next(self.running)[:, None, None] for _ in range(2))
        else:
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * gain + offset


def reference(net: SRResNet, form: str, x: Tensor, n_blocks: int) -> Tensor:
    do = Layers(net, form)
    first = x = do.act(do.conv(x))
    for _ in range(n_blocks):
        x = x + do.norm(do.conv(do.act(do.norm(do.conv(x)))))
    x = first + do.norm(do.conv(x))
    for _ in range(2):
        x = do.conv(x)
        n, c, h, w = x.shape  # every four channels fill a block of 2x2 pixels, row by row
        x = do.act(x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w))
    x = do.conv(x)
    assert next(do.values, None) is None
    return x


def test_parameters() -> None:
    assert sum(p.numel() for p in SRResNet().parameters()) == 1_549_462
    assert sum(p.numel() for p in SRResNet(form="port").parameters()) == 1_546_752


@pytest.mark.parametrize("form", ["paper", "port"])
@pytest.mark.parametrize("size", [(7, 9), (8, 5)])
def test_layers(form: Any, size: tuple[int, int]) -> None:
    net = SRResNet(form=form, width=5, n_blocks=3).double().requires_grad_(False)
    net(torch.rand(2, 3, 8, 8, dtype=torch.float64))  # running means and variances are no longer 0 and 1
    for value in net.parameters():
        value.add_(0.1 * torch.rand_like(value))
    net.eval()
    lr = torch.rand(2, 3, *size, dtype=torch.float64)
    sr = net(lr).sr
    assert sr.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert (sr - reference(net, form, lr, 3)).abs().max() < 1e-11 * sr.abs().max()


def test_global_residual() -> None:
    plain = SRResNet(width=4, n_blocks=1).double().eval().requires_grad_(False)
    other = SRResNet(width=4, n_blocks=1, global_residual="bicubic").double().eval().requires_grad_(False)
    other.load_state_dict(plain.state_dict())
    lr = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    added = (other(lr).sr - plain(lr).sr).permute(0, 2, 3, 1).numpy()
    for i in range(2):
        assert np.abs(added[i] - imresize(lr[i].permute(1, 2, 0).numpy(), 4)).max() < 1e-12


def test_initial_weights() -> None:
    """N(0, 2 / (k k C_out)), also of the 9x9 convolutions; the output layer times head_gain."""
    net = SRResNet(head_gain=0.1)
    assert net.get_parameter("first.0.weight").std().item() == pytest.approx((2 / (81 * 64)) ** 0.5, rel=0.03)
    assert net.get_parameter("up.0.weight").std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.03)
    assert net.get_parameter("last.weight").std().item() == pytest.approx(0.1 * (2 / (81 * 3)) ** 0.5, rel=0.03)
    assert not net.get_parameter("last.bias").any()


@pytest.mark.parametrize("options", [{"form": "official"}, {"width": 0}, {"n_blocks": 0}, {"global_residual": "on"}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*, expected"):
        SRResNet(**options)
