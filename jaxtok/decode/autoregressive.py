"""One token after another, in one compiled loop.

step = autoregressive.stepper(lambda ids, cache: model.apply(params, ids, cache=cache))
logits, cache = model.apply(params, prompt, cache=model.cache(batch, slots))  # the prompt at once
ids, calls = autoregressive.generate(step, cache, logits[:, -1], keys, length=256, choose=sampling.choose)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.decode import sampling
from jaxtok.diffusion import guidance

Step = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
Choose = Callable[[jax.Array, jax.Array], jax.Array]
Scale = float | Callable[[jax.Array], jax.Array]


def generate(
    step: Step,
    carry: Any,
    logits: jax.Array,
    keys: jax.Array,
    *,
    length: int,
    choose: Choose = sampling.choose,
    forced: jax.Array | None = None,
    stop: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Chooses ``length`` tokens per row, each after the ones before it.

    Args:
      step: ``step(ids int32 [B], position int32 [], carry) -> (logits [B, V], carry)``: takes the token of a position,
        counted from 0 within what is generated, and answers the logits of the next one.
      carry: what steps hand on, such as a :class:`jaxtok.nn.cache.KVCache`; a pytree of unchanging shapes.
      logits: [B, V] of the first token.
      keys: one per row, [B]; a token's draw depends on its row's key and its position.
      length: at least 1.
      choose: ``choose(logits, keys) -> ids``, for example ``functools.partial(sampling.choose, top_p=0.9)``.
      forced: int [B, length], tokens to be taken as they are, -1 where the choice is free; None leaves all free.
      stop: after a row has chosen this id, the row holds nothing else. The loop ends when all rows have.

    Returns:
      Ids int32 [B, length], and the number of calls of ``step``, int32 [], at most ``length`` - 1.
    """
    batch = logits.shape[0]
    if length < 1:
        raise ValueError(f"length must be at least 1, found {length}")
    if forced is not None and forced.shape != (batch, length):
        raise ValueError(f"forced must have shape {(batch, length)}, found {forced.shape}")
    fill = 0 if stop is None else stop

    def place(ids: jax.Array, done: jax.Array, position: jax.Array, logits: jax.Array) -> tuple[jax.Array, ...]:
        token = choose(logits, sampling.fold_in(keys, position)).astype(jnp.int32)
        free = jnp.ones(batch, bool)
        if forced is not None:
            given = jax.lax.dynamic_index_in_dim(forced, position, axis=1, keepdims=False).astype(jnp.int32)
            free = given < 0
            token = jnp.where(free, token, given)
        if stop is not None:
            token = jnp.where(done, stop, token)
            done = done | (free & (token == stop))
        return jax.lax.dynamic_update_slice(ids, token[:, None], (0, position)), done, token

    def body(state):
        ids, done, token, position, carry = state
        logits, carry = step(token, position, carry)
        ids, done, token = place(ids, done, position + 1, logits)
        return ids, done, token, position + 1, carry

    def unfinished(state):
        return (state[3] < length - 1) & ~jnp.all(state[1])

    ids, done, token = place(jnp.full((batch, length), fill, jnp.int32), jnp.zeros(batch, bool), jnp.int32(0), logits)
    state = jax.lax.while_loop(unfinished, body, (ids, done, token, jnp.int32(0), carry))
    return state[0], state[3]


def stepper(apply: Callable[[jax.Array, Any], tuple[jax.Array, Any]]) -> Step:
    """A step from a network on sequences: ``apply(ids [B, 1], cache) -> (logits [B, 1, V], cache)``."""

    def step(ids: jax.Array, position: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        del position  # the cache knows its length
        logits, carry = apply(ids[:, None], carry)
        return logits[:, -1], carry

    return step


def guide(logits: jax.Array, scale: Scale, position: jax.Array | int = 0) -> jax.Array:
    """u + scale (c - u): logits [B, V] from those with and without the condition, [2 B, V] in this order.

    Args:
      logits: of the doubled batch.
      scale: a number, or a function of the position of the token that the logits are for.
      position: of that token; 0 is the first generated one.
    """
    if logits.shape[0] % 2:
        raise ValueError(f"guidance needs rows with and as many without the condition, found {logits.shape[0]} rows")
    conditional, unconditional = jnp.split(logits.astype(jnp.float32), 2)
    value: Any = scale(jnp.asarray(position)) if callable(scale) else scale
    return guidance.classifier_free(conditional, unconditional, value)


def guided(step: Step, scale: Scale) -> Step:
    """A step of B rows from one of 2 B rows, those with the condition first; both get the same tokens.

    The carry must hold 2 B rows; the first logits are combined by :func:`guide`, which also says what ``scale`` is.
    """

    def wrapped(ids: jax.Array, position: jax.Array, carry: Any) -> tuple[jax.Array, Any]:
        logits, carry = step(jnp.concatenate([ids, ids]), position, carry)
        return guide(logits, scale, position + 1), carry

    return wrapped
