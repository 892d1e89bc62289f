from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.cooperative import BatchNorm, CooperativeNet
from tests.helpers.filled import filling, waves

SMALL: dict[str, Any] = {"widths": (4, 5, 6, 7), "n_units": 2}


def convolutions(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def random_net(**options: Any) -> CooperativeNet:
    """A small network with statistics and slopes that are not the initial ones."""
    torch.manual_seed(0)
    net = CooperativeNet(**{**SMALL, **options}).double()
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.2)
        elif name.endswith(("running_var", "act.weight")):
            tensor.uniform_(0.2, 1.5)
    return net


@pytest.fixture(scope="module")
def filled() -> CooperativeNet:
    """The published size with the test filling, in the layer order of the Caffe definition."""
    with torch.device("meta"):
        net = CooperativeNet()
    net = net.double().to_empty(device="cpu")
    deblur, superres = convolutions(net.deblur), convolutions(net.superres)
    assert (len(deblur), len(superres)) == (35, 20)
    for m, layer in enumerate(deblur[:33] + superres + deblur[33:]):
        layer.weight.data = filling("weight", layer.weight.shape, 2 * m, 0.5)
        layer.bias.data = filling("bias", layer.bias.shape, 2 * m + 1, 0.5)
    for module in net.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data.fill_(0.25)
        elif isinstance(module, BatchNorm):
            module.reset_running_stats()
    return net


def numbers(out: Tensor) -> list[float]:
    return [x.item() for x in (out.mean(), out.std(correction=0), out[0, 0, 0, 0], out[0, 1, 5, 7], out[0, 2, -1, -1])]


def close(value: float | list[float]) -> Any:
    return pytest.approx(value, abs=6e-11, rel=0)


def test_reference_values_with_running_statistics(filled: CooperativeNet) -> None:
    x = waves(32, 40)
    filled.eval()
    with torch.no_grad():
        r, d, out = filled.superres(x), filled.deblur(x), filled(lr=x).sr
    assert [r.mean().item(), r.std(correction=0).item()] == close([-0.0171730887, 0.0678108512])
    assert numbers(d)[:3] == close([-0.0001522918, 0.0061832646, -0.0046506195])
    assert numbers(out) == close([0.4813067653, 0.2876809810, 0.3381158470, 0.2255962646, 0.5784477110])


def test_reference_values_with_batch_statistics(filled: CooperativeNet) -> None:
    x = waves(32, 40)
    filled.train()
    with torch.no_grad():
        d, out = filled.deblur(x), filled(lr=x).sr
    assert numbers(d)[:2] == close([-0.0058023334, 0.1354732220])
    assert numbers(out) == close([0.4756567237, 0.3182538949, 0.3259400833, 0.2490155594, 0.6367919486])


def test_parameter_counts() -> None:
    with torch.device("meta"):
        net = CooperativeNet()
    for part, convs, slopes in ((net.deblur, 26_766_147, 8_640), (net.superres, 668_227, 1_728)):
        assert sum(p.numel() for layer in convolutions(part) for p in layer.parameters()) == convs
        assert sum(p.numel() for p in part.parameters()) == convs + slopes
    assert sum(p.numel() for p in net.parameters()) == 27_444_742
    assert sum(isinstance(m, BatchNorm) for m in net.modules()) == 34


def test_initial_values() -> None:
    torch.manual_seed(0)
    net = CooperativeNet((32, 48, 64, 80), n_units=1)
    for layer in convolutions(net):
        weight = layer.get_parameter("weight")
        size = weight[0, 0].numel()
        channels = weight.shape[1]  # of the input for a convolution, of the output for a transposed one
        assert weight.std().item() == pytest.approx((2 / (channels * size)) ** 0.5, rel=0.08)
        assert not layer.get_parameter("bias").any()
    assert all((m.weight == 0.25).all() for m in net.modules() if isinstance(m, nn.PReLU))


def plain_forward(net: CooperativeNet, x: Tensor, anchored: bool, skips: bool) -> tuple[Tensor, Tensor]:
    """Both corrections once more, as function calls on the weights, in evaluation mode."""
    state = net.state_dict()

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, state[f"{name}.weight"].view(-1, 1, 1) * x)

    def block(name: str, x: Tensor, stride: int = 1, skip: Tensor | None = None) -> Tensor:
        name = f"deblur.{name}"
        weight, bias = state[f"{name}.conv.weight"], state[f"{name}.conv.bias"]
        if weight.shape[-1] == 4:
            y = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        else:
            y = F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)
        mean, var = (state[f"{name}.norm.running_{kind}"].view(-1, 1, 1) for kind in ("mean", "var"))
        y = (y - mean) / (var + 1e-5).sqrt()
        if skip is not None and skips:
            y = y + skip
        return prelu(f"{name}.act", y)

    def level(name: str, n_units: int, x: Tensor, anchor: Tensor) -> Tensor:
        for unit in range(n_units):
            body = block(f"{name}.units.{unit}.1", block(f"{name}.units.{unit}.0", x))
            x = body + (anchor if anchored else x)
        return x

    f0 = block("stem", x)
    a1 = block("down1", f0, 2)
    r1 = level("encoder1", 2, a1, a1)
    a2 = block("down2", r1, 2)
    r2 = level("encoder2", 3, a2, a2)
    a3 = block("down3", r2, 2)
    r3 = level("encoder3", 3, a3, a3)
    r4 = level("decoder1", 3, block("up1", r3, skip=r2), a2)
    r5 = level("decoder2", 2, block("up2", r4, skip=r1), a1)
    last = block("head.0", block("up3", r5, skip=f0))
    d = F.conv2d(last, state["deblur.head.1.weight"], state["deblur.head.1.bias"], padding=1)

    s = F.conv2d(x, state["superres.0.weight"], state["superres.0.bias"], padding=1)
    for i in (1, 2):
        name = f"superres.{i}"
        y = prelu(
            f"{name}.body.1", F.conv2d(s, state[f"{name}.body.0.weight"], state[f"{name}.body.0.bias"], padding=1)
        )
        y = F.conv_transpose2d(y, state[f"{name}.body.2.weight"], state[f"{name}.body.2.bias"], padding=1)
        s = prelu(f"{name}.act", 0.7 * s + 0.2 * prelu(f"{name}.body.3", y))
    return d, F.conv2d(s, state["superres.3.weight"], state["superres.3.bias"], padding=1)


@pytest.mark.parametrize(("anchored", "skips"), [(True, True), (False, True), (True, False), (False, False)])
def test_ablations(anchored: bool, skips: bool) -> None:
    net = random_net(anchored=anchored, skips=skips, alpha=0.7, beta=0.2).eval()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        d, r = plain_forward(net, x, anchored, skips)
        for branch, expected in (("both", x + d + r), ("deblur", x + d), ("superres", x + r)):
            net.branch = branch
            assert torch.allclose(net(lr=x).sr, expected, atol=1e-11)


def test_only_the_branch_asked_for_is_computed() -> None:
    net = random_net()
    for branch in ("deblur", "superres"):
        net.zero_grad(set_to_none=True)
        net.branch = branch
        net(lr=torch.rand(2, 3, 16, 16, dtype=torch.float64)).sr.sum().backward()
        with_gradient = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
        assert with_gradient == {branch}
    assert CooperativeNet(**SMALL, branch="superres").branch == "superres"


def test_running_statistics_are_the_decayed_mean_of_all_batches() -> None:
    norm = BatchNorm(2, momentum=0.1).double()
    sums, count = torch.zeros(2, 2, dtype=torch.float64), 0.0
    for seed in range(5):
        x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
        assert torch.allclose(norm(x), F.batch_norm(x, None, None, training=True), atol=1e-12)
        channels = x.transpose(0, 1).flatten(1)
        sums = 0.9 * sums + torch.stack([channels.mean(1), channels.var(1)])
        count = 0.9 * count + 1
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert torch.allclose(torch.stack([norm.running_mean, norm.running_var]), sums / count, atol=1e-12)


def test_statistics_of_a_frozen_branch_stay() -> None:
    """Freezing and unfreezing count from the next forward pass on, without a call of train()."""
    net = random_net()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)

    def statistics() -> Tensor:
        return torch.cat(
            [m.running_mean for m in net.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]
        )

    evaluated = net.eval()(lr=x).sr
    net.train()
    before = statistics()
    net.deblur.requires_grad_(False)
    out = net(lr=x).sr
    assert torch.equal(out, evaluated)
    assert torch.equal(statistics(), before)
    out.sum().backward()  # through the branch that is still trained
    net.deblur.requires_grad_(True)
    assert not torch.allclose(net(lr=x).sr, evaluated)
    assert not torch.allclose(statistics(), before)


def test_affine_and_momentum_reach_the_layers() -> None:
    norms = [m for m in CooperativeNet(**SMALL, affine=True, bn_momentum=0.05).modules() if isinstance(m, BatchNorm)]
    assert all(norm.affine and norm.momentum == 0.05 and norm.eps == 1e-5 for norm in norms)
    assert not any(m.affine for m in CooperativeNet(**SMALL).modules() if isinstance(m, BatchNorm))


@pytest.mark.parametrize("training", [False, True])
def test_gradients(training: bool) -> None:
    """Directional derivatives over the input and all parameters at once, central differences."""
    net = random_net(widths=(2, 2, 3, 3), n_units=1, affine=True).train(training)
    x = torch.rand(2, 3, 9, 13, dtype=torch.float64, requires_grad=True)
    weighting = torch.randn_like(x)
    tensors = [x, *net.parameters()]

    def loss() -> Tensor:
        return (net(lr=x).sr * weighting).sum()

    gradients = torch.autograd.grad(loss(), tensors)
    for _ in range(3):
        directions = [torch.randn_like(tensor) for tensor in tensors]
        values = []
        for step in (1e-7, -2e-7, 1e-7):  # the third goes back
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.data.add_(direction, alpha=step)
            values.append(loss().item())
        slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
        assert slope == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-4)


@pytest.mark.parametrize("size", [(37, 31), (8, 16), (5, 50), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    net = random_net().eval()
    x = torch.rand(3, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        out = net(lr=x).sr
        padded = F.pad(x, (0, -size[1] % 8, 0, -size[0] % 8), mode="replicate")
        assert out.shape == x.shape
        assert torch.equal(out, net(lr=padded).sr[..., : size[0], : size[1]])
        alone = torch.cat([net(lr=x[i : i + 1]).sr for i in range(3)])
    assert torch.allclose(out, alone, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (1, 2, 3)}, "4 positive"),
        ({"widths": (1, 2, 3, 0)}, "4 positive"),
        ({"n_units": 0}, "n_units is 0, expected at least 1"),
        ({"bn_momentum": 0.0}, "bn_momentum is 0.0, expected a number between"),
        ({"bn_momentum": 1.0}, "bn_momentum is 1.0, expected a number between"),
        ({"branch": "sr"}, "branch is 'sr', expected both, deblur or superres"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CooperativeNet(**{**SMALL, **options})


def test_wrong_branch_set_later() -> None:
    net = CooperativeNet(**SMALL)
    with pytest.raises(ValueError, match="expected both, deblur or superres"):
        net.branch = "none"
