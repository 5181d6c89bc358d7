"""Networks on a part of the tokens: the best ones by a score are taken out, and put back afterwards.

The number of tokens that are taken is fixed, so that all shapes are known to the compiler. Each example chooses for
itself; nothing depends on its neighbours in the batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def select(scores: jax.Array, count: int) -> jax.Array:
    """The places of the ``count`` highest scores, in the order of the sequence: int32 [B, count].

    Of equal scores the first is taken.

    Args:
      scores: [B, T]; -inf marks what should be taken last, such as padding.
      count: tokens to take.

    Raises:
      ValueError: when there are not so many.
    """
    if not 0 < count <= scores.shape[-1]:
        raise ValueError(f"count: expected 1 to {scores.shape[-1]} tokens, found {count}")
    return jnp.sort(jax.lax.top_k(scores, count)[1], axis=-1).astype(jnp.int32)


def gather(x: jax.Array, places: jax.Array) -> jax.Array:
    """The tokens at ``places`` [B, K] of x [B, T, ...]: [B, K, ...]."""
    return jax.vmap(lambda row, index: row[index])(x, places)


def scatter(x: jax.Array, places: jax.Array, tokens: jax.Array) -> jax.Array:
    """x [B, T, ...] with ``tokens`` [B, K, ...] at ``places`` [B, K], which must differ from each other in each row.

    ``scatter(x, places, gather(x, places))`` is x, bit by bit, and so is ``gather(scatter(x, p, tokens), p)`` tokens.
    """
    return jax.vmap(lambda row, index, new: row.at[index].set(new.astype(row.dtype), unique_indices=True))(
        x, places, tokens
    )


def complement(places: jax.Array, length: int) -> jax.Array:
    """The other places, in the order of the sequence: int32 [B, length - K]."""
    taken = jax.vmap(lambda index: jnp.zeros(length, bool).at[index].set(True))(places)
    return jnp.argsort(taken, axis=-1, stable=True)[:, : length - places.shape[-1]].astype(jnp.int32)


def through(function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, places: jax.Array) -> jax.Array:
    """x where the tokens at ``places`` went through ``function(tokens [B, K, D], places) -> [B, K, D]``.

    The others stay what they are. ``places`` serves to look up rotary angles or masks of the chosen tokens.
    """
    return scatter(x, places, function(gather(x, places), places))
