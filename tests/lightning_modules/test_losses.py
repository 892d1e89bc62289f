import pytest
import torch

from datamodules.batch import Batch
from lightning_modules.losses import MultiBranchLoss, charbonnier, l1, mse
from networks.restored import Restored


def image(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def batch(hr: torch.Tensor, lr_sharp: torch.Tensor | None = None) -> Batch:
    n = len(hr)
    return Batch(hr=hr, name=["x"] * n, index=torch.arange(n), key=torch.arange(n), lr_sharp=lr_sharp)


def test_hand_values() -> None:
    a, b = image(0, 0, 3), image(1, -1, 5)
    assert mse(a, b).item() == 2.0
    assert l1(a, b).item() == pytest.approx(4 / 3)
    assert charbonnier(a, b).item() == pytest.approx((2 * 1.000001**0.5 + 4.000001**0.5) / 3, abs=1e-12)
    assert charbonnier(a, a).item() == pytest.approx(1e-3)


def test_literal_reductions_of_the_paper() -> None:
    """Eq. 4 has no 1/N over pixels, eq. 5 divides by N W H but not by the channels."""
    a, b = torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 0.5)
    assert mse(a, b, "literal").item() == pytest.approx(0.25 * 60)
    assert l1(a, b, "literal").item() == pytest.approx(0.5 * 60)
    assert charbonnier(a, b, "literal").item() == pytest.approx(3 * 0.250001**0.5)


def test_ed_dsrn_loss() -> None:
    loss = MultiBranchLoss({"sr": {"fn": "mse", "weight": 1.0}, "deblurred": {"fn": "charbonnier", "weight": 0.2}})
    sr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    deblurred, lr_sharp = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)
    parts = loss(Restored(sr=sr, deblurred=deblurred), batch(hr, lr_sharp))
    first = ((sr - hr).double() ** 2).mean()
    second = (((deblurred - lr_sharp).double() ** 2 + 1e-6) ** 0.5).mean()
    assert parts["sr"].item() == pytest.approx(first.item(), rel=1e-6)
    assert parts["deblurred"].item() == pytest.approx(second.item(), rel=1e-6)
    assert parts["total"].item() == pytest.approx((first + 0.2 * second).item(), rel=1e-6)


def test_half_precision_results_are_measured_in_float32() -> None:
    loss = MultiBranchLoss({"sr": {"fn": "mse"}})
    sr = torch.full((1, 1, 2, 2), 0.5, dtype=torch.bfloat16)
    total = loss(Restored(sr=sr), batch(torch.full((1, 1, 2, 2), 0.501)))["total"]
    assert total.item() == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({}, "empty"),
        ({"srr": {"fn": "mse"}}, "loss.terms.srr: unknown branch"),
        ({"sr": {"fn": "msee"}}, "loss.terms.sr.fn: found 'msee'"),
        ({"sr": {"fn": "mse", "wieght": 1}}, "unknown key wieght"),
        ({"sr": {"fn": "mse", "reduction": "sum"}}, "expected mean or literal"),
    ],
)
def test_mistakes_in_the_config(terms: dict[str, dict[str, str]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultiBranchLoss(terms)


def test_a_supervised_branch_must_exist() -> None:
    loss = MultiBranchLoss({"deblurred": {"fn": "mse"}})
    hr = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="network returned no 'deblurred'"):
        loss(Restored(sr=hr), batch(hr))
    with pytest.raises(ValueError, match="batch has no 'lr_sharp'"):
        loss(Restored(sr=hr, deblurred=hr), batch(hr))
