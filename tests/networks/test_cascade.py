from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks.base import RestorationNetwork
from networks.baselines.deblurcnn import DeblurCNN
from networks.bicubic import Bicubic
from networks.cascade import Cascade
from networks.classical import Wiener
from networks.ed_dsrn import EDDSRN
from networks.ops.resize import bicubic_resize
from networks.restored import Restored
from networks.srn import SRN
from networks.usrnet import USRNet


class Brighten(RestorationNetwork):
    """Adds a constant at scale 1; or, at another scale, enlarges by repetition, and returns a deblurred image."""

    def __init__(self, add: float, scale: int = 1, size_multiple: int = 1, branch: bool = False) -> None:
        super().__init__()
        self.add, self.scale, self.size_multiple, self.branch = add, scale, size_multiple, branch
        self.inputs = ("lr",)
        self.outputs = ("sr", "deblurred") if branch else ("sr",)

    def forward(self, lr: Tensor) -> Restored:
        large = lr.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return Restored(sr=large + 2 * self.add, deblurred=lr + self.add if self.branch else None)


class Several(RestorationNetwork):
    """For scales 1 to 4, with a noise level; remembers what it was called with."""

    inputs = ("lr", "noise_level", "scale")
    outputs = ("sr",)
    scales = (1, 2, 3, 4)
    size_multiple = 8

    def forward(self, lr: Tensor, noise_level: Tensor, scale: int) -> Restored:
        self.seen = {"lr": lr, "noise_level": noise_level, "scale": scale}
        return Restored(sr=bicubic_resize(lr, scale))


def eight_bit(images: Tensor) -> Tensor:
    return (images.double() * 255).add(0.5).floor().clamp(0, 255).div(255).float()


@pytest.mark.parametrize("channels", [1, 3])
def test_deblurs_then_enlarges(channels: int) -> None:
    lr = torch.rand(2, channels, 7, 5)
    cascade = Cascade(Brighten(0.15), Bicubic(4))
    restored = cascade(lr=lr)
    handed_over = eight_bit(lr + 0.3)
    torch.testing.assert_close(restored.deblurred, handed_over)
    assert handed_over.max() == 1  # clipped
    torch.testing.assert_close(restored.sr, bicubic_resize(handed_over, 4))
    assert (cascade.inputs, cascade.outputs, cascade.scales) == (("lr",), ("sr", "deblurred"), (4,))


def test_without_rounding_gradients_flow() -> None:
    lr = torch.rand(2, 3, 4, 5, requires_grad=True)
    restored = Cascade(Brighten(0.1), Bicubic(2), rounding=False)(lr=lr)
    assert restored.deblurred is not None
    torch.testing.assert_close(restored.deblurred, lr + 0.2)
    restored.sr.sum().backward()
    assert lr.grad is not None
    assert lr.grad.sum().item() == pytest.approx(4 * lr.numel(), rel=1e-4)


def test_takes_the_deblurred_branch() -> None:
    """What a joint network makes at low resolution, not its own enlargement, goes on to a network that enlarges."""
    lr = torch.rand(2, 3, 4, 5) / 2
    restored = Cascade(Brighten(0.1, scale=4, branch=True), Bicubic(3))(lr=lr)
    torch.testing.assert_close(restored.deblurred, eight_bit(lr + 0.1))
    assert restored.sr.shape == (2, 3, 12, 15)


def test_enlarges_then_deblurs() -> None:
    lr = torch.rand(2, 3, 5, 7)
    cascade = Cascade(Bicubic(4), Brighten(-0.05))
    restored = cascade(lr=lr)
    torch.testing.assert_close(restored.sr, eight_bit(bicubic_resize(lr, 4)) - 0.1)
    assert restored.deblurred is None
    assert (cascade.outputs, cascade.scales) == (("sr",), (4,))


def test_two_that_deblur() -> None:
    lr = torch.rand(1, 3, 5, 7) / 2
    cascade = Cascade(Brighten(0.1), Brighten(0.05))
    restored = cascade(lr=lr)
    torch.testing.assert_close(restored.deblurred, eight_bit(lr + 0.2))
    torch.testing.assert_close(restored.sr, eight_bit(lr + 0.2) + 0.1)
    assert cascade.scales == (1,)


def test_network_for_several_scales_second() -> None:
    lr, level = torch.rand(2, 3, 5, 7) / 2, torch.rand(2, 1, 1, 1)
    second = Several()
    cascade = Cascade(Brighten(0.1, size_multiple=4), second)
    assert (cascade.inputs, cascade.scales, cascade.size_multiple) == (("lr", "noise_level", "scale"), (1, 2, 3, 4), 48)
    assert cascade(lr=lr, noise_level=level, scale=3).sr.shape == (2, 3, 15, 21)
    assert second.seen["scale"] == 3
    assert second.seen["noise_level"] is level
    torch.testing.assert_close(second.seen["lr"], eight_bit(lr + 0.2))


def test_network_for_several_scales_first() -> None:
    """Before a network that enlarges it deblurs at scale 1; before one that does not it enlarges."""
    lr, level = torch.rand(2, 3, 5, 7), torch.zeros(2, 1, 1, 1)
    first = Several()
    cascade = Cascade(first, Bicubic(4))
    assert (cascade.inputs, cascade.scales) == (("lr", "noise_level"), (4,))
    restored = cascade(lr=lr, noise_level=level)
    assert first.seen["scale"] == 1
    assert restored.sr.shape == (2, 3, 20, 28)
    torch.testing.assert_close(restored.deblurred, eight_bit(lr))
    cascade = Cascade(first, Brighten(0.0))
    assert (cascade.inputs, cascade.scales) == (("lr", "noise_level", "scale"), (1, 2, 3, 4))
    assert cascade(lr=lr, noise_level=level, scale=2).sr.shape == (2, 3, 10, 14)


@pytest.mark.parametrize(
    ("first", "second", "size_multiple"),
    [
        (Brighten(0, size_multiple=4), Brighten(0, scale=4, size_multiple=6), 12),
        (
            Brighten(0, scale=4, size_multiple=3),
            Brighten(0, size_multiple=16),
            12,
        ),  # 16 of the enlarged image are 4 of the input
        (Brighten(0, scale=3), Brighten(0, size_multiple=8), 8),
    ],
)
def test_size_multiple(first: nn.Module, second: nn.Module, size_multiple: int) -> None:
    assert Cascade(first, second).size_multiple == size_multiple


def test_networks_of_the_suite() -> None:
    torch.manual_seed(0)
    srn = SRN(widths=(4, 4, 4), n_blocks=1, n_scales=2)
    usrnet = USRNet(n_iter=1, widths=(2, 2, 2, 2), n_blocks=1, hyper_width=2)
    joint = EDDSRN(widths=(4, 4, 4, 4), n_units=1)
    lr = torch.rand(2, 3, 9, 11)
    known: dict[str, Any] = {"kernel": torch.full((2, 1, 3, 3), 1 / 9), "noise_level": torch.zeros(2, 1, 1, 1)}
    with torch.no_grad():
        for cascade in (
            Cascade(DeblurCNN(width=0.125), joint),
            Cascade(DeblurCNN(scale=4, width=0.125), joint),
            Cascade(srn, joint),
            Cascade(joint, srn),
        ):
            assert cascade(lr=lr).sr.shape == (2, 3, 36, 44)
        onto = Cascade(srn, usrnet)
        assert onto(lr=lr, scale=2, **known).sr.shape == (2, 3, 18, 22)
        assert onto.lr_sampling == "corner"


def test_a_kernel_of_sharp_pixels_is_no_use_at_low_resolution() -> None:
    with pytest.raises(ValueError, match=r"^cascade: Wiener takes the kernel, which is one of sharp pixels"):
        Cascade(Wiener(), Bicubic(4))
    assert Cascade(Wiener(), Brighten(0.0)).lr_sampling == "corner"


def test_two_that_only_enlarge() -> None:
    with pytest.raises(ValueError, match=r"^cascade: EDDSRN enlarges x4 and returns no deblurred image, Bicubic enl"):
        Cascade(EDDSRN(widths=(4, 4, 4, 4), n_units=1, deblur_branch=False), Bicubic(4))
