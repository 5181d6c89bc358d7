"""Time grids for sampling and time draws for training; t = 0 is data, t = 1 is noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def uniform_grid(steps: int, *, last: float = 0.0) -> np.ndarray:
    """``steps`` equal steps from noise to data: float32 [steps + 1], from 1 to 0.

    Args:
      steps: of the grid; SiT and LightningDiT's "250 steps" are 249.
      last: above 0, the last step goes from there to 0, and the others are even (0.04 in SiT's stochastic sampler).
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, found {steps}")
    if last:
        return np.append(np.linspace(1.0, last, steps), 0.0).astype(np.float32)
    return np.linspace(1.0, 0.0, steps + 1).astype(np.float32)


def flow_match_grid(steps: int, amount: float = 1.0, *, count: int = 1000) -> np.ndarray:
    """diffusers' default flow-matching grid: from the shifted ends of a table of ``count``, even, then shifted again.

    Callers that pass even sigmas from 1 to 1/steps have the grid ``shift(uniform_grid(steps), amount)``; released
    pipelines do either.

    Args:
      steps: of the grid.
      amount: of the shift.
      count: the table's levels.

    Returns:
      float32 [steps + 1], ending at 0.
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, found {steps}")
    return np.append(shift(np.linspace(1.0, shift(1 / count, amount), steps), amount), 0.0).astype(np.float32)


def stretch(times: np.ndarray, last: float) -> np.ndarray:
    """A grid that ends at 0, with the time before it moved to ``last``: 1 - (1 - t)(1 - last)/(1 - t_before) (LTX)."""
    times = np.asarray(times)
    moved = 1 - (1 - times[:-1]) * (1 - last) / (1 - times[-2])
    return np.append(moved, times[-1]).astype(times.dtype)


def padded_grid(
    steps: jax.Array | int, most: int, make: Callable[[int], np.ndarray] = uniform_grid, *, least: int = 1
) -> jax.Array:
    """The grid of a number of steps that is known only when the program runs; its last time is repeated.

    Samplers take the repeats at no cost, so a jitted program serves all counts up to ``most``.

    Args:
      steps: int32 [], may be traced; a traced one is cut to [least, most].
      most: the greatest number.
      make: from a number of steps to its grid, on the host; also :func:`indices` and the like.
      least: the smallest number that ``make`` takes.

    Returns:
      As long as ``make(most)``.
    """
    if not 1 <= least <= most:
        raise ValueError(f"expected 1 <= least <= most, found least {least} and most {most}")
    if isinstance(steps, int | np.integer) and not least <= steps <= most:
        raise ValueError(f"expected {least} to {most} steps, found {steps}")
    grids = [np.asarray(make(n)) for n in range(least, most + 1)]
    table = np.stack([np.pad(grid, (0, len(grids[-1]) - len(grid)), mode="edge") for grid in grids])
    return jnp.asarray(table)[jnp.clip(steps - least, 0, most - least)]


def uniform(keys: jax.Array, *, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """One uniform time per example, float32 [B], from keys [B]."""
    return jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(keys)


def evenly(index: jax.Array, count: int) -> jax.Array:
    """Deterministic mid-points (index mod count + 1/2)/count, float32 [B]: for evaluation."""
    return ((index % count).astype(jnp.float32) + 0.5) / count


def stratified(key: jax.Array, count: int) -> jax.Array:
    """(i + u_i)/count, float32 [count]: one uniform time in each of ``count`` equal parts."""
    return (jnp.arange(count) + jax.random.uniform(key, (count,))) / count


def logit_normal(keys: jax.Array, *, mean: float = 0.0, deviation: float = 1.0) -> jax.Array:
    """sigmoid(N(mean, deviation)) per example, float32 [B], from keys [B] (Esser et al., arXiv 2403.03206)."""
    return jax.nn.sigmoid(mean + deviation * jax.vmap(jax.random.normal)(keys))


def mode(keys: jax.Array, *, scale: float = 1.29) -> jax.Array:
    """1 - u - scale (cos^2(pi u/2) - 1 + u), uniform u (arXiv 2403.03206): more of the middle, float32 [B]."""
    u = uniform(keys)
    return 1 - u - scale * (jnp.cos(jnp.pi / 2 * u) ** 2 - 1 + u)


def log_normal_sigma(keys: jax.Array, *, mean: float = -1.2, deviation: float = 1.2) -> jax.Array:
    """EDM's training noise levels exp(N(mean, deviation)), float32 [B], from keys [B]."""
    return jnp.exp(mean + deviation * jax.vmap(jax.random.normal)(keys))


def shift(t: Any, amount: float) -> Any:
    """amount t/(amount t + 1 - t): above 1 towards noise. Shifts by p, then q, are one by p q; the inverse is 1/q.

    On the linear path this multiplies s/a by ``amount``. In data-time, as LightningDiT writes it, the amount is 1/q.
    """
    if not amount > 0:
        raise ValueError(f"shift must be positive, found {amount}")
    return amount * t / (amount * t + (1 - t))  # exact at both ends


def shift_of_tokens(
    tokens: int, *, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (4096, 1.15)
) -> float:
    """Flux's shift exp(mu), with mu linear in the number of image tokens between two (tokens, mu) points."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return float(np.exp(low[1] + slope * (tokens - low[0])))


def shift_of_size(size: int, *, base: int = 4096) -> float:
    """sqrt(size/base) for latents of ``size`` = channels times positions (RAE, arXiv 2510.11690)."""
    return float(np.sqrt(size / base))


def karras_sigmas(steps: int, *, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """EDM's noise levels and a last 0: float32 [steps + 1] (Karras et al., arXiv 2206.00364, equation 5)."""
    if steps < 2:
        raise ValueError(f"this grid needs at least 2 steps, found {steps}")
    part = np.arange(steps) / (steps - 1)
    levels = (high ** (1 / rho) + part * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return np.append(levels, 0.0).astype(np.float32)


def indices(steps: int, count: int = 1000, *, spacing: str = "trailing") -> np.ndarray:
    """``steps`` indices of a table of ``count`` levels, descending, int32 [steps].

    Args:
      steps: how many.
      count: K.
      spacing: of 50 of 1000: "trailing" 999, 979, ...; "leading" 981, 961, ... (offset 1); "linspace" 999, 979, 958,
        ...; "respaced" the strided ones of DDPM code, ends included.
    """
    if not 1 <= steps <= count:
        raise ValueError(f"expected 1 to {count} steps, found {steps}")
    if spacing == "trailing":
        return np.round(count - np.arange(steps) * count / steps).astype(np.int32) - 1
    if spacing == "leading":
        if (steps - 1) * (count // steps) + 1 >= count:
            raise ValueError(f"leading spacing of {steps} steps leaves the table of {count} levels; use trailing")
        return (np.arange(steps) * (count // steps))[::-1].astype(np.int32) + 1
    if spacing == "linspace":
        return np.round(np.linspace(0, count - 1, steps))[::-1].astype(np.int32)
    if spacing == "respaced":
        stride = (count - 1) / max(steps - 1, 1)
        return np.array([round(i * stride) for i in range(steps)][::-1], np.int32)
    raise ValueError(f"spacing must be trailing, leading, linspace or respaced, found {spacing!r}")


def lcm_indices(steps: int, *, count: int = 1000, grid: int = 50) -> np.ndarray:
    """The indices of latent consistency sampling (Luo et al., arXiv 2310.04378): 4 steps give 999, 759, 499, 259."""
    if not 1 <= steps <= grid:
        raise ValueError(f"expected 1 to {grid} steps, found {steps}")
    every = np.arange(1, grid + 1) * (count // grid) - 1
    chosen = np.floor(np.linspace(0, grid, steps, endpoint=False)).astype(int)
    return every[::-1][chosen].astype(np.int32)
