"""Masked decoding: many positions at a time, in the order of confidence (MaskGIT) or in a random one (MAR)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.decode import sampling

Predict = Callable[[jax.Array, jax.Array], jax.Array]
Schedule = str | Callable[[jax.Array, jax.Array], jax.Array]
Propose = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Left = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

SCHEDULES = ("cosine", "uniform", "log", "exp", "pow<P>, such as pow2")


def masked_share(done: jax.Array, total: jax.Array | int, schedule: Schedule = "cosine") -> jax.Array:
    """The share that is still masked when a share ``done`` of the steps is over, float32, in [1e-6, 1].

    cosine: cos(pi done / 2); uniform: 1 - done; powP: 1 - done^P; log: -log2(done) / log2(total);
    exp: 1 - 2^(-log2(total) (1 - done)) (Chang et al., MaskGIT, arXiv 2202.04200).

    Args:
      done: in (0, 1].
      total: number of positions at the start.
      schedule: one of these names, or a function of (done, total).
    """
    share: Any
    done, count = jnp.asarray(done, jnp.float32), jnp.log2(jnp.maximum(jnp.asarray(total, jnp.float32), 2.0))
    if callable(schedule):
        share = schedule(done, jnp.asarray(total))
    elif schedule == "cosine":
        share = jnp.cos(math.pi / 2 * done)
    elif schedule == "uniform":
        share = 1.0 - done
    elif schedule == "log":
        share = -jnp.log2(done) / count
    elif schedule == "exp":
        share = 1.0 - jnp.exp2(-count * (1.0 - done))
    elif schedule.startswith("pow") and _positive(schedule[3:]):
        share = 1.0 - done ** float(schedule[3:])
    else:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, or a function, found {schedule!r}")
    return jnp.clip(jnp.asarray(share), 1e-6, 1.0)


def _positive(text: str) -> bool:
    try:
        return 0.0 < float(text) < math.inf
    except ValueError:
        return False


def remaining(step: jax.Array | int, steps: int, total: jax.Array, masked: jax.Array, schedule: Schedule) -> jax.Array:
    """How many positions stay masked after ``step`` (from 0) of ``steps``: int32, from 1 to ``masked`` - 1.

    Args:
      step: this one.
      steps: of all.
      total: int [...], masked positions before the first step.
      masked: int [...], masked positions before this step.
      schedule: see :func:`masked_share`.
    """
    done = (jnp.asarray(step, jnp.float32) + 1.0) / steps
    count = jnp.floor(total * masked_share(done, total, schedule)).astype(jnp.int32)
    return jnp.maximum(1, jnp.minimum(masked - 1, count))


def lowest(score: jax.Array, count: jax.Array, among: jax.Array) -> jax.Array:
    """Bool [B, L]: the ``count`` [B] lowest scores [B, L] of the positions ``among``; equals by position."""
    order = jnp.argsort(jnp.where(among, score, jnp.inf), axis=1)
    return (jnp.argsort(order, axis=1) < count[:, None]) & among


def maskgit(
    predict: Predict,
    ids: jax.Array,
    keys: jax.Array,
    *,
    steps: int,
    mask_id: int,
    schedule: Schedule = "cosine",
    temperature: float = 1.0,
    choice_temperature: float = 4.5,
    known: jax.Array | None = None,
    start: int = 0,
) -> jax.Array:
    """Fills masked positions in ``steps`` calls, keeping the most confident ones of each (arXiv 2202.04200, section 3).

    Step k of T draws an id for every masked position, scores it by log p + choice_temperature (1 - r) Gumbel noise,
    r = (k + 1)/T, and masks the lowest scores again, as many as the schedule says; at least one, so that the ids
    returned are those before the last masking. Confidence is of the logits without temperature.

    Args:
      predict: ``predict(ids [B, L], share_done float32 []) -> logits [B, L, V]``; ``share_done`` is k/T, for ramps of
        guidance. An id that must not come out gets -inf; ``mask_id`` does so here.
      ids: int [B, L].
      keys: one per row, [B].
      steps: T, at least 1.
      mask_id: id of a masked position; it may lie outside the V ids (MaskGIT's own is -1).
      schedule: see :func:`masked_share`.
      temperature: of the draws; 0 takes the most probable ids.
      choice_temperature: of the noise on confidence; 0 for none.
      known: bool [B, L], positions that stay as they are; None for those that are not ``mask_id``.
      start: the first k: above 0 for editing, when much is known from the start.

    Returns:
      Ids int32 [B, L].
    """
    if choice_temperature < 0.0:
        raise ValueError(f"choice_temperature must be 0 or more, found {choice_temperature}")

    def propose(logits: jax.Array, keys: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        drawn = sampling.choose(logits, sampling.fold_in(keys, 0), temperature=temperature)
        score = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], axis=-1)[..., 0]
        if choice_temperature:
            noise = sampling.gumbel(sampling.fold_in(keys, 1), drawn.shape[1])
            score = score + choice_temperature * (1.0 - (k + 1.0) / steps) * noise
        return drawn, score

    def left(k: jax.Array, total: jax.Array, masked: jax.Array) -> jax.Array:
        return remaining(k, steps, total, masked, schedule)

    return fill(predict, ids, keys, steps=steps, mask_id=mask_id, propose=propose, left=left, known=known, start=start)


def fill(
    predict: Predict,
    ids: jax.Array,
    keys: jax.Array,
    *,
    steps: int,
    mask_id: int,
    propose: Propose,
    left: Left,
    known: jax.Array | None = None,
    start: int = 0,
) -> jax.Array:
    """Fills masked positions in ``steps`` calls: each proposes an id for all of them and masks the lowest scores again.

    What a call leaves unmasked never changes. The ids returned are those before the last masking.

    Args:
      predict: as in :func:`maskgit`, and ``ids``, ``keys``, ``steps``, ``mask_id``, ``known`` and ``start``.
      propose: ``propose(logits float32 [B, L, V], keys [B] of the step, step []) -> (ids [B, L], score [B, L])``.
      left: ``left(step, total [B], masked [B]) -> int [B]``: how many of the ``masked`` stay so after the step; total
        is their number at the start.

    Returns:
      Ids int32 [B, L].
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    if not 0 <= start < steps:
        raise ValueError(f"start must lie in [0, {steps}), found {start}")
    ids = ids.astype(jnp.int32)
    first = ids == mask_id if known is None else ~known
    total = first.sum(1)

    def body(k, state):
        ids, masked, _ = state
        logits = predict(ids, jnp.float32(k) / steps).astype(jnp.float32)
        if 0 <= mask_id < logits.shape[-1]:
            logits = sampling.forbid(logits, (mask_id,))
        drawn, score = propose(logits, sampling.fold_in(keys, k), k)
        filled = jnp.where(masked, drawn, ids)
        masked = lowest(score, left(k, total, masked.sum(1)), masked)
        return jnp.where(masked, mask_id, filled), masked, filled

    ids = jnp.where(first, mask_id, ids)
    return jax.lax.fori_loop(start, steps, body, (ids, first, ids))[2]


# ---- with temperatures that fall ----


def annealed(steps: int, *, temperature: float = 0.9, top_share: float = 0.02, noise: float = 1.0) -> Propose:
    """Proposals of TaDiCodec's masked generator (arXiv 2508.16790), which begin warm and end cold.

    At t = 1 - k/T, of the ``top_share`` most probable ids one is drawn at the temperature max(temperature t, 1e-3), in
    the last step the most probable one, in an only step at 0.2. Its score is its probability among these ids without
    temperature, plus noise t Gumbel noise.

    Args:
      steps: T, as in :func:`fill`.
      temperature: of the first draw.
      top_share: of the ids, rounded up; 1 for all.
      noise: on the first scores.
    """
    if not (temperature >= 0.0 and noise >= 0.0 and 0.0 < top_share <= 1.0):
        raise ValueError(
            "expected temperature and noise of 0 or more and top_share in (0, 1], found "
            f"{temperature}, {noise} and {top_share}"
        )

    def propose(logits: jax.Array, keys: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = 1.0 - k / steps
        kept = sampling.keep_top_k(logits, math.ceil(top_share * logits.shape[-1] - 1e-6))
        warmth = 0.2 if steps == 1 else jnp.maximum(temperature * t, 1e-3)
        drawn = sampling.draw(kept / warmth, sampling.fold_in(keys, 0))
        if steps > 1:
            drawn = jnp.where(k == steps - 1, jnp.argmax(kept, axis=-1).astype(jnp.int32), drawn)
        sure = jnp.take_along_axis(jax.nn.softmax(kept), drawn[..., None], axis=-1)[..., 0]
        return drawn, sure + noise * t * sampling.gumbel(sampling.fold_in(keys, 1), drawn.shape[1])

    return propose


def sine(steps: int) -> Left:
    """floor(L sin(pi t/2)) of L positions stay masked at t = 1 - (k + 1)/T: MaskGIT's cosine, to the last position.

    Unlike :func:`remaining` it may unmask none in a step, and all before the last.
    """
    done = (np.arange(steps) + 1) / steps
    shares = np.sin(math.pi / 2 * (1.0 - done)).astype(np.float32)

    def left(k: jax.Array, total: jax.Array, masked: jax.Array) -> jax.Array:
        return jnp.minimum(masked, jnp.floor(total * jnp.asarray(shares)[k]).astype(jnp.int32))

    return left


# ---- in a random order ----


def random_order(keys: jax.Array, length: int) -> jax.Array:
    """A random permutation of the positions of each row, int32 [B, length], from keys [B]."""
    return jax.vmap(lambda key: jax.random.permutation(key, length))(keys).astype(jnp.int32)


def counts(length: int, steps: int, schedule: Schedule = "cosine") -> np.ndarray:
    """How many positions each of ``steps`` steps decides when all begin masked, int [steps]; their sum is ``length``.

    The last step decides all that is left, at least one position.
    """
    if steps < 1 or length < 1:
        raise ValueError(f"steps and length must be at least 1, found {steps} and {length}")
    found, masked = [], length
    with jax.ensure_compile_time_eval():
        shares = np.asarray(masked_share((jnp.arange(steps, dtype=jnp.float32) + 1.0) / steps, length, schedule))
    for k, share in enumerate(shares):
        count = int(np.floor(np.float32(length) * share))
        left = 0 if k == steps - 1 else max(1, min(masked - 1, count))
        found.append(masked - left)
        masked = left
    return np.asarray(found)


def by_order(
    sample: Callable[..., jax.Array],
    values: jax.Array,
    keys: jax.Array,
    *,
    steps: int,
    schedule: Schedule = "cosine",
    order: jax.Array | None = None,
) -> jax.Array:
    """Fills all positions in an order that is drawn at the start (MAR, Li et al., arXiv 2406.11838, section 4.3).

    Args:
      sample: ``sample(values, masked, chosen, share_done, keys) -> values [B, L, ...]``: new values for the positions
        ``chosen`` (bool [B, L]); ``masked`` are those and the later ones. ``share_done`` (float32 []) is the share of
        positions that are decided after this step, and ``keys`` [B] are this step's.
      values: [B, L, ...], ids or vectors; what is there before does not matter to the result, only to ``sample``.
      keys: one per row, [B].
      steps: calls of ``sample``.
      schedule: see :func:`masked_share`; :func:`counts` gives the positions per step.
      order: int [B, L], positions as they are to be decided; None draws one per row.
    """
    batch, length = values.shape[:2]
    if order is None:
        order = random_order(sampling.fold_in(keys, steps), length)
    rank = jnp.argsort(order, axis=1)  # when a position's turn comes
    ends = jnp.asarray(np.cumsum(counts(length, steps, schedule)), jnp.int32)

    def body(k: jax.Array, values: Any) -> jax.Array:
        begin = jnp.where(k == 0, 0, ends[k - 1])
        masked = rank >= begin
        chosen = masked & (rank < ends[k])
        share = ends[k].astype(jnp.float32) / length
        new = sample(values, masked, chosen, share, sampling.fold_in(keys, k))
        return jnp.where(chosen.reshape(batch, length, *(1,) * (values.ndim - 2)), new, values)

    return jax.lax.fori_loop(0, steps, body, values)
