import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.nafnet import LayerNorm2d, NAFBlock, NAFNet, Pool, import_official, windows
from tests.helpers.filled import fill, statistics, waves

SMALL: dict[str, Any] = {"width": 8, "enc": (1, 1, 1), "mid": 1, "dec": (1, 1, 1)}
SIDD: dict[str, Any] = {"enc": (2, 2, 4, 8), "mid": 12, "dec": (2, 2, 2, 2)}


def filled(**options: Any) -> NAFNet:
    network = NAFNet(**options).double().eval()
    with torch.no_grad():
        fill(network, 1.0)
    return network


def pooled(network: NAFNet, **options: Any) -> NAFNet:
    """The same weights with local pooling."""
    local = NAFNet(**options).double().eval()
    local.load_state_dict(network.state_dict())
    return local


@pytest.fixture(scope="module")
def small() -> NAFNet:
    return filled(**SMALL)


@pytest.fixture(scope="module")
def full() -> NAFNet:
    return filled()


@torch.no_grad()
def assert_reference(network: nn.Module, images: Tensor, expected: str) -> None:
    result = network(images)
    found = statistics(result if isinstance(result, Tensor) else result.sr)
    assert found == pytest.approx([*map(float, expected.split())], abs=1e-9)


def test_layer_norm_reference() -> None:
    norm = LayerNorm2d(3).double()
    norm.weight.data.copy_(torch.tensor([1.5, -0.5, 2], dtype=torch.float64))
    norm.bias.data.copy_(torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64))
    expected = "-0.0671948614 1.7485288632 -2.0165220317 0.4024529787 -2.2420101276 2.2103493177 -1.7448319569"
    assert_reference(norm, waves(6, 8, 2), expected)


def test_layer_norm_by_its_formula() -> None:
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-3
    norm = LayerNorm2d(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    for format in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(norm(x.contiguous(memory_format=format)), expected, atol=1e-12, rtol=0)


def test_block_reference() -> None:
    block = NAFBlock(8).double()
    with torch.no_grad():
        fill(block, 1.0)
    expected = "0.5616415267 0.4814797066 0.4257774530 0.1948277058 -0.6084363321 -0.1973111190 -0.7460346159"
    assert_reference(block, waves(9, 11, 2, 8), expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((13, 17, 2), "0.5017021655 0.5662591023 0.3465035176 -0.4589558128 1.9285207731 0.3167036879 0.7838149368"),
        ((6, 8, 2), "0.5264794959 0.4935376450 0.3695602950 -0.6296945060 0.0958453259 1.0235872310 0.7137292509"),
        ((16, 8, 1), "0.5116940939 0.5079926324 0.3599387398 -0.3307848521 1.4908688242"),
        ((37, 45, 2), "0.5569168774 0.5673235376 0.3489921626 -0.4430095051 1.7692255742 0.5873778935 0.9063070410"),
    ],
)
def test_reference_values(small: NAFNet, size: tuple[int, int, int], expected: str) -> None:
    assert_reference(small, waves(*size), expected)


@pytest.mark.parametrize(
    ("patch", "size", "expected"),
    [
        (
            (16, 16),
            (37, 45),
            "0.5572373544 0.5667976646 0.3487681740 -0.4370269955 1.7612448955 0.5896414363 0.9062424427",
        ),
        (
            (16, 16),
            (20, 61),
            "0.5525983254 0.5651152771 0.3509635260 -0.4499052263 1.9624757436 0.8711709876 0.4222832660",
        ),
        (
            (16, 16),
            (13, 17),
            "0.5017021655 0.5662591023 0.3465035176 -0.4589558128 1.9285207731 0.3167036879 0.7838149368",
        ),
        (
            (24, 16),
            (37, 45),
            "0.5572125335 0.5668373857 0.3497110488 -0.4377242338 1.7675619073 0.5886431402 0.9046088760",
        ),
    ],
)
def test_reference_values_of_local_pooling(
    small: NAFNet, patch: tuple[int, int], size: tuple[int, int], expected: str
) -> None:
    assert_reference(pooled(small, **SMALL, local_pooling=patch), waves(*size, 2), expected)


@pytest.mark.slow
def test_reference_values_in_full_size(full: NAFNet) -> None:
    expected = "0.5463078522 0.4578153195 0.3975237594 0.4689481023 0.4688065569 -0.0163155786 0.9351220357"
    assert_reference(full, waves(33, 47, 2), expected)
    wide = waves(101, 401)
    assert_reference(full, wide, "0.5579998288 0.4611762921 0.4172670478 0.4489948437 -0.1585155043")
    local = pooled(full, local_pooling=(256, 256))
    assert_reference(local, wide, "0.5580768882 0.4609926258 0.4200639194 0.4458741953 -0.1589805726")


@pytest.mark.slow
def test_reference_values_of_the_denoising_network() -> None:
    expected = "0.4782510885 0.4814347138 0.5268634469 0.3863242964 0.7752791992 -0.1261664355 0.9405709705"
    assert_reference(filled(**SIDD), waves(33, 47, 2), expected)


@pytest.mark.parametrize(
    ("options", "parameters", "tensors"),
    [
        ({}, 17_111_907, 664),
        ({"width": 64}, 67_888_835, 664),
        (SIDD, 29_159_715, 664),
        ({"width": 64, **SIDD}, 115_982_915, 664),
        (SMALL, 75_355, 139),
        ({"width": 8, "enc": (1, 2), "mid": 2, "dec": (2, 1)}, 32_763, 154),
    ],
)
def test_parameters(options: dict[str, Any], parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        network = NAFNet(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_parameters_of_a_block(width: int) -> None:
    with torch.device("meta"):
        block = NAFBlock(width)
    assert sum(parameter.numel() for parameter in block.parameters()) == 7 * width**2 + 33 * width
    assert len(block.state_dict()) == 18


def test_begins_as_the_identity_between_its_ends() -> None:
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(NAFBlock(8)(x), x)


@pytest.mark.parametrize(
    ("patch", "levels", "expected"),
    [
        ((16, 16), 3, [(24, 24), (12, 12), (6, 6), (3, 3)]),
        ((24, 16), 3, [(36, 24), (18, 12), (9, 6), (4, 3)]),
        ((20, 20), 3, [(36, 36), (18, 18), (9, 9), (4, 4)]),
        ((256, 256), 4, [(384, 384), (192, 192), (96, 96), (48, 48), (24, 24)]),
        (None, 2, [None, None, None]),
    ],
)
def test_windows(patch: tuple[int, int] | None, levels: int, expected: list[Any]) -> None:
    assert windows(patch, levels) == expected
    network = NAFNet(4, [1] * levels, 1, [1] * levels, patch)
    found = [part.window for part in network.modules() if isinstance(part, Pool)]
    assert found == [*expected[:-1], *expected[-2::-1], expected[-1]]  # in order of definition the middle comes last


def test_local_pooling_changes_nothing_in_training(small: NAFNet) -> None:
    network, local = copy.deepcopy(small), pooled(small, **SMALL, local_pooling=(16, 24))
    images = waves(16, 24, 2)
    for each in (network, local):
        each(images).sr.square().mean().backward()
    for one, other in zip(network.parameters(), local.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, atol=0, rtol=0)


@torch.no_grad()
def test_every_weight_counts(small: NAFNet) -> None:
    images = waves(6, 8)
    before, network = small(images).sr, copy.deepcopy(small)
    for name, tensor in network.state_dict().items():
        kept = tensor.clone()
        tensor.mul_(1.01)
        assert (network(images).sr - before).abs().max() > 1e-9, name
        tensor.copy_(kept)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 8), (31, 18)])
@torch.no_grad()
def test_any_size_and_zeros_beyond(small: NAFNet, size: tuple[int, int]) -> None:
    (h, w), images = size, waves(*size, 3)
    found = small(images).sr
    assert found.shape == images.shape
    padded = F.pad(images, (0, -w % 8, 0, -h % 8))
    torch.testing.assert_close(small(padded).sr[..., :h, :w], found, atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_batch_is_its_images(small: NAFNet) -> None:
    images = waves(10, 13, 3)
    local = pooled(small, **SMALL, local_pooling=(4, 8))
    for network in (small, local):
        alone = torch.cat([network(image[None]).sr for image in images])
        torch.testing.assert_close(network(images).sr, alone, atol=1e-12, rtol=0)


@torch.no_grad()
def test_in_half_precision() -> None:
    """The mean of many pixels and the normalisation stay in float32, whose sums half precision cannot hold."""
    wide = torch.full((1, 8, 64, 96), 0.501).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for window in (None, (16, 32)):
            assert (Pool(window)(wide) == wide[..., :1, :1]).all()
        assert LayerNorm2d(8)(wide).dtype == torch.float32
    network = filled(**SMALL).float()
    images = waves(24, 40, 2).float()
    exact = network(images).sr
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images).sr
    assert (found - exact).abs().max() < 0.15
    assert (found - exact).abs().mean() < 0.015


def test_import_of_published_weights(small: NAFNet) -> None:
    state = small.state_dict()
    for published in (state, {f"module.{name}": value for name, value in state.items()}):
        found = import_official(published)
        assert list(found) == list(state)
        assert all(torch.equal(found[name], state[name]) for name in state)
    for name in ("intro.weight", "ending.weight"):
        with pytest.raises(ValueError, match=f"missing {name}"):
            import_official({key: value for key, value in state.items() if key != name})


def test_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = list(NAFNet(**SMALL).state_dict())
    block = (
        "beta gamma conv1.weight conv1.bias conv2.weight conv2.bias conv3.weight conv3.bias sca.1.weight sca.1.bias "
    )
    block += "conv4.weight conv4.bias conv5.weight conv5.bias norm1.weight norm1.bias norm2.weight norm2.bias"
    places = [f"{part}.{i}.0" for part in ("encoders", "decoders") for i in range(3)]
    expected = ["intro.weight", "intro.bias", "ending.weight", "ending.bias"]
    expected += [f"{place}.{name}" for place in [*places, "middle_blks.0"] for name in block.split()]
    expected += [f"ups.{i}.0.weight" for i in range(3)]
    assert names == expected + [f"downs.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def test_options_of_a_state_dict() -> None:
    for options in (SMALL, {"width": 6, "enc": (1, 2), "mid": 2, "dec": (3, 1)}):
        found = NAFNet.options_of(NAFNet(**options).state_dict())
        assert found == {**options, "enc": list(options["enc"]), "dec": list(options["dec"])}
    assert NAFNet.options_of({}) == {}
    assert NAFNet.options_of({"intro.weight": torch.tensor(1.0)}) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width is 0, expected at least 1"),
        ({"enc": (1, 1)}, r"enc is \[1, 1\], mid 1 and dec \[1, 1, 1, 1\], expected numbers of blocks"),
        ({"enc": (), "dec": ()}, r"enc is \[\], mid 1"),
        ({"mid": -1}, "mid -1"),
        ({"local_pooling": (0, 8)}, r"local_pooling is \[0, 8\], expected height and width of a patch"),
        ({"local_pooling": (8,)}, r"local_pooling is \[8\]"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NAFNet(**options)


@pytest.mark.parametrize("local_pooling", [None, (8, 8)])
def test_weights_of_half_precision(local_pooling: tuple[int, int] | None) -> None:
    network = NAFNet(4, (1,), 1, (1,), local_pooling).bfloat16()
    assert network(lr=torch.rand(1, 3, 32, 33).bfloat16()).sr.dtype == torch.bfloat16
