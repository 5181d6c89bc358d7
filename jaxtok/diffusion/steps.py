"""The walk along a grid of times that all samplers share, and what can be done at each of its steps.

A grid is [N + 1], one time for all, or [N + 1, B], or [N + 1, B, T] with a time per token; the network is given its
slices as they are. A step of zero length changes nothing, so a grid may be padded with repeats (see
:func:`jaxtok.diffusion.times.padded_grid`), and tokens whose times stand still keep their values exactly. Steps in
which no time moves cost no call of the network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxtok.diffusion.paths import Path, expand

Velocity = Callable[..., jax.Array]  # (x, t) -> dx/dt
Estimator = Callable[..., tuple[jax.Array, jax.Array]]  # (x, t) -> (data, noise)
OnStep = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (number, x after the step, data estimate) -> x


class Step(NamedTuple):
    """One step: its two ends as the network gets them, their broadcastable forms, and its number.

    Attributes:
      now: time at the beginning, [], [B] or [B, T].
      then: at the end.
      here: ``now`` with trailing axes of 1, to broadcast against the state.
      there: ``then`` likewise.
      last: bool like ``there``, whether the step ends where the grid does.
      number: int32 [].
      extra: this step's slice of ``per_step``.
    """

    now: jax.Array
    then: jax.Array
    here: jax.Array
    there: jax.Array
    last: jax.Array
    number: jax.Array
    extra: Any


def walk(
    step: Callable[[jax.Array, Any, Step], tuple[jax.Array, jax.Array, Any]],
    start: jax.Array,
    times: Any,
    *,
    state: Any = (),
    per_step: Any = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Runs ``step(x, state, at) -> (x, data estimate, state)`` along a grid by ``lax.scan``.

    Args:
      step: one step of a sampler.
      start: the state at times[0], [B, ...].
      times: the grid, see the module; of any clock.
      state: what a multistep method remembers; arrays that broadcast against x or against the times.
      per_step: pytree of arrays [N, ...].
      on_step: called after every step that moves, with the data estimate it was made from; gives the state to go on.

    Returns:
      The state at times[-1], float32 [B, ...].
    """
    start = start.astype(jnp.float32)
    times = _checked(times, start)
    rests = isinstance(times, Tracer) or bool((np.diff(np.asarray(times), axis=0) == 0).any())
    times = jnp.asarray(times)

    def one(carry, inputs):
        now, then, number, extra = inputs
        here, there = expand(now, start.ndim), expand(then, start.ndim)
        at = Step(now, then, here, there, there == expand(times[-1], start.ndim), number, extra)

        def move(carry):
            x, memory = carry
            moved, data, after = step(x, memory, at)
            if rests:  # times that stand still, beside others that move
                moved, after = jax.tree.map(lambda new, old: jnp.where(here != there, new, old), (moved, after), carry)
            if on_step is not None:
                moved = on_step(number, moved, data).astype(jnp.float32)
            return moved, after

        return (jax.lax.cond(jnp.any(now != then), move, lambda c: c, carry) if rests else move(carry)), None

    inputs = times[:-1], times[1:], jnp.arange(len(times) - 1), per_step
    return jax.lax.scan(one, (start, state), inputs)[0][0]


def count_of(times: jax.Array) -> jax.Array:
    """The number of steps of a grid that move, int32 []."""
    return (jnp.diff(times, axis=0).reshape(len(times) - 1, -1) != 0).any(-1).sum()


def fresh(keys: jax.Array, number: jax.Array, x: jax.Array) -> jax.Array:
    """Unit noise of step ``number`` in the shape of x [B, ...], from one key per example."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), x.shape[1:]))(keys)


def straight(x: jax.Array, velocity: jax.Array, here: jax.Array) -> jax.Array:
    """Where the tangent reaches t = 0: the data estimate on the linear path and in EDM's clock."""
    return x - here * velocity


def clamp(
    known: jax.Array,
    mask: jax.Array,
    *,
    path: Path | None = None,
    times: Any = None,
    noise: jax.Array | None = None,
) -> OnStep:
    """An ``on_step`` that holds the known part of the state: a prompt, a prefix, the outside of a hole.

    Args:
      known: data [B, ...].
      mask: bool, true where known: [B, T], or of the axes of x, or of some that broadcast from the left.
      path: with ``times`` and ``noise``: the known part is held at its own noised state a known + s noise (inpainting);
        start the sampler from noise that agrees. Without them it is held clean.
      times: the sampler's grid.
      noise: unit noise in the shape of ``known``.
    """
    if (path is None) != (noise is None) or (path is None) != (times is None):
        raise ValueError("clamp: path, times and noise are given together or not at all")
    held = expand(jnp.asarray(mask), known.ndim)
    grid = None if times is None else jnp.asarray(times)

    def on_step(number: jax.Array, x: jax.Array, data: jax.Array) -> jax.Array:
        del data
        if path is None or grid is None or noise is None:
            return jnp.where(held, known, x)
        a, s = path.coefficients(expand(grid[number + 1], known.ndim))
        return jnp.where(held, a * known + s * noise, x)

    return on_step


def real_grid(times: Any) -> Any:
    """A grid in float32; numpy stays numpy, so that its repeats can be seen before tracing."""
    return jnp.asarray(times, jnp.float32) if isinstance(times, jax.Array) else np.asarray(times, np.float32)


def _checked(times: Any, start: jax.Array) -> Any:
    times = times if isinstance(times, jax.Array) else np.asarray(times)
    if times.ndim < 1 or len(times) < 2:
        raise ValueError(f"sampling needs a grid of at least 2 times, found shape {times.shape}")
    if times.shape[1:] != start.shape[: times.ndim - 1]:
        raise ValueError(
            f"times must be [N + 1], or [N + 1, B] or [N + 1, B, T] of a state {start.shape}, found {times.shape}"
        )
    return times
