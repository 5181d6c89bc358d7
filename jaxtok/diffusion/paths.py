"""Interpolation paths x_t = a(t) x + s(t) e between data (t = 0) and unit Gaussian noise (t = 1)."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Linear:
    """The straight path of flow matching: a = 1 - t, s = floor + (1 - floor) t (Lipman et al., arXiv 2210.02747).

    Attributes:
      floor: noise left at t = 0; 0 for rectified flow, 1e-5 in TaDiCodec.
    """

    floor: float = 0.0

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at times t."""
        return 1.0 - t, self.floor + (1.0 - self.floor) * t

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(da/dt, ds/dt) at times t."""
        return -jnp.ones_like(t), jnp.full_like(t, 1.0 - self.floor)


def expand(t: jax.Array, ndim: int) -> jax.Array:
    """Times [B] (or a scalar) shaped to broadcast against arrays of ``ndim`` axes."""
    t = jnp.asarray(t)
    return t.reshape(t.shape + (1,) * (ndim - t.ndim)) if t.ndim else t


def interpolate(path: Linear, x: jax.Array, noise: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The state x_t and its velocity dx_t/dt.

    Args:
      path: with ``coefficients`` and ``derivatives``.
      x: data [B, ...].
      noise: [B, ...], unit Gaussian.
      t: [B] in [0, 1].

    Returns:
      x_t and a'(t) x + s'(t) noise, both [B, ...].
    """
    t = expand(t, x.ndim)
    (a, s), (da, ds) = path.coefficients(t), path.derivatives(t)
    return a * x + s * noise, da * x + ds * noise
