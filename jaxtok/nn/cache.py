"""Keys and values of past tokens, kept so that each is computed once.

A cache is a value: it goes into a network and comes out of it with the new tokens at the end. Inside one compiled loop
it is updated in place.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class KVCache:
    """Keys and values of all blocks; the slots from ``length`` on hold nothing yet.

    Attributes:
      key: [depth, B, heads, S, head_dim] with S slots; keys are kept rotated to their positions. A head's keys lie side
        by side, as the products of attention read them.
      value: likewise.
      length: int32 [], slots in use, and the slot where the next token goes.
    """

    key: jax.Array
    value: jax.Array
    length: jax.Array

    @property
    def slots(self) -> int:
        """Tokens that fit in."""
        return self.key.shape[3]


def empty(depth: int, batch: int, slots: int, heads: int, head_dim: int, dtype: Any = jnp.float32) -> KVCache:
    """A cache without tokens.

    Args:
      depth: blocks.
      batch: rows.
      slots: the most tokens that a row will hold.
      heads: heads of keys and values, which may be fewer than those of queries.
      head_dim: channels per head.
      dtype: of keys and values.
    """
    sizes = dict(depth=depth, batch=batch, slots=slots, heads=heads, head_dim=head_dim)
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} of a cache must be at least 1, found {size}")
    shape = (depth, batch, heads, slots, head_dim)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32))


def write(cache: KVCache, layer: jax.Array | int, key: jax.Array, value: jax.Array) -> KVCache:
    """Puts the keys and values [B, T, heads, head_dim] of one block into the slots from ``length`` on.

    ``length`` stays: it moves when all blocks have written (:func:`advance`).
    """
    key, value = (jnp.moveaxis(x, 1, 2)[None].astype(cache.key.dtype) for x in (key, value))
    start = (layer, 0, 0, cache.length, 0)
    return dataclasses.replace(
        cache,
        key=jax.lax.dynamic_update_slice(cache.key, key, start),
        value=jax.lax.dynamic_update_slice(cache.value, value, start),
    )


def read(cache: KVCache, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Keys and values of one block, [B, S, heads, head_dim] each, unused slots included."""
    return jnp.moveaxis(cache.key[layer], 1, 2), jnp.moveaxis(cache.value[layer], 1, 2)


def advance(cache: KVCache, count: int) -> KVCache:
    """The cache with ``count`` more slots in use."""
    return dataclasses.replace(cache, length=cache.length + count)


def crop(cache: KVCache, length: jax.Array | int) -> KVCache:
    """The cache of the first ``length`` tokens; later ones are overwritten by what comes next."""
    return dataclasses.replace(cache, length=jnp.asarray(length, jnp.int32))


def causal_mask(cache: KVCache, count: int) -> jax.Array:
    """Bool [1, 1, count, S]: what each of the next ``count`` tokens may look at, the past and itself."""
    last = cache.length + jnp.arange(count)
    return (jnp.arange(cache.slots) <= last[:, None])[None, None]


def check(cache: KVCache, depth: int, batch: int, count: int, heads: int, head_dim: int) -> None:
    """Refuses a cache that does not belong to a network or cannot hold ``count`` tokens.

    Raises:
      ValueError: naming the shapes.
    """
    expected = (depth, batch, heads, cache.slots, head_dim)
    if cache.key.shape != expected or cache.value.shape != expected:
        raise ValueError(
            f"cache must hold keys and values of shape {expected} (blocks, rows, heads, slots, channels per head), "
            f"found {cache.key.shape} and {cache.value.shape}"
        )
    if count > cache.slots:
        raise ValueError(f"{count} tokens do not fit in a cache of {cache.slots} slots")


CHUNK = 32  # slots that attend_one reads at a time


def attend_one(cache: KVCache, layer: jax.Array | int, query: jax.Array, mask: jax.Array) -> jax.Array:
    """Attention of a single query to one block's keys and values, read where they lie, up to the last visible slot.

    A chunk of slots after another, with a running maximum and sum of the softmax (Milakov and Gimelshein, 1805.02867):
    time grows with the tokens so far, not with the slots.

    Args:
      cache: of all blocks.
      layer: which block.
      query: [B, 1, N, H]; N is a multiple of the cache's heads.
      mask: bool, broadcastable to [B, N, 1, S], True where a key may be looked at.

    Returns:
      [B, 1, N, H].
    """
    _, batch, groups, slots, channels = cache.key.shape
    each, size = query.shape[2] // groups, min(CHUNK, slots)
    query = (query * channels**-0.5).reshape(batch, groups, each, channels)
    mask = jnp.broadcast_to(mask, (mask.shape[0], groups * each, 1, slots))
    mask = mask.reshape(mask.shape[0], groups, each, slots)
    end = jnp.max(jnp.where(mask.any((0, 1, 2)), jnp.arange(slots) + 1, 0))
    never = 0.7 * float(jnp.finfo(jnp.float32).min)

    def body(state):
        number, highest, total, out = state
        begin = jnp.minimum(number * size, slots - size)  # the last chunk may reach back into the one before
        at = (layer, 0, 0, begin, 0)
        key, value = (
            jax.lax.dynamic_slice(x, at, (1, batch, groups, size, channels))[0] for x in (cache.key, cache.value)
        )
        seen = jax.lax.dynamic_slice_in_dim(mask, begin, size, axis=3) & (begin + jnp.arange(size) >= number * size)
        logits = jnp.einsum("bgqh,bgsh->bgqs", query, key, preferred_element_type=jnp.float32)
        logits = jnp.where(seen, logits, never)
        top = jnp.maximum(highest, logits.max(-1, keepdims=True))
        weights, keep = jnp.where(seen, jnp.exp(logits - top), 0.0), jnp.exp(highest - top)
        new = jnp.einsum("bgqs,bgsh->bgqh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        return number + 1, top, total * keep + weights.sum(-1, keepdims=True), out * keep + new

    sums = jnp.zeros((batch, groups, each, 1), jnp.float32)
    state = (jnp.int32(0), sums + never, sums, jnp.zeros((batch, groups, each, channels), jnp.float32))
    _, _, total, out = jax.lax.while_loop(lambda state: state[0] * size < end, body, state)
    out = out / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
    return out.reshape(batch, 1, groups * each, channels).astype(query.dtype)
