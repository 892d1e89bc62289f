from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.gfn import GFN, import_official
from networks.ops.convolution import ResidualBlock
from networks.ops.resize import bicubic_resize
from tests.helpers.filled import filling, statistics, waves


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Layers of the authors' code in the order of their state, with the shapes of the weights."""
    layers: dict[str, tuple[int, ...]] = {}

    def blocks(prefix: str, n: int, width: int) -> None:
        for i in range(n):
            for layer in (0, 2):
                layers[f"{prefix}.{i}.layers.{layer}"] = (width, width, 3, 3)

    layers["deblurMoudle.0.conv1"] = (64, 3, 7, 7)
    blocks("deblurMoudle.0.resBlock1", 6, 64)
    layers["deblurMoudle.0.conv2.0"] = (128, 64, 3, 3)
    blocks("deblurMoudle.0.resBlock2", 6, 128)
    layers["deblurMoudle.0.conv3.0"] = (256, 128, 3, 3)
    blocks("deblurMoudle.0.resBlock3", 6, 256)
    layers["deblurMoudle.0.deconv1.0"] = (256, 128, 4, 4)
    layers["deblurMoudle.0.deconv2.0"] = (128, 64, 4, 4)
    layers["deblurMoudle.0.deconv2.2"] = (64, 64, 7, 7)
    layers["deblurMoudle.0.convout.0"] = (64, 64, 3, 3)
    layers["deblurMoudle.0.convout.2"] = (3, 64, 3, 3)
    layers["srMoudle.0.conv1"] = (64, 3, 7, 7)
    blocks("srMoudle.0.resBlock", 8, 64)
    layers["srMoudle.0.conv2"] = (64, 64, 3, 3)
    layers["geteMoudle.0.conv1"] = (64, 131, 3, 3)
    layers["geteMoudle.0.conv2"] = (64, 64, 1, 1)
    blocks("reconstructMoudle.0.resBlock", 8, 64)
    layers["reconstructMoudle.0.conv1"] = (256, 64, 3, 3)
    layers["reconstructMoudle.0.conv2"] = (256, 64, 3, 3)
    layers["reconstructMoudle.0.conv3"] = (64, 64, 3, 3)
    layers["reconstructMoudle.0.conv4"] = (3, 64, 3, 3)
    shapes = {}
    for name, shape in layers.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = (shape[1] if ".deconv" in name and shape[-1] == 4 else shape[0],)
    return shapes


def official_state(gain: float) -> dict[str, Tensor]:
    shapes = official_shapes().items()
    return {name: filling(name, torch.Size(shape), j, gain) for j, (name, shape) in enumerate(shapes)}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return import_official(official_state(1.5))


def filled(weights: dict[str, Tensor], **options: Any) -> GFN:
    with torch.device("meta"):
        net = GFN(**options)
    net.load_state_dict(weights, assign=True)
    return net.requires_grad_(False)


def close(values: list[float]) -> Any:
    return pytest.approx(values, abs=6e-11, rel=0)


DEBLURRED = [-0.0364548302, 0.1459815136, 0.0739962645, 0.1045391533, 0.1700970218]


def test_reference_values_gate_on(weights: dict[str, Tensor]) -> None:
    net = filled(weights)
    inside: dict[str, Tensor] = {}
    net.gating.register_forward_hook(lambda _m, _i, out: inside.update(gate=out))
    net.superres.register_forward_hook(lambda _m, _i, out: inside.update(superres=out))
    net.deblur.register_forward_hook(lambda _m, _i, out: inside.update(deblur=out[0]))
    net.reconstruction.register_forward_pre_hook(lambda _m, args: inside.update(fused=args[0]))
    restored = net(lr=waves(16, 20))
    assert restored.deblurred is not None
    assert statistics(restored.deblurred) == close(DEBLURRED)
    assert statistics(restored.sr) == close([0.0553487745, 1.2602671250, 0.3114998007, 0.4348105277, -0.4546120976])
    assert statistics(inside["deblur"])[:2] == close([-0.0002914193, 0.1180874014])
    assert statistics(inside["superres"])[:2] == close([0.2206931676, 0.6300206007])
    assert statistics(inside["gate"])[:2] == close([0.0034633982, 0.2473013291])
    assert statistics(inside["fused"])[:2] == close([0.2208147794, 0.6311022508])


def test_reference_values_gate_off(weights: dict[str, Tensor]) -> None:
    net = filled(weights)
    net.gate = False
    restored = net(lr=waves(16, 20))
    assert restored.deblurred is not None
    assert statistics(restored.deblurred) == close(DEBLURRED)
    assert statistics(restored.sr) == close([0.0552216472, 1.2200944576, 0.3130546945, 0.4300051171, -0.4468902667])


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({"gate_recursions": 3}, (16, 20), [0.0549667968, 1.2558552551, 0.3157184763, 0.5959996107, -0.4756099794]),
        ({"pad": "official"}, (13, 17), [0.0410703369, 0.5372887713, 0.2904553320, 0.4859073194, 0.1751144384]),
        ({"pad": "replicate"}, (13, 17), [0.0569791732, 1.5069188139, 0.3103554550, 0.4235939033, -0.4111832908]),
    ],
)
def test_reference_values_of_the_options(
    weights: dict[str, Tensor], options: dict[str, Any], size: tuple[int, int], expected: list[float]
) -> None:
    restored = filled(weights, **options)(lr=waves(*size))
    assert statistics(restored.sr) == close(expected)
    assert restored.sr.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert restored.deblurred is not None
    assert restored.deblurred.shape == (1, 3, *size)


def test_official_padding_stretches_only_where_it_must(weights: dict[str, Tensor]) -> None:
    x = waves(8, 12)
    assert torch.equal(filled(weights, pad="official")(lr=x).sr, filled(weights)(lr=x).sr)
    x = waves(5, 8)
    whole = filled(weights)(lr=F.interpolate(x, (8, 8), mode="bilinear"))
    deblurred = F.interpolate(whole.deblurred, (5, 8), mode="bilinear")
    assert torch.equal(filled(weights, pad="official")(lr=x).deblurred, deblurred)


def test_parameter_counts() -> None:
    with torch.device("meta"):
        net = GFN()

    def count(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    parts = (net.deblur, net.deblur.head, net.superres, net.gating, net.reconstruction)
    assert [count(part) for part in parts] == [10_568_579, 38_659, 637_248, 79_680, 924_931]
    assert count(net) == 12_210_438
    assert len(net.state_dict()) == 168


def test_import_is_complete(weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        own = GFN().state_dict()
    assert list(weights) == list(own)
    assert [t.shape for t in weights.values()] == [t.shape for t in own.values()]


def test_import_refuses_other_states() -> None:
    state = {name: torch.empty(0) for name in official_shapes()}
    import_official(state)
    state["srMoudle.0.conv9.weight"] = state.pop("srMoudle.0.conv2.weight")
    with pytest.raises(ValueError, match=r"missing srMoudle\.0\.conv2\.weight; unexpected srMoudle\.0\.conv9\.weight$"):
        import_official(state)
    with pytest.raises(ValueError, match=r"missing none; unexpected extra$"):
        import_official({**{name: torch.empty(0) for name in official_shapes()}, "extra": torch.empty(0)})


@pytest.mark.parametrize("recursions", [1, 3])
def test_identity_gate_starts_from_the_function_without_gate(recursions: Any) -> None:
    net = GFN(gate_init="identity", gate_recursions=recursions).requires_grad_(False)
    x = torch.rand(1, 3, 8, 8)
    with_gate = net(lr=x).sr
    net.gate = False
    assert torch.allclose(with_gate, net(lr=x).sr, atol=1e-5, rtol=1e-5)
    net = GFN(gate_recursions=recursions).requires_grad_(False)
    with_gate = net(lr=x).sr
    net.gate = False
    assert not torch.allclose(with_gate, net(lr=x).sr, atol=1e-2)


def test_initial_values() -> None:
    torch.manual_seed(0)
    nets = {"official": GFN(init="official"), "rb0.1": GFN()}
    for init, net in nets.items():
        seconds = [m.body[2] for m in net.modules() if isinstance(m, ResidualBlock)]
        assert len(seconds) == 34
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                expected = (2 / (layer.out_channels * layer.weight[0, 0].numel())) ** 0.5
                if init == "rb0.1" and any(layer is second for second in seconds):
                    expected *= 0.1
                assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
                assert layer.bias is not None
                assert not layer.bias.any()
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert nets["official"](lr=x).sr.std() > 100
        assert nets["rb0.1"](lr=x).sr.std() < 10


def test_gradients_reach_what_is_computed() -> None:
    net = GFN(gate=False)
    x = torch.rand(1, 3, 4, 4)

    def reached() -> set[str]:
        """Parts with a gradient; the head of the deblurring branch is told apart."""
        names = {name for name, p in net.named_parameters() if p.grad is not None}
        net.zero_grad(set_to_none=True)
        return {"head" if name.startswith("deblur.head") else name.split(".")[0] for name in names}

    restored = net(lr=x)
    (restored.sr.sum() + restored.deblurred.sum()).backward()
    assert reached() == {"deblur", "head", "superres", "reconstruction"}
    net.gate = True
    net(lr=x).sr.sum().backward()
    assert reached() == {"deblur", "superres", "gating", "reconstruction"}


def test_gradient_of_the_input() -> None:
    """Directional derivative, central difference."""
    torch.manual_seed(1)
    net = GFN(gate_recursions=3).double().requires_grad_(False)
    x = torch.rand(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    weighting = torch.randn(1, 3, 20, 16, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        restored = net(lr=x)
        return (restored.sr * weighting).sum() + restored.deblurred.square().sum()

    loss(x).backward()
    assert x.grad is not None
    step = 1e-7 * direction
    with torch.no_grad():
        expected = (loss(x + step) - loss(x - step)).item() / 2e-7
    assert (x.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [(8, 12), (7, 5), (1, 1)])
def test_any_size(weights: dict[str, Tensor], size: tuple[int, int]) -> None:
    net = filled(weights)
    h, w = size
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    restored = net(lr=x)
    assert restored.sr.shape == (2, 3, 4 * h, 4 * w)
    assert restored.deblurred.shape == x.shape
    alone = net(lr=F.pad(x[1:], (0, -w % 4, 0, -h % 4), mode="replicate"))
    assert torch.allclose(restored.sr[1:], alone.sr[..., : 4 * h, : 4 * w], atol=1e-12)
    assert torch.allclose(restored.deblurred[1:], alone.deblurred[..., :h, :w], atol=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gate_recursions": 2}, "gate_recursions is 2, expected 1 or 3"),
        ({"gate_init": "one"}, "gate_init is 'one', expected official or identity"),
        ({"init": "zeros"}, "init is 'zeros', expected rb0.1 or official"),
        ({"pad": "reflect"}, "pad is 'reflect', expected replicate or official"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GFN(**options)


def test_small_ones_and_the_global_residual() -> None:
    """Both branches gain exactly what the option says."""
    torch.manual_seed(0)
    plain = GFN(width=4, n_blocks=(1, 2)).double()
    added = GFN(width=4, n_blocks=(1, 2), global_residual="bicubic").double()
    added.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 9, 14, dtype=torch.float64)
    a, b = plain(image), added(image)
    assert a.deblurred is not None
    assert b.deblurred is not None
    torch.testing.assert_close(b.deblurred - a.deblurred, image)
    torch.testing.assert_close(b.sr - a.sr, bicubic_resize(image, 4))
