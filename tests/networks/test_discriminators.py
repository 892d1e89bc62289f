"""The discriminator against the layer table, written down once more, and a forward pass by it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.discriminators import Discriminator96

# Kernel, stride, channels in, channels out; every convolution is padded by 1 and has a bias.
TABLE = [
    (3, 1, 3, 64),
    (4, 2, 64, 64),
    (3, 1, 64, 128),
    (4, 2, 128, 128),
    (3, 1, 128, 256),
    (4, 2, 256, 256),
    (3, 1, 256, 512),
    (4, 2, 512, 512),
    (3, 1, 512, 512),
    (4, 2, 512, 512),
]


def by_the_table(net: Discriminator96, x: Tensor) -> Tensor:
    """Batch normalisation by its formula, with the statistics of this batch."""
    convs = [layer for layer in net.features if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in net.features if isinstance(layer, nn.BatchNorm2d)]
    for i, ((_, stride, _, _), conv) in enumerate(zip(TABLE, convs, strict=True)):
        x = F.conv2d(x, conv.weight, conv.bias, stride, padding=1)
        if i > 0:
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
            x = (x - mean) / (var + 1e-5).sqrt() * norms[i - 1].weight.view(-1, 1, 1) + norms[i - 1].bias.view(-1, 1, 1)
            x = torch.where(x > 0, x, 0.2 * x)
    first, last = (layer for layer in net.classifier if isinstance(layer, nn.Linear))
    x = x.flatten(1) @ first.weight.T + first.bias
    return torch.where(x > 0, x, 0.2 * x) @ last.weight.T + last.bias


def test_layers_and_parameter_count() -> None:
    with torch.device("meta"):
        net = Discriminator96()
    convs = [layer for layer in net.features if isinstance(layer, nn.Conv2d)]
    assert [(c.kernel_size, c.stride, c.in_channels, c.out_channels) for c in convs] == [
        ((k, k), (s, s), i, o) for k, s, i, o in TABLE
    ]
    weights = sum(k * k * i * o for k, _, i, o in TABLE)
    biases = sum(o for *_, o in TABLE)
    norms = 2 * sum(o for *_, o in TABLE[1:])
    # 96 / 32 = 3: 512 * 9 = 4608 features.
    assert (weights, biases, norms) == (13_674_176, 2_944, 5_760)
    total = weights + biases + norms + 4608 * 100 + 100 + 100 + 1
    assert total == 14_143_881
    assert sum(p.numel() for p in net.parameters()) == total


@pytest.mark.parametrize("patch", [32, 64, 96])
def test_logits_follow_the_table(patch: int) -> None:
    torch.manual_seed(0)
    net = Discriminator96(width=2, patch=patch).double()
    for layer in net.features:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    images = torch.rand(3, 3, patch, patch, dtype=torch.float64)
    logits = net(images)
    assert logits.shape == (3, 1)
    torch.testing.assert_close(logits, by_the_table(net, images), rtol=0, atol=1e-12)


def test_other_channels() -> None:
    assert Discriminator96(in_channels=1, width=2, patch=32)(torch.rand(2, 1, 32, 32)).shape == (2, 1)


def test_gradient_of_the_images() -> None:
    torch.manual_seed(0)
    net = Discriminator96(width=1, patch=32).double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    net(images).sum().backward()
    assert images.grad is not None
    for place in ((0, 0, 0, 0), (1, 2, 17, 5)):
        values = []
        for step in (1e-6, -1e-6):
            moved = images.detach().clone()
            moved[place] += step
            values.append(net(moved).sum().item())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(images.grad[place].item(), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"patch": 80}, "patch is 80, expected a multiple of 32"),
        ({"patch": 0}, "patch is 0, expected a multiple of 32"),
        ({"width": 0}, "width is 0, expected at least 1"),
        ({"in_channels": 0}, "in_channels is 0, expected at least 1"),
    ],
)
def test_bad_options(options: dict[str, int], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        Discriminator96(**options)


def test_images_of_another_size() -> None:
    net = Discriminator96(width=1, patch=32)
    with pytest.raises(ValueError, match=r"^images are 64x32, expected 32x32, the discriminator's patch$"):
        net(torch.rand(2, 3, 32, 64))
