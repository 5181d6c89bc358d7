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


def inverse_power(peak: float, *, gamma: float, power: float = 1.0, warmup: float = 0.0) -> Schedule:
    """peak (1 - warmup^(step + 1)) (1 + step / gamma)^-power, the "InverseLR" of Stable Audio's and EzAudio's VAE.

    Args:
      peak: of the rate.
      gamma: steps after which the rate is 2^-power of the peak.
      power: see above.
      warmup: 0 for none; 0.999 reaches 63 % of the peak after 1000 steps.

    Raises:
      ValueError: when ``gamma`` is not positive, or ``warmup`` not in [0, 1).
    """
    _check("inverse_power", peak=peak, power=power, warmup=warmup)
    if not gamma > 0 or warmup >= 1:
        raise ValueError(f"schedule inverse_power: expected gamma > 0 and warmup in [0, 1), found {gamma} and {warmup}")

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        return peak * (1 - jnp.float32(warmup) ** (step + 1)) * (1 + step / gamma) ** -power

    return rate


def annealed(
    peak: float, *, steps: int, warmup: int = 0, start: float = 0.005, held: float = 0.3, end: float = 0.01
) -> Schedule:
    """Linear from ``start * peak`` up to ``peak``, held, then linear down to ``end * peak``.

    The schedule of FVQ (arXiv 2509.10140) and VAR ("lin", arXiv 2404.02905), which reach the end at the last step and
    not one step after it.

    Args:
      peak: the highest rate, from step ``warmup`` on.
      steps: of the run; the last is number ``steps - 1``.
      warmup: steps until the peak.
      start: rate at step 0, a share of the peak.
      held: share of the steps after the warm-up that stay at the peak.
      end: rate at the last step, a share of the peak.

    Raises:
      ValueError: when ``steps`` does not exceed ``warmup`` by more than 1, or ``held`` is not in [0, 1).
    """
    _check("annealed", peak=peak, warmup=warmup, start=start, held=held, end=end)
    if steps <= warmup + 1:
        raise ValueError(f"schedule annealed: steps must exceed warmup + 1 = {warmup + 1}, found steps={steps}")
    if held >= 1:
        raise ValueError(f"schedule annealed: held must be less than 1, found {held}")

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rise = start + (1 - start) * step / max(warmup, 1)
        passed = (step - warmup) / (steps - 1 - warmup)
        fall = 1 - (1 - end) * (passed - held) / (1 - held)
        return peak * jnp.where(step < warmup, rise, jnp.clip(fall, end, 1.0))

    return rate


def _check(name: str, **values: float) -> None:
    for field, value in values.items():
        if not value >= 0:
            raise ValueError(f"schedule {name}: {field} must not be negative, found {value}")
