"""USRNet+DAN: blind super-resolution that alternates between restoring the image and estimating the blur kernel.

The system of the article "Single Blind Image Super-Resolution Using Deep Learning": the loop of DAN (Luo, Huang, Li,
Wang, Tan, "Unfolding the alternating optimization for blind super resolution", NeurIPS 2020) with USRNet (Zhang, Van
Gool, Timofte, "Deep unfolding network for image super-resolution", CVPR 2020) in the place of DAN's restorer. No code
was published.

The article leaves open the number of loops, the first kernel, the losses and how a code becomes a kernel. Loops,
detached gradients and the supervision of only the last loop are DAN's; codes are decoded with the mean kernel
(`networks.dan.KernelBasis`). The first kernel is the mean kernel, not DAN's delta: training kernels for USRNet's
down-sampler lie off centre by up to (scale - 1) / 2 pixels. The restorer of
`model=dan_usrnet` is the full USRNet, as in the article; that of this class is by default the tiny one, for it runs
n_loops * n_iter times. The softmax head, training through the loop and the two preparatory phases are additions.
"""

from collections.abc import Mapping
from math import gcd
from typing import Any, Literal

import torch
from torch import Tensor

from networks.base import RestorationNetwork
from networks.dan import DANEstimator, KernelBasis
from networks.ops.options import check_choice, check_positive
from networks.restored import Restored
from networks.usrnet import USRNet

Phase = Literal["joint", "restorer", "estimator"]
RESTORER = {"n_iter": 6, "widths": (16, 32, 64, 64), "n_blocks": 2, "hyper_width": 32, "hyper": "learned"}
ESTIMATOR = {"width": 32, "n_blocks": 5, "reduction": 16}


class DANUSRNet(RestorationNetwork):
    """USRNet with the kernel estimator of DAN, for one scale.

    Inputs `lr` [B, 3, h, w], about [0, 1], any size, and `noise_level` [B, 1, 1, 1], its standard deviation. Outputs
    `sr` [B, 3, scale*h, scale*w], `kernel` [B, 1, kernel_size, kernel_size], estimated in the last loop from that `sr`,
    and its `code` [B, code_dim] (code head only). Targets of `code` are `encode(true kernels)`.

    `fit_basis` has to be called before the first use of a new network with the code head or the first kernel "mean".
    Parts by name: `restorer.*`, `estimator.*`; the buffers `basis.*`.

    Attributes:
        phase: what `forward` does; may be changed at any time. "joint": the blind system. "restorer": only the
            restorer, with the true kernel as the input `kernel`; output `sr`. "estimator": `sr` is made with the true
            kernel, without gradient, and the estimator applied to it once. The latter two prepare the parts on their
            own for a stable joint training.

    Args:
        scale: 1 to 4.
        n_loops: how often restorer and estimator run.
        code_dim: length of the code; 10 holds Gaussians, motion blur needs about 100 or the softmax head.
        kernel_size: side of the estimated kernels.
        restorer: options of `USRNet` that differ from the tiny one: n_iter, widths, n_blocks, hyper_width, hyper.
        estimator: options of `DANEstimator` that differ from the published one: width, n_blocks, reduction.
        kernel_init: kernel of the first loop, the "mean" of the basis or a "delta" at index floor(kernel_size / 2).
        detach: no gradient passes between restorer and estimator (DAN); with False the losses of a loop reach the
            loops before it, through the kernel in the restorer and through the image in the estimator.
        supervise: "last" or "all"; with "all" the output `earlier` holds the results of the loops before the last.
        head: of the estimator, "code" or "softmax"; the latter gives kernels only, to be supervised themselves.
        phase: the first value of the attribute.

    Raises:
        ValueError: if `kernel` is missing or given against the phase.
        RuntimeError: if the basis is needed and empty.
    """

    lr_sampling = USRNet.lr_sampling
    periodic = whole_image = has_basis = True

    def __init__(
        self,
        scale: int,
        n_loops: int = 4,
        code_dim: int = 10,
        kernel_size: int = 21,
        restorer: Mapping[str, Any] | None = None,
        estimator: Mapping[str, Any] | None = None,
        kernel_init: Literal["mean", "delta"] = "mean",
        detach: bool = True,
        supervise: Literal["last", "all"] = "last",
        head: Literal["code", "softmax"] = "code",
        phase: Phase = "joint",
    ) -> None:
        super().__init__()
        check_positive(n_loops=n_loops)
        check_choice("kernel_init", kernel_init, ("mean", "delta"))
        check_choice("supervise", supervise, ("last", "all"))
        self.estimator = DANEstimator(
            scale, code_dim, head=head, kernel_size=kernel_size, **merged("estimator", ESTIMATOR, estimator)
        )
        self.basis = KernelBasis(kernel_size, code_dim)
        self.restorer = USRNet(**merged("restorer", RESTORER, restorer))
        self.scale, self.n_loops, self.kernel_size, self.kernel_side = scale, n_loops, kernel_size, kernel_size
        self.kernel_init, self.detach, self.supervise, self.head = kernel_init, detach, supervise, head
        self.size_multiple = 8 // gcd(8, scale)  # the restorer's network runs on the large image, in multiples of 8
        self.phase = phase

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        check_choice("phase", phase, ("joint", "restorer", "estimator"))
        self._phase = phase

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]  # follows from the phase
        return ("lr", "noise_level") if self.phase == "joint" else ("lr", "noise_level", "kernel")

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        if self.phase == "restorer":
            return ("sr",)
        estimates = ("sr", "kernel", "code") if self.head == "code" else ("sr", "kernel")
        return (*estimates, "earlier") if self.phase == "joint" and self.supervise == "all" else estimates

    def fit_basis(self, kernels: Tensor, seed: int) -> None:
        self.basis.fit(kernels, seed)

    def encode(self, kernels: Tensor) -> Tensor:
        return self.basis.encode(kernels)

    def with_known_kernel(self) -> USRNet:
        return self.restorer

    def forward(self, lr: Tensor, noise_level: Tensor, kernel: Tensor | None = None) -> Restored:
        if self.phase == "joint":
            if kernel is not None:
                raise ValueError("kernel is given, expected none: in phase joint it is estimated")
            return self._alternate(lr, noise_level)
        if kernel is None:
            raise ValueError(f"kernel is None, expected the true kernels in phase {self.phase}")
        if self.phase == "restorer":
            return Restored(sr=self._restore(lr, kernel, noise_level))
        with torch.no_grad():
            sr = self._restore(lr, kernel, noise_level)
        return self._estimate(sr, lr)

    def _alternate(self, lr: Tensor, noise_level: Tensor) -> Restored:
        kernel = self._first_kernel().expand(lr.shape[0], -1, -1, -1)
        loops: list[Restored] = []
        for number in range(1, self.n_loops + 1):
            # Detached loops that no loss sees have no gradient: recording them would cost n_loops times the memory.
            recorded = number == self.n_loops or self.supervise == "all" or not self.detach
            with torch.set_grad_enabled(torch.is_grad_enabled() and recorded):
                restored = self._estimate(self._restore(lr, kernel, noise_level), lr)
            assert restored.kernel is not None
            kernel = restored.kernel.detach() if self.detach else restored.kernel
            loops.append(restored)
        if self.supervise == "all":
            loops[-1].earlier = loops[:-1]
        return loops[-1]

    def _restore(self, lr: Tensor, kernel: Tensor, noise_level: Tensor) -> Tensor:
        return self.restorer(lr=lr, kernel=kernel, scale=self.scale, noise_level=noise_level).sr

    def _estimate(self, sr: Tensor, lr: Tensor) -> Restored:
        estimate = self.estimator(sr.detach() if self.detach else sr, lr)
        if self.head == "softmax":
            return Restored(sr=sr, kernel=estimate)
        return Restored(sr=sr, kernel=self.basis.decode(estimate), code=estimate)

    def _first_kernel(self) -> Tensor:
        if self.kernel_init == "mean":
            return self.basis.mean_kernel()
        kernel = self.basis.mean.new_zeros(1, 1, self.kernel_size, self.kernel_size)
        kernel[..., self.kernel_size // 2, self.kernel_size // 2] = 1
        return kernel


def merged(name: str, defaults: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """`defaults` with the given options in their place; the option `name` holds no others."""
    for option in options or {}:
        if option not in defaults:
            raise ValueError(f"{name} is {dict(options or {})}, expected only {', '.join(defaults)}")
    return {**defaults, **(options or {})}
