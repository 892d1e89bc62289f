"""Motion blur as a camera makes it: the average of the sharp frames taken while the shutter is open."""

from torch import Tensor


def average_frames(frames: Tensor, gamma: float | None = None) -> Tensor:
    """Blur by averaging M consecutive frames of a fast camera; the ground truth is the middle one, frames[:, M // 2].

    B = g((1/M) sum_i g^-1(S_i)), with g the identity (`gamma` None; GOPRO's "blur") or g(v) = v^(1/gamma) ("blur_gamma"
    with 2.2), which averages light rather than pixel values. Linear averaging works on any range; the power law is
    defined on [0, 1] only and clips what lies outside.

    Args:
        frames: [B, M, C, H, W], M odd (GOPRO: 7 to 13), values in [0, 1].
        gamma: exponent of the camera's response curve, or None.

    Returns:
        [B, C, H, W], same dtype.

    Raises:
        ValueError: if `frames` is not 5-dimensional floating point, M is even, or `gamma` is not positive.

    Source: Nah, Kim, Lee, "Deep multi-scale convolutional neural network for dynamic scene deblurring", CVPR 2017,
    section 2.
    """
    if frames.dim() != 5 or not frames.is_floating_point():
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, expected floating point [B, M, C, H, W]")
    if frames.shape[1] % 2 == 0:
        raise ValueError(f"{frames.shape[1]} frames have no middle one, expected an odd number")
    if gamma is None:
        return frames.mean(1)
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}, expected a positive exponent or None")
    return frames.clamp(0, 1).pow(gamma).mean(1).pow(1 / gamma)
