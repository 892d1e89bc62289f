"""Random numbers that are a function of a key alone.

Every sample carries a 64-bit key made of (seed, epoch, sample index) in training and (suite seed, image name) in
evaluation. A draw hashes (key, stream, position) with the finaliser of SplitMix64, so its value does not depend on the
batch it travels in, on the number of workers or ranks, on the device, or on what was drawn before; there is no state to
save, and a whole batch is drawn at once.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
"""

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The 64-bit pattern `value` as the signed integer torch.int64 holds."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors; `>>` is arithmetic there, so the sign bits are masked away."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(_MIX1)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(_MIX2)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def make_key(*parts: int | str) -> int:
    """A 64-bit key (signed, fits torch.int64) from integers and strings, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def bits(keys: Tensor, stream: str, shape: tuple[int, ...]) -> Tensor:
    """Hashed 64-bit integers [B, *shape] for keys [B] (int64); `stream` separates the uses of one key."""
    salt = _signed(make_key(stream) & _MASK)
    count = math.prod(shape)
    position = torch.arange(1, count + 1, device=keys.device) * _signed(_GOLDEN)
    return _mix(_mix(keys ^ salt)[:, None] + position).view(len(keys), *shape)


def uniform(keys: Tensor, stream: str, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform float32 numbers in [low, high), shape [B, *shape], one row a key.

    The 24 random bits of a float32 are exact on every device, so the draws are equal to the bit on CPU and GPU.
    """
    unit = ((bits(keys, stream, shape) >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24
    return low + (high - low) * unit
