"""A training in a few lines, for experiments whose parts are trained one after the other on data that is drawn."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxtok.train import schedules


def fit(
    loss: Callable[[Any, Any, jax.Array], jax.Array], params: Any, draw: Callable[[jax.Array], Any], *, steps: int,
    rate: float, seed: int,
) -> Any:  # fmt: skip
    """Parameters after so many steps of Adam, gradients clipped to 1, under half a cosine with a tenth of warm-up.

    Args:
      loss: ``loss(params, batch, key)``, a scalar.
      params: to begin with.
      draw: ``draw(key)``, a batch.
      steps: at least 2.
      rate: the highest learning rate.
      seed: of all draws.

    Raises:
      FloatingPointError: when the loss is not finite at the end.
    """
    schedule = schedules.cosine(rate, steps=steps, warmup=max(1, steps // 10))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))

    @jax.jit
    def step(params, state, key):
        first, second = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(params, draw(first), second)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(seed), steps):
        params, state, value = step(params, state, key)
    if not bool(jax.numpy.isfinite(value)):
        raise FloatingPointError(f"the loss is {value} after {steps} steps")
    return params
