"""Samplers: functions of a denoiser, a start and a grid of times, on ``lax.scan``. They know no network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Velocity = Callable[..., jax.Array]


def euler(
    velocity: Velocity,
    start: jax.Array,
    times: jax.Array,
    *,
    per_step: Any = None,
    middle: bool = False,
) -> jax.Array:
    """The explicit Euler method for dx/dt = velocity(x, t).

    Args:
      velocity: called as ``velocity(x, t)``, or ``velocity(x, t, step)`` with the step's slice of ``per_step``.
      start: the state at times[0], [B, ...]; kept in float32 across steps.
      times: [N + 1], from noise (1) to data (0).
      per_step: pytree of arrays [N, ...]: what the velocity needs at each step and does not depend on the state.
      middle: show the network the middle of each step instead of its beginning (TaDiCodec); the chain stays Euler's.

    Returns:
      The state at times[-1], float32 [B, ...].
    """
    times = jnp.asarray(times, jnp.float32)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"sampling needs a grid of at least 2 times, found shape {times.shape}")

    def step(x, inputs):
        now, change, extra = inputs
        v = velocity(x, now) if per_step is None else velocity(x, now, extra)
        return x + change * v.astype(jnp.float32), None

    shown = network_times(times, middle=middle)
    final, _ = jax.lax.scan(step, start.astype(jnp.float32), (shown, jnp.diff(times), per_step))
    return final


def network_times(times: jax.Array, *, middle: bool = False) -> jax.Array:
    """The times [N] at which :func:`euler` calls the velocity on a grid [N + 1]."""
    times = jnp.asarray(times, jnp.float32)
    return (times[:-1] + times[1:]) / 2 if middle else times[:-1]
