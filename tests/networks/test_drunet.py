"""DRUNet: values and names of the authors' code, sizes, gray images."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from networks.dpir import in_quarters
from networks.drunet import DRUNet, import_official
from networks.ensemble import SelfEnsemble
from tests.helpers.filled import fill, statistics, waves

SMALL: dict[str, Any] = {"widths": (8, 16, 16, 24), "n_blocks": 1}
GRAY: dict[str, Any] = {"channels": 1, "widths": (8, 16, 16, 24), "n_blocks": 2}


def level(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.split()]


def filled(gain: float, **options: Any) -> DRUNet:
    with torch.device("meta"):
        net = DRUNet(**options).double()
    net = net.to_empty(device="cpu").eval()
    with torch.no_grad():
        fill(net, gain)
    return net


# Of the authors' code with the same weights and inputs: options, gain, size, padding, then mean, standard deviation and
# five pixels.
PUBLISHED: list[tuple[dict[str, Any], float, tuple[int, int], int, str]] = [
    (
        SMALL,
        0.5,
        (16, 24),
        8,
        "0.0346877511 0.0258965421 0.0278480095 0.0084457491 0.0159396106 -0.0140555193 -0.0137445602",
    ),
    (
        SMALL,
        0.5,
        (13, 17),
        8,
        "0.0329641802 0.0240934502 0.0278515380 0.0084637032 0.0782434542 -0.0060684445 0.0056306143",
    ),
    (
        SMALL,
        0.5,
        (13, 17),
        16,
        "0.0329628519 0.0240931560 0.0278510900 0.0084820177 0.0778395161 -0.0060272919 0.0056326828",
    ),
    (
        SMALL,
        1.0,
        (16, 24),
        8,
        "0.1304950839 0.1639864607 0.0680400522 -0.0518332354 0.1085473009 -0.1513377941 0.0357188833",
    ),
    (
        SMALL,
        1.0,
        (13, 17),
        8,
        "0.1243936675 0.1529515927 0.0740070469 -0.0345590909 0.3725656344 -0.0970988499 -0.0580974405",
    ),
    (
        SMALL,
        1.0,
        (13, 17),
        16,
        "0.1241434843 0.1510423104 0.0736812763 -0.0181345998 0.2444320380 -0.0921249077 -0.0556831460",
    ),
    (
        SMALL,
        1.0,
        (45, 51),
        16,
        "0.1446822037 0.1658927520 0.0680534560 -0.0278977557 0.1248992325 0.0289842508 -0.0744216328",
    ),
    (
        GRAY,
        0.5,
        (13, 17),
        16,
        "-0.0179098738 0.0131881294 -0.0086168637 -0.0163458136 -0.0267193035 -0.0019829366 -0.0033837921",
    ),
    (
        GRAY,
        1.0,
        (13, 17),
        16,
        "-0.1021130436 0.2558003382 -0.1796856642 0.2624745624 -0.1422123076 -0.1981857300 0.0278301275",
    ),
    (
        {},
        0.5,
        (16, 24),
        8,
        "-0.0176700606 0.0201203197 -0.0433502010 -0.0207239804 -0.0021412338 0.0103329785 0.0547563195",
    ),
    (
        {},
        0.5,
        (13, 17),
        16,
        "-0.0176283590 0.0196884865 -0.0433502122 -0.0207197115 -0.0080842624 -0.0165193200 0.0266684544",
    ),
    (
        {},
        1.0,
        (16, 24),
        8,
        "-0.0843561908 0.2053807888 -0.3762874323 -0.2266482967 -0.0334841290 0.1109157572 0.3203671441",
    ),
    (
        {},
        1.0,
        (13, 17),
        16,
        "-0.0847407864 0.1943360524 -0.3761827222 -0.2216250630 0.1479574311 -0.2963980337 0.1109790564",
    ),
]
CASES = [pytest.param(*case, marks=() if case[0] else pytest.mark.slow) for case in PUBLISHED]


@torch.no_grad()
@pytest.mark.parametrize(("options", "gain", "size", "multiple", "expected"), CASES)
def test_values_of_the_published_network(
    options: dict[str, Any], gain: float, size: tuple[int, int], multiple: int, expected: str
) -> None:
    net = filled(gain, **options, pad_multiple=multiple)
    lr = waves(*size, 2, net.channels)
    sr = net(lr=lr, noise_level=level(0.1, 0.2)).sr
    assert sr.shape == lr.shape
    assert statistics(sr) == pytest.approx(numbers(expected), rel=0, abs=6e-11)


@torch.no_grad()
def test_values_without_noise() -> None:
    sr = filled(1.0, **SMALL, pad_multiple=8)(lr=waves(16, 24, 2), noise_level=level(0, 0)).sr
    expected = "0.1236313585 0.1798138582 0.0794786485 -0.0587148079 0.0920283961 -0.1748581617 0.0529107326"
    assert statistics(sr) == pytest.approx(numbers(expected), rel=0, abs=6e-11)


@torch.no_grad()
@pytest.mark.parametrize(
    ("step", "limit", "expected"),
    [
        (8, 32 * 32, "0.1418795257 0.1664604199 0.0679068484 -0.0340122356 0.0625862691 -0.1408559710 0.0716957155"),
        (16, 32 * 32, "0.1414702219 0.1646550414 0.0677509440 -0.0281486887 0.0621600889 -0.1414031094 0.0712887931"),
    ],
)
def test_values_of_the_published_tiles(step: int, limit: int, expected: str) -> None:
    """The published code does not pad tiles, whose sides its network takes as they are."""
    whole, tiles = filled(1.0, **SMALL), []

    def denoise(images: Tensor) -> Tensor:
        tiles.append(tuple(images.shape[-2:]))
        return whole(lr=images, noise_level=level(0.1, 0.2)).sr

    whole.unet.multiple = 8
    sr = in_quarters(waves(45, 51, 2), denoise, step, limit)
    assert tiles == [(24 if step == 8 else 32, 32)] * 4
    assert statistics(sr) == pytest.approx(numbers(expected), rel=0, abs=6e-11)


@torch.no_grad()
def test_values_of_the_published_ensemble() -> None:
    net = SelfEnsemble(filled(1.0, **SMALL, pad_multiple=8))
    sr = net(lr=waves(13, 17, 2), noise_level=level(0.1, 0.2)).sr
    expected = "0.1198570994 0.1438714359 0.1394408020 -0.0442112299 0.1271873100 0.0506655299 0.1086411816"
    assert statistics(sr) == pytest.approx(numbers(expected), rel=0, abs=6e-11)


def test_counts_of_parameters() -> None:
    def count(**options: Any) -> tuple[int, int]:
        with torch.device("meta"):
            weights = list(DRUNet(**options).parameters())
        return sum(p.numel() for p in weights), len(weights)

    assert count() == (32_640_960, 64)
    assert count(channels=1) == (32_638_656, 64)
    assert count(widths=(32, 64, 128, 256), n_blocks=2) == (4_253_664, 36)
    tiny = (16, 32, 64, 64)
    assert [count(widths=tiny, n_blocks=n) for n in (1, 2, 4)] == [(321_520, 22), (588_784, 36), (1_123_312, 64)]
    assert count(**SMALL) == (37_752, 22)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2_117_568),
        ({"widths": (32, 64, 128, 256), "n_blocks": 2}, 272_352),
        ({"widths": (16, 32, 64, 64), "n_blocks": 2}, 61_168),
    ],
)
def test_counts_of_multiplications(options: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        net, lr, noise = DRUNet(**options), torch.zeros(1, 3, 16, 32), torch.zeros(1, 1, 1, 1)
    with FlopCounterMode(display=False) as counter:
        net(lr=lr, noise_level=noise)
    assert counter.get_total_flops() == 2 * expected * 16 * 32


@torch.no_grad()
def test_a_batch_is_its_images_alone() -> None:
    net, lr, noise = filled(1.0, **SMALL), waves(11, 21, 3), level(0.0, 0.1, 0.2)
    together = net(lr=lr, noise_level=noise).sr
    alone = [net(lr=lr[i : i + 1], noise_level=noise[i : i + 1]).sr for i in range(3)]
    assert (together - torch.cat(alone)).abs().max() < 1e-12


@torch.no_grad()
def test_what_is_added_to_the_input_is_not_taken_for_the_result() -> None:
    lr, noise = waves(13, 17, 2), level(0.1, 0.2)
    plain, adding = filled(1.0, **SMALL), filled(1.0, **SMALL, residual=True)
    assert (adding(lr=lr, noise_level=noise).sr - lr - plain(lr=lr, noise_level=noise).sr).abs().max() < 1e-14
    with pytest.raises(RuntimeError, match=r"Missing key.*correction\.head\.weight"):
        adding.load_state_dict(plain.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gray_network_restores_every_channel_by_itself(channels: int) -> None:
    net, lr, noise = filled(1.0, **GRAY), waves(9, 14, 2, channels), level(0.05, 0.2)
    assert net.takes_gray
    together = net(lr=lr, noise_level=noise).sr
    alone = [net(lr=lr[:, c : c + 1], noise_level=noise).sr for c in range(channels)]
    assert (together - torch.cat(alone, 1)).abs().max() < 1e-12


def test_images_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="the images have 1 channels, expected 3 as the option channels says"):
        DRUNet(**SMALL)(lr=waves(8, 8, 1, 1).float(), noise_level=level(0.1).float())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"channels": 2}, "channels is 2, expected 1 or 3"),
        ({"widths": (8, 8, 8)}, r"widths is \[8, 8, 8\], expected 4 positive channel counts"),
        ({"n_blocks": 0}, "n_blocks is 0, expected at least 1"),
        ({"pad_multiple": 12}, "pad_multiple is 12, expected a multiple of 8"),
    ],
)
def test_options_are_checked(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        DRUNet(**options)


def official_names() -> list[str]:
    """The 64 of the published files, as the authors' code has them."""
    names = ["m_head"]
    for part in ("m_down1", "m_down2", "m_down3"):
        names += [f"{part}.{i}.res.{j}" for i in range(4) for j in (0, 2)] + [f"{part}.4"]
    names += [f"m_body.{i}.res.{j}" for i in range(4) for j in (0, 2)]
    for part in ("m_up3", "m_up2", "m_up1"):
        names += [f"{part}.0"] + [f"{part}.{i}.res.{j}" for i in range(1, 5) for j in (0, 2)]
    return [f"{name}.weight" for name in (*names, "m_tail")]


@torch.no_grad()
def test_published_weights_are_taken_by_name() -> None:
    net = filled(0.5, widths=(2, 3, 4, 5))
    own = net.state_dict()
    assert len(own) == 64
    published = dict(zip(official_names(), own.values(), strict=True))  # the order is theirs
    shuffled = {name: published[name] for name in sorted(published)}
    assert import_official(shuffled).keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in import_official(shuffled).items())
    del shuffled["m_up3.0.weight"]
    with pytest.raises(ValueError, match=r"not the official DRUNet weights: missing m_up3\.0\.weight; unexpected none"):
        import_official(shuffled)
