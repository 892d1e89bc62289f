"""Losses: functions of two images, and the multi-branch sum that a config composes of them.

Every function takes (restored, target) of equal shape [B, C, H, W] and returns a scalar.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from datamodules.batch import Batch
from datamodules.errors import OptionError
from lightning_modules.options import read_options
from networks.dan import to_support
from networks.ops.luma import luma
from networks.ops.resize import bicubic_resize, bilinear_shrink
from networks.restored import Restored

# "sum" is the sum over an image, its mean over the batch; "literal" is what the equations of ED-DSRN say.
Reduction = Literal["mean", "literal", "sum"]

# The batch field that each branch of `Restored` is compared with: the pyramid with reductions of it, the code with the
# network's code of it.
TARGETS = {"sr": "hr", "deblurred": "lr_sharp", "kernel": "kernel", "pyramid": "hr", "code": "kernel"}


def mse(restored: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared L2. "mean": over all elements; "literal", "sum": over an image, mean over the batch (ED-DSRN, eq. 4)."""
    return _reduced((restored - target).square(), reduction)


def l1(restored: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Absolute difference. "mean": over all elements; "literal", "sum": over an image, mean over the batch."""
    return _reduced((restored - target).abs(), reduction)


def charbonnier(restored: Tensor, target: Tensor, reduction: Reduction = "mean", eps: float = 1e-3) -> Tensor:
    """sqrt(d^2 + eps^2). "mean": over all elements; "literal": channels summed (ED-DSRN, eq. 5); "sum" (LapSRN)."""
    distance = ((restored - target).square() + eps**2).sqrt()
    return distance.sum(1).mean() if reduction == "literal" else _reduced(distance, reduction)


def psnr(restored: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Minus the PSNR in dB of images with values in [0, 1], at most 80 dB; mean over the batch (NAFNet)."""
    squared = (restored - target).square().flatten(1).mean(1)
    return 10 * (squared + 1e-8).log10().mean()


def _reduced(values: Tensor, reduction: Reduction) -> Tensor:
    return values.mean() if reduction == "mean" else values.sum() / len(values)


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Reduction], Tensor]] = {
    "mse": mse,
    "l1": l1,
    "charbonnier": charbonnier,
    "psnr": psnr,
}


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Term:
    """One term of a `MultiBranchLoss`; see there."""

    fn: Annotated[Literal["mse", "l1", "charbonnier", "psnr"], Field(description=f"one of {', '.join(FUNCTIONS)}")]
    weight: Annotated[float, Field(ge=0, description="a number >= 0")] = 1.0
    reduction: Annotated[Reduction, Field(description="mean, literal or sum")] = "mean"
    colour: Annotated[Literal["rgb", "y"], Field(description="rgb or y")] = "rgb"
    resize: Annotated[Literal["half_pixel", "tf1", "bicubic"], Field(description="half_pixel, tf1 or bicubic")] = (
        "half_pixel"
    )


KEYS = ("fn", "weight", "reduction")  # of a term of any branch; these have more:
MORE_KEYS = {"sr": ("colour",), "pyramid": ("colour", "resize")}


def read_terms(terms: Mapping[str, Mapping[str, Any]], where: str = "loss.terms") -> dict[str, Term]:
    """The terms of a config by branch; `where` is their path in it. Raises what `MultiBranchLoss` does."""
    if not terms:
        raise OptionError(f"{where} is empty, expected at least one branch", key=where)
    for branch in terms:
        if branch not in TARGETS:
            key = f"{where}.{branch}"
            raise OptionError(f"{key}: unknown branch, expected one of {', '.join(TARGETS)}", key=key)
    read = {
        branch: read_options(Term, f"{where}.{branch}", term, KEYS + MORE_KEYS.get(branch, ()))
        for branch, term in terms.items()
    }
    for branch, term in read.items():
        if term.fn == "psnr" and term.reduction != "mean":
            key = f"{where}.{branch}.reduction"
            raise OptionError(key=key, found=repr(term.reduction), expected="mean beside fn: psnr")
    return read


class MultiBranchLoss(nn.Module):
    """A weighted sum of losses, one for each supervised branch of the network.

    Where the network returns estimates of earlier loops too (`Restored.earlier`), every term is their mean.

    Args:
        terms: by branch (a field of `Restored`): `fn`, a name of `FUNCTIONS`; `weight`; optionally `reduction`; for
            `sr` and the pyramid optionally `colour`, where "y" compares their luma and that of the target; for the
            pyramid optionally `resize`, which reduces the target: "bicubic" (MATLAB's imresize) or a convention of
            `networks.ops.resize.bilinear_resize`. The pyramid's term is the sum over its scales.

    Raises:
        OptionError: for an unknown branch, function, key, or word for one, a weight that is none, or no term at all.
    """

    def __init__(self, terms: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.terms = read_terms(terms)

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
            total = total + term.weight * parts[branch]
        return {"total": total, **parts}


def _compare(value: Tensor | list[Tensor], target: Tensor, term: Term) -> Tensor:
    """One term of one estimate. In float32 under autocast: squares of small differences vanish in half precision."""
    fn = FUNCTIONS[term.fn]
    target = target.float() if target.dtype in (torch.float16, torch.bfloat16) else target

    def compared(images: Tensor) -> Tensor:
        return luma(images.to(target.dtype)) if term.colour == "y" else images.to(target.dtype)

    if isinstance(value, Tensor):
        return fn(compared(value), compared(target), term.reduction)
    finer = range(len(value) - 1, -1, -1)  # coarsest first: reduced by 2^(n-1), ..., 2, 1
    scales = [
        fn(compared(estimate), compared(_shrink(target, 2**k, term.resize)), term.reduction)
        for k, estimate in zip(finer, value, strict=True)
    ]
    return torch.stack(scales).sum()


def _shrink(images: Tensor, factor: int, resize: str) -> Tensor:
    if resize == "bicubic":
        return bicubic_resize(images, factor, down=True)
    return bilinear_shrink(images, factor, "tf1" if resize == "tf1" else "half_pixel")
