"""From logits to token ids: temperature, filters, and draws with one key per example."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NEVER = -jnp.inf


def keep_top_k(logits: jax.Array, count: int) -> jax.Array:
    """The logits [..., V], with -inf outside the ``count`` largest; equals of the last one stay too."""
    if count < 1:
        raise ValueError(f"top_k must be at least 1, found {count}")
    if count >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, count)[0][..., -1:]
    return jnp.where(logits >= least, logits, _NEVER)


def keep_top_p(logits: jax.Array, share: float) -> jax.Array:
    """Keeps the fewest most probable ids that hold a ``share`` of the probability (Holtzman et al., 1904.09751).

    Args:
      logits: [..., V].
      share: in (0, 1]; the most probable id always stays, and so do equals of the last one.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"top_p must lie in (0, 1], found {share}")
    if share == 1.0:
        return logits
    ordered = jnp.sort(logits, axis=-1, descending=True)
    odds = jax.nn.softmax(ordered.astype(jnp.float32), axis=-1)
    before = jnp.cumsum(odds, axis=-1) - odds
    least = jnp.min(jnp.where(before < share, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, _NEVER)


def keep_min_p(logits: jax.Array, share: float) -> jax.Array:
    """Keeps the ids at least ``share`` times as probable as the most probable one (Nguyen et al., 2407.01082)."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"min_p must lie in [0, 1], found {share}")
    if share == 0.0:
        return logits
    least = logits.max(axis=-1, keepdims=True) + jnp.log(share)
    return jnp.where(logits >= least, logits, _NEVER)


def forbid(logits: jax.Array, ids: Sequence[int]) -> jax.Array:
    """The logits [..., V], with -inf at ``ids``."""
    size = logits.shape[-1]
    if any(not 0 <= i < size for i in ids):
        raise ValueError(f"forbidden ids must lie in [0, {size}), found {tuple(ids)}")
    return jnp.where(np.isin(np.arange(size), tuple(ids)), _NEVER, logits)


def shaped(
    logits: jax.Array, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> jax.Array:
    """Logits float32 [..., V] of the distribution to draw from: temperature, then top-k, top-p, min-p.

    ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 leave all ids. ``temperature`` must be above 0.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0 to draw, found {temperature}")
    if top_k < 0:
        raise ValueError(f"top_k must be 0 (all ids) or more, found {top_k}")
    logits = logits.astype(jnp.float32) / temperature
    logits = keep_top_k(logits, top_k) if top_k else logits
    return keep_min_p(keep_top_p(logits, top_p), min_p)


def draw(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """Ids int32 [B, ...] from softmax(logits [B, ..., V]), by Gumbel's maximum, with keys [B].

    With more than one position the draws of an example's first positions do not depend on how many follow.
    """

    def one(key: jax.Array, logits: jax.Array) -> jax.Array:
        if logits.ndim == 1:
            return jax.random.categorical(key, logits)
        inner = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(logits.shape[0]))
        return jax.vmap(one)(inner, logits)

    return jax.vmap(one)(keys, logits.astype(jnp.float32)).astype(jnp.int32)


def choose(
    logits: jax.Array,
    keys: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> jax.Array:
    """Ids int32 [B, ...] from logits [B, ..., V] and one key per example, [B].

    Args:
      logits: unnormalised.
      keys: [B].
      temperature: 0 takes the most probable id, whatever the filters and keys.
      top_k: only the most probable ids; 0 for all.
      top_p: only the most probable ids that hold this share; 1 for all.
      min_p: only ids at least this share of the most probable one's probability; 0 for all.
    """
    if temperature < 0.0:
        raise ValueError(f"temperature must be 0 or more, found {temperature}")
    options: dict[str, Any] = dict(top_k=top_k, top_p=top_p, min_p=min_p)
    if temperature == 0.0:
        shaped(logits[..., :1], **options)  # settings are checked as ever
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return draw(shaped(logits, temperature=temperature, **options), keys)


def fold_in(keys: jax.Array, number: jax.Array | int) -> jax.Array:
    """Keys [B] for the step or position ``number``, int [] or [B]."""
    return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(jnp.asarray(number), keys.shape))


def gumbel(keys: jax.Array, length: int) -> jax.Array:
    """Standard Gumbel noise, float32 [B, length]; a longer one begins with the shorter one."""
    return -jnp.log(-jnp.log(uniform(keys, length)))


def uniform(keys: jax.Array, length: int) -> jax.Array:
    """Uniform numbers above 0 and below 1, float32 [B, length]; a longer row begins with the shorter one."""
    tiny = float(jnp.finfo(jnp.float32).tiny)

    def one(key: jax.Array) -> jax.Array:
        draw = lambda i: jax.random.uniform(jax.random.fold_in(key, i), minval=tiny)  # noqa: E731
        return jax.vmap(draw)(jnp.arange(length))

    return jax.vmap(one)(keys)
