import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.degradations.blur import blur_decimate
from networks.ops.fourier import otf
from networks.usrnet import DataStep, USRNet, import_official, interleave, phases
from tests.helpers.filled import fill, off_centre_kernel, statistics, waves
from tests.helpers.plain_usrnet import TINY, PlainDataStep, plain_forward

SMALL: dict[str, Any] = {"n_iter": 2, "widths": (4, 5, 6, 7), "n_blocks": 1, "hyper_width": 4}


def random_kernels(batch: int, height: int, width: int) -> Tensor:
    kernels = torch.rand(batch, 1, height, width, dtype=torch.float64)
    return kernels / kernels.sum((-2, -1), keepdim=True)


def level(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


# Values of the authors' code with the same weights and inputs: alpha_1, beta_1, then of the output mean, standard
# deviation and three pixels.
PUBLISHED = {
    "tiny": {
        1: (0.7121056167, 0.6926847376, 0.0190314858, 0.0194894529, 0.0368658013, 0.0239277843, 0.0133642445),
        2: (0.7276326205, 0.6948473124, 0.0185385622, 0.0182962395, 0.0250961939, 0.0217354538, -0.0036398278),
        3: (0.7433882253, 0.6970145582, 0.0184454226, 0.0175810522, 0.0212177746, 0.0214635591, -0.0015937417),
        4: (0.7593721446, 0.6991864748, 0.0183796176, 0.0168640109, 0.0194878465, 0.0207433636, -0.0037953843),
    },
    "full": {
        1: (0.7142524529, 0.7322954970, 0.0496482220, 0.0357660852, 0.0242898150, 0.0137096752, 0.0790546634),
        2: (0.7293847577, 0.7725982779, 0.0385176615, 0.0281702625, 0.0192738205, 0.0083660152, 0.0554409495),
        3: (0.7447333633, 0.8143450002, 0.0356338148, 0.0275256519, 0.0204738045, 0.0074242690, 0.0358893161),
        4: (0.7602979966, 0.8575252218, 0.0347045856, 0.0272467321, 0.0212060785, 0.0064613090, 0.0379661004),
    },
}
DATA_STEP = {
    1: (0.4994905449, 0.2681394654, 0.6206655329, 0.2290697781, 0.1063881260),
    2: (0.4867517457, 0.2277859603, 0.6105916506, 0.4500791899, 0.2767266349),
    3: (0.4859988056, 0.2448514805, 0.5335691233, 0.3759279571, 0.2777753156),
    4: (0.4940830561, 0.2540159392, 0.4856817775, 0.3415081009, 0.1343880770),
}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "options"), [("tiny", TINY), ("full", {})])
def test_values_of_the_published_networks(model: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = USRNet(**options).double()
    net = fill(net.to_empty(device="cpu"), 0.5)
    for scale, expected in PUBLISHED[model].items():
        lr = waves(29, 31) if scale == 1 else waves(13, 17)
        with torch.no_grad():
            parameters = net.hyper(level(0.02), scale).flatten()
            sr = net(lr=lr, kernel=off_centre_kernel(), scale=scale, noise_level=level(0.02)).sr
        assert sr.shape == (1, 3, scale * lr.shape[-2], scale * lr.shape[-1])
        found = [parameters[0].item(), parameters[net.n_iter].item(), *statistics(sr)]
        assert found == pytest.approx(expected, rel=0, abs=6e-11)


@pytest.mark.parametrize("step", [DataStep, PlainDataStep])
def test_values_of_the_published_data_step(step: Callable[..., Any]) -> None:
    for scale, expected in DATA_STEP.items():
        h, w = (48, 40) if scale == 4 else (36, 30)
        y = waves(h // scale, w // scale).flip(1)
        z = step(y, off_centre_kernel(), scale)(waves(h, w), level(0.3))
        assert statistics(z) == pytest.approx(expected, rel=0, abs=6e-11)


def test_transfer_function_of_the_published_data_step() -> None:
    transfer = otf(off_centre_kernel(), (36, 30))[0, 0]
    assert abs(transfer[0, 0].item() - 1) < 1e-14
    assert abs(transfer[1, 2].item() - (0.5581150270 - 0.0194903042j)) < 1e-10


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "kernel"), [((6, 5), (5, 4)), ((5, 7), (25, 24)), ((1, 1), (3, 7))])
def test_data_step_solves_its_equation(scale: int, size: tuple[int, int], kernel: tuple[int, int]) -> None:
    """(K'S'SK + alpha) z = K'S'y + alpha x, with the matrix of SK column by column from the degradation's own blur."""
    torch.manual_seed(scale)
    h, w = size
    n = scale * scale * h * w
    y = torch.rand(2, 2, h, w, dtype=torch.float64)
    x = torch.rand(2, 2, scale * h, scale * w, dtype=torch.float64)
    kernels, alpha = random_kernels(2, *kernel), level(0.37, 1e-3)
    z = DataStep(y, kernels, scale)(x, alpha)
    assert z.shape == x.shape
    pixels = torch.eye(n, dtype=torch.float64).view(1, n, scale * h, scale * w)
    for i in range(2):
        matrix = blur_decimate(pixels, kernels[i : i + 1], scale).flatten(2)[0].T  # [h*w, n]
        for c in range(2):
            left = matrix.T @ (matrix @ z[i, c].flatten()) + alpha[i] * z[i, c].flatten()
            right = matrix.T @ y[i, c].flatten() + alpha[i] * x[i, c].flatten()
            assert torch.allclose(left, right, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_data_step_equals_the_published_formula(scale: int) -> None:
    torch.manual_seed(scale)
    y = torch.rand(2, 3, 9, 14, dtype=torch.float64)
    x = torch.rand(2, 3, scale * 9, scale * 14, dtype=torch.float64)
    kernels, alpha = random_kernels(2, 25, 24), level(0.3, 0.7)
    exact = PlainDataStep(y, kernels, scale)(x, alpha)
    assert torch.allclose(DataStep(y, kernels, scale)(x, alpha), exact, rtol=0, atol=1e-13)
    single = DataStep(y.float(), kernels.float(), scale)(x.float(), alpha.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), exact, rtol=0, atol=1e-6)


def test_data_step_keeps_its_digits_when_alpha_is_small() -> None:
    """In float32 it is an order of magnitude closer to the exact solution than the published formula."""
    torch.manual_seed(0)
    y, x = torch.rand(1, 3, 16, 16, dtype=torch.float64), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    kernel, alpha = random_kernels(1, 9, 9), level(1e-4)
    exact = PlainDataStep(y, kernel, 2)(x, alpha)
    ours = DataStep(y.float(), kernel.float(), 2)(x.float(), alpha.float())
    plain = PlainDataStep(y.float(), kernel.float(), 2)(x.float(), alpha.float())
    assert (ours - exact).abs().max() < 0.1 * (plain - exact).abs().max()


def test_a_kernel_for_each_channel() -> None:
    torch.manual_seed(0)
    y, x = torch.rand(2, 3, 5, 6, dtype=torch.float64), torch.rand(2, 3, 10, 12, dtype=torch.float64)
    kernels = random_kernels(6, 7, 7).view(2, 3, 7, 7)
    z = DataStep(y, kernels, 2)(x, level(0.1, 0.2))
    for c in range(3):
        own = DataStep(y[:, c : c + 1], kernels[:, c : c + 1], 2)(x[:, c : c + 1], level(0.1, 0.2))
        assert torch.allclose(z[:, c : c + 1], own, atol=1e-14)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_gradients_of_the_data_step(scale: int) -> None:
    torch.manual_seed(scale)
    y = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    x = torch.rand(2, 1, scale * 2, scale * 3, dtype=torch.float64)
    arguments = [t.requires_grad_() for t in (y, random_kernels(2, 3, 4), x, level(0.2, 0.5))]
    assert torch.autograd.gradcheck(lambda y, k, x, a: DataStep(y, k, scale)(x, a), arguments)


def test_phases() -> None:
    x = torch.arange(2.0 * 3 * 6 * 9).view(2, 3, 6, 9)
    parts = phases(x, 3)
    assert torch.equal(parts[:, :, 3 * 1 + 2], x[..., 1::3, 2::3])
    assert torch.equal(interleave(parts, 3), x)
    assert torch.equal(phases(x.contiguous(memory_format=torch.channels_last), 3), parts)


def test_parameters_of_the_published_networks() -> None:
    def count(**options: Any) -> tuple[int, int]:
        with torch.device("meta"):
            net = USRNet(**options)
        return tuple(sum(p.numel() for p in part.parameters()) for part in (net.prior, net.hyper))  # type: ignore[return-value]

    assert count() == (17_010_624, 5_392)
    assert count(**TINY) == (588_784, 1_548)
    assert count(hyper="fixed") == (17_010_624, 16)


def test_initial_weights() -> None:
    """Orthogonal with gain 0.2: rows or columns, whichever are fewer, of norm 0.2 and at right angles."""
    net = USRNet(**SMALL)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        else:
            flat = p.flatten(1)
            gram = flat @ flat.T if len(flat) <= flat.shape[1] else flat.T @ flat
            assert torch.allclose(gram, 0.04 * torch.eye(len(gram)), atol=1e-6)


@pytest.mark.parametrize(("size", "scale"), [((5, 11), 1), ((7, 9), 2), ((1, 1), 3), ((6, 3), 4)])
def test_any_size(size: tuple[int, int], scale: int) -> None:
    """By the published formulas; the kernel is larger than most of these images."""
    net = fill(USRNet(**SMALL | {"n_blocks": 2}).double(), 0.5)
    lr, kernels = torch.rand(2, 3, *size, dtype=torch.float64), random_kernels(2, 25, 25)
    with torch.no_grad():
        sr = net(lr=lr, kernel=kernels, scale=scale, noise_level=level(0.0, 0.05)).sr
        plain = plain_forward(net, lr, kernels, scale, level(0.0, 0.05))
    assert sr.shape == (2, 3, scale * size[0], scale * size[1])
    assert torch.allclose(sr, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 3])
def test_images_of_a_batch_do_not_mix(scale: int) -> None:
    net = fill(USRNet(**SMALL).double(), 0.5)
    lr, kernels, levels = torch.rand(3, 3, 7, 5, dtype=torch.float64), random_kernels(3, 9, 8), level(0, 0.01, 0.1)
    with torch.no_grad():
        together = net(lr=lr, kernel=kernels, scale=scale, noise_level=levels).sr
        for i in range(3):
            one = slice(i, i + 1)
            alone = net(lr=lr[one], kernel=kernels[one], scale=scale, noise_level=levels[one]).sr
            assert torch.allclose(together[one], alone, rtol=0, atol=1e-13)


def test_same_result_in_float32_and_channels_last() -> None:
    net = USRNet(**TINY | {"n_iter": 3})
    lr, kernel, levels = torch.rand(2, 3, 9, 7), random_kernels(2, 9, 9).float(), level(0, 0.1).float()
    with torch.no_grad():
        sr = net(lr=lr, kernel=kernel, scale=2, noise_level=levels).sr
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a documented overload
        lr = lr.contiguous(memory_format=torch.channels_last)
        other = net(lr=lr, kernel=kernel, scale=2, noise_level=levels).sr
        exact = net.double()(lr=lr.double(), kernel=kernel.double(), scale=2, noise_level=levels.double()).sr
    assert torch.allclose(sr.double(), exact, rtol=0, atol=1e-6)
    assert torch.allclose(other.double(), exact, rtol=0, atol=1e-6)


def test_autocast_reaches_the_prior_only() -> None:
    net = USRNet(**SMALL)
    lr, kernel, levels = torch.rand(1, 3, 8, 8), random_kernels(1, 5, 5).float(), torch.full((1, 1, 1, 1), 0.01)
    seen: list[tuple[Tensor, Tensor]] = []
    net.prior.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    exact = net(lr=lr, kernel=kernel, scale=2, noise_level=levels).sr
    with torch.autocast("cpu", torch.bfloat16):
        sr = net(lr=lr, kernel=kernel, scale=2, noise_level=levels).sr
        z = DataStep(lr, kernel, 2)(F.interpolate(lr, scale_factor=2.0).bfloat16(), levels)
    assert z.dtype == torch.float32
    assert sr.dtype == torch.bfloat16
    assert torch.equal(seen[0][0], seen[2][0])  # the first data step
    assert torch.equal(seen[1][1], seen[3][1])  # beta of the second prior
    assert seen[3][0].dtype == torch.float32
    assert torch.allclose(sr.float(), exact, rtol=0, atol=0.05)


def test_everything_learns() -> None:
    net = USRNet(**SMALL)
    lr, kernel = torch.rand(2, 3, 4, 4), random_kernels(2, 3, 3).float()
    net(lr=lr, kernel=kernel, scale=2, noise_level=torch.full((2, 1, 1, 1), 0.02)).sr.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_fixed_hyper_parameters() -> None:
    net = USRNet(**SMALL | {"hyper": "fixed"})
    values = net.hyper(level(0.0, 0.1).float(), 2)
    assert values.shape == (2, 4, 1, 1)
    assert torch.allclose(values, torch.full_like(values, math.log(2) + 1e-6))
    lr, kernel = torch.rand(1, 3, 4, 4), random_kernels(1, 3, 3).float()
    quiet, noisy = (net(lr=lr, kernel=kernel, scale=2, noise_level=level(s).float()).sr for s in (0, 0.1))
    assert torch.equal(quiet, noisy)
    quiet.sum().backward()
    assert net.hyper.constants.grad is not None
    assert net.hyper.constants.grad.all()


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Layers of the authors' tiny network in the order of their state, with the shapes of the weights."""
    shapes: dict[str, tuple[int, ...]] = {"p.m_head.weight": (16, 4, 3, 3)}

    def blocks(name: str, width: int, first: int = 0) -> None:
        for i in (first, first + 1):
            for layer in (0, 2):
                shapes[f"p.{name}.{i}.res.{layer}.weight"] = (width, width, 3, 3)

    for number, (inputs, outputs) in enumerate(((16, 32), (32, 64), (64, 64)), 1):
        blocks(f"m_down{number}", inputs)
        shapes[f"p.m_down{number}.2.weight"] = (outputs, inputs, 2, 2)
    blocks("m_body", 64)
    for number, inputs, outputs in ((3, 64, 64), (2, 64, 32), (1, 32, 16)):
        shapes[f"p.m_up{number}.0.weight"] = (inputs, outputs, 2, 2)
        blocks(f"m_up{number}", outputs, 1)
    shapes["p.m_tail.weight"] = (3, 16, 3, 3)
    for layer, (inputs, outputs) in ((0, (2, 32)), (2, (32, 32)), (4, (32, 12))):
        shapes[f"h.mlp.{layer}.weight"], shapes[f"h.mlp.{layer}.bias"] = (outputs, inputs, 1, 1), (outputs,)
    return shapes


def test_import_of_official_weights() -> None:
    official = {name: torch.rand(shape) for name, shape in official_shapes().items()}
    assert len(official) == 42
    net = USRNet(**TINY)
    net.load_state_dict(import_official(official))
    # The values above fix the order of definition, so equal order means equal layers.
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), official.values(), strict=True))
    shuffled = import_official(dict(reversed(official.items())))
    assert list(shuffled) == list(net.state_dict())
    with pytest.raises(RuntimeError, match=r"size mismatch for prior\.head\.weight"):
        USRNet(**TINY | {"widths": (8, 32, 64, 64)}).load_state_dict(shuffled)


def test_import_of_other_weights() -> None:
    state = {name: torch.rand(shape) for name, shape in official_shapes().items()}
    with pytest.raises(ValueError, match=r"missing none; unexpected p\.extra$"):
        import_official(state | {"p.extra": torch.rand(1)})
    with pytest.raises(ValueError, match=r"unexpected prior\.head\.weight"):
        import_official(USRNet(**TINY).state_dict())
    state.pop("p.m_tail.weight")
    state.pop("h.mlp.4.bias")
    with pytest.raises(ValueError, match=r"missing p\.m_tail\.weight, h\.mlp\.4\.bias; unexpected none"):
        import_official(state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (1, 2, 3)}, "widths is .*4 positive"),
        ({"widths": (1, 2, 3, 0)}, "widths is .*4 positive"),
        ({"n_iter": 0}, "n_iter is 0, expected at least 1"),
        ({"n_blocks": 0}, "n_blocks is 0, expected at least 1"),
        ({"hyper_width": 0}, "hyper_width is 0, expected at least 1"),
        ({"hyper": "none"}, "hyper is 'none', expected learned or fixed"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        USRNet(**options)


@pytest.mark.parametrize("scale", [0, 5, 1.5])
def test_wrong_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="expected 1, 2, 3 or 4"):
        USRNet(**SMALL)(torch.rand(1, 3, 4, 4), torch.ones(1, 1, 1, 1), scale, torch.zeros(1, 1, 1, 1))
