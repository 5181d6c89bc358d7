"""Samplers that draw fresh noise, and consistency sampling; one key per example. See :mod:`jaxtok.diffusion.steps`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion.paths import Path, forward_variance, posterior
from jaxtok.diffusion.steps import OnStep, Velocity, count_of, fresh, real_grid, straight, walk


def euler_maruyama(
    velocity: Velocity,
    score: Velocity,
    start: jax.Array,
    times: jax.Array | np.ndarray,
    keys: jax.Array,
    *,
    diffusion: Callable[[jax.Array], jax.Array] = lambda t: 2 * t,
    on_step: OnStep | None = None,
) -> jax.Array:
    """dx = (v - g^2/2 score) dt + g dW backwards in time, the last step without noise (SiT, arXiv 2401.08740).

    Args:
      velocity: ``velocity(x, t)``.
      score: ``score(x, t)``.
      start: the state at times[0], [B, ...].
      times: [N + 1] from 1 to 0; SiT ends with a larger step, from 0.04 to 0.
      keys: [B].
      diffusion: g^2 by time; 2 t is SiT's "sigma" and REPA's.
      on_step: ``(number, x, data) -> x`` after each step; data is x - t v.
    """

    def step(x, state, at):
        v, power = velocity(x, at.now).astype(jnp.float32), diffusion(at.here)
        drift = v - power / 2 * score(x, at.now).astype(jnp.float32)
        amount = jnp.where(at.last, 0.0, jnp.sqrt(power * (at.here - at.there)))
        x_then = x + (at.there - at.here) * drift + amount * fresh(keys, at.number, x)
        return x_then, straight(x, v, at.here), state

    return walk(step, start, real_grid(times), on_step=on_step)


def churned_heun(
    velocity: Velocity,
    start: jax.Array,
    sigmas: jax.Array | np.ndarray,
    keys: jax.Array,
    *,
    churn: float,
    low: float = 0.0,
    high: float = float("inf"),
    inflate: float = 1.0,
    on_step: OnStep | None = None,
) -> jax.Array:
    """EDM's stochastic sampler: up to sigma (1 + gamma) by fresh noise, then a Heun step down (arXiv 2206.00364).

    Args:
      velocity: ``velocity(x, sigma)`` on the path :class:`~jaxtok.diffusion.paths.Sigma`.
      start: the state at sigmas[0], [B, ...].
      sigmas: [N + 1], ending at 0; the last step is Euler's.
      keys: [B].
      churn: S_churn; gamma = min(churn/N, sqrt(2) - 1).
      low: S_min, below which nothing is added.
      high: S_max.
      inflate: S_noise, the deviation of the fresh noise.
      on_step: ``(number, x, data) -> x`` after each step.
    """
    sigmas = real_grid(sigmas)
    gamma = jnp.minimum(churn / count_of(jnp.asarray(sigmas)), 2**0.5 - 1)

    def step(x, state, at):
        rise = 1 + jnp.where((at.now >= low) & (at.now <= high), gamma, 0.0)
        now, here = at.now * rise, at.here * jnp.reshape(rise, at.here.shape)
        x = x + inflate * jnp.sqrt(here**2 - at.here**2) * fresh(keys, at.number, x)
        first = velocity(x, now).astype(jnp.float32)
        change = at.there - here

        def at_the_end():
            return velocity(x + change * first, at.then).astype(jnp.float32)

        second = jax.lax.cond(jnp.all(at.last), lambda: first, at_the_end)
        second = jnp.where(at.last, first, second)
        return x + change * (first + second) / 2, straight(x, first, here), state

    return walk(step, start, sigmas, on_step=on_step)


def ancestral(
    estimate: Callable[..., Any],
    start: jax.Array,
    indices: jax.Array | np.ndarray,
    path: Any,
    keys: jax.Array,
    *,
    on_step: OnStep | None = None,
) -> jax.Array:
    """DDPM's ancestral sampling on a table, respaced to ``indices`` (Ho et al., arXiv 2006.11239; arXiv 2102.09672).

    Args:
      estimate: (x, k) -> (data, noise), or (data, noise, u) with u in [0, 1] (it may stray) between the posterior's
        log variance (0) and log beta (1). Without u the variance is the posterior's. k is the original index.
      start: unit noise [B, ...].
      indices: descending, int [N]; the state after the last is data.
      path: a ``Discrete``.
      keys: [B].
      on_step: ``(number, x, data) -> x`` after each step.
    """
    if isinstance(indices, jax.Array):
        grid = jnp.concatenate([indices, jnp.full_like(indices[:1], -1)])
    else:
        indices = np.asarray(indices)
        grid = np.concatenate([indices, np.full_like(indices[:1], -1)])

    def step(x, state, at):
        data, _, *between = estimate(x, at.now)
        mean, variance = posterior(path, data, x, at.here, at.there)
        if between:
            # The posterior of the last step has no variance; DDPM's code cuts it to the one before.
            log_low = jnp.log(jnp.maximum(variance, 1e-20))
            log_high = jnp.log(forward_variance(path, at.here, at.there))
            variance = jnp.exp(between[0] * log_high + (1 - between[0]) * log_low)
        noise = jnp.where(at.last, 0.0, jnp.sqrt(variance)) * fresh(keys, at.number, x)
        return mean + noise, data, state

    return walk(step, start, grid, on_step=on_step)


def consistency(
    function: Velocity,
    start: jax.Array,
    indices: jax.Array | np.ndarray,
    path: Path,
    keys: jax.Array,
    *,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Multistep consistency sampling: data estimate, fresh noise to the next level, and again (arXiv 2310.04378).

    Args:
      function: (x, k) -> data; see :mod:`jaxtok.diffusion.consistency`.
      start: the state at indices[0], [B, ...].
      indices: descending, [N]; N calls.
      path: gives a and s at the indices.
      keys: [B].
      on_step: ``(number, x, data) -> x`` after each step, the last one included;
        :func:`~jaxtok.diffusion.steps.clamp` then takes the grid with the level of data behind it.
    """

    def step(x, state, at):
        a, s = path.coefficients(at.there)
        data = function(x, at.now).astype(jnp.float32)
        return a * data + s * fresh(keys, at.number, x), data, state

    x = start.astype(jnp.float32)
    if len(indices) > 1:
        x = walk(step, x, indices, on_step=on_step)
    data = function(x, jnp.asarray(indices)[-1]).astype(jnp.float32)
    return data if on_step is None else on_step(jnp.asarray(len(indices) - 1), data, data)
