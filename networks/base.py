"""The written contract: what the suite asks of a network. Defaults are those of a plain convolutional one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

# What stands in for an input that is absent: one kernel is one of several, its weight 1 everywhere.
STAND_INS = {"kernels": "kernel", "weights": "kernel"}


class RestorationNetwork(nn.Module):
    """Takes batch fields by name and returns a `networks.restored.Restored`.

    Attributes:
        inputs: batch fields that it takes by keyword: of `lr`, `kernel`, `scale`, `noise_level`; `kernels` and
            `weights` for blur that varies over the image.
        outputs: fields of `Restored` that it returns, `sr` among them.
        scale: what it enlarges by; a network with `scale` in its `inputs` sets `scales` instead.
        scales: all that it enlarges by.
        size_multiple: what the sides of its input are padded to a multiple of; those of the result with several scales.
        channels: of the images it trains on; with 1 it restores every channel of an image by itself.
        lr_sampling: whether a pixel of `lr` lies in the "centre" of its scale x scale block or at its upper-left
            "corner"; photographs have it in the centre, and kernels are moved to fit.
        periodic: whether it takes what leaves the image on one side to enter on the other. Photographs are continued
            before, until opposite borders meet; `experiments.restore.adapt` does it.
        whole_image: whether every pixel of its result depends on the whole image by its nature, as after a Fourier
            transform; then its receptive field is not measured.
        smallest_side: of an image that it takes, in pixels.
        kernel_side: of the kernel that it estimates, in pixels of the result; 0: it estimates none.
        coarse_to_fine: whether each scale can be finished before the next one begins, by the methods of
            `networks.srn.SRN`, which tiles make use of.
        has_basis: whether it codes kernels by a `basis` that `fit_basis` makes before a training begins.
        added: how the names of the parameters begin that it has besides those of the network that it extends; a
            training that starts from weights of that one leaves them as they are.

    Raises:
        ValueError: made with an option, or called with a scale or images, outside those that the docstring of its
            class names.
    """

    inputs: tuple[str, ...] = ("lr",)
    outputs: tuple[str, ...] = ("sr",)
    scale: int
    size_multiple: int = 1
    channels: int = 3
    lr_sampling: Literal["centre", "corner"] = "centre"
    periodic: bool = False
    whole_image: bool = False
    smallest_side: int = 1
    kernel_side: int = 0
    coarse_to_fine: bool = False
    has_basis: bool = False
    added: str = ""

    @property
    def scales(self) -> tuple[int, ...]:
        return (self.scale,)

    @property
    def takes_gray(self) -> bool:
        """Whether it restores images of any number of channels, channel by channel."""
        return self.channels == 1 or not any(True for _ in self.parameters())

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train."""
        return any(weights.requires_grad for weights in self.parameters())

    @property
    def learned_part(self) -> "RestorationNetwork":
        """The part inside that has all the weights and is trained by itself: files of its weights serve the whole."""
        return self

    def parts(self) -> Iterator["RestorationNetwork"]:
        """The network and those inside it."""
        return (part for part in self.modules() if isinstance(part, RestorationNetwork))

    def converted(self, convert: Callable[["RestorationNetwork"], "RestorationNetwork"]) -> "RestorationNetwork":
        """`convert` of the network; of a cascade, a cascade of its two converted."""
        return convert(self)

    def with_known_kernel(self) -> "RestorationNetwork | None":
        """What restores as a network that estimates kernels does, once the kernel is known; None for others."""
        return None

    @classmethod
    def options_of(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The options that names and shapes of a state dict tell, for messages about one that does not fit."""
        return {}

    def fit_basis(self, kernels: Tensor, seed: int) -> None:
        """Make the basis of the codes from training kernels [N, 1, k, k], which were drawn with `seed`."""
        raise ValueError(f"{type(self).__name__} has no basis of kernels to fit")

    def encode(self, kernels: Tensor) -> Tensor:
        """Codes [B, d] of kernels [B, 1, k, k]: what the output `code` should be."""
        raise ValueError(f"{type(self).__name__} has no code for kernels")


class Wrapped(RestorationNetwork):
    """A network around another one, with its inputs, outputs and sizes."""

    def __init__(self, network: RestorationNetwork) -> None:
        super().__init__()
        self.network = network
        self.inputs, self.outputs = network.inputs, network.outputs
        self.size_multiple, self.channels = network.size_multiple, network.channels
        self.lr_sampling = network.lr_sampling

    @property
    def scales(self) -> tuple[int, ...]:
        return self.network.scales

    @property
    def takes_gray(self) -> bool:
        return self.network.takes_gray

    def with_known_kernel(self) -> RestorationNetwork | None:
        return self.network.with_known_kernel()
