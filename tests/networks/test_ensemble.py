"""The eight orientations: exact where the network is equivariant, whatever pixels the input kept."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.degradations.blur import convolve
from networks.base import RestorationNetwork
from networks.bicubic import Bicubic
from networks.classical import RichardsonLucy, Wiener
from networks.dmbsr import DMBSR, SpectralBlur
from networks.ensemble import ORIENTATIONS, SelfEnsemble, turn, turn_back, turn_kernel
from networks.restored import Restored
from networks.usrnet import DataStep, USRNet


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernels(count: int, size: int, seed: int = 1) -> Tensor:
    values = random(count, 1, size, size, seed=seed) ** 4
    return values / values.sum((2, 3), keepdim=True)


class ClosedForm(RestorationNetwork):
    """USRNet's data step alone: equivariant, because it solves the blur model. Remembers what it made."""

    inputs = ("lr", "kernel", "scale", "noise_level")
    outputs = ("sr",)
    scales = (1, 2, 3, 4)
    size_multiple = 1
    lr_sampling = "corner"

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def forward(self, lr: Tensor, kernel: Tensor, scale: int, noise_level: Tensor) -> Restored:
        start = F.interpolate(lr, scale_factor=float(scale), mode="nearest")
        self.made.append(DataStep(lr, kernel, scale)(start, noise_level**2))
        return Restored(self.made[-1])


class Blind(RestorationNetwork):
    """A method without the kernel that assumes one, off its centre by no more than symmetry allows: not at all."""

    inputs = ("lr",)
    outputs = ("sr", "kernel")
    size_multiple = 1
    lr_sampling = "corner"

    def __init__(self, scale: int, kernel: Tensor) -> None:
        super().__init__()
        self.scale, self.kernel = scale, kernel
        self.made: list[Tensor] = []

    def forward(self, lr: Tensor) -> Restored:
        start = lr.new_zeros(*lr.shape[:2], *(self.scale * side for side in lr.shape[-2:]))
        self.made.append(DataStep(lr, self.kernel, self.scale)(start, lr.new_full((1, 1, 1, 1), 0.01)))
        return Restored(self.made[-1], kernel=lr.sum() * self.kernel)


def spread(made: list[Tensor]) -> float:
    back = torch.stack([turn_back(image, to) for image, to in zip(made, ORIENTATIONS, strict=True)])
    return (back - back[0]).abs().max().item()


def test_orientations_are_eight_and_turn_back() -> None:
    image = random(2, 3, 5, 7)
    turned = [turn(image, to) for to in ORIENTATIONS]
    assert ORIENTATIONS[0] == (False, (False, False))
    for one, other in itertools.combinations(turned, 2):
        assert one.shape != other.shape or not torch.equal(one, other)
    for found, to in zip(turned, ORIENTATIONS, strict=True):
        assert torch.equal(turn_back(found, to), image)
    assert torch.equal(torch.rot90(image, 1, (-2, -1)), turn(image, ORIENTATIONS[6]))


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("number", range(8))
def test_a_turned_kernel_blurs_the_turned_image(number: int, size: int) -> None:
    image, kernel, to = random(2, 3, 16, 13), kernels(2, size), ORIENTATIONS[number]
    wanted = turn(convolve(image, kernel, boundary="circular"), to)
    turned = turn_kernel(kernel, to)
    assert turned.shape == (2, 1, 5, 5)
    torch.testing.assert_close(convolve(turn(image, to), turned, boundary="circular"), wanted)


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_kernel_takes_up_the_kept_pixel(scale: int, size: int) -> None:
    """The input is made from a sharp image: in every orientation the blur model holds with the turned kernel."""
    hr, kernel = random(2, 3, scale * 7, scale * 9), kernels(2, size)
    lr = convolve(hr, kernel, boundary="circular")[..., ::scale, ::scale]
    for to in ORIENTATIONS:
        turned = turn_kernel(kernel, to, scale - 1)
        again = convolve(turn(hr, to), turned, boundary="circular")[..., ::scale, ::scale]
        torch.testing.assert_close(again, turn(lr, to))
        torch.testing.assert_close(turned.sum((2, 3)), torch.ones(2, 1, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_maps_of_weights_turn_with_the_image(scale: int) -> None:
    """As for one kernel: in every orientation the input is what the blur model makes of the turned sharp image."""
    hr, several = random(2, 3, scale * 7, scale * 9), kernels(6, 5).view(2, 3, 5, 5)
    weights = random(2, 3, scale * 7, scale * 9, seed=2).softmax(1)
    lr = SpectralBlur(several, weights, (scale * 7, scale * 9))(hr)[..., ::scale, ::scale]
    seen: list[Tensor] = []

    class Model(RestorationNetwork):
        inputs = DMBSR.inputs
        scales, lr_sampling = DMBSR.scales, DMBSR.lr_sampling

        def forward(self, lr: Tensor, kernels: Tensor, weights: Tensor, scale: int, noise_level: Tensor) -> Restored:
            sharp = turn(hr, ORIENTATIONS[len(seen)])
            blurred = SpectralBlur(kernels, weights, (sharp.shape[-2], sharp.shape[-1]))(sharp)
            seen.append(blurred[..., ::scale, ::scale] - lr)
            return Restored(sharp)

    fields = {"kernels": several, "weights": weights, "noise_level": random(2, 1, 1, 1)}
    found = SelfEnsemble(Model())(lr=lr, scale=scale, **fields).sr
    assert len(seen) == 8
    assert max(difference.abs().max().item() for difference in seen) < 1e-12
    torch.testing.assert_close(found, hr)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_an_equivariant_method_that_knows_the_kernel_gives_the_same_eight_times(scale: int, size: int) -> None:
    hr, kernel = random(2, 3, scale * 7, scale * 9), kernels(2, size)
    lr = convolve(hr, kernel, boundary="circular")[..., ::scale, ::scale]
    level = torch.tensor([0.01, 0.2], dtype=torch.float64).view(2, 1, 1, 1)
    network = ClosedForm()
    result = SelfEnsemble(network)(lr=lr, kernel=kernel, scale=scale, noise_level=level).sr
    assert spread(network.made) < 1e-10
    torch.testing.assert_close(result, network.made[0])
    if scale > 1:  # without the correction it does not
        network.made.clear()
        network.lr_sampling = "centre"
        SelfEnsemble(network)(lr=lr, kernel=kernel, scale=scale, noise_level=level)
        assert spread(network.made) > 0.01


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_blind_method_has_its_results_moved_back(scale: int) -> None:
    corner = kernels(1, 7)
    kernel = torch.stack([turn(corner, to) for to in ORIENTATIONS]).mean(0)  # what no orientation changes
    lr = convolve(random(2, 3, scale * 7, scale * 9), kernel, boundary="circular")[..., ::scale, ::scale]
    network = Blind(scale, kernel)
    result = SelfEnsemble(network, decimated=True)(lr=lr)
    torch.testing.assert_close(result.sr, network.made[0])
    torch.testing.assert_close(result.kernel, lr.sum() * kernel)
    if scale > 1:
        assert (SelfEnsemble(network)(lr=lr).sr - network.made[0]).abs().max() > 0.01


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_symmetric_interpolation_is_its_own_ensemble(scale: int) -> None:
    lr = random(2, 1, 9, 7)
    torch.testing.assert_close(SelfEnsemble(Bicubic(scale))(lr=lr).sr, Bicubic(scale)(lr=lr).sr)


def test_the_mean_of_eight() -> None:
    """A network that knows where it is: every pixel gets the mean over its eight places; the rest is as it was."""

    class Ramp(RestorationNetwork):
        inputs = ("lr",)
        outputs = ("sr", "deblurred", "pyramid")
        size_multiple = 4
        scale = 1
        channels = 1

        def forward(self, lr: Tensor) -> Restored:
            places = torch.arange(lr[0, 0].numel(), dtype=lr.dtype).view(1, 1, *lr.shape[-2:])
            return Restored(lr + places, deblurred=lr - places, pyramid=[places])

    lr = random(2, 1, 4, 4)
    ensemble = SelfEnsemble(Ramp())
    result = ensemble(lr=lr)
    assert result.deblurred is not None
    assert result.pyramid is not None
    torch.testing.assert_close(result.sr, lr + 7.5)
    torch.testing.assert_close(result.deblurred, lr - 7.5)
    assert result.pyramid[0][0, 0, 0].tolist() == [0, 1, 2, 3]
    names = ("inputs", "outputs", "size_multiple", "channels")
    assert [getattr(ensemble, name) for name in names] == [getattr(Ramp, name) for name in names]
    assert ensemble.scales == (1,)


def test_usrnet_is_wrapped_by_its_own_word() -> None:
    network: Any = USRNet(n_iter=1, widths=(4, 4, 4, 4), n_blocks=1, hyper_width=4).double()
    ensemble = SelfEnsemble(network, decimated=False)
    lr, kernel, level = random(1, 3, 9, 6), kernels(1, 5), torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    with torch.no_grad():
        result = ensemble(lr=lr, kernel=kernel, scale=2, noise_level=level).sr
        total = torch.zeros_like(result)
        for to in ORIENTATIONS:
            turned = turn_kernel(kernel, to, 1)
            found = network(lr=turn(lr, to), kernel=turned, scale=2, noise_level=level).sr
            total += turn_back(found, to) / 8
    torch.testing.assert_close(result, total)


@pytest.mark.parametrize("network", [Wiener(), RichardsonLucy(iterations=3)])
def test_classical_methods_do_not_care_how_an_image_is_turned(network: Any) -> None:
    lr, kernel, level = random(1, 3, 12, 8), kernels(1, 5), torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    fields = {"lr": lr, "kernel": kernel, "scale": 3, "noise_level": level}
    found = SelfEnsemble(network, decimated=True)(**fields).sr
    torch.testing.assert_close(found, network(**{name: fields[name] for name in network.inputs}).sr)
