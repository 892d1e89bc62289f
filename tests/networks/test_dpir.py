"""DPIR: values of the authors' code with denoisers by formula, the schedule, and what the data step keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.degradations.blur import blur_decimate
from networks.base import RestorationNetwork
from networks.baselines.edsr import EDSR
from networks.dpir import DPIR, PERIOD, enlarged, in_quarters
from networks.drunet import DRUNet
from networks.ensemble import turn, turn_back
from networks.restored import Restored
from tests.helpers.filled import fill, off_centre_kernel, statistics, waves
from tests.networks.test_drunet import SMALL, filled, level, numbers


class Same(RestorationNetwork):
    """No denoiser at all; it does not ask for the level."""

    scale = 1

    def forward(self, lr: Tensor) -> Restored:
        return Restored(sr=lr)


class ToGrey(RestorationNetwork):
    inputs, scale = ("lr", "noise_level"), 1

    def forward(self, lr: Tensor, noise_level: Tensor) -> Restored:
        return Restored(sr=(lr + 0.5 * noise_level) / (1 + noise_level))


class Aside(RestorationNetwork):
    """Takes a part of the pixel to the left, which shows how the image is turned."""

    inputs, scale = ("lr", "noise_level"), 1

    def forward(self, lr: Tensor, noise_level: Tensor) -> Restored:
        return Restored(sr=(lr + noise_level * lr.roll(1, -1)) / (1 + noise_level))


def denoiser(name: str) -> RestorationNetwork:
    simple: dict[str, type[RestorationNetwork]] = {"same": Same, "to grey": ToGrey, "aside": Aside}
    return simple[name]() if name in simple else filled(0.5, **(SMALL if name == "small" else {}))


def restore(net: DPIR, scale: int, noise: Tensor, lr: Tensor | None = None, kernel: Tensor | None = None) -> Tensor:
    if lr is None:
        lr = waves(29, 31, 2) if scale == 1 else waves(13, 17, 2)
    kernel = off_centre_kernel().expand(len(lr), -1, -1, -1) if kernel is None else kernel
    with torch.no_grad():
        sr = net(lr=lr, kernel=kernel, scale=scale, noise_level=noise).sr
    assert sr.shape == (*lr.shape[:2], scale * lr.shape[2], scale * lr.shape[3])
    return sr


# Of the authors' code: scale, noise of 255, denoiser, whether the image is turned, then of the result mean, standard
# deviation and five pixels.
PUBLISHED = """
1 7.65 same    periodic 0.4998057098 0.5206646502 0.9444005677 0.5282350860 -1.0598488563 -0.4773863369 0.3352739659
1 7.65 to_grey periodic 0.4998129115 0.4387571372 0.8828383214 0.3835874041 -0.6920490938 -0.2265748457 0.3289958504
1 7.65 aside   periodic 0.4998057098 0.4809415504 0.9158822351 0.4257810261 -0.8443548284 -0.3510442977 0.3291196131
1 7.65 aside   none     0.4998057098 0.5185599358 0.9972815978 0.5419528003 -0.9977601559 -0.4416446202 0.2079771184
1 7.65 small   periodic 0.0303369965 0.0268764195 0.0308354175 0.0192572575 0.0160311166 0.0207006490 -0.0046520642
1 7.65 small   none     0.0303878066 0.0229049395 0.0054172713 0.0069497242 0.0832029133 0.0046070256 -0.0046243322
1 7.65 full    periodic -0.0166268175 0.0192109035 -0.0447250155 -0.0285326623 0.0265820483 0.0162519017 0.0028880027
1 2.55 same    periodic 0.4998057098 0.8447590539 1.4822575481 1.2900073641 -1.4553429209 -1.8642120943 0.2731076715
1 2.55 aside   periodic 0.4998057098 0.7403373263 1.4022595070 1.1532242986 -1.2066852873 -1.5366930485 0.2662268537
1 2.55 small   periodic 0.0300819216 0.0269344407 0.0304120338 0.0186757090 0.0149269234 0.0214727756 -0.0047967120
2 7.65 same    periodic 0.4560606146 0.6442868760 -0.0160253336 1.5692230504 -0.1044575845 0.1943218706 2.7088144212
2 7.65 to_grey periodic 0.4584725432 0.4084731917 0.2198595203 0.9751615263 0.1650871403 0.4662203696 1.4839782113
2 7.65 aside   periodic 0.4560606713 0.5469200847 0.0519130338 1.3355347557 -0.0613789320 0.4732399472 2.0097421671
2 7.65 aside   none     0.4560606137 0.5554623638 0.1780221684 1.3520334969 0.7478934796 0.2073107195 1.1808358750
2 7.65 small   periodic 0.0174640072 0.0142198213 0.0267404171 0.0131002341 0.0106066258 0.0131336467 0.0017198924
2 7.65 full    periodic -0.0093341955 0.0106446773 -0.0204767322 -0.0257828323 0.0102397721 0.0029603846 0.0142181364
2 0 same       periodic 0.4560606146 6.1896618953 -5.3046539437 -5.0124483874 -9.8344123545 1.4880000569 22.5192737854
2 0 aside      periodic 0.4560606629 4.7183809328 -4.0322317678 -4.3876984747 -6.9770181033 1.3101691512 16.6226180013
2 0 small      periodic 0.0309633983 0.0383682051 0.0692611474 0.0339855534 0.0480780470 0.0460260610 -0.0147548335
3 2.55 aside   periodic 0.4560608485 0.5502947609 0.1609972372 1.3143875894 0.1286777681 1.3790128941 1.8516982550
3 2.55 small   periodic 0.0136145963 0.0110791360 0.0219125614 0.0064153172 0.0066905008 0.0150762987 0.0016278629
4 0 aside      periodic 0.4561478680 0.3435648706 0.4312656946 0.9635557046 0.6795081736 1.2053457041 0.7904182540
4 0 small      periodic 0.0317222476 0.0308635861 0.0624067845 0.0201130329 0.0108570892 0.0665286285 0.0019782323
"""
ROWS = [line.split() for line in PUBLISHED.strip().splitlines()]
SLOW = {("small", "4"), ("small", "3"), ("full", "1"), ("full", "2")}  # of denoiser and scale


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if (row[2], row[0]) in SLOW else ()) for row in ROWS],
    ids=lambda row: "-".join(row[:4]),
)
def test_values_of_the_published_code(row: list[str]) -> None:
    scale, noise, name, ensemble = int(row[0]), float(row[1]) / 255, row[2].replace("_", " "), row[3]
    net = DPIR(denoiser(name), ensemble=ensemble)  # type: ignore[arg-type]  # of the table
    sr = restore(net, scale, level(noise, noise))
    assert statistics(sr) == pytest.approx(numbers(" ".join(row[4:])), rel=0, abs=6e-11)


def test_values_without_noise_and_super_resolution() -> None:
    """Where the published code has no last level: 1 / 255."""
    sr = restore(DPIR(Aside()), 1, level(0, 0))
    expected = "0.4998057098 4.2049391592 6.9623740477 -5.0678043401 3.4673306907 -13.6659207289 -0.5589674021"
    assert statistics(sr) == pytest.approx(numbers(expected), rel=0, abs=6e-11)


def test_every_image_of_a_batch_has_its_own_levels() -> None:
    rows = {row[1]: numbers(" ".join(row[4:])) for row in ROWS if row[0] == "1" and row[2:4] == ["aside", "periodic"]}
    found = statistics(restore(DPIR(Aside()), 1, level(2.55 / 255, 7.65 / 255)))
    assert found[1:] == pytest.approx([0.6243225807, *rows["2.55"][2:5], *rows["7.65"][5:]], rel=0, abs=6e-11)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_batch_is_its_images_alone(scale: int) -> None:
    net, lr, noise = DPIR(denoiser("small"), n_iter=8), waves(9, 7, 3), level(0.0, 0.02, 0.1)
    kernels = torch.rand(3, 1, 5, 4, dtype=torch.float64).flatten(1).softmax(1).view(3, 1, 5, 4)
    together = restore(net, scale, noise, lr, kernels)
    alone = [restore(net, scale, *(field[i : i + 1] for field in (noise, lr, kernels))) for i in range(3)]
    assert (together - torch.cat(alone)).abs().max() < 1e-11


# Mean, standard deviation and pixels of what the first data step makes: whatever denoises, it does not matter yet.
FIRST = {
    (1, 7.65): "0.4998057098 0.4335135028 0.7882923610 0.2781544084 -0.7340377345",
    (1, 2.55): "0.4998057098 0.6601545657 1.2159774455 0.9352597867",
    (2, 7.65): "0.4561360258 0.4159515254 0.2801706164 0.8512599123",
    (3, 2.55): "0.4560851440 0.4258446583 0.2975930215",
    (4, 0): "0.4562260426 0.3463006231 0.4766102035",
}


@pytest.mark.parametrize(("scale", "noise"), FIRST)
def test_values_of_the_first_data_step(scale: int, noise: float) -> None:
    net, seen = DPIR(Same()), []

    def note(module: Any, args: Any, fields: dict[str, Tensor]) -> None:
        seen.append(fields["lr"])

    net.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    restore(net, scale, level(noise / 255, noise / 255))
    expected = numbers(FIRST[scale, noise])
    assert len(seen) == (8 if scale == 1 else 24)
    # The standard deviation and pixels of one row are known to nine digits.
    assert statistics(seen[0])[: len(expected)] == pytest.approx(expected, rel=0, abs=1.1e-10)


# Scale, noise of 255: all levels of 255 that are known, by number, and all weights alpha.
SCHEDULES: dict[tuple[int, float], tuple[dict[int, float], dict[int, float]]] = {
    (1, 2.55): (
        dict(enumerate(numbers("49 32.123042 21.058976 13.805681 9.050622 5.933337 3.889731 2.55"))),
        dict(
            enumerate(
                numbers(
                    "6.22896710e-04 1.44935531e-03 3.37235817e-03 7.84679889e-03 1.82579221e-02 4.24825111e-02 "
                    "9.88482551e-02 0.23"
                )
            )
        ),
    ),
    (1, 7.65): (
        dict(enumerate(numbers("49 37.581737 28.824223 22.107436 16.955833 13.004687 9.974260 7.65"))),
        dict(
            enumerate(
                numbers(
                    "5.60607039e-03 9.53009031e-03 1.62007636e-02 2.75406354e-02 4.68179535e-02 7.95886056e-02 "
                    "1.35297374e-01 0.23"
                )
            )
        ),
    ),
    (1, 12.75): (
        dict(enumerate(numbers("49 40.426815 33.353619 27.517971 22.703345 18.731101 15.453852 12.75"))),
        {0: 1.55724177e-02, 1: 2.28775313e-02, 7: 0.23},
    ),
    (2, 0): (
        {0: 49, 1: 42.638072, 2: 37.102146, 22: 2.298415, 23: 2},
        {0: 6.22896710e-06, 1: 8.22646184e-06, 23: 3.73893750e-03},
    ),
    (3, 2.55): (
        {0: 49, 1: 43.396399, 2: 38.433622, 22: 3.387378, 23: 3},
        {0: 6.22896710e-04, 1: 7.94146826e-04, 23: 1.66175000e-01},
    ),
    (4, 7.65): (
        {0: 49, 1: 45.199055, 2: 41.692951, 22: 8.293315, 23: 7.65},
        {0: 5.60607039e-03, 1: 6.58858258e-03, 23: 2.30000000e-01},
    ),
}


@pytest.mark.parametrize(("scale", "noise"), SCHEDULES)
def test_published_schedule(scale: int, noise: float) -> None:
    sigma, alpha = DPIR(Same()).schedule(level(noise / 255), scale)
    assert sigma.shape == alpha.shape == (8 if scale == 1 else 24, 1, 1, 1, 1)
    levels, weights = SCHEDULES[scale, noise]
    for i, expected in levels.items():
        assert 255 * sigma[i].item() == pytest.approx(expected, rel=0, abs=6e-7)
    for i, expected in weights.items():
        assert alpha[i].item() == pytest.approx(expected, rel=1e-8)


def test_schedule_of_other_options() -> None:
    sigma, alpha = DPIR(Same(), n_iter=3, sigma_start=40, trade_off=0.5).schedule(level(10 / 255, 0), 1)
    assert (255 * sigma[:, 0]).flatten().tolist() == pytest.approx([40, 20, 10])
    assert (255 * sigma[:, 1]).flatten().tolist() == pytest.approx([40, 40**0.5, 1])
    assert alpha[:, 0].flatten().tolist() == pytest.approx([0.5 / 16, 0.5 / 4, 0.5])
    assert alpha[-1, 1].item() == pytest.approx(0.5 * 0.255**2)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (2, "0.4594989525 0.2798375916 0.5087328352 0.7555586334 0.7184469487 0.1090127810 0.8500189794"),
        (3, "0.4607513314 0.2810481899 0.5000000000 0.8718894233 0.7176051803 0.1077954281 0.8487724270"),
        (4, "0.4614056453 0.2808832320 0.5022902806 0.8963586811 0.7177914411 0.1080997280 0.8491229655"),
    ],
)
def test_values_of_the_published_start(scale: int, expected: str) -> None:
    start = enlarged(waves(13, 17, 2), scale)
    # The published code enlarges three times by weights in single precision.
    assert statistics(start) == pytest.approx(numbers(expected), rel=0, abs=5e-7 if scale == 3 else 6e-11)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_start_has_the_pixels_where_the_model_has_them(scale: int) -> None:
    """On a ramp: pixel i of the input at scale * i of the result, away from the border."""
    ramp = torch.arange(12, dtype=torch.float64).expand(1, 1, 12, 12)
    found = enlarged(ramp, scale)[0, 0, 5, ::scale]
    assert (found - torch.arange(12))[3:9].abs().max() < 1e-12


def test_turns_are_those_of_the_published_code() -> None:
    image = torch.arange(6).view(1, 1, 2, 3)
    expected: list[list[list[int]]] = [
        *([[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]], [[3, 4, 5], [0, 1, 2]], [[3, 0], [4, 1], [5, 2]]),
        *([[2, 1, 0], [5, 4, 3]], [[2, 5], [1, 4], [0, 3]], [[5, 4, 3], [2, 1, 0]], [[5, 2], [4, 1], [3, 0]]),
    ]
    assert [turn(image, to)[0, 0].tolist() for to in PERIOD] == expected
    assert all(torch.equal(turn_back(turn(image, to), to), image) for to in PERIOD)


@pytest.mark.parametrize("kernel", [(25, 25), (9, 16)])
def test_a_kernel_larger_than_the_image_goes_around_it(kernel: tuple[int, int]) -> None:
    """As for the image repeated until it is larger."""
    net, lr, noise = DPIR(Aside()), waves(6, 5, 2), level(0.01, 0.05)
    kernels = torch.rand(2, 1, *kernel, dtype=torch.float64)
    kernels = kernels / kernels.sum((2, 3), keepdim=True)
    repeated = restore(net, 1, noise, lr.repeat(1, 1, 5, 6), kernels)
    assert (restore(net, 1, noise, lr, kernels).repeat(1, 1, 5, 6) - repeated).abs().max() < 1e-10


@pytest.mark.parametrize("scale", [1, 2])
def test_gray_images_and_gray_denoisers(scale: int) -> None:
    """A gray image is restored as a channel of a colour one; a gray denoiser sees the colours one by one."""
    lr, noise = waves(9, 12, 2), level(0.01, 0.03)
    colour = restore(DPIR(Aside()), scale, noise, lr)
    assert (restore(DPIR(Aside()), scale, noise, lr[:, 1:2]) - colour[:, 1:2]).abs().max() < 1e-10
    net = DPIR(filled(0.5, channels=1, **SMALL), n_iter=4)
    assert net.channels == 1
    assert net.takes_gray
    together = restore(net, scale, noise, lr)
    alone = [restore(net, scale, noise, lr[:, c : c + 1]) for c in range(3)]
    assert (together - torch.cat(alone, 1)).abs().max() < 1e-11


@pytest.mark.parametrize(("scale", "largest"), [(2, 1e-4), (4, 3e-6)])
def test_single_precision(scale: int, largest: float) -> None:
    """Without noise alpha is smallest; a data step that divides by it would be wrong by 2e-4 and 1.6e-3."""
    exact = restore(DPIR(Aside()), scale, level(0, 0))
    lr, kernel = waves(13, 17, 2).float(), off_centre_kernel().float().expand(2, -1, -1, -1)
    found = restore(DPIR(Aside()), scale, level(0, 0).float(), lr, kernel)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < largest


def test_only_the_denoiser_computes_in_half_precision() -> None:
    net, lr, noise = DPIR(filled(0.5, **SMALL).float()), waves(16, 16, 1).float(), level(0.03).float()
    kernel = off_centre_kernel().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = restore(net, 1, noise, lr, kernel)
    exact = restore(net, 1, noise, lr, kernel)
    assert 1e-6 < (found - exact).abs().max() < 3e-3
    plain = DPIR(Aside(), boundary="wrap")
    exact = restore(plain, 2, noise, lr, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(restore(plain, 2, noise, lr, kernel), exact)


def test_wrap_is_for_images_whose_borders_do_not_meet() -> None:
    """Cut out of what was blurred, as photographs are: what is beyond a border is not what is at the opposite one."""
    sharp, kernel = waves(64, 70, 1), off_centre_kernel()
    blurred = blur_decimate(sharp, kernel, 1, "circular")
    cut = (..., slice(13, 51), slice(13, 57))
    worst = {}
    for boundary in ("circular", "wrap"):
        net = DPIR(Same(), n_iter=2, boundary=boundary)  # type: ignore[arg-type]  # two of them
        assert net.periodic == (boundary == "circular")
        worst[boundary] = (restore(net, 1, level(0.1), blurred[cut], kernel) - sharp[cut]).abs().max().item()
    assert worst["wrap"] < 0.6 * worst["circular"]


@pytest.mark.parametrize("size", [(45, 51), (64, 64), (100, 37), (7, 190), (130, 131)])
def test_tiles_cover_the_image_once(size: tuple[int, int]) -> None:
    seen: list[tuple[int, ...]] = []

    def double(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape[-2:]))
        return 2 * images

    images = waves(*size, 2)
    assert torch.equal(in_quarters(images, double, 8, 32 * 32), 2 * images)
    pixels = size[0] * size[1]
    assert len(seen) == (4 if pixels <= 4 * 32 * 32 else 16 if pixels <= 16 * 32 * 32 else 64)
    assert all(h % 8 == 0 or h == size[0] for h, _ in seen)


@pytest.mark.parametrize(("size", "count"), [((256, 256), 1), ((320, 480), 4)])
def test_published_tiles_are_those_of_large_images(size: tuple[int, int], count: int) -> None:
    net, seen = DPIR(Same(), n_iter=1, tile="official"), []

    def note(module: Any, args: Any, fields: dict[str, Tensor]) -> None:
        seen.append(tuple(fields["lr"].shape[-2:]))

    net.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    restore(net, 1, level(0.01), waves(*size, 1))
    assert seen == ([(192, 256)] * 4 if count == 4 else [size])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"n_iter": 0}, "n_iter is 0, expected at least 1"),
        ({"sigma_start": 0}, "sigma_start is 0, expected a positive number"),
        ({"trade_off": -1}, "trade_off is -1, expected a positive number"),
        ({"ensemble": "x8"}, "ensemble is 'x8', expected periodic or none"),
        ({"boundary": "reflect"}, "boundary is 'reflect', expected circular or wrap"),
        ({"tile": 4}, "tile is 4, expected None or official"),
        ({"denoiser": torch.nn.Identity()}, "denoiser is Identity, expected a network of networks/"),
        (
            {"denoiser": EDSR(scale=2, width=4, n_blocks=1)},
            "denoiser is EDSR, which takes lr and enlarges x2, expected",
        ),
        (
            {"denoiser": DPIR(Same())},
            "denoiser is DPIR, which takes lr, kernel, scale, noise_level and enlarges x1, x2",
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        DPIR(**{"denoiser": Same(), **options})


def test_nothing_is_trained_but_the_denoiser_by_itself() -> None:
    net = DPIR(DRUNet(**SMALL))
    assert not net.trainable
    assert net.learned_part is net.denoiser
    with torch.no_grad():
        fill(net.denoiser, 0.5)
    assert list(net.state_dict()) == [f"denoiser.{name}" for name in net.denoiser.state_dict()]
    with pytest.raises(ValueError, match="scale is 5, expected 1, 2, 3 or 4"):
        restore(net.double(), 5, level(0.01, 0.01))


def test_the_published_tiles_are_not_exported() -> None:
    """A graph would hold the way of the images that it was recorded with, which others do not go."""
    network = DPIR(DRUNet(widths=(2, 2, 2, 2), n_blocks=1), n_iter=1, tile="official").eval()
    inputs = {"lr": torch.rand(1, 3, 16, 16), "kernel": torch.ones(1, 1, 1, 1), "noise_level": torch.zeros(1, 1, 1, 1)}
    with pytest.raises(Exception, match="tile is official: how images are cut depends on their size"):
        torch.export.export(network, (), {**inputs, "scale": 1})
