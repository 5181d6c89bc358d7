"""Real Fourier transforms of frames, by whichever way the machine is good at.

Accelerators are fast at matrix products, and every compiler divides the rows of a product over devices, while that of
jaxlib 0.10 gathers the whole batch on each device for a Fourier transform (0.12 does not). A single CPU is faster with
the transform.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def rfft(frames: jax.Array) -> jax.Array:
    """The transform of real frames ``[..., n] -> [..., n // 2 + 1]``, complex, as ``jnp.fft.rfft``."""
    return _choose(frames, jnp.fft.rfft, rfft_by_products)


def irfft(spectrum: jax.Array, n: int) -> jax.Array:
    """Real frames of transforms ``[..., n // 2 + 1] -> [..., n]``, as ``jnp.fft.irfft``."""
    return _choose(spectrum, lambda x: jnp.fft.irfft(x, n), lambda x: irfft_by_products(x, n))


def power(frames: jax.Array) -> jax.Array:
    """``|rfft|^2`` of real frames ``[..., n] -> [..., n // 2 + 1]``."""
    return _choose(frames, lambda x: _squared(jnp.fft.rfft(x)), lambda x: _squared(rfft_by_products(x)))


def rfft_by_products(frames: jax.Array) -> jax.Array:
    """:func:`rfft` by two matrix products."""
    n = frames.shape[-1]
    angle = _angles(n, n // 2 + 1, n, frames.dtype)
    return jax.lax.complex(_product(frames, jnp.cos(angle)), _product(frames, -jnp.sin(angle)))


def irfft_by_products(spectrum: jax.Array, n: int) -> jax.Array:
    """:func:`irfft` by two matrix products.

    Every bin stands for its mirror image too, but for the first and, of even n, the last, whose imaginary parts count
    nothing.
    """
    inner = np.ones((n // 2 + 1, 1), bool)
    inner[0] = False
    inner[-1] = bool(n % 2)
    angle = _angles(n // 2 + 1, n, n, spectrum.real.dtype)
    real = jnp.cos(angle) * np.where(inner, 2 / n, 1 / n).astype(angle.dtype)
    imaginary = jnp.sin(angle) * np.where(inner, -2 / n, 0).astype(angle.dtype)
    return _product(spectrum.real, real) + _product(spectrum.imag, imaginary)


def _choose(x, transform, products):
    """The transform on one CPU, products elsewhere; many CPUs are seen by the mesh under which a program is traced."""
    if jax.sharding.get_abstract_mesh().size > 1:
        return products(x)
    return jax.lax.platform_dependent(x, cpu=transform, default=products)


def _squared(x: jax.Array) -> jax.Array:
    return x.real**2 + x.imag**2


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x, matrix, precision="highest")


def _angles(rows: int, columns: int, n: int, dtype: Any) -> jax.Array:
    """2 pi i k / n for row i and column k, from -pi to pi, exact before the last rounding.

    Made by the program itself: as constants, matrices of many megabytes would stand in it at each use.
    """
    turns = jnp.arange(rows)[:, None] * jnp.arange(columns) % n
    return jnp.where(2 * turns > n, turns - n, turns).astype(dtype) * np.asarray(2 * np.pi / n, dtype)
