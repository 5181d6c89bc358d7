"""Speculative decoding: a draft of k tokens is checked by one call of the model (Leviathan et al., arXiv 2211.17192).

The tokens that come out are distributed as the model's own, whatever drafted them. The loop around it is short: draft k
tokens, call the model on all of them, :func:`verify`, and crop the cache to what was accepted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtok.decode import sampling


class Verified(NamedTuple):
    """What a round gives.

    Attributes:
      ids: int32 [B, k + 1]: the accepted tokens, one of the model's own, then -1.
      accepted: int32 [B], of the draft, 0 to k; a round gives ``accepted`` + 1 tokens.
    """

    ids: jax.Array
    accepted: jax.Array


def verify(draft: jax.Array, proposed: jax.Array, wanted: jax.Array, keys: jax.Array) -> Verified:
    """Accepts token y with probability min(1, p(y)/q(y)); the first refused one is drawn anew from (p - q)+.

    After k accepted tokens one more is drawn from p.

    Args:
      draft: int [B, k], drawn from ``proposed``.
      proposed: q, probabilities [B, k, V], with whatever temperature and filters made the draft.
      wanted: p, the model's probabilities after the context and after each token of the draft, [B, k + 1, V].
      keys: one per row, [B].
    """
    _check(draft, wanted, proposed)
    length, size = draft.shape[1], wanted.shape[2]
    p, q = (x.astype(jnp.float32) for x in (wanted, proposed))
    p_draft, q_draft = (jnp.take_along_axis(x[:, :length], draft[..., None], axis=-1)[..., 0] for x in (p, q))
    chance = sampling.uniform(sampling.fold_in(keys, 0), length)
    accepted = _leading(chance * q_draft < p_draft)
    q = jnp.concatenate([q, jnp.zeros((q.shape[0], 1, size), q.dtype)], axis=1)  # after the draft: p itself
    at = accepted[:, None, None]
    p, q = (jnp.take_along_axis(x, at, axis=1)[:, 0] for x in (p, q))
    rest = jnp.maximum(p - q, 0.0)
    rest = jnp.where(rest.sum(-1, keepdims=True) > 0.0, rest, p)  # p = q up to rounding
    return _joined(draft, accepted, sampling.draw(jnp.log(rest), sampling.fold_in(keys, 1)))


def verify_greedy(draft: jax.Array, wanted: jax.Array) -> Verified:
    """Accepts as long as the draft is what the model takes to be most probable; then that token itself.

    Args:
      draft: int [B, k].
      wanted: the model's logits or probabilities, [B, k + 1, V].
    """
    _check(draft, wanted)
    best = jnp.argmax(wanted, axis=-1).astype(jnp.int32)
    accepted = _leading(best[:, :-1] == draft)
    return _joined(draft, accepted, jnp.take_along_axis(best, accepted[:, None], axis=1)[:, 0])


def expected_tokens(rate: float, length: int) -> float:
    """Tokens per round with a draft of ``length`` tokens, each accepted at ``rate``: (1 - a^(k+1))/(1 - a)."""
    if not 0.0 <= rate <= 1.0 or length < 0:
        raise ValueError(f"rate must lie in [0, 1] and length be 0 or more, found {rate} and {length}")
    return length + 1.0 if rate == 1.0 else (1.0 - rate ** (length + 1)) / (1.0 - rate)


def _check(draft: jax.Array, wanted: jax.Array, proposed: jax.Array | None = None) -> None:
    batch, length = draft.shape
    if wanted.ndim != 3 or wanted.shape[:2] != (batch, length + 1):
        raise ValueError(f"wanted must have shape ({batch}, {length + 1}, V) for this draft, found {wanted.shape}")
    if proposed is not None and proposed.shape != (batch, length, wanted.shape[2]):
        raise ValueError(f"proposed must have shape {(batch, length, wanted.shape[2])}, found {proposed.shape}")


def _leading(true: jax.Array) -> jax.Array:
    """How many True each row begins with, int32 [B]."""
    return jnp.cumprod(true.astype(jnp.int32), axis=1).sum(1)


def _joined(draft: jax.Array, accepted: jax.Array, token: jax.Array) -> Verified:
    place = jnp.arange(draft.shape[1] + 1)[None]
    ids = jnp.pad(draft.astype(jnp.int32), ((0, 0), (0, 1)))
    ids = jnp.where(place < accepted[:, None], ids, jnp.where(place == accepted[:, None], token[:, None], -1))
    return Verified(ids, accepted)
