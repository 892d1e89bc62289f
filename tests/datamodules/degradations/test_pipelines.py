"""Every pipeline against the formula of its text, in float64 NumPy, one channel at a time."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import hydra
import kornia.filters
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from datamodules.batch import Batch
from datamodules.degradations import kernel_files
from datamodules.degradations.kernel_samplers import (
    FromSuite,
    KernelBank,
    centred_shake,
    sample_dan_gaussian,
    sample_isotropic,
    usrnet_mixture,
)
from datamodules.degradations.keyed_random import make_key, normal_field
from datamodules.degradations.pipelines import (
    BicubicDegradation,
    ClassicalDegradation,
    CooperativeDegradation,
    EDDSRNDegradation,
    ReducedPairs,
)
from datamodules.degradations.second_order import SecondOrderDegradation
from datamodules.degradations.trajectories import camera_shake
from run import CONF
from tests.helpers import references

Pipeline = Callable[[Batch], Batch]


def make_batch(n: int = 3, channels: int = 3, size: tuple[int, int] = (24, 36), group: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, channels, *size), dtype=torch.uint8, generator=generator)
    keys = torch.tensor([make_key(0, 1, i) for i in range(n)])
    return Batch(hr=images, name=[str(i) for i in range(n)], index=torch.arange(n), key=keys, group=group)


def part(batch: Batch, which: slice) -> Batch:
    lr = None if batch.lr is None else batch.lr[which]
    return Batch(batch.hr[which], batch.name[which], batch.index[which], batch.key[which], lr, group=batch.group)


def usrnet(scale: int | list[int] = 2, **options: Any) -> ClassicalDegradation:
    return ClassicalDegradation(usrnet_mixture, scale=scale, noise="usrnet", **options)


def dan(scale: int = 2, anisotropic: bool = False) -> ClassicalDegradation:
    def kernels(keys: Tensor) -> Tensor:
        return sample_dan_gaussian(keys, 11) if anisotropic else sample_isotropic(keys, 21, 0.2, 4.0)

    return ClassicalDegradation(kernels, scale=scale, reduction="bicubic", boundary="reflect", storage="eight_bit")


def field(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def planes(batch: Batch, images: Tensor) -> list[tuple[int, int, np.ndarray]]:
    """(sample, channel, float64 plane in [0, 1]) of uint8 images."""
    size = range(len(batch)), range(images.shape[1])
    return [(i, c, images[i, c].numpy().astype(np.float64) / 255) for i in size[0] for c in size[1]]


def imresize(image: np.ndarray, factor: float) -> np.ndarray:
    return image if factor == 1 else references.imresize(image, factor)


# The classical model


@pytest.mark.parametrize(("scale", "size"), [(1, (23, 31)), (2, (24, 34)), (3, (27, 33)), (4, (24, 36))])
@pytest.mark.parametrize("channels", [1, 3])
def test_usrnet_is_circular_blur_decimation_and_noise(scale: int, size: tuple[int, int], channels: int) -> None:
    batch = make_batch(channels=channels, size=size)
    out = usrnet(scale)(batch)
    noise = normal_field(batch.key, "gaussian_noise", (channels, size[0] // scale, size[1] // scale)).double().numpy()
    assert out.scale == scale
    assert torch.equal(out.hr, batch.hr.float() / 255)
    for i, c, hr in planes(batch, batch.hr):
        kernel, level = field(out.kernel)[i, 0].double().numpy(), field(out.noise_level)[i].item()
        expected = references.convolve(hr, kernel, "wrap")[::scale, ::scale] + level * noise[i, c]
        assert np.abs(field(out.lr)[i, c].numpy() - expected).max() < 2e-6


def test_usrnet_noise_has_its_level_and_is_not_clipped() -> None:
    batch = make_batch(8, size=(96, 96))
    batch.hr[:] = 255
    out = usrnet(1)(batch)
    levels = field(out.noise_level).flatten()
    assert levels.unique().numel() > 2
    for lr, level in zip(field(out.lr), levels.tolist(), strict=True):
        noise = lr - 1
        # 27,648 draws: the standard error of their deviation is 0.43 %.
        assert abs(noise.std() - level) < 0.02 * level + 1e-6
        assert abs(noise.mean()) < 0.03 * level + 1e-6
    assert field(out.lr).max() > 1


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_usrnet_test_cell_is_the_official_code(scale: int, noise: float) -> None:
    """scipy.ndimage on uint8 arrays with the float32 kernels, every s-th pixel, then float32 and noise: no other value.

    Of three images the first is flat: kernels whose sum is a little below 1 make 199 of its 200 everywhere.
    """
    suite = kernel_files.usrnet12()
    batch = make_batch(size=(48, 72))
    batch.hr[0] = 200
    pictures = batch.hr.numpy()
    lost = []
    for number, kernel in enumerate(suite.kernels[:, 0].numpy().astype(np.float64)):
        out = ClassicalDegradation(FromSuite(suite, number), scale=scale, noise=noise, storage="trunc8")(batch)
        assert field(out.noise_level).flatten().tolist() == pytest.approx([noise] * 3)
        official = scipy.ndimage.convolve(pictures, kernel[None, None], mode="wrap")[..., ::scale, ::scale]
        assert official.dtype == np.uint8
        lost += [number + 1] if (official[0] == 199).all() else []
        expected = torch.from_numpy(np.float32(official / 255.0))
        if noise:
            expected += noise * normal_field(batch.key, "gaussian_noise", tuple(expected.shape[1:]))
        assert field(out.lr).dtype == torch.float32
        assert (field(out.lr) == expected).double().mean() >= 0.9999
    assert lost == [3, 4, 5, 7, 9]


@pytest.mark.parametrize(("scale", "size"), [(1, (23, 31)), (2, (24, 34)), (3, (27, 33)), (4, (24, 36))])
@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_dan_is_reflected_blur_and_imresize_in_8_bit(
    scale: int, size: tuple[int, int], anisotropic: bool, channels: int
) -> None:
    batch = make_batch(channels=channels, size=size)
    out = dan(scale, anisotropic)(batch)
    assert not field(out.noise_level).any()
    for i, c, hr in planes(batch, batch.hr):
        kernel = field(out.kernel)[i, 0].double().numpy()
        levels = 255 * imresize(references.convolve(hr, kernel, "reflect"), 1 / scale).clip(0, 1)
        got = 255 * field(out.lr)[i, c].double().numpy()
        near = np.abs(levels % 1 - 0.5) < 1e-3  # float32 may round to the other side
        assert np.abs(got - got.round()).max() < 1e-4
        assert np.abs(got - levels.round())[~near].max() < 1e-4
        assert near.mean() < 0.1


def test_the_scale_is_the_batchs_and_the_same_on_every_rank() -> None:
    pipeline = usrnet([1, 2, 3, 4])
    assert pipeline.scale == 12  # what sides have to be divisible by
    counts = dict.fromkeys((1, 2, 3, 4), 0)
    for number in range(40):
        whole = make_batch(4, size=(24, 24), group=make_key("batch", 0, 0, number))
        # Two processes hold different samples of the batch.
        ranks = [pipeline(part(whole, which)) for which in (slice(0, 2), slice(2, 4))]
        assert ranks[0].scale == ranks[1].scale
        assert field(ranks[0].lr).shape[-1] == 24 // (ranks[0].scale or 0)
        counts[ranks[0].scale or 0] += 1
    assert min(counts.values()) >= 3  # 10 expected, standard deviation 2.7


@pytest.mark.parametrize("chosen", [["model=ed_dsrn"], ["degradation=gaussian8"], ["degradation=linear_motion"]])
def test_kernels_are_kornias(chosen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kernel of Kornia's is another kernel of the batch."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=chosen).degradation
    before = field(hydra.utils.instantiate(cfg)(make_batch()).kernel)
    name = "get_motion_kernel2d" if "linear_motion" in chosen[0] else "get_gaussian_kernel2d"
    make = getattr(kornia.filters, name)
    monkeypatch.setattr(kornia.filters, name, lambda *args: make(*args).roll(1, 2))
    after = field(hydra.utils.instantiate(cfg)(make_batch()).kernel)
    assert not torch.equal(after, before)
    if "linear_motion" not in chosen[0]:
        assert torch.equal(after, before.roll(1, 3))


# Bicubic reduction


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_is_imresize_and_its_kernel_says_the_same(scale: int, eight_bit: bool, channels: int) -> None:
    batch = make_batch(channels=channels, size=(36, 60))
    out = BicubicDegradation(scale, eight_bit)(batch)
    assert out.scale == scale
    assert field(out.kernel).shape == (3, 1, 25, 25)
    assert field(out.noise_level).shape == (3, 1, 1, 1)
    assert not field(out.noise_level).any()
    inside = (slice(3, -3),) * 2  # where neither border is in reach
    for i, c, hr in planes(batch, batch.hr):
        expected = imresize(hr, 1 / scale)
        got = field(out.lr)[i, c].numpy()
        by_kernel = references.convolve(hr, field(out.kernel)[i, 0].double().numpy(), "wrap")[::scale, ::scale]
        assert np.abs(by_kernel - expected)[inside].max() < 1e-6
        if eight_bit:
            assert np.abs(255 * got - (255 * got).round()).max() < 1e-4
            assert np.abs(got - expected.clip(0, 1)).max() <= 0.5 / 255 + 1e-6
        else:
            assert np.abs(got - expected).max() < 2e-6


def test_bicubic_of_several_scales() -> None:
    """One scale for each batch: input, kernel and scale are those of that scale alone."""
    several = BicubicDegradation([2, 3, 4])
    assert several.scale == 12
    for group, scale in ((3, 2), (4, 3), (5, 4)):
        batch = make_batch(size=(24, 36), group=group)
        out, alone = several(batch), BicubicDegradation(scale)(batch)
        assert out.scale == scale
        assert torch.equal(field(out.lr), field(alone.lr))
        assert torch.equal(field(out.kernel), field(alone.kernel))


# Cooperative


def cooperative(order: Any, factor: int = 4) -> CooperativeDegradation:
    return CooperativeDegradation(lambda keys: camera_shake(keys, 13), order, factor)


@pytest.mark.parametrize("order", ["old", "new", "released"])
@pytest.mark.parametrize(("factor", "size"), [(4, (24, 36)), (3, (27, 33))])
@pytest.mark.parametrize("channels", [1, 3])
def test_cooperative_orders(order: str, factor: int, size: tuple[int, int], channels: int) -> None:
    batch = make_batch(2, channels=channels, size=size)
    pipeline = cooperative(order, factor)
    out = pipeline(batch)
    assert (pipeline.scale, pipeline.multiple, out.scale) == (1, factor, 1)
    assert field(out.lr).shape == batch.hr.shape
    for i, c, hr in planes(batch, batch.hr):
        kernel = field(out.kernel)[i, 0].double().numpy()
        if order == "old":
            expected = references.convolve(imresize(imresize(hr, 1 / factor), factor), kernel, "edge")
        elif order == "new":
            expected = imresize(references.convolve(imresize(hr, 1 / factor), kernel, "edge"), factor)
        else:
            expected = imresize(imresize(references.convolve(hr, kernel, "edge"), 1 / factor), factor)
        assert np.abs(field(out.lr)[i, c].numpy() - expected).max() < 3e-6
        sharp = imresize(imresize(hr, 1 / factor), factor)
        assert np.abs(field(out.lr_sharp)[i, c].numpy() - sharp).max() < 3e-6


# Pairs


def with_pairs(batch: Batch) -> Batch:
    batch.lr = batch.hr.flip(0).contiguous()  # any image of that size
    return batch


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize(("factor", "size"), [(4, (24, 36)), (3, (27, 33))])
@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_are_reduced(enlarge: bool, factor: int, size: tuple[int, int], channels: int) -> None:
    batch = with_pairs(make_batch(2, channels=channels, size=size))
    pipeline = ReducedPairs(factor, enlarge)
    out = pipeline(batch)
    assert out.scale == pipeline.scale == (1 if enlarge else factor)
    assert pipeline.multiple == factor
    for i, c, blurred in planes(batch, field(batch.lr)):
        expected = imresize(blurred, 1 / factor)
        expected = imresize(expected, factor) if enlarge else expected
        assert np.abs(field(out.lr)[i, c].numpy() - expected).max() < 3e-6
    for i, c, hr in planes(batch, batch.hr):
        expected = imresize(imresize(hr, 1 / factor), factor) if enlarge else imresize(hr, 1 / factor)
        assert np.abs(field(out.lr_sharp)[i, c].numpy() - expected).max() < 3e-6


def test_pairs_of_unequal_size_are_refused() -> None:
    batch = make_batch()
    with pytest.raises(ValueError, match="pairs of equal size are needed: use data=gopro or data=paired_folder"):
        ReducedPairs()(batch)
    batch.lr = batch.hr[..., ::4, ::4]
    with pytest.raises(ValueError, match="pairs of equal size"):
        ReducedPairs()(batch)


def test_sharp_images_are_cut_to_what_a_protocol_asks_for() -> None:
    kernels = lambda keys: camera_shake(keys, 13)  # noqa: E731
    assert ClassicalDegradation(kernels, scale=3, multiple=8).multiple == 24
    assert ClassicalDegradation(kernels, scale=[1, 2, 3, 4]).multiple == 12
    with pytest.raises(ValueError, match="multiple is 0, expected at least 1"):
        ClassicalDegradation(kernels, multiple=0)


# All of them

PIPELINES: dict[str, Callable[[], Pipeline]] = {
    "usrnet_train": lambda: usrnet(3),
    "usrnet_test": lambda: ClassicalDegradation(
        FromSuite(kernel_files.twelve()), scale=2, noise=0.01, storage="trunc8"
    ),
    "dan1": dan,
    "dan2": lambda: dan(4, anisotropic=True),
    "bicubic": lambda: BicubicDegradation(3),
    **{f"cooperative_{order}": lambda order=order: cooperative(order) for order in ("old", "new", "released")},  # type: ignore[misc]
    "gopro": ReducedPairs,
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("size", [(24, 36), (192, 192)])
def test_a_sample_does_not_depend_on_its_batch(name: str, size: tuple[int, int]) -> None:
    pipeline = PIPELINES[name]()
    whole = make_batch(4, size=size)
    whole = with_pairs(whole) if name == "gopro" else whole
    together = pipeline(whole)
    assert all(getattr(together, wanted) is not None for wanted in pipeline.provides)  # type: ignore[attr-defined]
    assert torch.equal(field(together.lr), field(pipeline(whole).lr))
    for i in range(4):
        alone = pipeline(part(whole, slice(i, i + 1)))
        for wanted in ("hr", "lr", "lr_sharp", "kernel", "noise_level"):
            value = getattr(together, wanted)
            assert value is None or torch.equal(getattr(alone, wanted)[0], value[i]), wanted


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: usrnet(0), "scale is 0, expected integers of at least 1"),
        (lambda: usrnet([]), r"scale is \[\], expected integers"),
        (lambda: usrnet([2, -1]), "expected integers of at least 1"),
        (lambda: usrnet(reduction="area"), "reduction is 'area', expected decimate or bicubic"),
        (lambda: usrnet(storage="uint8"), "storage is 'uint8', expected float, eight_bit or trunc8"),
        (lambda: ClassicalDegradation(usrnet_mixture, noise=-0.1), "noise is -0.1, expected a standard deviation"),
        (lambda: ClassicalDegradation(usrnet_mixture, noise="dan"), "noise is 'dan'"),  # type: ignore[arg-type]
        (lambda: cooperative("newest"), "order is 'newest', expected old, new or released"),
        (lambda: BicubicDegradation([2, 0]), r"scale is \[2, 0\], expected integers of at least 1"),
        (lambda: BicubicDegradation(4, kernel_size=5), "kernel size is 5, expected at least 18"),
        (lambda: BicubicDegradation(4, kernel_size=256), "kernel_size is 256, expected pixels from 1 to 255"),
        (lambda: EDDSRNDegradation(kernel_size=256), "kernel_size is 256, expected pixels from 1 to 255"),
        (lambda: EDDSRNDegradation(kernel_size=0), "kernel_size is 0, expected pixels from 1 to 255"),
        (lambda: SecondOrderDegradation(kernel_size=257), "kernel_size is 257, expected pixels from 1 to 255"),
        (
            lambda: ClassicalDegradation(partial(centred_shake, size=99_999)),
            "kernels.size is 99999, expected pixels",
        ),
        (lambda: CooperativeDegradation(partial(centred_shake, size=256)), "kernels.size is 256, expected pixels"),
        (lambda: ClassicalDegradation(KernelBank(2, 2, size=256)), "size is 256, expected pixels from 1 to 255"),
    ],
)
def test_impossible_options(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("draw", "options", "message"),
    [
        (
            sample_isotropic,
            {"low": 0, "high": 0},
            r"\[kernels.low, kernels.high\] is \[0, 0\], expected .* 0 < low <= high",
        ),
        (sample_isotropic, {"low": 3, "high": 1}, r"\[kernels.low, kernels.high\] is \[3, 1\]"),
        (sample_isotropic, {"low": -1, "high": 1}, "is"),
        (sample_isotropic, {"low": 1, "high": math.nan}, "is"),
        (sample_isotropic, {"low": 1, "high": math.inf}, "high <= 255"),
        (sample_dan_gaussian, {"low": 0}, r"\[kernels.low, kernels.high\] is \[0, 5.0\]"),
        (sample_dan_gaussian, {"noise": -3}, "kernels.noise is -3, expected a share of at least 0"),
        (sample_dan_gaussian, {"noise": math.nan}, "kernels.noise is nan"),
    ],
)
def test_ranges_that_samplers_do_not_draw_from(draw: Any, options: dict[str, float], message: str) -> None:
    """Found when a pipeline is made, and by the sampler itself where it is called alone."""
    with pytest.raises(ValueError, match=message) as raised:
        ClassicalDegradation(partial(draw, size=5, **options))
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"low|noise"):
        draw(torch.zeros(1, dtype=torch.int64), 5, **options)
