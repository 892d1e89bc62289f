import math
from statistics import NormalDist

import pytest
import torch

from datamodules.degradations.keyed_random import bits, integers, make_key, normal, normal_field


def keys(count: int) -> torch.Tensor:
    return torch.tensor([make_key("test_random", i) for i in range(count)])


def test_normal_is_box_muller_on_the_hash() -> None:
    mask = (1 << 32) - 1
    got = normal(keys(3), "stream", (5,))
    assert got.dtype == torch.float32
    for row, hashes in zip(got.tolist(), bits(keys(3), "stream", (3,)).tolist(), strict=True):
        expected = []
        for value in hashes:
            radius = math.sqrt(-2 * math.log(((value >> 32 & mask) + 1) / 2**32))
            angle = 2 * math.pi * (value & mask) / 2**32
            expected += [radius * math.cos(angle), radius * math.sin(angle)]
        assert row == pytest.approx(expected[:5], rel=1e-6, abs=1e-7)


def test_normal_has_the_moments_and_tails_of_its_law() -> None:
    draws = normal(keys(4000), "stream", (250,)).double()
    n = draws.numel()
    # Five standard errors of the moments of a normal sample: variances 1, 2, 15, 96 over n.
    assert abs(draws.mean()) < 5 * n**-0.5
    assert abs(draws.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((draws**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((draws**4).mean() - 3) < 5 * (96 / n) ** 0.5
    for threshold in (0.5, 1.0, 2.0, 3.0, 4.0):
        share = math.erfc(threshold / math.sqrt(2))
        assert abs((draws.abs() > threshold).double().mean() - share) < 5 * (share / n) ** 0.5
    # The halves of a pair, neighbours of other pairs, and streams.
    columns = torch.cat((draws[:, :6], normal(keys(4000), "other", (4,)).double()), 1)
    assert torch.corrcoef(columns.T).fill_diagonal_(0).abs().max() < 0.08
    assert torch.corrcoef((columns**2).T).fill_diagonal_(0).abs().max() < 0.08


def test_normal_is_finite_at_the_ends_of_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = torch.tensor([[0, -1, (1 << 32) - 1, -(1 << 32)]])
    monkeypatch.setattr("datamodules.degradations.keyed_random.bits", lambda *_: ends)
    draws = normal(keys(1), "stream", (8,))
    assert draws.isfinite().all()
    assert draws.abs().max() == pytest.approx(math.sqrt(64 * math.log(2)))


def test_integers_fill_their_range_evenly() -> None:
    draws = integers(keys(4000), "stream", (5,), low=-3, high=4)
    assert draws.dtype == torch.int64
    assert draws.shape == (4000, 5)
    values, counts = draws.unique(return_counts=True)
    assert values.tolist() == list(range(-3, 4))
    expected = 20000 / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi square, 6 degrees of freedom, p = 0.001


def test_integers_of_one_and_of_the_most_values() -> None:
    assert integers(keys(9), "stream", low=7, high=8).tolist() == [7] * 9
    wide = integers(keys(4000), "stream", low=-(1 << 30), high=1 << 30)
    assert -(1 << 30) <= wide.min() < -0.99 * (1 << 30)
    assert 0.99 * (1 << 30) < wide.max() < 1 << 30


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (0, (1 << 31) + 1)])
def test_impossible_ranges(low: int, high: int) -> None:
    with pytest.raises(ValueError, match=r"expected high - low in 1 \.\.\. 2\^31"):
        integers(keys(1), "stream", low=low, high=high)


def test_a_draw_depends_on_key_stream_and_position_only() -> None:
    whole = keys(33)
    together = normal(whole, "stream", (3, 7)), integers(whole, "stream", (3, 7), low=0, high=1000)
    for i in (0, 17, 32):
        alone = whole[i : i + 1]
        assert torch.equal(normal(alone, "stream", (3, 7))[0], together[0][i])
        assert torch.equal(integers(alone, "stream", (3, 7), low=0, high=1000)[0], together[1][i])
    # A longer draw begins with the shorter one, also where that ends within a pair.
    assert torch.equal(normal(whole, "stream", (5,)), together[0].flatten(1)[:, :5])
    assert not torch.equal(normal(whole, "other", (3, 7)), together[0])
    assert normal(whole, "stream").shape == (33,)
    assert normal(whole[:0], "stream", (4,)).shape == (0, 4)


def test_normal_field_inverts_the_distribution_at_each_half_of_a_hash() -> None:
    """Against Python integers and the standard library's quantiles, negative keys included; odd counts too."""
    some = torch.tensor([7, -(2**60), 2**63 - 1])
    got = normal_field(some, "stream", (3, 5)).flatten(1)
    for row, hashes in enumerate(bits(some, "stream", (8,)).tolist()):
        halves = [half for value in hashes for half in ((value & 0xFFFFFFFF), (value >> 32) & 0xFFFFFFFF)]
        for i in range(15):
            signed = halves[i] - (1 << 32 if halves[i] >= 1 << 31 else 0)
            share = ((signed >> 8) + 0.5 + 2**23) / 2**24
            assert got[row, i].item() == pytest.approx(NormalDist().inv_cdf(share), abs=2e-6)


def test_normal_field_is_white_and_standard() -> None:
    draws = normal_field(keys(64), "stream", (3, 40, 40)).double()
    assert abs(draws.mean()) < 5 / draws.numel() ** 0.5
    assert abs(draws.var() - 1) < 5 * (2 / draws.numel()) ** 0.5
    assert abs((draws**4).mean() - 3) < 0.1
    for shifted in (draws.roll(1, 3), draws.roll(1, 2), draws.roll(1, 1), draws.roll(1, 0)):
        assert abs((draws * shifted).mean()) < 5 / draws.numel() ** 0.5
    alone = normal_field(keys(64)[5:6], "stream", (3, 40, 40))
    assert torch.equal(alone[0], normal_field(keys(64), "stream", (3, 40, 40))[5])
