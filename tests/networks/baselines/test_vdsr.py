import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks.baselines.vdsr import VDSR, import_official
from tests.helpers.references import imresize, rgb_to_ycbcr, ycbcr_to_rgb


def official_state() -> dict[str, Tensor]:
    names = ["input", *(f"residual_layer.{i}.conv" for i in range(18)), "output"]
    shapes = [(64, 1, 3, 3), *[(64, 64, 3, 3)] * 18, (1, 64, 3, 3)]
    return {f"{n}.weight": 0.06 * torch.randn(s) for n, s in zip(names, shapes, strict=True)}


def reference(state: dict[str, Tensor], image: np.ndarray, scale: int) -> np.ndarray:
    """The published method on an image [h, w, C]: float64, through YCbCr."""
    enlarged = imresize(image, scale) if scale > 1 else image
    ycbcr = rgb_to_ycbcr(enlarged) if image.shape[-1] == 3 else enlarged
    x = y = torch.from_numpy(ycbcr[..., 0])[None, None]
    layers = [value.double() for name, value in state.items() if name.endswith("weight")]
    biases = [value.double() for name, value in state.items() if name.endswith("bias")] or [None] * len(layers)
    for i, (weight, bias) in enumerate(zip(layers, biases, strict=True)):
        x = F.conv2d(F.relu(x) if i else x, weight, bias, padding=1)
    ycbcr[..., 0] = (x + y)[0, 0].numpy()
    return ycbcr_to_rgb(ycbcr) if image.shape[-1] == 3 else ycbcr


def test_parameters() -> None:
    assert sum(p.numel() for p in VDSR().parameters()) == 664_704
    assert sum(p.numel() for p in VDSR(bias=True).parameters()) == 665_921


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_published_method(scale: int, channels: int) -> None:
    net = VDSR(bias=True, width=6, n_layers=5).double().requires_grad_(False)
    for name, value in net.named_parameters():
        if name.endswith("bias"):
            value.normal_(0, 0.1)
    lr = torch.rand(2, channels, 7, 9, dtype=torch.float64)
    sr = net(lr, scale=scale).sr
    assert sr.shape == (2, channels, 7 * scale, 9 * scale)
    for i in range(2):
        expected = reference(net.state_dict(), lr[i].permute(1, 2, 0).numpy(), scale)
        assert np.abs(sr[i].permute(1, 2, 0).numpy() - expected).max() < 1e-10


def test_public_weights_come_in_order() -> None:
    state = official_state()
    net = VDSR().requires_grad_(False)
    net.load_state_dict(import_official(dict(reversed(state.items()))))  # a file's order does not matter
    lr = torch.rand(1, 1, 6, 5)
    expected = reference(state, lr[0].permute(1, 2, 0).double().numpy(), 3)
    assert np.abs(net(lr, scale=3).sr[0, 0].numpy() - expected[..., 0]).max() < 1e-4 * np.abs(expected).max()


def test_other_weights_are_refused() -> None:
    state = official_state()
    with pytest.raises(ValueError, match=r"missing input\.weight; unexpected first\.weight"):
        import_official({"first.weight" if name == "input.weight" else name: v for name, v in state.items()})
    with pytest.raises(ValueError, match=r"missing none; unexpected input\.bias"):
        import_official({**state, "input.bias": torch.zeros(64)})


def test_initial_weights() -> None:
    """He et al.: variance 2 / (9 inputs)."""
    net = VDSR(bias=True)
    weights = [value for name, value in net.named_parameters() if name.endswith("weight")]
    for weight in weights[1:-1]:
        assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert weights[0].std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.15)
    assert weights[-1].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.15)
    assert not any(value.any() for name, value in net.named_parameters() if name.endswith("bias"))


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="scale is 5, expected 1, 2, 3 or 4"):
        VDSR(width=2, n_layers=2)(torch.zeros(1, 3, 4, 4), scale=5)
    with pytest.raises(ValueError, match="width is 0 and n_layers 20"):
        VDSR(width=0)
