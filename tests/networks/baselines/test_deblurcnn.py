import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from networks.baselines.deblurcnn import MARGIN, DeblurCNN
from networks.ops.resize import bicubic_resize

# The paper's table, and the groups of the authors' network file.
KERNELS = (19, 1, 1, 1, 1, 3, 1, 5, 5, 3, 5, 5, 1, 7, 7)
CHANNELS = (128, 320, 320, 320, 128, 128, 512, 128, 128, 128, 128, 128, 256, 64, 3)
GROUPS = (1, 1, 1, 1, 1, 1, 1, 4, 2, 1, 2, 2, 1, 2, 1)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(("grouped", "expected"), [(True, 2_256_195), (False, 4_500_803)])
def test_parameters(grouped: bool, expected: int) -> None:
    network = DeblurCNN(grouped=grouped)
    assert sum(p.numel() for p in network.parameters()) == expected
    layers = convolutions(network)
    assert [layer.kernel_size[0] for layer in layers] == list(KERNELS)
    assert [layer.out_channels for layer in layers] == list(CHANNELS)
    assert [layer.groups for layer in layers] == (list(GROUPS) if grouped else [1] * 15)


def test_valid_convolutions_take_50_pixels() -> None:
    assert MARGIN == 25
    assert DeblurCNN(width=0.125).layers(torch.rand(1, 3, 66, 71)).shape == (1, 3, 16, 21)


def reference(network: DeblurCNN, image: np.ndarray, offset: float) -> np.ndarray:
    """The network on one image [3, h, w], window by window, in float64."""
    x = np.pad(image - offset, ((0, 0), (25, 25), (25, 25)), mode="edge")
    layers = convolutions(network)
    for number, (layer, groups) in enumerate(zip(layers, GROUPS, strict=True)):
        weight, bias = (t.detach().double().numpy() for t in (layer.weight, layer.bias))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
        parts = zip(np.split(windows, groups), np.split(weight, groups), strict=True)
        x = np.concatenate([np.einsum("ihwyx,oiyx->ohw", w, k) for w, k in parts]) + bias[:, None, None]
        if number < 14:
            x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize(("offset", "residual"), [(0.5, False), (0.0, False), (0.5, True)])
def test_forward_agrees_with_reference(offset: float, residual: bool) -> None:
    torch.manual_seed(0)
    network = DeblurCNN(width=0.125, offset=offset, residual=residual).double()
    for layer in convolutions(network):  # the paper's initial weights all but vanish behind fourteen ReLUs
        nn.init.normal_(layer.weight, 0, (2 / layer.weight[0].numel()) ** 0.5)
        nn.init.normal_(layer.bias, 0, 0.1)  # type: ignore[arg-type]  # bias is there
    images = torch.rand(2, 3, 7, 10, dtype=torch.float64)
    with torch.no_grad():
        restored = network(lr=images)
    added = images.numpy() if residual else offset
    expected = np.stack([reference(network, image, offset) for image in images.numpy()]) + added
    assert np.abs(expected - added).max() > 0.1
    np.testing.assert_allclose(restored.sr.numpy(), expected, atol=1e-12)
    assert restored.deblurred is None


def pass_through(network: DeblurCNN) -> None:
    """Weights that hand the first three channels on."""
    for layer in convolutions(network):
        nn.init.zeros_(layer.weight)
        for channel in range(3):
            layer.weight.data[channel, channel, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_result_lies_on_the_input_and_is_enlarged(scale: int) -> None:
    network = DeblurCNN(scale=scale, width=0.25, offset=0.0)
    pass_through(network)
    images = torch.rand(2, 3, 9, 6)
    with torch.no_grad():
        restored = network(lr=images)
    assert (network.scale, network.inputs) == (scale, ("lr",))
    if scale == 1:
        assert network.outputs == ("sr",)
        torch.testing.assert_close(restored.sr, images)
    else:
        assert network.outputs == ("sr", "deblurred")
        torch.testing.assert_close(restored.deblurred, images)
        torch.testing.assert_close(restored.sr, bicubic_resize(images, scale))


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for layer in convolutions(DeblurCNN()):
        fan_in = layer.kernel_size[0] ** 2 * layer.in_channels / layer.groups
        assert layer.weight.abs().max().item() <= math.sqrt(3 / fan_in)
        assert layer.weight.var().item() == pytest.approx(1 / fan_in, rel=0.05)
        assert not layer.bias.any()  # type: ignore[union-attr]  # bias is there


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 0}, "scale is 0, expected"), ({"width": 0.1}, "width is 0.1, expected"), ({"width": 0.0}, "width is")],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeblurCNN(**options)  # type: ignore[arg-type]  # as a config gives them


def test_gradients_reach_every_layer() -> None:
    torch.manual_seed(0)
    network = DeblurCNN(width=0.25)
    sr: Tensor = network(lr=torch.rand(1, 3, 5, 4)).sr
    sr.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
