"""Losses: functions of two images, and the multi-branch sum that a config composes of them.

Every function takes (restored, target) of equal shape [B, C, H, W] and returns a scalar.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from networks.restored import Restored

Reduction = Literal["mean", "literal"]

# The batch field that each branch of `Restored` is compared with.
TARGETS = {"sr": "hr", "deblurred": "lr_sharp", "kernel": "kernel"}


def mse(restored: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared L2. "mean": over all elements; "literal": sum over an image, mean over the batch (ED-DSRN, eq. 4)."""
    squared = (restored - target).square()
    return squared.mean() if reduction == "mean" else squared.sum() / len(squared)


def l1(restored: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Absolute difference. "mean": over all elements; "literal": sum over an image, mean over the batch."""
    absolute = (restored - target).abs()
    return absolute.mean() if reduction == "mean" else absolute.sum() / len(absolute)


def charbonnier(restored: Tensor, target: Tensor, reduction: Reduction = "mean", eps: float = 1e-3) -> Tensor:
    """sqrt(d^2 + eps^2). "mean": over all elements; "literal": channels summed (ED-DSRN, eq. 5)."""
    distance = ((restored - target).square() + eps**2).sqrt()
    return distance.mean() if reduction == "mean" else distance.sum(1).mean()


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Reduction], Tensor]] = {
    "mse": mse,
    "l1": l1,
    "charbonnier": charbonnier,
}


class MultiBranchLoss(nn.Module):
    """A weighted sum of losses, one for each supervised branch of the network.

    Args:
        terms: by branch (a field of `Restored`): `fn`, a name of `FUNCTIONS`; `weight`; optionally `reduction`.

    Raises:
        ValueError: for an unknown branch, function, key or reduction, or no term at all.
    """

    def __init__(self, terms: Mapping[str, Mapping[str, str | float]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("loss.terms is empty, expected at least one branch")
        for branch, term in terms.items():
            if branch not in TARGETS:
                raise ValueError(f"loss.terms.{branch}: unknown branch, expected one of {', '.join(TARGETS)}")
            if unknown := set(term) - {"fn", "weight", "reduction"}:
                raise ValueError(f"loss.terms.{branch}: unknown key {min(unknown)}, expected fn, weight, reduction")
            if term.get("fn") not in FUNCTIONS:
                raise ValueError(
                    f"loss.terms.{branch}.fn: found {term.get('fn')!r}, expected one of {', '.join(FUNCTIONS)}"
                )
            if term.get("reduction", "mean") not in ("mean", "literal"):
                raise ValueError(
                    f"loss.terms.{branch}.reduction: found {term['reduction']!r}, expected mean or literal"
                )
        self.terms = {branch: dict(term) for branch, term in terms.items()}

    def forward(self, restored: Restored, batch: Batch) -> dict[str, Tensor]:
        """The weighted total under "total" and the unweighted value of each term under its branch name.

        Raises:
            ValueError: if the network did not return a supervised branch, or the batch lacks its target.
        """
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.hr.device)
        for branch, term in self.terms.items():
            value, target = getattr(restored, branch), getattr(batch, TARGETS[branch])
            if value is None or target is None:
                missing = (
                    f"the network returned no {branch!r}" if value is None else f"the batch has no {TARGETS[branch]!r}"
                )
                raise ValueError(f"loss.terms.{branch} cannot be computed: {missing}")
            reduction: Reduction = "literal" if term.get("reduction") == "literal" else "mean"
            # Losses stay float32 under autocast: squares of small differences vanish in half precision.
            parts[branch] = FUNCTIONS[str(term["fn"])](value.float(), target.float(), reduction)
            total = total + float(term.get("weight", 1.0)) * parts[branch]
        return {"total": total, **parts}
