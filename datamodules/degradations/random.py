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
# The same three for 32 bits, as the signed integers torch.int32 holds.
_GOLDEN32, _MURMUR1, _MURMUR2 = (c - (1 << 32) if c >= 1 << 31 else c for c in (0x9E3779B9, 0x85EBCA6B, 0xC2B2AE35))


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


def integers(keys: Tensor, stream: str, shape: tuple[int, ...] = (), *, low: int, high: int) -> Tensor:
    """Integers (int64) uniform in [low, high), shape [B, *shape], one row a key; equal to the bit on every device.

    The upper 32 bits times the span, shifted back: the probabilities differ by less than span / 2^32.

    Raises:
        ValueError: if `high` - `low` is not in 1 ... 2^31.
    """
    if not 1 <= high - low <= 1 << 31:
        raise ValueError(f"low is {low} and high {high}, expected high - low in 1 ... 2^31")
    upper = (bits(keys, stream, shape) >> 32) & 0xFFFFFFFF
    return low + ((upper * (high - low)) >> 32)


def normal(keys: Tensor, stream: str, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float32 numbers, shape [B, *shape], one row a key.

    Positions 2i and 2i + 1 share one hash: r cos(a), r sin(a) with r = sqrt(-2 ln u), u in (0, 1] from its upper and
    a in [0, 2 pi) from its lower 32 bits. No value exceeds sqrt(64 ln 2) = 6.66. The arithmetic is float64, so that
    what a device rounds differently is lost in float32: draws on CPU and GPU are equal but for rare last bits.

    Source: Box and Muller, "A note on the generation of random normal deviates", Ann. Math. Statist. 29, 1958.
    """
    count = math.prod(shape)
    pair = bits(keys, stream, ((count + 1) // 2,))
    radius = (((pair >> 32) & 0xFFFFFFFF) + 1).double().mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = (pair & 0xFFFFFFFF).double().mul_(2 * math.pi * 2.0**-32)
    values = torch.complex(angle.cos().mul_(radius).float(), angle.sin().mul_(radius).float())
    return torch.view_as_real(values).flatten(1)[:, :count].reshape(len(keys), *shape)


def _mix32(z: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int32 tensors, in place."""
    z ^= (z >> 16) & 0xFFFF
    z *= _MURMUR1
    z ^= (z >> 13) & 0x7FFFF
    z *= _MURMUR2
    return z.bitwise_xor_((z >> 16) & 0xFFFF)


def _fractions(words: Tensor) -> Tensor:
    """int32 words to float32 multiples of 2^-24 in [0, 1), by their upper 24 bits."""
    return ((words >> 8) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def normal_field(keys: Tensor, stream: str, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float32 numbers for whole images of noise, shape [B, *shape], one row a key.

    Like `normal`, but positions are hashed in 32-bit and computed in float32 arithmetic, which is faster: words of the
    key's 64-bit hashes seed the finaliser. Positions i and i + n (n half of the count) share their two words: r cos(a)
    and r sin(a) with r = sqrt(-2 ln u), u in (0, 1], a in [0, 2 pi). No value exceeds sqrt(48 ln 2) = 5.77.
    The words are equal to the bit on every device; logarithm and sine may differ in the last.

    Source of the finaliser: A. Appleby, MurmurHash3 (public domain).
    """
    count = math.prod(shape)
    half = (count + 1) // 2
    seed = bits(keys, stream, (2,))
    words = torch.stack((seed, seed >> 32), -1).bitwise_and_(0xFFFFFFFF).flatten(1)
    words = torch.where(words < 1 << 31, words, words - (1 << 32)).to(torch.int32)
    position = torch.arange(1, half + 1, device=keys.device, dtype=torch.int32) * _GOLDEN32
    first = _mix32(_mix32(position ^ words[:, 0:1]) ^ words[:, 1:2])
    second = _mix32(first ^ words[:, 2:3])
    radius = _fractions(first).neg_().add_(1.0).log_().mul_(-2.0).sqrt_()
    angle = _fractions(second).mul_(2 * math.pi)
    values = torch.cat((radius * angle.cos(), radius * angle.sin()), 1)
    return values[:, :count].reshape(len(keys), *shape)
