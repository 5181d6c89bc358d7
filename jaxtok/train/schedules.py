"""Learning rates over an optimizer's own steps (a player that starts late warms up late)."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

Schedule = Callable[..., Any]  # an int32 scalar, the optimizer's own step, to a float32 scalar


def constant(value: float, *, warmup: int = 0) -> Schedule:
    """``value``, reached linearly from 0 over ``warmup`` steps."""
    _check("constant", value=value, warmup=warmup)
    if not warmup:
        return optax.constant_schedule(value)
    return optax.linear_schedule(0.0, value, warmup)


def cosine(peak: float, *, steps: int, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Linear warm-up from 0 to ``peak`` over ``warmup``, then half a cosine down to ``end`` at ``steps``.

    Raises:
      ValueError: when ``steps`` does not exceed ``warmup``.
    """
    _check("cosine", peak=peak, warmup=warmup, end=end)
    if steps <= warmup:
        raise ValueError(f"schedule cosine: steps must exceed warmup={warmup}, found steps={steps}")
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps, end)


def inverse_sqrt(peak: float, *, warmup: int) -> Schedule:
    """Linear from 0 to ``peak`` over ``warmup`` steps, then ``peak * sqrt(warmup / step)`` (Vaswani et al. 2017)."""
    _check("inverse_sqrt", peak=peak, warmup=warmup)
    if warmup < 1:
        raise ValueError(f"schedule inverse_sqrt: warmup must be at least 1, found {warmup}")

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        return peak * jnp.minimum(step / warmup, jnp.sqrt(warmup / jnp.maximum(step, 1.0)))

    return rate


def _check(name: str, **values: float) -> None:
    for field, value in values.items():
        if not value >= 0:
            raise ValueError(f"schedule {name}: {field} must not be negative, found {value}")
