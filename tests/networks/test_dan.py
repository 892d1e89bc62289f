import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.degradations.kernels import anisotropic_gaussian, isotropic_gaussian, sample_isotropic
from datamodules.degradations.keyed_random import make_key
from networks.dan import DANEstimator, KernelBasis, to_support
from tests.helpers.filled import fill, waves


def keys(n: int, seed: int = 0) -> Tensor:
    return torch.tensor([make_key("test", seed, i) for i in range(n)])


CODES = {
    4: (
        *(-0.0476090569, 0.0398734331, 0.0087096740, -0.0150576140, 0.0751309381),
        *(-0.0335279079, 0.0311737966, -0.0402818398, 0.0072450493, 0.0029971896),
    ),
    2: (
        *(-0.0476496487, 0.0399039625, 0.0086946919, -0.0150147333, 0.0751210799),
        *(-0.0335573290, 0.0312165289, -0.0403287457, 0.0072724884, 0.0030070230),
    ),
}


@pytest.mark.parametrize("scale", [2, 4])
def test_code_of_the_published_network(scale: int) -> None:
    """Values of the public code with the same weights and inputs."""
    net = DANEstimator(scale).double()
    fill(net, 0.5)
    with torch.no_grad():
        code = net(waves(13 * scale, 17 * scale).flip(1), waves(13, 17))
    assert torch.allclose(code[0], torch.tensor(CODES[scale], dtype=torch.float64), rtol=0, atol=6e-11)


def test_parameters_of_the_published_network() -> None:
    for scale in (1, 2, 3, 4):
        assert sum(p.numel() for p in DANEstimator(scale).parameters()) == 288_596
    names = [name for name in DANEstimator(4, n_blocks=2).state_dict() if name.endswith("weight")]
    blocks = [f"body.{i}.body.{layer}.weight" for i in (0, 1) for layer in ("0", "2", "3.body.0", "3.body.2")]
    assert names == ["head_LR.weight", "head_HR.weight", *blocks, "out.weight"]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("head", ["code", "softmax"])
def test_any_size_and_batches(scale: int, head: str) -> None:
    torch.manual_seed(0)
    net = DANEstimator(scale, 6, 8, 2, 4, head, 5).double()  # type: ignore[arg-type]
    for h, w in ((5, 9), (1, 1)):
        lr = torch.rand(3, 3, h, w, dtype=torch.float64)
        sr = torch.rand(3, 3, h * scale, w * scale, dtype=torch.float64)
        together = net(sr, lr)
        assert together.shape == ((3, 6) if head == "code" else (3, 1, 5, 5))
        assert torch.allclose(together[1:2], net(sr[1:2], lr[1:2]), rtol=0, atol=1e-13)
        if head == "softmax":
            assert together.min() > 0
            assert torch.allclose(together.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("head", ["code", "softmax"])
def test_estimator_gradient(head: str) -> None:
    torch.manual_seed(0)
    net = DANEstimator(2, 3, 2, 1, 1, head, 3).double()  # type: ignore[arg-type]
    lr = torch.rand(1, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    sr = torch.rand(1, 3, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (sr, lr))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 5}, "scale is 5, expected 1, 2, 3 or 4"),
        ({"head": "kernel"}, "head is 'kernel', expected code or softmax"),
        ({"code_dim": 0}, "code_dim is 0, expected at least 1"),
        ({"n_blocks": 0}, "n_blocks is 0"),
        ({"width": 8}, "width is 8, expected at least reduction, 16"),
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"kernel_size": 257}, "kernel_size is 257, expected pixels from 1 to 255"),
    ],
)
def test_wrong_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DANEstimator(**{"scale": 2, **options})  # type: ignore[arg-type]


def fitted(kernels: Tensor, size: int = 21, code_dim: int = 10) -> KernelBasis:
    basis = KernelBasis(size, code_dim).double()
    basis.fit(kernels, seed=7)
    return basis


def relative_error(basis: KernelBasis, kernels: Tensor) -> float:
    kernels = kernels.double()
    decoded = basis.decode(basis.encode(kernels))
    return ((decoded - kernels).flatten(1).norm(dim=1) / kernels.flatten(1).norm(dim=1)).mean().item()


def test_ten_components_hold_isotropic_kernels_but_not_others() -> None:
    basis = fitted(sample_isotropic(keys(2000), 21, 0.2, 4.0))
    assert relative_error(basis, sample_isotropic(keys(200, 1), 21, 0.2, 4.0)) < 5e-4
    torch.manual_seed(0)
    variances, angle = (0.6 + 4.4 * torch.rand(500, 2)) ** 2, math.pi * torch.rand(500)
    assert relative_error(basis, anisotropic_gaussian(variances, angle, 21)) == pytest.approx(0.276, abs=0.03)


def test_basis_is_the_singular_vectors_of_the_centred_kernels() -> None:
    torch.manual_seed(0)
    kernels = torch.rand(40, 1, 5, 5, dtype=torch.float64)
    kernels /= kernels.sum((2, 3), keepdim=True)
    basis = fitted(kernels, 5, 6)
    data = kernels.flatten(1)
    _, _, rows = torch.linalg.svd(data - data.mean(0))
    products = (rows[:6] @ basis.components).abs()
    assert torch.allclose(products, torch.eye(6, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(basis.mean, data.mean(0), atol=1e-15)
    assert (int(basis.n_kernels), int(basis.seed)) == (40, 7)
    # Kernels sum to 1, so what is added to the mean sums to 0.
    assert basis.components.sum(0).abs().max() < 1e-12
    shuffled = fitted(kernels.flip(0), 5, 6)
    assert torch.allclose(shuffled.components, basis.components, atol=1e-9)  # signs too


def test_sign_of_an_odd_component_does_not_hang_on_rounding() -> None:
    """Moving a point left and right gives an odd component: its two largest elements differ in sign alone."""
    left, right = torch.zeros(2, 1, 1, 3, 3, dtype=torch.float64)
    left[..., 1, 0], right[..., 1, 2] = 1, 1
    for noise in (1e-12, -1e-12):
        kernels = torch.cat((left, right, left, right))
        kernels[0, 0, 1, 0] += noise
        assert fitted(kernels, 3, 1).components[3] == pytest.approx(math.sqrt(0.5))


def test_encode_and_decode_are_the_formulas() -> None:
    torch.manual_seed(0)
    kernels = torch.rand(30, 1, 5, 5, dtype=torch.float64)
    kernels /= kernels.sum((2, 3), keepdim=True)
    basis = fitted(kernels, 5, 24)  # all dimensions of kernels with sum 1
    assert torch.allclose(basis.encode(kernels), kernels.flatten(1) @ basis.components)  # the mean is not subtracted
    assert torch.allclose(basis.decode(basis.encode(kernels)), kernels, atol=1e-12)
    code = torch.randn(4, 24, dtype=torch.float64)
    plain = basis.mean + (code - basis.components.T @ basis.mean) @ basis.components.T
    plain = plain.clamp(min=0)
    assert (plain == 0).any()
    expected = (plain / plain.sum(1, keepdim=True)).view(4, 1, 5, 5)
    assert torch.allclose(basis.decode(code), expected, atol=1e-14)


def test_decoding_without_a_positive_element() -> None:
    """Also where an element is exactly zero, through which a gradient of 0 / 0 would come out."""
    kernel = torch.full((1, 1, 3, 3), 1 / 8, dtype=torch.float64)
    kernel[..., 0, 0] = 0
    basis = fitted(torch.cat((0.5 * kernel, 1.5 * kernel)), 3, 1)
    code = torch.tensor([[-50.0], [0.3]], dtype=torch.float64, requires_grad=True)
    kernels = basis.decode(code)
    assert torch.allclose(kernels, kernel.expand(2, -1, -1, -1))
    kernels.square().sum().backward()
    assert code.grad is not None
    assert code.grad.isfinite().all()


def test_decode_gradient() -> None:
    torch.manual_seed(0)
    kernels = torch.rand(30, 1, 3, 3, dtype=torch.float64)
    basis = fitted(kernels / kernels.sum((2, 3), keepdim=True), 3, 4)
    code = basis.encode(kernels[:2]) + 0.2 * torch.randn(2, 4, dtype=torch.float64)
    assert (basis.decode(code) == 0).any()
    assert torch.autograd.gradcheck(basis.decode, code.requires_grad_())


@pytest.mark.parametrize(("side", "size"), [(25, 21), (11, 21), (20, 21), (22, 21), (21, 20), (21, 22), (4, 3), (3, 4)])
def test_other_supports_keep_the_centre(side: int, size: int) -> None:
    sigma = torch.tensor([0.7, 1.9], dtype=torch.float64)
    expected = isotropic_gaussian(sigma, size)
    if side < size:
        shift = size // 2 - side // 2
        expected = torch.zeros_like(expected)
        expected[..., shift : shift + side, shift : shift + side] = isotropic_gaussian(sigma, side)
    assert torch.allclose(to_support(isotropic_gaussian(sigma, side), size), expected, atol=1e-15)


def test_kernels_of_test_sets_are_cropped_before_encoding() -> None:
    sigma = torch.linspace(0.5, 4, 30, dtype=torch.float64)
    basis = fitted(isotropic_gaussian(sigma, 21))
    assert torch.allclose(
        basis.encode(isotropic_gaussian(sigma, 25)), basis.encode(isotropic_gaussian(sigma, 21)), atol=1e-14
    )


def test_empty_basis_and_its_checkpoint() -> None:
    empty, basis = KernelBasis(5, 3), KernelBasis(5, 3)
    for call in (
        lambda: empty.encode(torch.rand(1, 1, 5, 5)),
        lambda: empty.decode(torch.rand(1, 3)),
        empty.mean_kernel,
    ):
        with pytest.raises(RuntimeError, match="basis is empty"):
            call()
    kernels = isotropic_gaussian(torch.linspace(0.5, 2, 9), 5)
    basis.fit(kernels, seed=3)
    state = basis.state_dict()
    assert set(state) == {"mean", "components", "n_kernels", "seed"}
    loaded = KernelBasis(5, 3)
    nn.Sequential(loaded).load_state_dict({f"0.{name}": value for name, value in state.items()})
    assert torch.equal(loaded.encode(kernels), basis.encode(kernels))
    basis.load_state_dict(empty.state_dict())
    assert not basis.fitted


def test_basis_and_half_precision() -> None:
    """Codes may come in half precision; kernels are float32 all the same."""
    kernels = isotropic_gaussian(torch.linspace(0.5, 2, 9), 5)
    basis = KernelBasis(5, 3)
    basis.fit(kernels, 0)
    code = basis.encode(kernels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(basis.encode(kernels), code)
        decoded = basis.decode(code.bfloat16())
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, basis.decode(code.bfloat16().float()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_size": 0}, "kernel_size is 0"),
        ({"code_dim": 0}, "code_dim is 0"),
        ({"code_dim": 441}, "less than the 441"),
    ],
)
def test_wrong_basis_options(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KernelBasis(**options)


def test_wrong_kernels() -> None:
    with pytest.raises(ValueError, match="expected more than the code's 10 numbers"):
        KernelBasis().fit(torch.rand(10, 1, 21, 21), 0)
    with pytest.raises(ValueError, match=r"shape \[20, 21, 21\]"):
        KernelBasis().fit(torch.rand(20, 21, 21), 0)


def test_padding_is_zero() -> None:
    kernels = torch.rand(1, 1, 2, 3)
    assert torch.equal(to_support(kernels, 5), F.pad(kernels, (1, 1, 1, 2)))
