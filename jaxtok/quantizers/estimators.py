"""Gradient estimators: a code vector's value with a gradient for the vector that it replaces.

All take z and q, float32 [..., D], and a key or None, and return an array whose value is exactly q without a key.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Estimator = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def straight_through(z: jax.Array, q: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Jacobian by z: the identity (Bengio et al., arXiv 1308.3432). None by q."""
    del rng
    return _with_value(z, q)


def rotation(z: jax.Array, q: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Jacobian by z: |q|/|z| R, where the rotation R turns z's direction into q's (Fifty et al., arXiv 2410.06424).

    The rotation and the scale are constants, and R (I - 2 w w^T + 2 q^ z^^T) is never built. Where z or q is nearly 0,
    or they point in opposite directions, the identity stands in.
    """
    del rng
    turned, defined = _rotate(z, z, q)
    scale = jax.lax.stop_gradient(_norm(q) / jnp.where(defined, _norm(z), 1.0))
    return _with_value(jnp.where(defined, turned * scale, z), q)


def rotation_tangent(z: jax.Array, q: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """As :func:`rotation` of z/|z|, differentiated through the norm: no gradient along z (its authors' VQGAN code)."""
    del rng
    square = jnp.sum(z * z, axis=-1, keepdims=True)
    unit = z * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    turned, defined = _rotate(unit, z, q)
    return _with_value(jnp.where(defined, turned * jax.lax.stop_gradient(_norm(q)), z), q)


def diveq(z: jax.Array, q: jax.Array, rng: jax.Array | None = None, variance: float = 5e-3) -> jax.Array:
    """z + |q - z| d with the constant direction d = unit(q - z + noise): z and q both get a gradient, along d alone.

    DiVeQ (Vali et al., arXiv 2509.26469). Use no other codebook loss with it, and revive dead codes. Noise of
    ``variance`` enters where a key is given (in training); then the value is not exactly q.
    """
    if rng is None:
        return _with_value(z + _norm(q - z) * _direction(q - z), q)
    noise = jnp.sqrt(variance) * jax.random.normal(rng, z.shape, z.dtype)
    return z + _norm(q - z) * _direction(q - z + noise)


def _with_value(x: jax.Array, value: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))


def _norm(x: jax.Array) -> jax.Array:
    """|x| over the last axis, kept; its gradient is 0 at 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _direction(x: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(x / jnp.maximum(_norm(x), 1e-12))


def _rotate(x: jax.Array, z: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """R x for the rotation of z's direction into q's, and where that is well defined, bool [..., 1]."""
    z, q = jax.lax.stop_gradient(z), jax.lax.stop_gradient(q)
    length, size = _norm(z), _norm(q)
    a, b = z / jnp.maximum(length, 1e-12), q / jnp.maximum(size, 1e-12)
    middle = _norm(a + b)
    w = (a + b) / jnp.maximum(middle, 1e-12)
    turned = x - 2 * w * jnp.sum(w * x, axis=-1, keepdims=True) + 2 * b * jnp.sum(a * x, axis=-1, keepdims=True)
    return turned, (length > 1e-6) & (size > 1e-12) & (middle > 1e-3)
