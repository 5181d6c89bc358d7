"""Samplers: functions of a denoiser, a start and a grid of times, on ``lax.scan``. They know no network.

Grids run from noise to data. A ``Velocity`` gives dx/dt, an ``Estimator`` the estimates (data, noise) of a state; see
:mod:`jaxtok.diffusion.predictions`. States are float32 across steps. Stochastic samplers take one key per example, so
that a sample does not depend on its neighbours.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.diffusion.paths import Path

Velocity = Callable[..., jax.Array]  # (x, t) -> dx/dt
Estimator = Callable[..., tuple[jax.Array, jax.Array]]  # (x, t) -> (data, noise)


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
    times = _grid(times)

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


def heun(velocity: Velocity, start: jax.Array, times: jax.Array, *, last_euler: bool = False) -> jax.Array:
    """Heun's second-order method: the mean of the velocities at both ends of a step.

    Args:
      velocity: ``velocity(x, t)``.
      start: the state at times[0], [B, ...].
      times: [N + 1].
      last_euler: one Euler step at the end, where the velocity at times[-1] is singular (EDM).

    Returns:
      The state at times[-1], float32 [B, ...], after 2 N (or 2 N - 1) calls.
    """
    times = _grid(times)

    def step(x, ends):
        now, then = ends
        first = velocity(x, now).astype(jnp.float32)
        second = velocity(x + (then - now) * first, then).astype(jnp.float32)
        return x + (then - now) * (first + second) / 2, None

    pairs = times[:-1], times[1:]
    if not last_euler:
        return jax.lax.scan(step, start.astype(jnp.float32), pairs)[0]
    x, _ = jax.lax.scan(step, start.astype(jnp.float32), jax.tree.map(lambda t: t[:-1], pairs))
    return x + (times[-1] - times[-2]) * velocity(x, times[-2]).astype(jnp.float32)


def adams_bashforth(velocity: Velocity, start: jax.Array, times: jax.Array) -> jax.Array:
    """The two-step Adams-Bashforth method (AB2), its first step Euler's; one call per step, second order.

    Args:
      velocity: ``velocity(x, t)``.
      start: the state at times[0], [B, ...].
      times: [N + 1]; steps may differ.
    """
    times = _grid(times)
    changes = jnp.diff(times)

    def step(carry, inputs):
        x, before = carry
        now, change, earlier = inputs
        v = velocity(x, now).astype(jnp.float32)
        ratio = jnp.where(earlier == 0, 0.0, change / jnp.where(earlier == 0, 1.0, earlier)) / 2
        return (x + change * ((1 + ratio) * v - ratio * before), v), None

    x = start.astype(jnp.float32)
    earlier = jnp.concatenate([jnp.zeros(1), changes[:-1]])
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), (times[:-1], changes, earlier))
    return x


def ddim(
    estimate: Estimator, start: jax.Array, times: jax.Array, path: Path, *, eta: float = 0.0, keys: Any = None
) -> jax.Array:
    """x_s = a_s data + s_s noise (Song et al., arXiv 2010.02502); on the linear path this is Euler's method.

    Args:
      estimate: (x, t) -> (data, noise).
      start: the state at times[0], [B, ...].
      times: [N + 1], in the path's clock.
      path: gives a and s.
      eta: share of fresh noise; 1 is ancestral sampling. Of paths with a^2 + s^2 = 1.
      keys: [B], needed where eta is not 0.
    """
    if eta and keys is None:
        raise ValueError("ddim: eta needs keys, one per example")

    def step(x, inputs):
        now, then, number = inputs
        data, noise = estimate(x, now)
        (a, s), (a_then, s_then) = path.coefficients(now), path.coefficients(then)
        if not eta:
            return a_then * data + s_then * noise, None
        fresh = eta * s_then / s * jnp.sqrt(jnp.maximum(1 - (a / a_then) ** 2, 0.0))
        kept = jnp.sqrt(jnp.maximum(s_then**2 - fresh**2, 0.0))
        return a_then * data + kept * noise + fresh * _fresh(keys, number, x), None

    return _scan(step, start, times)


def dpm_solver(
    estimate: Estimator,
    start: jax.Array,
    times: jax.Array,
    path: Path,
    *,
    order: int = 2,
    last_first: bool | None = None,
) -> jax.Array:
    """DPM-Solver++ of the data estimate, multistep (Lu et al., arXiv 2211.01095); order 1 is DDIM.

    With h = lambda_then - lambda_now and lambda = log(a/s): x_then = (s_then/s) x - a_then (e^-h - 1) D, where D is the
    data estimate, extrapolated from the last two in order 2.

    Args:
      estimate: (x, t) -> (data, noise).
      start: the state at times[0], [B, ...].
      times: [N + 1], in the path's clock.
      path: gives a and s.
      order: 1 or 2.
      last_first: whether the last step is of order 1; None: below 15 steps. It is wherever s ends at 0.
    """
    if order not in (1, 2):
        raise ValueError(f"dpm_solver: order must be 1 or 2, found {order}")
    times = jnp.asarray(times)
    steps = len(times) - 1
    last_first = steps < 15 if last_first is None else last_first

    def step(carry, inputs):
        x, before, lambda_before = carry
        now, then, number = inputs
        data, noise = estimate(x, now)
        (a, s), (a_then, s_then) = path.coefficients(now), path.coefficients(then)
        here, there = _log_ratio(a, s), _log_ratio(a_then, s_then)
        use = (order == 2) & (number > 0) & jnp.isfinite(lambda_before) & jnp.isfinite(there)
        use &= ~((number == steps - 1) & last_first)
        ratio = jnp.where(use, (there - here) / jnp.where(use, here - lambda_before, 1.0), 0.0) / 2
        steeper = data + ratio * (data - before)
        # (s_then/s) x = a (s_then/s) data + s_then noise: written so that a = 0, at pure noise, is no special case.
        weight = a_then - jnp.where(s > 0, a * s_then / jnp.where(s > 0, s, 1.0), a_then)
        x = a_then * data + s_then * noise + weight * (steeper - data)
        return (x, data, here), None

    x = start.astype(jnp.float32)
    inputs = times[:-1], times[1:], jnp.arange(steps)
    (x, _, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x), jnp.asarray(jnp.inf)), inputs)
    return x


def euler_maruyama(
    velocity: Velocity,
    score: Velocity,
    start: jax.Array,
    times: jax.Array,
    keys: jax.Array,
    *,
    diffusion: Callable[[jax.Array], jax.Array] = lambda t: 2 * t,
) -> jax.Array:
    """dx = (v - g^2/2 score) dt + g dW backwards in time, the last step without noise (SiT, arXiv 2401.08740).

    Args:
      velocity: ``velocity(x, t)``.
      score: ``score(x, t)``.
      start: the state at times[0], [B, ...].
      times: [N + 1] from 1 to 0; SiT ends with a larger step, from 0.04 to 0.
      keys: [B].
      diffusion: g^2 by time; 2 t is SiT's "sigma" and REPA's.
    """
    times = _grid(times)

    def drift(x, t):
        return velocity(x, t).astype(jnp.float32) - diffusion(t) / 2 * score(x, t).astype(jnp.float32)

    def step(x, inputs):
        now, then, number = inputs
        noise = jnp.sqrt(diffusion(now) * (now - then)) * _fresh(keys, number, x)
        return x + (then - now) * drift(x, now) + noise, None

    inputs = times[:-2], times[1:-1], jnp.arange(len(times) - 2)
    x, _ = jax.lax.scan(step, start.astype(jnp.float32), inputs)
    return x + (times[-1] - times[-2]) * drift(x, times[-2])


def ancestral(
    estimate: Callable[..., Any], start: jax.Array, indices: jax.Array, path: Any, keys: jax.Array
) -> jax.Array:
    """DDPM's ancestral sampling on a table, respaced to ``indices`` (Ho et al., arXiv 2006.11239; arXiv 2102.09672).

    Args:
      estimate: (x, k) -> (data, noise), or (data, noise, u) with u in [0, 1] (it may stray) between the posterior's
        log variance (0) and log beta (1). Without u the variance is the posterior's. k is the original index.
      start: unit noise [B, ...].
      indices: descending, int [N]; the state after the last is data.
      path: a ``Discrete``.
      keys: [B].
    """
    before = jnp.concatenate([jnp.asarray(indices)[1:], jnp.asarray([-1])])

    def step(x, inputs):
        now, then, number = inputs
        data, _, *between = estimate(x, now)
        (a, s), (a_then, s_then) = path.coefficients(now), path.coefficients(then)
        alpha = (a / a_then) ** 2
        beta = 1 - alpha
        mean = (a_then * beta * data + jnp.sqrt(alpha) * s_then**2 * x) / s**2
        variance = beta * s_then**2 / s**2
        if between:
            # The posterior of the last step has no variance; DDPM's code cuts it to the one before.
            log_low = jnp.log(jnp.maximum(variance, 1e-20))
            variance = jnp.exp(between[0] * jnp.log(beta) + (1 - between[0]) * log_low)
        noise = jnp.where(then >= 0, jnp.sqrt(variance), 0.0) * _fresh(keys, number, x)
        return mean + noise, None

    inputs = jnp.asarray(indices), before, jnp.arange(len(indices))
    return jax.lax.scan(step, start.astype(jnp.float32), inputs)[0]


def consistency(function: Velocity, start: jax.Array, indices: jax.Array, path: Path, keys: jax.Array) -> jax.Array:
    """Multistep consistency sampling: data estimate, fresh noise to the next level, and again (arXiv 2310.04378).

    Args:
      function: (x, k) -> data.
      start: the state at indices[0], [B, ...].
      indices: descending, [N]; N calls.
      path: gives a and s at the indices.
      keys: [B].
    """

    def step(x, inputs):
        now, then, number = inputs
        a, s = path.coefficients(then)
        return a * function(x, now) + s * _fresh(keys, number, x), None

    indices = jnp.asarray(indices)
    inputs = indices[:-1], indices[1:], jnp.arange(len(indices) - 1)
    x, _ = jax.lax.scan(step, start.astype(jnp.float32), inputs)
    return function(x, indices[-1])


def _grid(times: jax.Array) -> jax.Array:
    times = jnp.asarray(times, jnp.float32)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"sampling needs a grid of at least 2 times, found shape {times.shape}")
    return times


def _scan(step: Callable, start: jax.Array, times: jax.Array) -> jax.Array:
    """Runs ``step(x, (now, then, number))`` along a grid in any clock."""
    times = jnp.asarray(times)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"sampling needs a grid of at least 2 times, found shape {times.shape}")
    inputs = times[:-1], times[1:], jnp.arange(len(times) - 1)
    return jax.lax.scan(step, start.astype(jnp.float32), inputs)[0]


def _fresh(keys: jax.Array, number: jax.Array, x: jax.Array) -> jax.Array:
    """Unit noise of step ``number`` in the shape of x [B, ...], from one key per example."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), x.shape[1:]))(keys)


def _log_ratio(a: jax.Array, s: jax.Array) -> jax.Array:
    return jnp.log(a) - jnp.log(s)
