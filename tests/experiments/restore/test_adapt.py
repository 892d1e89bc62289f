"""Circular methods on images that are not: borders, the place of the kernel, kernels found once."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.models import Model
from experiments.restore import Restorer
from experiments.restore.adapt import Continued, for_photographs, place_kernel
from networks.base import RestorationNetwork
from networks.cascade import Cascade
from networks.classical import Wiener
from networks.dan_usrnet import DANUSRNet
from networks.ops.wraparound import wrap_extend
from networks.restored import Restored
from tests.conftest import photograph
from tests.helpers.networks import tiny


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("side", [3, 4])
def test_a_placed_kernel_sees_the_middle_of_blocks(scale: int, side: int) -> None:
    torch.manual_seed(0)
    kernel = torch.rand(side, side)
    placed = place_kernel(kernel, scale)
    assert placed.sum().item() == pytest.approx(kernel.sum().item())

    def centre(k: Tensor) -> Tensor:
        mass = k / k.sum()
        return torch.stack([(mass.sum(1 - d) * (torch.arange(k.shape[d]) - k.shape[d] // 2)).sum() for d in (0, 1)])

    torch.testing.assert_close(centre(placed), centre(kernel) - (scale - 1) / 2)
    assert place_kernel(kernel, 1) is kernel


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_results_lie_where_the_photograph_does(scale: int) -> None:
    """A blurred image, whose pixels are means of blocks: the Wiener filter's result is nearest to the sharp image."""
    sharp = torch.from_numpy(photograph(96, 96, 4)).permute(2, 0, 1) / 255
    sharp = F.avg_pool2d(sharp[None], 3, 1, 1)
    image = F.avg_pool2d(sharp, scale)[0]
    block = torch.zeros(scale, scale) + 1 / scale**2
    kernel = block if scale % 2 else F.avg_pool2d(F.pad(block, (1, 1, 1, 1))[None], 2, 1)[0]  # about a pixel's middle
    found = Restorer.load(None, "wiener").restore(image, scale=scale, kernel=kernel).sr
    assert isinstance(found, Tensor)
    inside = slice(16, 80)

    def error(y: int, x: int) -> float:
        return float((found.roll((y, x), (1, 2)) - sharp[0])[:, inside, inside].square().mean())

    moved = {(y, x): error(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert min(moved, key=lambda at: moved[at]) == (0, 0)


class Seen(RestorationNetwork):
    """Keeps what it was given."""

    inputs = ("lr", "kernel", "scale", "noise_level")
    outputs = ("sr",)
    scales = (1, 2, 3, 4)
    size_multiple = 1

    def forward(self, lr: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Restored:
        self.lr = lr
        return Restored(sr=lr.repeat_interleave(scale, 2).repeat_interleave(scale, 3))


@pytest.mark.parametrize(("scale", "side", "size"), [(1, 9, (32, 56)), (2, 9, (48, 88)), (3, 25, (64, 128))])
def test_images_are_continued_as_in_the_authors_code(scale: int, side: int, size: tuple[int, int]) -> None:
    seen, lr = Seen(), torch.rand(1, 3, 13, 34)
    kernel, noise = torch.ones(1, 1, side, side), torch.zeros(1, 1, 1, 1)
    found = Continued(seen)(lr=lr, kernel=kernel, scale=scale, noise_level=noise).sr
    assert found.shape == (1, 3, 13 * scale, 34 * scale)
    large = wrap_extend(F.interpolate(lr, scale_factor=float(scale), mode="nearest"), size)
    expected = large[:, :, ::scale, ::scale].clone()
    expected[:, :, :13, :34] = lr
    torch.testing.assert_close(seen.lr, expected)


def test_opposite_borders_do_not_meet() -> None:
    """Blurred with what lies beyond its borders: circular deconvolution rings there."""
    sharp = torch.from_numpy(photograph(72, 72, 5)).permute(2, 0, 1)[None] / 255
    line = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * 1.6**2))
    kernel = (line[:, None] * line / line.sum() ** 2)[None, None]
    image = F.conv2d(sharp.transpose(0, 1), kernel).transpose(0, 1)
    fields = {"kernel": kernel, "scale": 1, "noise_level": torch.full((1, 1, 1, 1), 0.01)}
    errors = []
    for network in (Wiener(), for_photographs(Wiener())):
        difference = network(lr=image, **fields).sr - sharp[..., 4:-4, 4:-4]
        errors.append(difference[..., :4].square().mean().sqrt().item())
    assert errors[1] < errors[0] / 2


def test_circular_parts_are_found_in_cascades_and_others_left_alone() -> None:
    cascade = for_photographs(Cascade(tiny("srn"), tiny("usrnet")))
    assert isinstance(cascade, Cascade)
    assert isinstance(cascade.second, Continued)
    assert not isinstance(cascade.first, Continued)
    plain = tiny("ed_dsrn")
    assert for_photographs(plain) is plain
    assert plain.with_known_kernel() is None


def test_all_tiles_share_one_estimated_kernel() -> None:
    network = tiny("dan_usrnet")
    assert isinstance(network, DANUSRNet)
    restorer = Restorer(Model("dan", lambda _: network, network.scales), device="cpu")
    image = torch.from_numpy(photograph(40, 120, 1)).permute(2, 0, 1) / 255
    found = restorer.restore(image, noise_level=0.02, tile=48)
    middle = restorer.restore(image[:, :, 36:84], noise_level=0.02)
    torch.testing.assert_close(found.kernel, middle.kernel)
    assert found.notes[0] == "The kernel was estimated on the middle 48x40 pixels."
    # The restorer alone, with this kernel, in the same tiles and as a whole.
    told = Restorer(Model("usrnet", lambda _: network.restorer, (1, 2, 3, 4)), device="cpu")
    for one, tile in ((found, 48), (restorer.restore(image, noise_level=0.02), None)):
        assert one.kernel is not None
        same = told.restore(image, scale=2, kernel=one.kernel, noise_level=0.02, tile=tile).sr
        torch.testing.assert_close(one.sr, same)


def test_tiles_of_a_network_that_estimates_kernels_know_their_side() -> None:
    network = tiny("dan_usrnet")
    assert max(part.kernel_side for part in for_photographs(network).parts()) == network.kernel_size
    assert max(part.kernel_side for part in for_photographs(tiny("usrnet")).parts()) == 0


def test_dark_channel_is_tiled_with_the_kernel_of_the_middle() -> None:
    network = tiny("dark_channel")
    restorer = Restorer(Model("dark_channel", lambda _: network, network.scales), device="cpu")
    image = photograph(30, 80, 1)[..., 0]
    found = restorer.restore(image, tile=40)
    middle = restorer.restore(np.ascontiguousarray(image[:, 20:60]))
    torch.testing.assert_close(found.kernel, middle.kernel)
    assert found.sr.shape == (60, 160)
    assert found.deblurred is not None
    assert found.deblurred.shape == (30, 80)
