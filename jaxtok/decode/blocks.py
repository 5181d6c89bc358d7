"""Block decoding of masked language models: blocks from the left, each filled in as many calls as a policy wants.

Each call of the network proposes an id for every masked position of the block, with a confidence; a policy
(:mod:`jaxtok.decode.policies`) picks those that are written, and these never change again. LLaDA (arXiv 2502.09992),
Dream (2508.15487) and Fast-dLLM (2505.22618) differ in the policy, the confidence and in what is kept between calls.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.decode import sampling
from jaxtok.decode.policies import Aux, Policy, check_at_least_one, proposal
from jaxtok.diffusion import guidance

Predict = Callable[[jax.Array], jax.Array]
Propose = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def shifted(logits: jax.Array) -> jax.Array:
    """Logits [B, L, V] of the positions themselves, of a network whose output i is for position i + 1 (Dream)."""
    return jnp.concatenate([logits[:, :1], logits[:, :-1]], axis=1)


def guided(predict: Predict, scale: float, hidden: jax.Array, mask_id: int) -> Predict:
    """u + scale (c - u), u with the positions ``hidden`` (bool [B, L]: the prompt) masked; LLaDA's w is scale - 1."""

    def wrapped(ids: jax.Array) -> jax.Array:
        logits = predict(jnp.concatenate([ids, jnp.where(hidden, mask_id, ids)])).astype(jnp.float32)
        return guidance.classifier_free(*jnp.split(logits, 2), scale)

    return wrapped


def _write(logits, ids, active, step, started, keys, *, mask_id, policy, propose, steps):
    """One step: the new ids and which positions were written; all active ones at the last step of a block."""
    logits = logits.astype(jnp.float32)
    if 0 <= mask_id < logits.shape[-1]:
        logits = sampling.forbid(logits, (mask_id,))
    proposed, confidence = propose(logits, keys)
    chosen = policy(jnp.where(active, confidence, -jnp.inf), proposed, active, step, Aux(logits, started, keys))
    chosen = active & (chosen | (step >= steps - 1)[:, None])
    return jnp.where(chosen, proposed, ids), chosen


def _stopped(ids: jax.Array, inside: jax.Array, masked: jax.Array, stop: int) -> tuple[jax.Array, jax.Array]:
    """Fills with ``stop`` the rows in which it stands ``inside`` (bool [B, L]), and what is masked afterwards."""
    ended = jnp.any((ids == stop) & inside, axis=1, keepdims=True)
    return jnp.where(masked & ended, stop, ids), masked & ~ended


def decode(
    predict: Predict,
    ids: jax.Array,
    keys: jax.Array,
    *,
    mask_id: int,
    prompt: jax.Array | int,
    length: int,
    block: int,
    policy: Policy,
    propose: Propose = proposal,
    steps: int = 0,
    stop: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Fills the masked ones of ``length`` positions after the prompt, in one loop; each row goes at its own pace.

    Args:
      predict: ``predict(ids [B, L]) -> logits [B, L, V]``, of the positions themselves (:func:`shifted`).
      ids: int [B, L]; positions after the prompt may hold ids already, the others ``mask_id``.
      keys: one per row, [B].
      mask_id: never proposed; padding outside the ``length`` positions may have this id too.
      prompt: int [] or [B], where the positions to be filled begin.
      length: how many there are.
      block: positions of a block.
      policy: see above.
      propose: ``propose(logits, keys) -> (ids, confidence)``, such as a partial of :func:`proposal`.
      steps: the most calls per block; what is left is written in the last. 0 for as many as positions.
      stop: when a finished block holds this id, so do all later masked positions, without further calls.

    Returns:
      Ids int32 [B, L], and how many calls each row took part in, int32 [B].
    """
    check_at_least_one("length", length)
    check_at_least_one("block", block)
    step = functools.partial(_write, mask_id=mask_id, policy=policy, propose=propose, steps=steps or block)
    ids = ids.astype(jnp.int32)
    offset = jnp.arange(ids.shape[1]) - jnp.broadcast_to(jnp.asarray(prompt), ids.shape[:1])[:, None]
    number = jnp.where((offset >= 0) & (offset < length), offset // block, -1)  # of each position's block
    zeros = jnp.zeros(ids.shape[0], jnp.int32)

    def body(state):
        ids, masked, last, count, started, calls = state
        current = jnp.min(jnp.where(masked, number, length), axis=1)  # each row's first block with a masked position
        active = masked & (number == current[:, None])
        count = jnp.where(current == last, count, 0)
        started = jnp.where(current == last, started, active.sum(1))
        ids, chosen = step(predict(ids), ids, active, count, started, sampling.fold_in(keys, calls))
        masked, calls = masked & ~chosen, calls + masked.any(1)
        if stop is not None:
            first = jnp.min(jnp.where(masked, number, length), axis=1, keepdims=True)
            ids, masked = _stopped(ids, (number >= 0) & (number < first), masked, stop)
        return ids, masked, current, count + 1, started, calls

    state = (ids, (number >= 0) & (ids == mask_id), zeros - 1, zeros, zeros, zeros)
    state = jax.lax.while_loop(lambda state: jnp.any(state[1]), body, state)
    return state[0], state[5]


REUSE = ("prefix", "dual")


def decode_cached(
    forward: Callable[[jax.Array, jax.Array | int, Any], tuple[jax.Array, Any]],
    cache: Any,
    ids: jax.Array,
    keys: jax.Array,
    *,
    mask_id: int,
    prompt: int,
    length: int,
    block: int,
    policy: Policy,
    propose: Propose = proposal,
    steps: int = 0,
    stop: int | None = None,
    reuse: str = "dual",
) -> tuple[jax.Array, jax.Array]:
    """:func:`decode` that computes most keys and values once per block (Fast-dLLM); blocks begin together in all rows.

    What ``propose`` draws, it draws for the block alone, where :func:`decode` draws for the whole sequence: with a
    temperature the ids are others, of the same distribution.

    The first call of a block is of the whole sequence. "dual": later ones are of the block alone and see the other
    positions as they were then. "prefix": later ones are of the block and all that follows it; compiled per block.

    Args:
      forward: ``forward(ids [B, T], start, cache) -> (logits [B, T, V], cache)``: takes the T tokens from position
        ``start`` on, writes their keys and values there, and attends to the whole cache of L slots.
      cache: of L slots.
      ids: int [B, L] with L = ``prompt`` + ``length``, a whole number of blocks after the prompt.
      keys: one per row, [B].
      mask_id: as in :func:`decode`, and ``policy``, ``propose``, ``steps``, ``stop``.
      prompt: positions before the first block, one number for all rows.
      length: positions to be filled; a multiple of ``block``.
      block: positions of a block.
      reuse: "prefix" or "dual".

    Returns:
      Ids int32 [B, L], and how many calls each row took part in, whole or partial, int32 [B].
    """
    check_at_least_one("block", block)
    if length < 1 or length % block or ids.shape[1] != prompt + length:
        raise ValueError(
            f"ids must hold prompt + length positions, length a multiple of block, found {ids.shape[1]} positions, "
            f"prompt {prompt}, length {length}, block {block}"
        )
    if reuse not in REUSE:
        raise ValueError(f"reuse must be one of {REUSE}, found {reuse!r}")
    write = functools.partial(_write, mask_id=mask_id, policy=policy, propose=propose, steps=steps or block)
    after = (jnp.arange(ids.shape[1]) >= prompt)[None]

    def window(x: jax.Array, begin: jax.Array | int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, begin, block, axis=1)

    def run(number, state):
        ids, masked, calls, cache = state
        begin = prompt + number * block
        started = window(masked, begin).sum(1)

        def commit(logits, ids, masked, calls, count):
            inside = window(masked, begin)
            steps = jnp.broadcast_to(count, calls.shape)
            new, chosen = write(logits, window(ids, begin), inside, steps, started, sampling.fold_in(keys, calls))
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=begin, axis=1)
            return put(ids, new), put(masked, inside & ~chosen), calls + inside.any(1)

        def body(state):
            ids, masked, calls, cache, count = state
            some = window(ids, begin) if reuse == "dual" else ids[:, begin:]
            logits, cache = forward(some, begin, cache)
            return *commit(logits[:, :block], ids, masked, calls, count), cache, count + 1

        logits, cache = forward(ids, 0, cache)
        state = (*commit(window(logits, begin), ids, masked, calls, jnp.int32(0)), cache, jnp.int32(1))
        state = jax.lax.while_loop(lambda state: jnp.any(window(state[1], begin)), body, state)
        ids, masked, calls, cache, _ = state
        if stop is not None:
            done = after & (jnp.arange(ids.shape[1]) < begin + block)[None]
            ids, masked = _stopped(ids, done, masked, stop)
        return ids, masked, calls, cache

    ids = ids.astype(jnp.int32)
    state = (ids, after & (ids == mask_id), jnp.zeros(ids.shape[0], jnp.int32), cache)
    if reuse == "dual":
        state = jax.lax.fori_loop(0, length // block, run, state)
    else:
        for number in range(length // block):
            state = run(number, state)
    return state[0], state[2]
