"""Receptive fields against those counted by hand, layer by layer."""

import pytest
import torch
from torch import Tensor, nn

from experiments.restore.receptive_field import alignment, receptive_field
from networks.base import RestorationNetwork
from networks.baselines.deblurcnn import MARGIN, DeblurCNN
from networks.baselines.edsr import EDSR
from networks.baselines.srresnet import SRResNet
from networks.baselines.vdsr import VDSR
from networks.bicubic import Bicubic
from networks.ed_dsrn import EDDSRN
from networks.restored import Restored
from networks.usrnet import USRNet


@pytest.mark.many
@pytest.mark.parametrize(
    ("network", "scale", "expected"),
    [
        (VDSR(width=2), 1, 20),  # twenty 3x3 convolutions: 41x41, as the paper says
        (VDSR(width=2, n_layers=5), 1, 5),
        # 9x9; 32 and one 3x3; one before the first shuffle, one at twice the size; 9x9 at four times the size.
        (SRResNet(width=2), 4, 40),  # 4 + 33 + 1 + 1/2 + 4/4
        (EDSR(scale=2, width=2, n_blocks=3), 2, 10),  # 1 + 6 + 1, 1, 1/2 at twice the size: 9.5
        (DeblurCNN(width=0.125), 1, MARGIN),
        (DeblurCNN(width=0.125, scale=2), 2, MARGIN + 3),  # and bicubic enlargement
        (Bicubic(scale=1), 1, 0),
        (Bicubic(scale=4), 4, 3),  # seven taps, though the weights of two are 0
    ],
)
def test_by_hand(network: nn.Module, scale: int, expected: int) -> None:
    assert receptive_field(network.eval(), scale) == expected


class Shifted(RestorationNetwork):
    """Looks `up` pixels up and `left` to the left, and nowhere in between, from blocks that share their maximum."""

    inputs = ("lr",)
    outputs = ("sr",)
    scale = 1
    size_multiple = 4

    def __init__(self, up: int, left: int) -> None:
        super().__init__()
        self.up, self.left = up, left

    def forward(self, lr: Tensor) -> Restored:
        pooled = nn.functional.interpolate(nn.functional.max_pool2d(lr, 4), scale_factor=4)
        moved = nn.functional.pad(pooled, (self.left, 0, self.up, 0))[..., : lr.shape[2], : lr.shape[3]]
        return Restored(sr=torch.relu(pooled + moved).clamp(0, 1))


@pytest.mark.parametrize(("up", "left", "expected"), [(0, 0, 0), (4, 0, 4), (5, 0, 8), (0, 13, 16), (300, 0, 300)])
def test_both_axes_one_sided_and_in_whole_blocks(up: int, left: int, expected: int) -> None:
    assert receptive_field(Shifted(up, left), 1) == expected


def test_more_than_the_limit_or_everything_is_none() -> None:
    assert receptive_field(Shifted(100, 0), 1, limit=100) == 100
    assert receptive_field(Shifted(100, 0), 1, limit=96) is None
    assert receptive_field(USRNet(n_iter=1, widths=(2, 2, 2, 2)), 2) is None
    assert receptive_field(SRResNet("port", width=2, n_blocks=1).eval(), 4) is None  # normalised by the whole image


def test_a_result_depends_on_nothing_further_away() -> None:
    torch.manual_seed(0)
    network = EDDSRN(widths=(3, 3, 3, 3), n_units=1).eval()
    field = receptive_field(network, 4)
    assert field is not None
    image = torch.rand(1, 3, 2 * field + 40, 16)
    other = torch.rand_like(image)
    other[:, :, 16 : 2 * field + 24] = image[:, :, 16 : 2 * field + 24]
    with torch.inference_mode():
        plain, changed = network(image).sr, network(other).sr
    own = slice(4 * (16 + field), 4 * (24 + field))
    assert torch.equal(plain[:, :, own], changed[:, :, own])
    assert not torch.equal(plain, changed)


def test_blocks_of_networks_for_several_scales_are_of_their_results() -> None:
    network = USRNet(n_iter=1, widths=(2, 2, 2, 2))
    assert [alignment(network, scale) for scale in (1, 2, 3, 4)] == [8, 4, 8, 2]
    assert alignment(EDDSRN(widths=(2, 2, 2, 2), n_units=1), 4) == 8
