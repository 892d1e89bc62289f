"""The kernel error: values by hand, against a plain search over all shifts, sizes that differ."""

import pytest
import torch
from torch import Tensor

from lightning_modules.metrics.kernel_error import kernel_error


def kernels(count: int, size: int, seed: int = 0) -> Tensor:
    values = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 6
    return values / values.sum((2, 3), keepdim=True)


def delta(size: int, row: int, column: int) -> Tensor:
    kernel = torch.zeros(1, 1, size, size)
    kernel[..., row, column] = 1
    return kernel


def searched(estimated: Tensor, true: Tensor) -> float:
    """The definition, for kernels [k, k]: both in a frame so wide that no shift loses a pixel."""
    k = estimated.shape[-1]
    wide = torch.zeros(3 * k, 3 * k, dtype=torch.float64)
    wide[k : 2 * k, k : 2 * k] = estimated
    errors = []
    for row in range(2 * k + 1):
        for column in range(2 * k + 1):
            moved = torch.zeros_like(wide)
            moved[row : row + k, column : column + k] = true
            errors.append((wide - moved).square().sum().item())
    return min(errors)


def test_values_by_hand() -> None:
    spread = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])[None, None]
    steep = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])[None, None]
    assert kernel_error(delta(3, 1, 1), spread).item() == pytest.approx(0.5)  # (1 - 1/2)^2 + (1/2)^2
    assert kernel_error(steep, spread).item() == pytest.approx(0.5)  # one of two pixels can be covered
    both = kernel_error(torch.cat([spread, steep]), torch.cat([spread, spread]))
    assert both.tolist() == pytest.approx([0.0, 0.5])
    assert both.dtype == torch.float64


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_it_is_the_least_error_of_all_shifts(size: int) -> None:
    estimated, true = kernels(3, size), kernels(3, size, seed=1)
    expected = [searched(one[0], other[0]) for one, other in zip(estimated, true, strict=True)]
    assert kernel_error(estimated, true).tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("size", [9, 10])
def test_shifts_do_not_count(size: int) -> None:
    estimated, true = torch.zeros(1, 1, size, size, dtype=torch.float64), kernels(1, 5, seed=1)
    estimated[..., :5, size - 5 :] = kernels(1, 5)
    expected = kernel_error(kernels(1, 5), true).item()
    assert expected > 0.01
    for shift in ((0, 0), (3, -2), (size - 5, 5 - size)):
        assert kernel_error(estimated.roll(shift, (2, 3)), true).item() == pytest.approx(expected)
        assert kernel_error(estimated.roll(shift, (2, 3)), kernels(1, 5)).item() == pytest.approx(0.0, abs=1e-15)
    # What leaves the frame does not come back on the other side: the halves of a pair stay apart.
    pair = (delta(size, 0, 0) + delta(size, 0, size - 1)) / 2
    near = (delta(size, 0, 0) + delta(size, 0, 1)) / 2
    assert kernel_error(pair, near).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("ours", "theirs"), [(5, 7), (5, 8), (6, 9), (6, 8), (21, 25)])
def test_a_larger_truth_is_cut_around_its_centre(ours: int, theirs: int) -> None:
    true = kernels(2, theirs)
    first = theirs // 2 - ours // 2
    part = true[..., first : first + ours, first : first + ours]
    estimated = kernels(2, ours, seed=1)
    expected = kernel_error(estimated, part / part.sum((2, 3), keepdim=True))
    assert kernel_error(estimated, true).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize(("ours", "theirs"), [(8, 5), (9, 4)])
def test_a_smaller_truth_is_as_it_is(ours: int, theirs: int) -> None:
    wide = torch.zeros(1, 1, ours, ours, dtype=torch.float64)
    wide[..., :theirs, :theirs] = kernels(1, theirs)
    assert kernel_error(wide, kernels(1, theirs)).item() == pytest.approx(0.0, abs=1e-15)


def test_a_mirrored_kernel_is_wrong() -> None:
    true = kernels(1, 7)
    assert kernel_error(true.flip(2, 3), true).item() > 0.01


def test_a_nan_shows_and_others_are_unharmed() -> None:
    estimated = kernels(2, 5)
    estimated[0, 0, 2, 2] = float("nan")
    error = kernel_error(estimated, kernels(2, 5))
    assert error[0].isnan()
    assert error[1].item() == pytest.approx(0.0, abs=1e-15)


def test_shapes_that_are_no_kernels() -> None:
    with pytest.raises(ValueError, match=r"estimated kernels have shape \[1, 3, 5, 5\]"):
        kernel_error(torch.zeros(1, 3, 5, 5), kernels(1, 5))
    with pytest.raises(ValueError, match=r"true kernels have shape \[1, 1, 5, 4\]"):
        kernel_error(kernels(1, 5), torch.zeros(1, 1, 5, 4))
    with pytest.raises(ValueError, match="2 estimated and 1 true kernels"):
        kernel_error(kernels(2, 5), kernels(1, 5))
