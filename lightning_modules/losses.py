"""Losses: functions of two images, and the multi-branch sum that a config composes of them.

Every function takes (restored, target) of equal shape [B, C, H, W] and returns a scalar.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from networks.dan import to_support
from networks.resize import bilinear_shrink
from networks.restored import Restored

Reduction = Literal["mean", "literal"]

# The batch field that each branch of `Restored` is compared with: the pyramid with reductions of it, the code with the
# network's code of it.
TARGETS = {"sr": "hr", "deblurred": "lr_sharp", "kernel": "kernel", "pyramid": "hr", "code": "kernel"}


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

    Where the network returns estimates of earlier loops too (`Restored.earlier`), every term is their mean.

    Args:
        terms: by branch (a field of `Restored`): `fn`, a name of `FUNCTIONS`; `weight`; optionally `reduction`; for the
            pyramid optionally `resize`, see `networks.resize.bilinear_resize`: its term is the sum over its scales.

    Raises:
        ValueError: for an unknown branch, function, key, reduction or resize, a weight that is none, or no term at all.
    """

    def __init__(self, terms: Mapping[str, Mapping[str, str | float]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("loss.terms is empty, expected at least one branch")
        for branch, term in terms.items():
            if branch not in TARGETS:
                raise ValueError(f"loss.terms.{branch}: unknown branch, expected one of {', '.join(TARGETS)}")
            if not isinstance(term, Mapping):
                raise ValueError(f"loss.terms.{branch}: found {term!r}, expected fn, weight and reduction")
            keys = ("fn", "weight", "reduction", "resize") if branch == "pyramid" else ("fn", "weight", "reduction")
            if unknown := set(term) - set(keys):
                raise ValueError(f"loss.terms.{branch}: unknown key {min(unknown)}, expected {', '.join(keys)}")
            if term.get("fn") not in FUNCTIONS:
                raise ValueError(
                    f"loss.terms.{branch}.fn: found {term.get('fn')!r}, expected one of {', '.join(FUNCTIONS)}"
                )
            weight = term.get("weight", 1.0)
            if not isinstance(weight, int | float) or not weight >= 0:
                raise ValueError(f"loss.terms.{branch}.weight: found {weight!r}, expected a number >= 0")
            for key, words in (("reduction", ("mean", "literal")), ("resize", ("half_pixel", "tf1"))):
                if term.get(key, words[0]) not in words:
                    raise ValueError(f"loss.terms.{branch}.{key}: found {term[key]!r}, expected {' or '.join(words)}")
        self.terms = {branch: dict(term) for branch, term in terms.items()}

    def forward(
        self, restored: Restored, batch: Batch, encode: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The weighted total under "total" and the unweighted value of each term under its branch name.

        Args:
            encode: makes a kernel's code, for a network that is supervised on it.

        Raises:
            ValueError: if the network did not return a supervised branch, or the batch lacks its target.
        """
        estimates = [*(restored.earlier or ()), restored]
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.hr.device)
        for branch, term in self.terms.items():
            target = getattr(batch, TARGETS[branch])
            if target is None or getattr(restored, branch) is None:
                returned = getattr(restored, branch) is not None
                missing = f"the batch has no {TARGETS[branch]!r}" if returned else f"the network returned no {branch!r}"
                raise ValueError(f"loss.terms.{branch} cannot be computed: {missing}")
            if branch == "code":
                if encode is None:
                    raise ValueError("loss.terms.code cannot be computed: the network has no encode for the kernels")
                target = encode(target)
            if branch == "kernel":
                target = to_support(target, restored.kernel.shape[-1])  # type: ignore[union-attr]  # it is there
            values = [_compare(getattr(estimate, branch), target, term) for estimate in estimates]
            parts[branch] = torch.stack(values).mean()
            total = total + float(term.get("weight", 1.0)) * parts[branch]
        return {"total": total, **parts}


def _compare(value: Tensor | list[Tensor], target: Tensor, term: Mapping[str, str | float]) -> Tensor:
    """One term of one estimate. In float32 under autocast: squares of small differences vanish in half precision."""
    fn = FUNCTIONS[str(term["fn"])]
    reduction: Reduction = "literal" if term.get("reduction") == "literal" else "mean"
    target = target.float() if target.dtype in (torch.float16, torch.bfloat16) else target
    if isinstance(value, Tensor):
        return fn(value.to(target.dtype), target, reduction)
    convention: Literal["half_pixel", "tf1"] = "tf1" if term.get("resize") == "tf1" else "half_pixel"
    finer = range(len(value) - 1, -1, -1)  # coarsest first: reduced by 2^(n-1), ..., 2, 1
    scales = [
        fn(estimate.to(target.dtype), bilinear_shrink(target, 2**k, convention), reduction)
        for k, estimate in zip(finer, value, strict=True)
    ]
    return torch.stack(scales).sum()
