"""Policies of block decoding: which of the proposed ids are written in a step.

    policy(confidence float32 [B, L], ids int32 [B, L], masked bool [B, L], step int32 [B], aux) -> bool [B, L]

``confidence`` is -inf and ``masked`` False outside the masked positions of the row's block, ``ids`` are the proposals,
``step`` counts calls within the block. A policy writes at least one position of a row that has any, or relies on the
loops of :mod:`jaxtok.decode.blocks`, which write all that is left in the last step of a block.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.decode import masked as masked_lib
from jaxtok.decode import sampling


class Aux(NamedTuple):
    """What a policy may also look at.

    Attributes:
      logits: float32 [B, L, V].
      started: int32 [B], masked positions when the row's block began.
      keys: [B], of this step.
    """

    logits: jax.Array
    started: jax.Array
    keys: jax.Array


Policy = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, Aux], jax.Array]

# ---- proposals ----

MEASURES = ("probability", "margin", "entropy", "random")


def proposal(
    logits: jax.Array,
    keys: jax.Array,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    measure: str = "probability",
    clean: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """An id for each position and how sure the network is of it.

    Args:
      logits: [B, L, V].
      keys: [B].
      temperature: of the draw; 0 takes the most probable id.
      top_k: as in :func:`jaxtok.decode.sampling.choose`, and ``top_p``.
      measure: "probability" of the id; "margin" between the two most probable ids; "entropy", negative; "random".
      clean: confidence of the logits as they are (LLaDA), or of the distribution that is drawn from (Dream).

    Returns:
      Ids int32 [B, L] and confidence float32 [B, L].
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {MEASURES}, found {measure!r}")
    logits = logits.astype(jnp.float32)
    draw_keys = sampling.fold_in(keys, 0)
    ids = sampling.choose(logits, draw_keys, temperature=temperature, top_k=top_k, top_p=top_p)
    if measure == "random":
        return ids, sampling.uniform(sampling.fold_in(keys, 1), logits.shape[1])
    if not clean:
        logits = sampling.shaped(logits, temperature=temperature or 1.0, top_k=top_k, top_p=top_p)
    log_odds = jax.nn.log_softmax(logits)
    if measure == "probability":
        return ids, jnp.exp(jnp.take_along_axis(log_odds, ids[..., None], axis=-1)[..., 0])
    odds = jnp.exp(log_odds)
    if measure == "margin":
        best = jax.lax.top_k(odds, 2)[0]
        return ids, best[..., 0] - best[..., 1]
    return ids, jnp.sum(jnp.where(odds > 0.0, odds * log_odds, 0.0), axis=-1)


# ---- policies ----


def highest(confidence: jax.Array, count: jax.Array | int, masked: jax.Array) -> jax.Array:
    """Bool [B, L]: the ``count`` ([] or [B]) most confident of the masked positions; equals by position."""
    count = jnp.broadcast_to(jnp.asarray(count, jnp.int32), confidence.shape[:1])
    return masked_lib.lowest(-confidence, count, masked)


def counted(steps: int) -> Policy:
    """LLaDA: n masked positions in ``steps`` steps, n // steps each, and one more in the first n % steps."""
    check_at_least_one("steps", steps)

    def policy(confidence, ids, masked, step, aux):
        share, more = jnp.divmod(aux.started, steps)
        return highest(confidence, jnp.maximum(share + (step < more), 1), masked)

    return policy


def threshold(least: float) -> Policy:
    """Fast-dLLM: all positions at least this confident, and always the most confident one.

    With confidence by ``measure="entropy"``, ``least`` is minus the largest entropy.
    """

    def policy(confidence, ids, masked, step, aux):
        return ((confidence >= least) & masked) | highest(confidence, 1, masked)

    return policy


def factor(limit: float) -> Policy:
    """Fast-dLLM: the n most confident positions, for the largest n with (n + 1)(1 - n-th confidence) < ``limit``."""

    def policy(confidence, ids, masked, step, aux):
        ordered = jnp.sort(jnp.where(masked, confidence, -jnp.inf), axis=1, descending=True)
        number = jnp.arange(1, confidence.shape[1] + 1)
        fits = (number + 1) * (1.0 - ordered) < limit
        return highest(confidence, jnp.maximum(jnp.max(fits * number, axis=1), 1), masked)

    return policy


def transfer_shares(steps: int, last: float = 1e-3) -> np.ndarray:
    """Dream: the share of masked positions that each step writes, 1 - s/t for t from 1 to ``last``; 1 at the end."""
    check_at_least_one("steps", steps)
    times = np.linspace(1.0, last, steps + 1)
    return np.append(1.0 - times[1:-1] / times[:-2], 1.0)


def timed(steps: int, *, temperature: float = 0.0, last: float = 1e-3) -> Policy:
    """Dream: int(masked (1 - s/t)) positions a step, all at the last; a step may write none.

    Args:
      steps: of the block; the same number goes to :func:`decode`.
      temperature: 0 takes the most confident ones, above 0 draws them from softmax(confidence / temperature).
      last: the last time.
    """
    shares = jnp.asarray(transfer_shares(steps, last), jnp.float32)
    if temperature < 0.0:
        raise ValueError(f"temperature must be 0 or more, found {temperature}")

    def policy(confidence, ids, masked, step, aux):
        count = jnp.floor(masked.sum(1) * shares[jnp.minimum(step, steps - 1)]).astype(jnp.int32)
        if temperature:
            confidence = confidence / temperature + sampling.gumbel(sampling.fold_in(aux.keys, 2), masked.shape[1])
        return highest(confidence, count, masked)

    return policy


def independent(steps: int, last: float = 1e-3) -> Policy:
    """Dream's "origin": each masked position with probability 1 - s/t, all at the last step; a step may write none."""
    shares = jnp.asarray(transfer_shares(steps, last), jnp.float32)

    def policy(confidence, ids, masked, step, aux):
        draw = sampling.uniform(sampling.fold_in(aux.keys, 2), masked.shape[1])
        return masked & (draw < shares[jnp.minimum(step, steps - 1)][:, None])

    return policy


def check_at_least_one(name: str, value: int) -> None:
    """Refuses counts below 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}")
