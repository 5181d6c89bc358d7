"""Bits to integers and back, in exact integer arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np

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
