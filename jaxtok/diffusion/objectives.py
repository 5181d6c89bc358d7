"""Objectives beside the squared error of a prediction: learned variances, and weights by time."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion.paths import Path, expand, forward_variance, posterior


def learned_variance_bound(
    x: jax.Array, x_t: jax.Array, k: jax.Array, data: jax.Array, between: jax.Array, path: Path, *, levels: int = 256
) -> jax.Array:
    """The variational term of a network that learns its variance (Nichol and Dhariwal, arXiv 2102.09672).

    KL(q(x_k-1 | x_k, x) | p(x_k-1 | x_k)) for k > 0 and -log p(x | x_0) at k = 0, in bits per dimension. The mean takes
    no gradient: add the squared error of the noise, without a factor K/1000 (DiT).

    Args:
      x: data [B, ...] in [-1, 1].
      x_t: the state at k.
      k: indices, int [B].
      data: the network's data estimate; its gradient is stopped here.
      between: place of the log variance between the posterior's (0) and log beta (1), in the shape of x; for DiT's
        second half of channels nu it is (nu + 1)/2, not clamped.
      path: the table.
      levels: values that x can take, evenly over [-1, 1]; the likelihood at k = 0 is of their bins.

    Returns:
      float32 [B].
    """
    now = expand(jnp.asarray(k), x.ndim)
    mean, variance = posterior(path, x, x_t, now, now - 1)
    guess, _ = posterior(path, jax.lax.stop_gradient(data), x_t, now, now - 1)
    # The posterior of index 0 has no variance; its logarithm is cut to that of index 1.
    one = jnp.ones_like(now)
    log_low = jnp.log(jnp.where(now > 0, variance, posterior(path, x, x_t, one, one - 1)[1]))
    log_high = jnp.log(forward_variance(path, now, now - 1))
    log_variance = between * log_high + (1 - between) * log_low
    divergence = gaussian_divergence(mean, log_low, guess, log_variance)
    likelihood = -binned_log_likelihood(x, guess, log_variance, levels=levels)
    nats = jnp.where(now > 0, divergence, likelihood)
    return nats.reshape(len(x), -1).mean(1) / math.log(2)


def gaussian_divergence(
    mean: jax.Array, log_variance: jax.Array, other_mean: jax.Array, other_log_variance: jax.Array
) -> jax.Array:
    """KL(N(mean, variance) | N(other)), elementwise, in nats."""
    change = log_variance - other_log_variance
    return (jnp.exp(change) - 1 - change + jnp.square(mean - other_mean) * jnp.exp(-other_log_variance)) / 2


def binned_log_likelihood(x: jax.Array, mean: jax.Array, log_variance: jax.Array, *, levels: int = 256) -> jax.Array:
    """log of the normal mass on the bin around x, elementwise in nats; the outermost bins reach to infinity.

    Args:
      x: one of ``levels`` even values from -1 to 1.
      mean: of the normal.
      log_variance: of it.
      levels: how many.
    """
    half, inverse = 1 / (levels - 1), jnp.exp(-log_variance / 2)
    above = jax.scipy.stats.norm.cdf((x + half - mean) * inverse)
    below = jax.scipy.stats.norm.cdf((x - half - mean) * inverse)
    mass = jnp.where(x > 1 - half, 1.0, above) - jnp.where(x < half - 1, 0.0, below)
    return jnp.log(jnp.maximum(mass, 1e-12))


def cosmap_weight(t: jax.Array) -> jax.Array:
    """2/(pi (1 - 2 t + 2 t^2)): the density of times of a cosine path, as a weight (Esser et al., arXiv 2403.03206)."""
    return 2 / (jnp.pi * (1 - 2 * t + 2 * t**2))


def bell_weights(times: np.ndarray) -> np.ndarray:
    """exp(-2 (t - 1/2)^2), less its least value, over its mean: float32, of all the times that training can draw."""
    bell = np.exp(-2 * (np.asarray(times, np.float64) - 0.5) ** 2)
    bell = bell - bell.min()
    return (bell / bell.mean()).astype(np.float32)
