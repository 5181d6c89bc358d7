"""Digits to integers and back, in exact integer arithmetic."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

ORDERS = ("big", "little")


def _weights(bits: int, order: str) -> np.ndarray:
    if not 1 <= bits <= 31:
        raise ValueError(f"an int32 code holds 1 to 31 bits, found {bits}; split them into groups")
    if order not in ORDERS:
        raise ValueError(f"bit order must be one of {ORDERS}, found {order!r}")
    exponents = np.arange(bits)[::-1] if order == "big" else np.arange(bits)
    return (1 << exponents).astype(np.int32)


def pack(bits: jax.Array, order: str = "big") -> jax.Array:
    """Packs bits into integers: bool [..., d] -> int32 [...].

    Args:
      bits: bool, d at most 31.
      order: "big" makes the first bit the most significant one (TaDiCodec, BSQ, MAGVIT), "little" the least
        (Open-MAGVIT2).
    """
    return jnp.sum(bits.astype(jnp.int32) * _weights(bits.shape[-1], order), axis=-1, dtype=jnp.int32)


def unpack(codes: jax.Array, bits: int, order: str = "big") -> jax.Array:
    """The inverse of :func:`pack`: int32 [...] -> bool [..., bits]."""
    return (codes[..., None] & _weights(bits, order)) > 0


def pack_levels(digits: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Packs digits of mixed radix into integers, the first digit least significant: int32 [..., d] -> int32 [...].

    Args:
      digits: each in [0, level).
      levels: one per digit; their product at most 2^31.
    """
    return jnp.sum(digits.astype(jnp.int32) * _places(levels), axis=-1, dtype=jnp.int32)


def unpack_levels(codes: jax.Array, levels: Sequence[int]) -> jax.Array:
    """The inverse of :func:`pack_levels`: int32 [...] -> int32 [..., d]."""
    return (codes[..., None] // _places(levels)) % np.asarray(levels, np.int32)


def _places(levels: Sequence[int]) -> np.ndarray:
    if math.prod(levels) > 2**31:
        raise ValueError(f"an int32 code holds at most 2^31 values, found levels {tuple(levels)}")
    return np.cumprod((1, *levels[:-1]), dtype=np.int64).astype(np.int32)


def check(codes: jax.Array, size: int, count: int, name: str, *, least: int = 0) -> None:
    """Refuses codes [..., count] that are not integers in [least, size); their values only where they are known.

    Raises:
      ValueError: stating what was expected and found.
    """
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise ValueError(f"{name}: expected integer codes, found {codes.dtype}")
    if codes.ndim < 1 or codes.shape[-1] != count:
        raise ValueError(f"{name}: expected codes that end in {count} codebooks, found shape {codes.shape}")
    if not isinstance(codes, Tracer) and codes.size:
        low, high = int(codes.min()), int(codes.max())
        if low < least or high >= size:
            raise ValueError(f"{name}: expected codes in [{least}, {size}), found {low} to {high}")
