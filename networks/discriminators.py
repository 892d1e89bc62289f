"""The discriminator of USRGAN's training: a VGG-style classifier of patches, with batch normalisation.

K. Zhang, L. Van Gool, R. Timofte, "Deep unfolding network for image super-resolution", CVPR 2020, train USRGAN as
X. Wang et al., "ESRGAN: enhanced super-resolution generative adversarial networks", ECCV Workshops 2018, do; the layers
are those of the authors' public training code for patches of 96 pixels. Other patch sizes only change the width of the
first fully connected layer.

A discriminator helps to train a network and is no network of the suite itself: it takes images and returns logits.
"""

from itertools import pairwise

from torch import Tensor, nn

from networks.ops.options import check_positive

HIDDEN = 100


def block(inputs: int, outputs: int, size: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, stride, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, inplace=True)]


class Discriminator96(nn.Module):
    """Five halvings of the resolution, then two fully connected layers; 14.144 M parameters.

    Input: images [B, in_channels, patch, patch], about [0, 1]. Output: logits [B, 1], high for what looks sharp.
    The batch is normalised as one: real and restored images go through in calls of their own.

    Args:
        in_channels: channels of the images.
        width: channels after the first convolution; the deepest layers have 8 times as many.
        patch: side of the images, a multiple of 32.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, patch: int = 96) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, width=width)
        if patch < 32 or patch % 32:
            raise ValueError(f"patch is {patch}, expected a multiple of 32")
        self.patch = patch
        widths = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        # The first convolution has neither normalisation nor activation.
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, 1, 1), *block(width, width, 4, 2)]
        for inputs, outputs in pairwise(widths):
            layers += block(inputs, outputs, 3, 1) + block(outputs, outputs, 4, 2)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * (patch // 32) ** 2, HIDDEN),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        if (h, w) != (self.patch, self.patch):
            raise ValueError(f"images are {w}x{h}, expected {self.patch}x{self.patch}, the discriminator's patch")
        return self.classifier(self.features(images))
