"""Noise of a range of levels: its law, its exact level, and that nothing is clipped."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations.denoising import NoiseDegradation
from datamodules.degradations.keyed_random import make_key, normal_field


def make_batch(n: int, channels: int = 3, size: tuple[int, int] = (23, 31), point: float | None = None) -> Batch:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)
    keys = torch.tensor([make_key(0, 1, i) for i in range(n)])
    return Batch(hr=images, name=[str(i) for i in range(n)], index=torch.arange(n), key=keys, point=point)


def field(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


@pytest.mark.parametrize("channels", [1, 3])
def test_input_is_the_image_and_noise_of_the_stated_level(channels: int) -> None:
    batch = make_batch(3, channels)
    out = NoiseDegradation([0.0, 0.5])(batch)
    noise = normal_field(batch.key, "gaussian_noise", (channels, 23, 31)).double()
    expected = batch.hr.double() / 255 + field(out.noise_level).double() * noise
    assert (field(out.lr) - expected).abs().max() < 1e-6
    assert torch.equal(out.hr, batch.hr.float() / 255)
    assert (out.scale, out.kernel) == (1, None)
    assert field(out.lr).min() < -0.5
    assert field(out.lr).max() > 1.5


def test_levels_are_uniform_up_to_fifty() -> None:
    levels = field(NoiseDegradation()(make_batch(4000, 1, (1, 1))).noise_level)
    assert levels.shape == (4000, 1, 1, 1)
    levels = levels.flatten().sort().values * 255
    assert levels[0] >= 0
    assert levels[-1] < 50
    # Kolmogorov-Smirnov: 4000 draws exceed 0.03 with a probability below 0.2 %.
    assert (levels / 50 - (torch.arange(4000) + 0.5) / 4000).abs().max() < 0.03


def test_a_sample_does_not_depend_on_its_batch() -> None:
    batch, degrade = make_batch(4), NoiseDegradation()
    part = slice(2, 3)
    alone = degrade(replace(batch, hr=batch.hr[part], name=["2"], index=batch.index[part], key=batch.key[part]))
    together = degrade(batch)
    assert torch.equal(field(alone.lr), field(together.lr)[part])
    assert torch.equal(field(alone.noise_level), field(together.noise_level)[part])


def test_one_number_is_the_level_of_all_and_points_are_fractions_of_a_range() -> None:
    fixed = NoiseDegradation(0.1)
    assert not fixed.has_points
    assert field(fixed(make_batch(2)).noise_level).flatten().tolist() == pytest.approx([0.1, 0.1])
    drawn = NoiseDegradation([0.1, 0.3])
    assert drawn.has_points
    assert field(drawn(make_batch(2, point=0.25)).noise_level).flatten().tolist() == pytest.approx([0.15, 0.15])


@pytest.mark.parametrize("noise", [-0.1, [0.2, 0.1], [0.1], [-0.1, 0.1]])
def test_levels_that_are_none_are_refused(noise: float | list[float]) -> None:
    with pytest.raises(ValueError, match=r"noise is .*, expected a standard deviation >= 0 on the \[0, 1\] scale"):
        NoiseDegradation(noise)
