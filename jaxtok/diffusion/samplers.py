"""Samplers: functions of a denoiser, a start and a grid of times, on ``lax.scan``. They know no network.

Grids run from noise to data. A ``Velocity`` gives dx/dt, an ``Estimator`` the estimates (data, noise) of a state; see
:mod:`jaxtok.diffusion.predictions`. States are float32 across steps. Stochastic samplers take one key per example, so
that a sample does not depend on its neighbours. What holds for all of them (times per example or per token, padded
grids, ``on_step``) is written in :mod:`jaxtok.diffusion.steps`. Here are the deterministic ones and their stochastic
forms; the others live in :mod:`jaxtok.diffusion.stochastic` and can be had from here too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion.paths import Path, expand, shrinkage
from jaxtok.diffusion.steps import (
    Estimator,
    OnStep,
    Velocity,
    clamp,
    count_of,
    fresh,
    real_grid,
    straight,
    walk,
)
from jaxtok.diffusion.stochastic import ancestral, churned_heun, consistency, euler_maruyama

__all__ = [
    "Estimator", "OnStep", "Velocity", "adams_bashforth", "ancestral", "churned_heun", "clamp", "consistency", "ddim",
    "dpm_solver", "euler", "euler_maruyama", "heun", "network_times", "runge_kutta",
]  # fmt: skip


def euler(
    velocity: Velocity,
    start: jax.Array,
    times: jax.Array | np.ndarray,
    *,
    per_step: Any = None,
    middle: bool = False,
    on_step: OnStep | None = None,
) -> jax.Array:
    """The explicit Euler method for dx/dt = velocity(x, t).

    Args:
      velocity: called as ``velocity(x, t)``, or ``velocity(x, t, step)`` with the step's slice of ``per_step``.
      start: the state at times[0], [B, ...]; kept in float32 across steps.
      times: [N + 1], from noise (1) to data (0).
      per_step: pytree of arrays [N, ...]: what the velocity needs at each step and does not depend on the state.
      middle: show the network the middle of each step instead of its beginning (TaDiCodec); the chain stays Euler's.
      on_step: ``(number, x, data) -> x`` after each step; data is x - t v.

    Returns:
      The state at times[-1], float32 [B, ...].
    """

    def step(x, state, at):
        shown = (at.now + at.then) / 2 if middle else at.now
        v = velocity(x, shown) if per_step is None else velocity(x, shown, at.extra)
        v = v.astype(jnp.float32)
        return x + (at.there - at.here) * v, straight(x, v, at.here), state

    return walk(step, start, real_grid(times), per_step=per_step, on_step=on_step)


def network_times(times: jax.Array | np.ndarray, *, middle: bool = False) -> jax.Array:
    """The times [N] at which :func:`euler` calls the velocity on a grid [N + 1]."""
    times = jnp.asarray(times, jnp.float32)
    return (times[:-1] + times[1:]) / 2 if middle else times[:-1]


def heun(
    velocity: Velocity,
    start: jax.Array,
    times: jax.Array | np.ndarray,
    *,
    last_euler: bool = False,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Heun's second-order method: the mean of the velocities at both ends of a step.

    Args:
      velocity: ``velocity(x, t)``.
      start: the state at times[0], [B, ...].
      times: [N + 1].
      last_euler: one Euler step at the end, where the velocity at times[-1] is singular (EDM).
      on_step: ``(number, x, data) -> x`` after each step; data is x - t v at its beginning.

    Returns:
      The state at times[-1], float32 [B, ...], after 2 N (or 2 N - 1) calls.
    """

    def step(x, state, at):
        change = at.there - at.here
        first = velocity(x, at.now).astype(jnp.float32)

        def at_the_end():
            return velocity(x + change * first, at.then).astype(jnp.float32)

        if last_euler:
            second = jax.lax.cond(jnp.all(at.last), lambda: first, at_the_end)
            second = jnp.where(at.last, first, second)
        else:
            second = at_the_end()
        return x + change * (first + second) / 2, straight(x, first, at.here), state

    return walk(step, start, real_grid(times), on_step=on_step)


def runge_kutta(
    velocity: Velocity, start: jax.Array, times: jax.Array | np.ndarray, *, on_step: OnStep | None = None
) -> jax.Array:
    """The classical method of fourth order, four calls per step: for likelihoods and reference solutions.

    Args:
      velocity: ``velocity(x, t)``, finite at both ends of the grid.
      start: the state at times[0], [B, ...].
      times: [N + 1], in either direction.
      on_step: ``(number, x, data) -> x`` after each step; data is x - t v at its beginning.
    """

    def step(x, state, at):
        change, middle = at.there - at.here, (at.now + at.then) / 2
        first = velocity(x, at.now).astype(jnp.float32)
        second = velocity(x + change / 2 * first, middle).astype(jnp.float32)
        third = velocity(x + change / 2 * second, middle).astype(jnp.float32)
        fourth = velocity(x + change * third, at.then).astype(jnp.float32)
        mean = (first + 2 * second + 2 * third + fourth) / 6
        return x + change * mean, straight(x, first, at.here), state

    return walk(step, start, real_grid(times), on_step=on_step)


def adams_bashforth(
    velocity: Velocity, start: jax.Array, times: jax.Array | np.ndarray, *, on_step: OnStep | None = None
) -> jax.Array:
    """The two-step Adams-Bashforth method (AB2), its first step Euler's; one call per step, second order.

    Args:
      velocity: ``velocity(x, t)``.
      start: the state at times[0], [B, ...].
      times: [N + 1]; steps may differ.
      on_step: ``(number, x, data) -> x`` after each step; data is x - t v.
    """
    times = real_grid(times)

    def step(x, state, at):
        before, earlier = state
        change = at.there - at.here
        v = velocity(x, at.now).astype(jnp.float32)
        ratio = jnp.where(earlier == 0, 0.0, change / jnp.where(earlier == 0, 1.0, earlier)) / 2
        x_then = x + change * ((1 + ratio) * v - ratio * before)
        return x_then, straight(x, v, at.here), (v, change)

    state = jnp.zeros(start.shape), jnp.zeros(_shape(times, start))
    return walk(step, start, times, state=state, on_step=on_step)


def ddim(
    estimate: Estimator,
    start: jax.Array,
    times: jax.Array | np.ndarray,
    path: Path,
    *,
    eta: float = 0.0,
    keys: Any = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """x_s = a_s data + s_s noise (Song et al., arXiv 2010.02502); on the linear path this is Euler's method.

    Args:
      estimate: (x, t) -> (data, noise).
      start: the state at times[0], [B, ...].
      times: [N + 1], in the path's clock.
      path: gives a and s.
      eta: share of fresh noise, sigma = eta s_s sqrt(1 - e^-2h) with h the step of log(a/s); 1 is ancestral sampling.
      keys: [B], needed where eta is not 0.
      on_step: ``(number, x, data) -> x`` after each step.
    """
    if eta and keys is None:
        raise ValueError("ddim: eta needs keys, one per example")

    def step(x, state, at):
        data, noise = estimate(x, at.now)
        a_then, s_then = path.coefficients(at.there)
        if not eta:
            return a_then * data + s_then * noise, data, state
        new = eta * s_then * jnp.sqrt(1 - shrinkage(path, at.here, at.there) ** 2)
        kept = jnp.sqrt(jnp.maximum(s_then**2 - new**2, 0.0))
        return a_then * data + kept * noise + new * fresh(keys, at.number, x), data, state

    return walk(step, start, times, on_step=on_step)


def dpm_solver(
    estimate: Estimator,
    start: jax.Array,
    times: jax.Array | np.ndarray,
    path: Path,
    *,
    order: int = 2,
    last_first: bool | None = None,
    keys: Any = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """DPM-Solver++ of the data estimate, multistep (Lu et al., arXiv 2211.01095); order 1 is DDIM.

    With h = lambda_then - lambda_now and lambda = log(a/s): x_then = (s_then/s) x - a_then (e^-h - 1) D, where D is the
    data estimate, extrapolated from the last two in order 2. With keys, SDE-DPM-Solver++: x_then = (s_then/s) e^-h x +
    a_then (1 - e^-2h) D + s_then sqrt(1 - e^-2h) z, whose order 1 is DDIM of eta 1.

    Args:
      estimate: (x, t) -> (data, noise).
      start: the state at times[0], [B, ...].
      times: [N + 1], in the path's clock.
      path: gives a and s.
      order: 1 or 2.
      last_first: whether the last step is of order 1; None: below 15 steps. It is wherever s ends at 0.
      keys: [B] for the stochastic form, None for the deterministic one.
      on_step: ``(number, x, data) -> x`` after each step.
    """
    if order not in (1, 2):
        raise ValueError(f"dpm_solver: order must be 1 or 2, found {order}")
    grid = jnp.asarray(times)
    last_low = count_of(grid) < 15 if last_first is None else last_first

    def step(x, state, at):
        before, lambda_before = state
        data, noise = estimate(x, at.now)
        (a, s), (a_then, s_then) = path.coefficients(at.here), path.coefficients(at.there)
        here, there = _log_ratio(a, s), _log_ratio(a_then, s_then)
        use = (order == 2) & jnp.isfinite(lambda_before) & jnp.isfinite(there) & ~(at.last & last_low)
        ratio = jnp.where(use, (there - here) / jnp.where(use, here - lambda_before, 1.0), 0.0) / 2
        steeper = data + ratio * (data - before)
        # (s_then/s) x = a (s_then/s) data + s_then noise: written so that a = 0, at pure noise, is no special case.
        shrink = shrinkage(path, at.here, at.there)
        if keys is None:
            x = a_then * data + s_then * noise + a_then * (1 - shrink) * (steeper - data)
        else:
            new = 1 - shrink**2
            x = a_then * data + s_then * shrink * noise + a_then * new * (steeper - data)
            x = x + s_then * jnp.sqrt(new) * fresh(keys, at.number, x)
        return x, data, (data, jnp.broadcast_to(here, lambda_before.shape))

    state = jnp.zeros(start.shape), jnp.full(_shape(grid, start), jnp.inf)
    return walk(step, start, times, state=state, on_step=on_step)


def _shape(times: Any, start: jax.Array) -> tuple[int, ...]:
    """Of a time that broadcasts against the state."""
    return expand(jnp.asarray(times)[0], start.ndim).shape


def _log_ratio(a: jax.Array, s: jax.Array) -> jax.Array:
    return jnp.log(a) - jnp.log(s)
