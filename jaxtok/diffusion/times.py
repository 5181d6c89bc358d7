"""Time grids for sampling and time draws for training; t = 0 is data, t = 1 is noise."""

import jax
import jax.numpy as jnp
import numpy as np


def uniform_grid(steps: int) -> np.ndarray:
    """``steps`` equal steps from noise to data: float32 [steps + 1], from 1 to 0."""
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, found {steps}")
    return np.linspace(1.0, 0.0, steps + 1).astype(np.float32)


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


def shift(t: jax.Array | np.ndarray, amount: float) -> jax.Array | np.ndarray:
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
