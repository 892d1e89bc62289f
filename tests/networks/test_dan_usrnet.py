import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.degradations.kernels import isotropic_gaussian, sample_usrnet_gaussian
from datamodules.degradations.keyed_random import make_key
from experiments.config.compose import compose_model
from lightning_modules.checkpoints.checkpoint import build_network
from networks.dan_usrnet import DANUSRNet
from networks.restored import Restored

TINY: dict[str, Any] = {
    "restorer": {"n_iter": 2, "widths": (2, 3, 3, 4), "n_blocks": 1, "hyper_width": 3},
    "estimator": {"width": 4, "n_blocks": 2, "reduction": 2},
    "kernel_size": 7,
    "code_dim": 5,
}


def bank(n: int = 60) -> Tensor:
    keys = torch.tensor([make_key("test", 0, i) for i in range(n)])
    return sample_usrnet_gaussian(keys, 7).double()


def network(scale: int = 2, **options: Any) -> DANUSRNet:
    """Tiny, in float64, with a basis and with all branches awake."""
    torch.manual_seed(0)
    net = DANUSRNet(scale, **{**TINY, **options}).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.3)
    net.fit_basis(bank(), 5)
    return net


def batch(n: int = 2, h: int = 5, w: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lr = torch.rand(n, 3, h, w, dtype=torch.float64, generator=generator)
    return {"lr": lr, "noise_level": torch.linspace(0.01, 0.03, n, dtype=torch.float64).view(n, 1, 1, 1)}


def hand_written(net: DANUSRNet, lr: Tensor, noise_level: Tensor) -> Iterator[Restored]:
    """The alternation by the formulas, with its two detaches and nothing under no_grad."""
    mean, matrix = net.basis.mean, net.basis.components
    kernel = mean.view(1, 1, 7, 7).repeat(len(lr), 1, 1, 1)
    for _ in range(net.n_loops):
        sr = net.restorer(lr=lr, kernel=kernel.detach(), scale=net.scale, noise_level=noise_level).sr
        code = net.estimator(sr.detach(), lr)
        flat = (mean + (code - matrix.T @ mean) @ matrix.T).clamp(min=0)
        kernel = (flat / flat.sum(1, keepdim=True)).view(-1, 1, 7, 7)
        yield Restored(sr=sr, kernel=kernel, code=code)


def gradients(net: DANUSRNet, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def score(restored: Restored) -> Tensor:
    """A smooth function of image, kernel and code."""
    total = restored.sr.square().mean()
    if restored.kernel is not None:
        total = total + restored.kernel.square().sum()
    return total if restored.code is None else total + restored.code.square().mean()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], rtol=1e-10, atol=1e-14) for name in first)


def test_loop_and_gradients_are_those_of_the_hand_written_loop() -> None:
    """Above all: what runs without gradient in the network takes nothing from the gradients."""
    net, data = network(n_loops=3), batch()
    restored = net(**data)
    *_, expected = hand_written(net, **data)
    for name in ("sr", "kernel", "code"):
        assert torch.allclose(getattr(restored, name), getattr(expected, name), rtol=0, atol=1e-12)
    assert restored.earlier is None
    found, wanted = gradients(net, score(restored)), gradients(net, score(expected))
    assert same(found, wanted)
    assert found.keys() == dict(net.named_parameters()).keys()
    assert all(value.abs().max() > 0 for value in found.values())


def test_unused_loops_are_not_recorded() -> None:
    net, data, recorded = network(n_loops=3), batch(), []
    net.estimator.register_forward_hook(lambda _, inputs, output: recorded.append(output.requires_grad))
    net(**data)
    assert recorded == [False, False, True]
    recorded.clear()
    with torch.no_grad():
        assert not net(**data).sr.requires_grad
    assert recorded == [False] * 3


def test_all_loops_supervised() -> None:
    net, data = network(n_loops=3, supervise="all"), batch()
    restored = net(**data)
    expected = list(hand_written(net, **data))
    assert "earlier" in net.outputs
    assert restored.earlier is not None
    found = [*restored.earlier, restored]
    assert [result.earlier is None for result in found] == [True, True, False]
    for result, wanted in zip(found, expected, strict=True):
        for name in ("sr", "kernel", "code"):
            assert torch.allclose(getattr(result, name), getattr(wanted, name), rtol=0, atol=1e-12)
    total = torch.stack([score(result) for result in found]).sum()
    assert same(gradients(net, total), gradients(net, torch.stack([score(result) for result in expected]).sum()))
    assert network(n_loops=1, supervise="all")(**data).earlier == []


def test_detached_parts_do_not_train_each_other() -> None:
    for supervise in ("last", "all"):
        net, data = network(n_loops=2, supervise=supervise), batch()
        assert all(name.startswith("restorer.") for name in gradients(net, net(**data).sr.square().sum()))
        assert all(name.startswith("estimator.") for name in gradients(net, net(**data).code.square().sum()))


def test_end_to_end_losses_reach_both_parts() -> None:
    net, data = network(n_loops=2, detach=False), batch()
    for output in ("sr", "code", "kernel"):
        found = gradients(net, getattr(net(**data), output).square().sum())
        assert found.keys() == dict(net.named_parameters()).keys()
        for part in ("restorer.", "estimator."):
            assert any(value.abs().max() > 0 for name, value in found.items() if name.startswith(part))


@pytest.mark.parametrize("head", ["code", "softmax"])
def test_end_to_end_gradient(head: str) -> None:
    """Against finite differences along random directions, one for each part."""
    net, data = network(n_loops=2, detach=False, head=head), batch(1, 2, 3)
    for parameter in net.parameters():
        parameter.data *= 0.5
    found = gradients(net, score(net(**data)))
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    for part in ("restorer.", "estimator."):
        direction = {name: torch.randn_like(p) * (name.startswith(part)) for name, p in start.items()}
        slope = sum((found[name] * direction[name]).sum() for name in start)
        values = []
        for step in (1e-6, -1e-6):
            net.load_state_dict({name: p + step * direction[name] for name, p in start.items()}, strict=False)
            with torch.no_grad():
                values.append(score(net(**data)))
        net.load_state_dict(start, strict=False)
        assert abs(float(slope)) > 1e-4
        assert ((values[0] - values[1]) / 2e-6).item() == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("h", "w"), [(5, 7), (1, 2)])
def test_any_size_and_batches(scale: int, h: int, w: int) -> None:
    net, data = network(scale, n_loops=2), batch(3, h, w)
    restored = net(**data)
    assert restored.sr.shape == (3, 3, scale * h, scale * w)
    assert restored.kernel.shape == (3, 1, 7, 7)
    assert restored.code.shape == (3, 5)
    assert torch.allclose(restored.kernel.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))
    single = net(**{name: value[1:2] for name, value in data.items()})
    for name in ("sr", "kernel", "code"):
        assert torch.allclose(getattr(restored, name)[1:2], getattr(single, name), rtol=1e-9, atol=1e-12)


def test_phases() -> None:
    net, data = network(), batch()
    kernel = isotropic_gaussian(torch.tensor([0.8, 1.5], dtype=torch.float64), 9)
    blind = net(**data)
    assert net.inputs == ("lr", "noise_level")
    assert net.outputs == ("sr", "kernel", "code")
    with pytest.raises(ValueError, match="kernel is given, expected none"):
        net(**data, kernel=kernel)

    net.phase = "restorer"
    assert (set(net.inputs), net.outputs) == ({"lr", "noise_level", "kernel"}, ("sr",))
    restored = net(**data, kernel=kernel)
    assert torch.equal(restored.sr, net.restorer(**data, kernel=kernel, scale=2).sr)
    assert restored.kernel is None
    assert restored.code is None
    assert all(name.startswith("restorer.") for name in gradients(net, restored.sr.sum()))
    with pytest.raises(ValueError, match="expected the true kernels in phase restorer"):
        net(**data)

    net.phase = "estimator"
    assert (set(net.inputs), net.outputs) == ({"lr", "noise_level", "kernel"}, ("sr", "kernel", "code"))
    for net.detach in (True, False):
        estimated = net(**data, kernel=kernel)
        assert torch.equal(estimated.sr, restored.sr)
        assert torch.equal(estimated.code, net.estimator(restored.sr, data["lr"]))
        assert torch.equal(estimated.kernel, net.basis.decode(estimated.code))
        assert all(name.startswith("estimator.") for name in gradients(net, score(estimated)))

    net.phase = "joint"
    assert torch.equal(net(**data).sr, blind.sr)
    with pytest.raises(ValueError, match="phase is 'blind', expected joint, restorer or estimator"):
        net.phase = "blind"  # type: ignore[assignment]


def test_first_kernel() -> None:
    data = batch()
    delta = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    delta[..., 3, 3] = 1
    for kernel_init, kernel in (("delta", delta), ("mean", bank().mean(0, keepdim=True))):
        net = network(n_loops=1, kernel_init=kernel_init)
        expected = net.restorer(**data, kernel=kernel.expand(2, -1, -1, -1), scale=2).sr
        assert torch.allclose(net(**data).sr, expected, rtol=0, atol=1e-12)


def test_softmax_head() -> None:
    net, data = network(n_loops=2, head="softmax", supervise="all"), batch()
    restored = net(**data)
    assert net.outputs == ("sr", "kernel", "earlier")
    assert restored.code is None
    first = restored.earlier[0].kernel
    assert torch.allclose(restored.sr, net.restorer(**data, kernel=first, scale=2).sr, rtol=0, atol=1e-12)
    assert torch.equal(restored.kernel, net.estimator(restored.sr, data["lr"]))
    without_basis = DANUSRNet(2, **TINY, head="softmax", kernel_init="delta").double()
    assert without_basis(**data).kernel.shape == (2, 1, 7, 7)


def test_checkpoint_brings_the_basis() -> None:
    net, data = network(), batch()
    other = DANUSRNet(2, **TINY).double()
    with pytest.raises(RuntimeError, match="basis is empty"):
        other(**data)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(**data).sr, net(**data).sr)
    assert torch.equal(other.encode(bank()), net.encode(bank()))
    assert int(other.basis.n_kernels) == 60
    assert int(other.basis.seed) == 5


def test_code_of_the_true_kernels() -> None:
    net = network()
    assert torch.allclose(net.encode(bank()), bank().flatten(1) @ net.basis.components)


def counted(widths: tuple[int, ...], hyper_width: int, n_iter: int) -> int:
    """Parameters of USRNet by its table of layers: two residual blocks a level, of two 3x3 convolutions, no biases but
    those of the module H.

    Down and up: a 2x2 convolution between widths, strided and transposed. H: 1x1 from scale and noise to two
    numbers an iteration.
    """
    first, *_, last = widths
    levels = sum(2 * 2 * 2 * 9 * width**2 for width in widths[:-1])  # on the way down and on the way up
    between = sum(2 * 4 * a * b for a, b in itertools.pairwise(widths))
    body = 2 * 2 * 9 * last**2
    head_and_tail = 9 * 4 * first + 9 * first * 3
    hyper = (2 + 1) * hyper_width + (hyper_width + 1) * hyper_width + (hyper_width + 1) * 2 * n_iter
    return levels + between + body + head_and_tail + hyper


@pytest.mark.parametrize(
    ("option", "total", "restorer"),
    [
        ("dan_usrnet", 17_304_612, counted((64, 128, 256, 512), 64, 8)),
        ("dan_usrnet_tiny", 878_928, counted((16, 32, 64, 64), 32, 6)),
    ],
)
def test_parameters_by_hand(option: str, total: int, restorer: int) -> None:
    """The article's USRNet of 8 iterations and 64 to 512 channels, and the small one, with DAN's estimator."""
    blocks = 5 * ((9 * 64 + 1) * 64 + (9 * 64 + 1) * 32 + (32 + 1) * 2 + (2 + 1) * 32)
    estimator = (3 + 1) * 32 + (81 * 3 + 1) * 32 + blocks + (9 * 32 + 1) * 10
    assert restorer + estimator == total
    with torch.device("meta"):
        net = build_network(compose_model(option), option)
    assert isinstance(net, DANUSRNet)
    assert sum(p.numel() for p in net.restorer.parameters()) == restorer
    assert sum(p.numel() for p in net.parameters()) == total
    assert (net.n_loops, net.restorer.n_iter) == (4, 8 if option == "dan_usrnet" else 6)


def test_defaults_are_the_published_parts() -> None:
    with torch.device("meta"):
        net = DANUSRNet(4)
    assert sum(p.numel() for p in net.estimator.parameters()) == 288_596
    assert sum(p.numel() for p in net.restorer.parameters()) == 590_332  # the tiny one
    assert {name.split(".")[0] for name in net.state_dict()} == {"estimator", "basis", "restorer"}
    assert [DANUSRNet(scale, **TINY).size_multiple for scale in (1, 2, 3, 4)] == [8, 4, 8, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 5}, "scale is 5"),
        ({"n_loops": 0}, "n_loops is 0, expected at least 1"),
        ({"code_dim": 49}, "code_dim is 49"),
        ({"kernel_init": "box"}, "kernel_init is 'box', expected mean or delta"),
        ({"supervise": "first"}, "supervise is 'first', expected last or all"),
        ({"head": "kernel"}, "head is 'kernel'"),
        ({"phase": "blind"}, "phase is 'blind'"),
        ({"restorer": {"n_iters": 6}}, "restorer is {'n_iters': 6}, expected only n_iter, widths"),
        ({"estimator": {"scale": 2}}, "estimator is {'scale': 2}, expected only width"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DANUSRNet(**{"scale": 2, **TINY, **options})
