"""How much of a training example is shown as it is, as the prompt that a user will give."""

import jax
import jax.numpy as jnp

from jaxtok.diffusion import times


def lengths(coins: jax.Array, draws: jax.Array, total: jax.Array, *, rate: float, share: float) -> jax.Array:
    """Positions of the prompt of each example, float32 [B], whole: uniform from min(T/4, 5) to ``share`` T, or 0.

    TaDiCodec's (arXiv 2508.16790), but of each example's own length T, and with a coin for each.

    Args:
      coins: keys [B] of whether there is a prompt.
      draws: keys [B] of its length.
      total: T [B].
      rate: probability of a prompt.
      share: the longest prompt as a share of T.
    """
    total = total.astype(jnp.float32)
    low, high = jnp.minimum(total / 4, 5.0), total * share
    length = jnp.floor(low + times.uniform(draws) * jnp.maximum(high - low, 0.0))
    return jnp.where(times.uniform(coins) < rate, length, 0.0)
