import numpy as np
import pytest
import torch
from torch import nn

from networks.baselines.scgan import SCGANStandIn


def test_parameters() -> None:
    assert sum(p.numel() for p in SCGANStandIn().parameters()) == 1_139_651


def transposed(x: np.ndarray, weight: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Stride 2, two pixels cut at the start: input pixel i adds the kernel at outputs 2i-2, 2i-1, ..."""
    out = np.zeros((weight.shape[1], side[0] + 20, side[1] + 20))
    k = weight.shape[-1]
    for y, column in enumerate(x.transpose(1, 2, 0)):
        for z, pixel in enumerate(column):
            out[:, 2 * y + 8 : 2 * y + 8 + k, 2 * z + 8 : 2 * z + 8 + k] += np.einsum("i,ioyx->oyx", pixel, weight)
    return out[:, 10 : 10 + side[0], 10 : 10 + side[1]]


def convolved(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (2, 2), (2, 2))), (5, 5), axis=(1, 2))
    return np.einsum("ihwyx,oiyx->ohw", windows, weight)


def test_forward_agrees_with_reference() -> None:
    torch.manual_seed(0)
    network = SCGANStandIn(width=3, n_layers=2).double().eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            for value in (part.bias, part.running_mean):
                assert value is not None
                nn.init.normal_(value, 0, 0.2)
    images = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        found = network(lr=images).sr.numpy()
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}

    def normalised(x: np.ndarray, number: int) -> np.ndarray:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, gain, bias = (state[f"layers.{number}.{name}"][:, None, None] for name in names)
        return np.maximum((x - mean) / np.sqrt(var + 1e-5) * gain + bias, 0)

    for image, result in zip(images.numpy(), found, strict=True):
        x = normalised(transposed(2 * image - 1, state["layers.0.weight"], (10, 8)), 1)
        x = normalised(transposed(x, state["layers.3.weight"], (20, 16)), 4)
        for number in (6, 9):
            x = normalised(convolved(x, state[f"layers.{number}.weight"]), number + 1)
        x = convolved(x, state["layers.12.weight"]) + state["layers.12.bias"][:, None, None]
        np.testing.assert_allclose(result, np.tanh(x) / 2 + 0.5, atol=1e-12)


def test_bad_options() -> None:
    for option in ("width", "n_layers"):
        with pytest.raises(ValueError, match=f"{option} is 0, expected at least 1"):
            SCGANStandIn(**{option: 0})
