"""Random numbers that are a function of a key and nothing else.

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
    """SplitMix64's finaliser on int64 tensors, in place; `>>` is arithmetic there, so the sign bits are masked away."""
    z ^= (z >> 30).bitwise_and_((1 << 34) - 1)
    z *= _signed(_MIX1)
    z ^= (z >> 27).bitwise_and_((1 << 37) - 1)
    z *= _signed(_MIX2)
    z ^= (z >> 31).bitwise_and_((1 << 33) - 1)
    return z


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


def uniform(
    keys: Tensor,
    stream: str,
    shape: tuple[int, ...] = (),
    low: float = 0.0,
    high: float = 1.0,
    point: float | None = None,
) -> Tensor:
    """Uniform float32 numbers in [low, high), shape [B, *shape], one row a key; with `point` all at that fraction.

    The 24 random bits of a float32 are exact on every device, so the draws are equal to the bit on CPU and GPU.
    """
    if point is not None:
        return torch.full((len(keys), *shape), low + (high - low) * point, device=keys.device)
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


def normal_field(keys: Tensor, stream: str, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float32 numbers for whole images of noise, shape [B, *shape], one row a key.

    Several times faster than `normal`: every hash gives two values, by inverting the distribution function in float32
    at the 2^24 odd multiples of 2^-24 in (-1, 1). No value exceeds sqrt(2) erfinv(1 - 2^-24) = 5.42.
    The hashes are equal to the bit on every device; the inverse may differ in the last bits.
    """
    count = math.prod(shape)
    half = (count + 1) // 2
    values = torch.empty(len(keys), 2 * half, device=keys.device)
    # What fits a CPU's cache is made at once: fresh memory costs more than arithmetic.
    rows = len(keys) if keys.device.type != "cpu" else max(1, (1 << 16) // max(half, 1))
    for part, out in zip(keys.split(rows), values.split(rows), strict=True):
        words = bits(part, stream, (half,)).view(torch.int32)
        torch.erfinv((words >> 8).to(torch.float32).add_(0.5).mul_(2.0**-23), out=out).mul_(math.sqrt(2))
    return values[:, :count].reshape(len(keys), *shape)
