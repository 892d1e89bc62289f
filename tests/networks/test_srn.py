import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor

from networks.ops.resize import bilinear_resize, bilinear_shrink
from networks.srn import SRN


def small(seed: int = 0, **options: Any) -> SRN:
    """A narrow network in float64 whose weights, biases and LSTM are all far from zero."""
    torch.manual_seed(seed)
    net = SRN(**{"widths": (3, 4, 5), "n_blocks": 1, **options}).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.5 if parameter.dim() == 1 else 1.0 / math.sqrt(parameter[0].numel()))
    return net


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6_881_251),
        ({"channels": 1}, 6_876_449),
        ({"channels": 1, "recurrence": "lstm"}, 8_056_609),
        ({"recurrence": "lstm"}, 8_061_411),
        ({"n_scales": 1, "feedback": False, "resize": "tf1"}, 6_881_251),
    ],
)
def test_parameter_counts(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        net = SRN(**options)
    assert sum(p.numel() for p in net.parameters()) == expected
    lstm = sum(p.numel() for name, p in net.named_parameters() if name.startswith("lstm."))
    assert lstm == (1_180_160 if options.get("recurrence") == "lstm" else 0)


class Reference:
    """The published network in NumPy: convolutions with TensorFlow's SAME padding, resizing by its definition."""

    def __init__(self, net: SRN, n_blocks: int) -> None:
        self.weights = {name: p.detach().numpy() for name, p in net.named_parameters()}
        self.n_blocks = n_blocks

    def conv(self, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        size = weight.shape[-1]
        pads = []
        for n in x.shape[2:]:
            total = max((-(-n // stride) - 1) * stride + size - n, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [(0, 0), (0, 0), *pads])
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
        return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]

    def transposed(self, name: str, x: np.ndarray) -> np.ndarray:
        """Every input pixel adds its 4x4 stamp at twice its position; SAME crops one pixel all around."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        b, _, h, w = x.shape
        canvas = np.zeros((b, weight.shape[1], 2 * h + 2, 2 * w + 2))
        for y in range(4):
            for z in range(4):
                canvas[:, :, y : y + 2 * h : 2, z : z + 2 * w : 2] += np.einsum("bchw,co->bohw", x, weight[:, :, y, z])
        return canvas[:, :, 1:-1, 1:-1] + bias[:, None, None]

    def blocks(self, name: str, x: np.ndarray) -> np.ndarray:
        for n in range(self.n_blocks):
            x = x + self.conv(f"{name}.{n}.body.2", np.maximum(self.conv(f"{name}.{n}.body.0", x), 0))
        return x

    def resize(self, x: np.ndarray, h: int, w: int, convention: str) -> np.ndarray:
        for axis, out in ((2, h), (3, w)):
            n = x.shape[axis]
            offset = 0.5 if convention == "half_pixel" else 0.0
            source = np.clip((np.arange(out) + offset) * n / out - offset, 0, n - 1)
            low = np.floor(source).astype(int)
            high = np.minimum(low + 1, n - 1)
            share = (source - low).reshape((-1, 1) if axis == 2 else (-1,))
            x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
        return x

    def lstm(self, x: np.ndarray, cell: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = self.conv("lstm.conv", np.concatenate([x, hidden], 1))
        width = x.shape[1]
        i, j, f, o = (z[:, k * width : (k + 1) * width] for k in range(4))
        cell = cell * expit(f + 1) + expit(i) * np.tanh(j)
        return cell, np.tanh(cell) * expit(o)

    def __call__(self, image: np.ndarray, n_scales: int, feedback: bool, convention: str) -> list[np.ndarray]:
        """Estimates of images [B, C, h, w] whose sides the network's size_multiple divides, coarsest first."""
        h, w = image.shape[2:]
        pyramid: list[np.ndarray] = []
        cell = hidden = np.zeros(1)
        estimate = image
        for k in range(n_scales):
            hi, wi = h >> (n_scales - 1 - k), w >> (n_scales - 1 - k)
            blurred = self.resize(image, hi, wi, convention)
            estimate = self.resize(estimate if feedback else image, hi, wi, convention)
            x = np.concatenate([blurred, estimate], 1)
            e1 = self.blocks("encoder1.2", np.maximum(self.conv("encoder1.0", x), 0))
            e2 = self.blocks("encoder2.1", np.maximum(self.conv("encoder2.0.1", e1, 2), 0))
            x = self.blocks("encoder3.1", np.maximum(self.conv("encoder3.0.1", e2, 2), 0))
            if "lstm.conv.weight" in self.weights:
                if k == 0:
                    cell = hidden = np.zeros_like(x)
                cell = self.resize(cell, hi // 4, wi // 4, convention)
                hidden = self.resize(hidden, hi // 4, wi // 4, convention)
                cell, hidden = self.lstm(x, cell, hidden)
                x = hidden
            d2 = np.maximum(self.transposed("up2.0", self.blocks("decoder3", x)), 0) + e2
            d1 = np.maximum(self.transposed("up1.0", self.blocks("decoder2", d2)), 0) + e1
            estimate = self.conv("head", self.blocks("decoder1", d1))
            pyramid.append(estimate)
        return pyramid


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recurrence": "lstm"},
        {"recurrence": "lstm", "channels": 1, "resize": "tf1", "n_blocks": 2},
        {"resize": "tf1", "n_scales": 2},
        {"feedback": False},
        {"feedback": False, "recurrence": "lstm", "n_scales": 2},
        {"n_scales": 1},
        {"n_scales": 1, "recurrence": "lstm"},
        {"n_scales": 4, "recurrence": "lstm"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(32, 64), (21, 35)])
def test_equals_reference(options: dict[str, Any], size: tuple[int, int]) -> None:
    """Two images, at sizes with and without padding, against the second implementation."""
    net = small(**options)
    x = torch.rand(2, net.channels, *size, dtype=torch.float64)
    with torch.no_grad():
        restored = net(lr=x)
    h, w = size
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, -h % net.size_multiple), (0, -w % net.size_multiple)), mode="edge")
    reference = Reference(net, options.get("n_blocks", 1))
    expected = reference(padded, net.n_scales, net.feedback, net.resize)
    assert len(restored.pyramid) == len(expected) == net.n_scales
    assert restored.sr is restored.pyramid[-1]
    for k, (mine, theirs) in enumerate(zip(restored.pyramid, expected, strict=True)):
        factor = 2 ** (net.n_scales - 1 - k)
        assert mine.shape == (2, net.channels, math.ceil(h / factor), math.ceil(w / factor))
        assert theirs.std() > 0.1
        np.testing.assert_allclose(mine.numpy(), theirs[..., : mine.shape[2], : mine.shape[3]], atol=1e-11, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 16)])
@pytest.mark.parametrize("resize", ["half_pixel", "tf1"])
def test_estimates_have_the_grid_of_the_targets(size: tuple[int, int], resize: str) -> None:
    """A network that passes its input on yields exactly the targets the loss makes of that image, at every scale."""
    net = small(recurrence="lstm", n_scales=4, resize=resize, widths=(6, 4, 5))
    for parameter in net.parameters():
        parameter.data.zero_()
    for c in range(3):  # the blurred image goes through the first convolution, the skip sum and the last
        net.get_parameter("encoder1.0.weight").data[c, c, 2, 2] = 1
        net.get_parameter("head.weight").data[c, c, 2, 2] = 1
    x = torch.rand(1, 3, *size, dtype=torch.float64)
    restored = net(lr=x)
    for factor, estimate in zip((8, 4, 2, 1), restored.pyramid, strict=True):
        torch.testing.assert_close(estimate, bilinear_shrink(x, factor, resize), atol=1e-14, rtol=0)  # type: ignore[arg-type]
    assert torch.equal(restored.sr, x)


def test_batch_equals_single_images() -> None:
    net = small(recurrence="lstm")
    x = torch.rand(3, 3, 17, 16, dtype=torch.float64)
    together = net(lr=x)
    for n in range(3):
        alone = net(lr=x[n : n + 1])
        for a, b in zip(alone.pyramid, together.pyramid, strict=True):
            torch.testing.assert_close(a, b[n : n + 1], atol=1e-12, rtol=0)


def test_gray_network_restores_channels_separately() -> None:
    net = small(channels=1, recurrence="lstm")
    x = torch.rand(2, 3, 17, 16, dtype=torch.float64)
    colour = net(lr=x)
    assert colour.sr.shape == x.shape
    for c in range(3):
        gray = net(lr=x[:, c : c + 1])
        for a, b in zip(gray.pyramid, colour.pyramid, strict=True):
            torch.testing.assert_close(a, b[:, c : c + 1], atol=1e-12, rtol=0)


def test_colour_network_refuses_gray_images() -> None:
    with pytest.raises(ValueError, match="1 channels, expected 3"):
        small()(lr=torch.rand(3, 1, 16, 16, dtype=torch.float64))


def watch(net: SRN) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Raw estimates and LSTM states (cell, hidden) of the following run, in order of the scales."""
    estimates: list[Tensor] = []
    states: list[tuple[Tensor, Tensor]] = []
    net.head.register_forward_hook(lambda module, args, out: estimates.append(out))
    if net.lstm is not None:
        net.lstm.register_forward_hook(lambda module, args, out: states.append(out))
    return estimates, states


def test_no_gradient_through_estimates_but_through_states() -> None:
    net = small(recurrence="lstm")
    estimates, states = watch(net)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    before = net(lr=x).sr
    assert len(estimates) == len(states) == 3
    for estimate in estimates[:2]:
        assert torch.autograd.grad(before.sum(), estimate, allow_unused=True, retain_graph=True) == (None,)
    for state in states[:2]:
        for gradient in torch.autograd.grad(before.sum(), state, retain_graph=True):
            assert gradient.abs().max() > 1e-6
    # All the same the value of the fine estimate depends on the coarse one.
    net.head.register_forward_hook(lambda module, args, out: out + 0.1 if out.shape[-1] == 8 else out)
    assert (net(lr=x).sr - before).abs().max() > 1e-3


def test_gradient_is_that_of_scales_with_a_constant_second_input() -> None:
    net = small(n_scales=2)
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    restored = net(lr=x)
    parameters = list(net.parameters())
    constant = bilinear_resize(restored.pyramid[0].detach(), (16, 16))
    alone, _ = net.one_scale(x, constant, None)
    assert torch.equal(alone, restored.sr)
    for a, b in zip(
        torch.autograd.grad(restored.sr.square().sum(), parameters),
        torch.autograd.grad(alone.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("resize", ["half_pixel", "tf1"])
def test_gradient_equals_finite_differences(resize: str) -> None:
    """Without feedback nothing is held constant, so all scales and the states between them can be differentiated."""
    net = small(n_scales=2, recurrence="lstm", feedback=False, resize=resize, widths=(2, 3, 3), channels=1)
    x = torch.rand(1, 1, 7, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(net(lr=x).pyramid), (x,), atol=1e-8, rtol=1e-6)
    weight = net.get_parameter("lstm.conv.weight")

    def fine(values: Tensor) -> Tensor:
        return torch.func.functional_call(net, {"lstm.conv.weight": values}, kwargs={"lr": x.detach()}).sr

    assert torch.autograd.gradcheck(fine, (weight.detach().requires_grad_(),), atol=1e-8, rtol=1e-5, fast_mode=True)


def test_estimate_of_every_scale_trains_all_weights() -> None:
    net = small(recurrence="lstm")
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    restored = net(lr=x)
    for estimate in restored.pyramid:
        for gradient in torch.autograd.grad(estimate.square().sum(), list(net.parameters()), retain_graph=True):
            assert gradient.abs().max() > 0


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = SRN(recurrence="lstm", widths=(16, 24, 32), n_blocks=1)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        elif name.startswith("lstm."):
            assert p.abs().max() <= 2e-3
            # Standard deviation of a normal distribution cut at two standard deviations.
            assert p.std().item() == pytest.approx(0.8796e-3, rel=0.02)
        else:
            bound = math.sqrt(6 / ((p.shape[0] + p.shape[1]) * p.shape[2] * p.shape[3]))
            assert 0.98 * bound < p.abs().max() <= bound
            assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_mixed_precision() -> None:
    net = small(recurrence="lstm").float()
    x = torch.rand(1, 3, 19, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(lr=x)
    half.sr.float().square().mean().backward()
    assert F.mse_loss(half.sr.float(), net(lr=x).sr).sqrt() < 0.05 * net(lr=x).sr.std()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 2}, "channels is 2, expected 1 or 3"),
        ({"recurrence": "gru"}, "none or lstm"),
        ({"n_scales": 0}, "1, 2, 3 or 4"),
        ({"n_scales": 5}, "1, 2, 3 or 4"),
        ({"widths": (1, 2)}, "3 positive"),
        ({"widths": (1, 2, 0)}, "3 positive"),
        ({"n_blocks": 0}, "at least 1"),
        ({"resize": "area"}, "half_pixel or tf1"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SRN(**options)


def test_size_multiple() -> None:
    assert [small(n_scales=n).size_multiple for n in (1, 2, 3, 4)] == [4, 8, 16, 32]


def test_global_residual_is_added_to_every_estimate() -> None:
    torch.manual_seed(0)
    options = {"widths": (2, 3, 4), "n_blocks": 1, "n_scales": 1}
    plain, added = SRN(**options).double(), SRN(**options, global_residual=True).double()
    added.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 9, 14, dtype=torch.float64)
    torch.testing.assert_close(added(image).sr - plain(image).sr, image)
    torch.manual_seed(0)
    torch.testing.assert_close(SRN(**options, head_gain=0.25).double()(image).sr, 0.25 * plain(image).sr)
