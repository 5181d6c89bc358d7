"""Likelihoods of data under a diffusion model: exact along its flow, and as a variational bound over noise levels."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.diffusion.paths import Path, expand, log_snr_slope
from jaxtok.diffusion.predictions import check
from jaxtok.diffusion.samplers import runge_kutta
from jaxtok.diffusion.steps import Velocity


def flow_log_likelihood(
    velocity: Velocity,
    x: jax.Array,
    times: Any,
    path: Path,
    *,
    keys: jax.Array | None = None,
    probes: int = 1,
) -> jax.Array:
    """log p(x) by the change of variables along dx/dt = velocity(x, t) (Grathwohl et al., arXiv 1810.01367).

    log p(x) = log N(x_1; 0, s_1^2) + the integral of the divergence from data to noise, by
    :func:`~jaxtok.diffusion.samplers.runge_kutta`.

    Args:
      velocity: ``velocity(x, t)``, of which no example depends on another; finite on the grid.
      x: data, [B, ...].
      times: [N + 1], from data to noise: ascending.
      path: gives the deviation of the noise at times[-1].
      keys: [B], for Hutchinson's estimate of the divergence with random signs, the same along the trajectory. None for
        the exact one, which takes as many passes as x has dimensions.
      probes: vectors per example, with keys.

    Returns:
      nats, float32 [B].
    """
    shape, size = x.shape, math.prod(x.shape[1:])
    if keys is None:
        vectors = jnp.broadcast_to(jnp.eye(size)[:, None], (size, len(x), size))
        share = 1.0
    else:
        signs = jax.vmap(lambda key: jax.random.rademacher(key, (probes, size), jnp.float32))(keys)
        vectors, share = jnp.moveaxis(signs, 1, 0), 1 / probes

    def moving(state: jax.Array, t: jax.Array) -> jax.Array:
        def flat(z):
            return velocity(z.reshape(shape), t).reshape(len(z), size).astype(jnp.float32)

        change, push = jax.linearize(flat, state[:, :size])
        trace = share * jax.lax.map(lambda v: jnp.sum(v * push(v), -1), vectors).sum(0)
        return jnp.concatenate([change, trace[:, None]], -1)

    start = jnp.concatenate([x.reshape(len(x), size), jnp.zeros((len(x), 1))], -1)
    end = runge_kutta(moving, start, times)
    _, s = path.coefficients(jnp.asarray(times, jnp.float32)[-1])
    noise = end[:, :size] / s
    log_noise = -jnp.square(noise).sum(-1) / 2 - size * (math.log(2 * math.pi) / 2 + jnp.log(s))
    return log_noise + end[:, size]


def bits_per_dimension(log_likelihood: jax.Array, dimensions: int, *, scale: float = 127.5) -> jax.Array:
    """-log2 p per dimension of data that was divided by ``scale``: 127.5 takes 0 .. 255 to [-1, 1]."""
    return -log_likelihood / (dimensions * math.log(2)) + math.log2(scale)


def bound_weight(kind: str, path: Path, t: jax.Array) -> jax.Array:
    """w with which the integral of w |prediction - target|^2 over t is the diffusion part of the bound, in nats.

    The squared error is summed over dimensions: -(1/2) (d snr/dt) |data error|^2, or -(1/2) (d log snr/dt)
    |noise error|^2, with the errors of the other kinds in proportion (Kingma et al., VDM, arXiv 2107.00630).

    Args:
      kind: see :mod:`jaxtok.diffusion.predictions`.
      path: a continuous one.
      t: times strictly between its ends.
    """
    check(kind)
    (a, s), (da, ds) = path.coefficients(t), path.derivatives(t)
    noise_error = {  # |noise error|^2 over |prediction error|^2
        "noise": jnp.ones_like(a),
        "data": (a / s) ** 2,
        "v": (a / (a * a + s * s)) ** 2,
        "flow": (a / (a * ds - da * s)) ** 2,
    }[kind]
    return -log_snr_slope(path, t) / 2 * noise_error


def prior_divergence(path: Path, x: jax.Array, t: jax.Array | float = 1.0) -> jax.Array:
    """KL(q(x_t | x) | N(0, 1)) at the noisiest time, in nats, float32 [B]: what the bound loses there."""
    a, s = path.coefficients(expand(jnp.asarray(t, jnp.float32), x.ndim))
    each = (jnp.square(a * x) + s * s - 1 - 2 * jnp.log(s)) / 2
    return each.reshape(len(x), -1).sum(1)
