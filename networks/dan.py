"""The kernel estimator of DAN, and the linear code it describes blur kernels with.

Z. Luo, Y. Huang, S. Li, L. Wang, T. Tan, "Unfolding the alternating optimization for blind super resolution" (DAN),
NeurIPS 2020; the softmax output is that of its successor, "End-to-end alternating optimization for real-world blind
super resolution" (DANv2), same authors.

Names and order of the estimator's parameters are those of the public code, so that its weights load. What differs: the
public code keeps only the directions of the principal component analysis, which sum to zero and so give no kernel back;
`KernelBasis` keeps the mean kernel with them and decodes. Of DANv2 only the output layer is taken.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.ops.fourier import work_dtype
from networks.ops.options import check_choice, check_kernel_size, check_positive

SLOPE = 0.2


class ChannelAttention(nn.Module):
    """Every channel times a number in (0, 1) computed from the means of all channels."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        narrow = width // reduction
        self.body = nn.Sequential(
            *(nn.Conv2d(width, narrow, 1), nn.LeakyReLU(SLOPE, inplace=True)),
            *(nn.Conv2d(narrow, width, 1), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.body(x.mean((-2, -1), keepdim=True))


class ConditionalBlock(nn.Module):
    """Residual block on `basic` that also sees `condition`, both [B, width, h, w]; returns the new `basic`."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)),
            *(nn.Conv2d(2 * width, width, 3, padding=1), ChannelAttention(width, reduction)),
        )

    def forward(self, basic: Tensor, condition: Tensor) -> Tensor:
        return basic + self.body(torch.cat((basic, condition), 1))


class DANEstimator(nn.Module):
    """Estimates the blur from a degraded image and its present restoration.

    `estimator(sr, lr)` with `sr` [B, 3, scale*h, scale*w] and `lr` [B, 3, h, w], about [0, 1], any size, gives the code
    [B, code_dim] of a kernel (see `KernelBasis`), or with the softmax head the kernel [B, 1, kernel_size, kernel_size]
    itself, positive, sum 1.

    Args:
        scale: ratio of the sides of `sr` and `lr`, 1 to 4 (the first 9x9 convolution on `sr` steps by it).
        code_dim: length of the code.
        width: channels of each of the two branches.
        n_blocks: conditional residual blocks.
        reduction: of channels within channel attention.
        head: "code" (DAN) or "softmax" over kernel elements (DANv2), which is not bound to a basis: for motion blur.
        kernel_size: side of the kernel of the softmax head.
    """

    def __init__(
        self,
        scale: int,
        code_dim: int = 10,
        width: int = 32,
        n_blocks: int = 5,
        reduction: int = 16,
        head: Literal["code", "softmax"] = "code",
        kernel_size: int = 21,
    ) -> None:
        super().__init__()
        check_choice("scale", scale, (1, 2, 3, 4))
        check_choice("head", head, ("code", "softmax"))
        check_positive(code_dim=code_dim, n_blocks=n_blocks, reduction=reduction)
        check_kernel_size(kernel_size=kernel_size)
        if width < reduction:
            raise ValueError(f"width is {width}, expected at least reduction, {reduction}")
        self.head, self.kernel_size = head, kernel_size
        self.head_LR = nn.Conv2d(3, width, 1)
        self.head_HR = nn.Conv2d(3, width, 9, scale, 4)
        self.body = nn.ModuleList(ConditionalBlock(width, reduction) for _ in range(n_blocks))
        self.out = nn.Conv2d(width, code_dim if head == "code" else kernel_size**2, 3, padding=1)

    def forward(self, sr: Tensor, lr: Tensor) -> Tensor:
        basic, condition = self.head_LR(lr), self.head_HR(sr)
        for block in self.body:
            basic = block(basic, condition)
        out = self.out(basic).mean((-2, -1))
        if self.head == "code":
            return out
        return out.softmax(1).view(-1, 1, self.kernel_size, self.kernel_size)


class KernelBasis(nn.Module):
    """Principal components of a set of kernels: kernels to short codes and back.

    It starts empty. `fit` fills it; the result is part of the state dict, with the number of kernels and the seed that
    made it, so a checkpoint brings the basis it was trained with.

    Args:
        kernel_size: side k of the kernels.
        code_dim: number d of components, below k * k.
    """

    mean: Tensor  # [k * k]
    components: Tensor  # [k * k, d], orthonormal columns, most variance first
    n_kernels: Tensor  # int64 scalar, 0 before `fit`
    seed: Tensor  # int64 scalar

    def __init__(self, kernel_size: int = 21, code_dim: int = 10) -> None:
        super().__init__()
        check_positive(code_dim=code_dim)
        check_kernel_size(kernel_size=kernel_size)
        if code_dim >= kernel_size**2:
            raise ValueError(f"code_dim is {code_dim}, expected less than the {kernel_size**2} elements of a kernel")
        self.kernel_size, self.code_dim = kernel_size, code_dim
        self.register_buffer("mean", torch.zeros(kernel_size**2))
        self.register_buffer("components", torch.zeros(kernel_size**2, code_dim))
        self.register_buffer("n_kernels", torch.tensor(0))
        self.register_buffer("seed", torch.tensor(0))
        self._fitted = False
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def _forget(self) -> None:
        self._fitted = False

    @property
    def fitted(self) -> bool:
        """Whether there is a basis; remembered once true, as reading `n_kernels` makes a GPU wait."""
        self._fitted = self._fitted or int(self.n_kernels) > 0
        return self._fitted

    @torch.no_grad()
    def fit(self, kernels: Tensor, seed: int) -> None:
        """Make the basis from a sample of the training kernels.

        The components are eigenvectors of the covariance in float64, computed on the CPU: the same on every machine up
        to rounding. Their sign, which is arbitrary, is that which makes the first large element positive.

        Args:
            kernels: [N, 1, k', k'] with sum 1, N > d, any side (see `to_support`).
            seed: what the kernels were drawn with, for the record.

        Raises:
            ValueError: for another shape or fewer kernels.
        """
        if kernels.dim() != 4 or kernels.shape[1] != 1:
            raise ValueError(f"kernels have shape {list(kernels.shape)}, expected [N, 1, k, k]")
        if len(kernels) <= self.code_dim:
            raise ValueError(f"there are {len(kernels)} kernels, expected more than the code's {self.code_dim} numbers")
        data = to_support(kernels.cpu().double(), self.kernel_size).flatten(1)
        mean = data.mean(0)
        data = data - mean
        _, vectors = torch.linalg.eigh(data.T @ data)  # ascending
        components = vectors[:, -self.code_dim :].flip(1)
        # "The largest" would not do: odd-symmetric components have it twice, with opposite signs.
        large = components.abs() > components.abs().amax(0) / 2
        first = large.int().argmax(0, keepdim=True)
        self.mean.copy_(mean)
        self.components.copy_(components * components.gather(0, first).sign())
        self.n_kernels.fill_(len(kernels))
        self.seed.fill_(seed)

    def mean_kernel(self) -> Tensor:
        """The mean of the kernels of `fit` [1, 1, k, k]."""
        self._require()
        return self.mean.view(1, 1, self.kernel_size, self.kernel_size)

    def encode(self, kernels: Tensor) -> Tensor:
        """Codes [B, d] of kernels [B, 1, k', k'] with sum 1; of another side k', their centre counts (`to_support`).

        code = W^T k, without subtracting the mean: so DAN defines it.
        """
        self._require()
        with torch.autocast(kernels.device.type, enabled=False):
            dtype = work_dtype(kernels, self.mean)
            flat = to_support(kernels.to(dtype), self.kernel_size).flatten(1)
            return flat @ self.components.to(dtype)

    def decode(self, code: Tensor) -> Tensor:
        """Kernels [B, 1, k, k], non-negative, sum 1, of codes [B, d].

        m + W (code - W^T m), negative elements set to 0, divided by the sum. Without any positive element, which takes
        a code that is not a number, or a basis of kernels with other sums, it is the mean kernel m.
        """
        self._require()
        with torch.autocast(code.device.type, enabled=False):
            dtype = work_dtype(code, self.mean)
            mean, components = self.mean.to(dtype), self.components.to(dtype)
            flat = (mean + (code.to(dtype) - mean @ components) @ components.T).clamp(min=0)
            total = flat.sum(1, keepdim=True)
            positive = total > 0
            flat = torch.where(positive, flat / torch.where(positive, total, 1), mean)
        return flat.view(-1, 1, self.kernel_size, self.kernel_size)

    def _require(self) -> None:
        if not _filled(self):
            raise RuntimeError("the kernel basis is empty: call fit with kernels, or load a checkpoint that has one")


@torch.compiler.assume_constant_result  # reading `n_kernels` would break a compiled graph
def _filled(basis: KernelBasis) -> bool:
    return basis.fitted


def to_support(kernels: Tensor, size: int) -> Tensor:
    """Kernels [B, 1, h, w] on a square support of side `size` around the same centre, index floor(side / 2).

    A smaller one is padded with zeros; a larger one is cut and divided by the sum that is left.
    """
    pads = []
    for side in (kernels.shape[-1], kernels.shape[-2]):
        before = size // 2 - side // 2
        pads += [before, size - side - before]
    if min(pads) >= 0:
        return F.pad(kernels, pads)
    kernels = F.pad(kernels, pads)  # negative padding cuts
    total = kernels.sum((-2, -1), keepdim=True)
    return kernels / torch.where(total > 0, total, 1)
