"""Distances between images, one pinned protocol per number; each gives one float32 number per example, ``[B]``.

Images are [B, H, W, C] in [-1, 1]; what lies outside is cut off first, as it would be on a screen. Nothing is rounded
to 256 levels.
"""

import jax
import jax.numpy as jnp

PSNR_LIMIT = 100.0


def squared_error(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared difference over pixels and channels, on the scale of [-1, 1]."""
    return jnp.square(_difference(a, b)).mean((1, 2, 3))


def absolute_error(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference over pixels and channels, on the scale of [-1, 1]."""
    return jnp.abs(_difference(a, b)).mean((1, 2, 3))


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, 10 log10(2^2 / squared error), of each image; at most 100."""
    floor = 4.0 * 10 ** (-PSNR_LIMIT / 10)
    return 10 * jnp.log10(4.0 / jnp.maximum(squared_error(a, b), floor))


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"images: expected two of one shape [B, H, W, C], found {a.shape} and {b.shape}")
    a, b = (jnp.clip(x.astype(jnp.float32), -1.0, 1.0) for x in (a, b))
    return a - b
