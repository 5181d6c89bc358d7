"""Absorbing-state discrete diffusion: ids are replaced by a mask id, one by one, as t goes from 0 (data) to 1 (noise).

A schedule gives, by time, the share of positions that is masked and its slope. How many positions a decoder reveals per
step, and in which order, is the business of :mod:`jaxtok.decode`.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtok.diffusion import noise

Schedule = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # t -> (masked share, its slope)


def loglinear(t: jax.Array, *, floor: float = 1e-3) -> tuple[jax.Array, jax.Array]:
    """(1 - floor) t (MDLM, arXiv 2406.07524; SEDD, arXiv 2310.16834); slope/share is 1/t."""
    return (1 - floor) * t, jnp.full_like(t, 1 - floor)


def lifted(t: jax.Array, *, floor: float = 1e-3) -> tuple[jax.Array, jax.Array]:
    """(1 - floor) t + floor: never no mask (LLaDA, arXiv 2502.09992)."""
    return (1 - floor) * t + floor, jnp.full_like(t, 1 - floor)


def maskgit(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos(pi (1 - t)/2): MaskGIT's cosine of a uniform draw 1 - t (arXiv 2202.04200)."""
    return jnp.sin(math.pi / 2 * t), math.pi / 2 * jnp.cos(math.pi / 2 * t)


def cosine(t: jax.Array, *, floor: float = 1e-3) -> tuple[jax.Array, jax.Array]:
    """(1 - floor)(1 - cos(pi t/2)) (MDLM)."""
    return (1 - floor) * (1 - jnp.cos(math.pi / 2 * t)), (1 - floor) * math.pi / 2 * jnp.sin(math.pi / 2 * t)


def cosine_squared(t: jax.Array, *, floor: float = 1e-3) -> tuple[jax.Array, jax.Array]:
    """(1 - floor)(1 - cos^2(pi t/2)) (MDLM)."""
    return (1 - floor) * jnp.sin(math.pi / 2 * t) ** 2, (1 - floor) * math.pi / 2 * jnp.sin(math.pi * t)


def linear_noise(t: jax.Array, *, high: float = 10.0) -> tuple[jax.Array, jax.Array]:
    """1 - exp(-high t) (MDLM)."""
    return -jnp.expm1(-high * t), high * jnp.exp(-high * t)


def geometric(t: jax.Array, *, low: float = 1e-3, high: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """1 - exp(-sigma), sigma = low^(1 - t) high^t (SEDD, MDLM); masks no more than 1 - exp(-high)."""
    sigma = low ** (1 - t) * high**t
    return -jnp.expm1(-sigma), sigma * math.log(high / low) * jnp.exp(-sigma)


def corrupt(ids: jax.Array, share: jax.Array, keys: jax.Array, mask_id: int) -> tuple[jax.Array, jax.Array]:
    """Masks every position with a probability, by itself.

    Args:
      ids: int [B, L].
      share: probability, [B] or [B, L]; 0 where ids are known and stay.
      keys: [B]; a position's draw depends on its example's key and its place alone.
      mask_id: of a masked position.

    Returns:
      x_t int [B, L] and the positions masked, bool [B, L].
    """
    share = share if share.ndim == 2 else share[:, None]
    masked = noise.uniforms(keys, ids.shape[1]) < share
    return jnp.where(masked, mask_id, ids), masked


def corrupt_count(
    ids: jax.Array, count: jax.Array, keys: jax.Array, mask_id: int, *, among: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Masks ``count`` [B] random positions of ``among`` (bool [B, L], None for all); returns as :func:`corrupt`."""
    draws = noise.uniforms(keys, ids.shape[1])
    draws = draws if among is None else jnp.where(among, draws, 2.0)
    rank = jnp.argsort(jnp.argsort(draws, axis=1), axis=1)
    masked = rank < count[:, None]
    if among is not None:
        masked &= among
    return jnp.where(masked, mask_id, ids), masked


def substituted(logits: jax.Array, x_t: jax.Array, mask_id: int) -> jax.Array:
    """Log probabilities of clean ids as MDLM substitutes them (SUBS, arXiv 2406.07524), float32 [B, L, V].

    The mask id has none; where x_t is not masked, it is itself for certain.

    Args:
      logits: [B, L, V].
      x_t: int [B, L].
      mask_id: within V, or outside of it when the network knows no such output.
    """
    logits, ids = logits.astype(jnp.float32), jnp.arange(logits.shape[-1])
    log_probs = jax.nn.log_softmax(jnp.where(ids == mask_id, -jnp.inf, logits))
    certain = jnp.where(ids == x_t[..., None], 0.0, -jnp.inf)
    return jnp.where((x_t == mask_id)[..., None], log_probs, certain)


def cross_entropy(logits: jax.Array, ids: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """-log p(ids) in nats, float32 [B, L]; ``smoothing`` spreads that share of the target over all V (MaskGIT: 0.1)."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    loss = -jnp.take_along_axis(log_probs, ids[..., None], -1)[..., 0]
    return loss if not smoothing else (1 - smoothing) * loss - smoothing * log_probs.mean(-1)


def bound(loss: jax.Array, masked: jax.Array, weight: jax.Array, *, counted: jax.Array | None = None) -> jax.Array:
    """sum(weight loss over masked positions)/(positions counted): nats per token, whose mean bounds the likelihood.

    Not divided by the number of masked positions. ``weight`` is slope/share of the schedule in MDLM's bound (1/t for
    :func:`loglinear`), 1/share in LLaDA's loss, and length/count after :func:`corrupt_count`.

    Args:
      loss: :func:`cross_entropy`, [B, L].
      masked: bool [B, L].
      weight: [B] or [B, L]; one t per sequence.
      counted: bool [B, L] of real tokens (LLaDA's fine-tuning: the answer, its padding by EOS included), None for all.

    Returns:
      float32 [B].
    """
    weight = weight if weight.ndim == 2 else weight[:, None]
    counted = jnp.ones_like(masked) if counted is None else counted
    total = jnp.where(masked & counted, weight * loss, 0.0).sum(1)
    return total / jnp.maximum(counted.sum(1), 1)


def masked_mean(loss: jax.Array, masked: jax.Array) -> jax.Array:
    """The mean over masked positions, float32 [B]: MaskGIT's loss, which is no bound of a likelihood."""
    return jnp.where(masked, loss, 0.0).sum(1) / jnp.maximum(masked.sum(1), 1)


def spread_counts(key: jax.Array, length: int, draws: int) -> jax.Array:
    """Numbers of positions to mask for a likelihood, uniform in 1 .. length and evenly spread: int32 [draws].

    With :func:`corrupt_count` and the weight length/count of :func:`bound` this varies less than masking each position
    by itself, and has the same mean (LLaDA, arXiv 2502.09992, equation 14); 128 draws, 1 for single tokens.

    Args:
      key: one.
      length: tokens of the answer, L.
      draws: how many.
    """
    first = jax.random.randint(key, (), 0, length)
    return (first + jnp.arange(draws) * length // draws) % length + 1


def log_scores(logits: jax.Array, x_t: jax.Array, share: jax.Array) -> jax.Array:
    """SEDD's scores log s_y = logits - log(e^sigma - 1) - log(V - 1), 0 at x_t (arXiv 2310.16834), [B, L, V].

    Args:
      logits: [B, L, V].
      x_t: int [B, L].
      share: masked share 1 - e^-sigma, [B].
    """
    rise = jnp.log(share / (1 - share))[:, None, None]
    scores = logits.astype(jnp.float32) - rise - math.log(logits.shape[-1] - 1)
    return jnp.where(jnp.arange(logits.shape[-1]) == x_t[..., None], 0.0, scores)


def score_entropy(scores: jax.Array, ids: jax.Array, share: jax.Array, mask_id: int) -> jax.Array:
    """SEDD's loss at a masked position, sum over y of e^s_y, less r s_x, plus r (log r - 1): float32 [B, L].

    r = 1/(e^sigma - 1). With e^s = r p it is r times :func:`cross_entropy`, and MDLM's bound with the weight
    d sigma/dt = slope/(1 - share).

    Args:
      scores: log scores [B, L, V].
      ids: clean, int [B, L].
      share: masked share 1 - e^-sigma, [B].
      mask_id: within V, left out of the sum; or outside.
    """
    ratio = ((1 - share) / share)[:, None]
    kept = jnp.arange(scores.shape[-1]) != mask_id
    total = jnp.where(kept, jnp.exp(scores), 0.0).sum(-1)
    chosen = jnp.take_along_axis(scores, ids[..., None], -1)[..., 0]
    return total - ratio * chosen + ratio * (jnp.log(ratio) - 1)


def reveal(
    log_probs: jax.Array, x_t: jax.Array, keys: jax.Array, share: jax.Array, then: jax.Array, mask_id: int
) -> jax.Array:
    """One ancestral step: a masked position shows an id of its distribution with probability (share - then)/share.

    Args:
      log_probs: of clean ids, [B, L, V]; :func:`substituted`.
      x_t: int [B, L].
      keys: [B], of this step.
      share: masked share now, [] or [B].
      then: after the step.
      mask_id: of a masked position.
    """
    halves = jax.vmap(jax.vmap(jax.random.split))(noise.positions(keys, x_t.shape[1]))
    draws = jax.vmap(jax.vmap(jax.random.uniform))(halves[..., 0])
    shown = jax.vmap(jax.vmap(jax.random.categorical))(halves[..., 1], log_probs)
    chance = jnp.broadcast_to((share - then) / share, (len(x_t),))[:, None]
    return jnp.where((x_t == mask_id) & (draws < chance), shown, x_t).astype(x_t.dtype)


def ancestral(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    times: jax.Array,
    keys: jax.Array,
    schedule: Schedule,
    mask_id: int,
    *,
    finish: bool = True,
) -> jax.Array:
    """MDLM's sampler (arXiv 2406.07524): :func:`reveal` along a grid, then the likeliest id of what is still masked.

    Args:
      predict: ``predict(ids [B, L], t []) -> logits [B, L, V]``.
      start: int [B, L], masked where unknown.
      times: [N + 1], from 1 to almost 0 (1e-5 in MDLM); repeats change nothing.
      keys: [B].
      schedule: see the module.
      mask_id: of a masked position.
      finish: one more call at the end.

    Returns:
      int [B, L].
    """
    times = jnp.asarray(times, jnp.float32)

    def step(ids, inputs):
        now, then, number = inputs
        log_probs = substituted(predict(ids, now), ids, mask_id)
        these = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        return reveal(log_probs, ids, these, schedule(now)[0], schedule(then)[0], mask_id), None

    ids, _ = jax.lax.scan(step, start, (times[:-1], times[1:], jnp.arange(len(times) - 1)))
    if not finish:
        return ids
    log_probs = substituted(predict(ids, times[-1]), ids, mask_id)
    return jnp.where(ids == mask_id, log_probs.argmax(-1), ids).astype(ids.dtype)


def hybrid(t: jax.Array, *, uniform: float, power: float = 1.0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Shares (clean, masked, random id) of the process with masks and random ids (GIDD, arXiv 2503.04482).

    ((1 - t), t, c)/(1 + c) with c = 2^power u/(1 - u) (t (1 - t))^(power/2): random ids reach a share u at t = 1/2.

    Args:
      t: times.
      uniform: u, in [0, 1); 0 masks alone.
      power: gamma.
    """
    c = jnp.zeros_like(t)
    if uniform:
        c = 2**power * uniform / (1 - uniform) * (t * (1 - t)) ** (power / 2)
    return (1 - t) / (1 + c), t / (1 + c), c / (1 + c)


def hybrid_marginal(probs: jax.Array, t: jax.Array, mask_id: int, *, uniform: float, power: float = 1.0) -> jax.Array:
    """Distribution of the ids of :func:`hybrid` at t, [B, L, V], from one of clean ids (one-hot, or predicted).

    Args:
      probs: [B, L, V], none on the mask.
      t: [B].
      mask_id: within V; random ids are the others, all alike.
      uniform: see :func:`hybrid`.
      power: likewise.
    """
    clean, masked, other = (c[:, None, None] for c in hybrid(t, uniform=uniform, power=power))
    size = probs.shape[-1]
    is_mask = jnp.arange(size) == mask_id
    return clean * probs + jnp.where(is_mask, masked, other / (size - 1))


def hybrid_loss(
    log_probs: jax.Array, ids: jax.Array, x_t: jax.Array, t: jax.Array, mask_id: int, *, uniform: float,
    power: float = 1.0,
) -> jax.Array:  # fmt: skip
    """The continuous-time bound's integrand of GIDD at every position, nats [B, L]; its mean over t bounds -log p.

    w (KL(q | q_net) + q(x_t)/q_net(x_t) - log(q(x_t)/q_net(x_t)) - 1), with q the marginal of the clean ids, q_net that
    of the predicted ones, and w the rate of jumps to x_t over q(x_t). With ``uniform`` 0 it is cross-entropy/t at
    masked positions, and 0 elsewhere. The best prediction is that of the id given the other positions, not its own.

    Args:
      log_probs: of clean ids, [B, L, V], none on the mask.
      ids: clean, int [B, L].
      x_t: int [B, L].
      t: [B], in (0, 1).
      mask_id: within V.
      uniform: see :func:`hybrid`.
      power: likewise.
    """
    size = log_probs.shape[-1]
    marginal = functools.partial(hybrid_marginal, t=t, mask_id=mask_id, uniform=uniform, power=power)
    truth, found = marginal(jax.nn.one_hot(ids, size)), marginal(jnp.exp(log_probs))
    ratio = jnp.where(truth > 0, jnp.log(jnp.where(truth > 0, truth, 1.0)) - jnp.log(jnp.maximum(found, 1e-30)), 0.0)
    divergence = (truth * ratio).sum(-1)

    here = x_t[..., None]
    true_here = jnp.take_along_axis(truth, here, -1)[..., 0]
    log_here = jnp.take_along_axis(ratio, here, -1)[..., 0]
    distance = jnp.exp(log_here) - log_here - 1  # Itakura-Saito, 0 where both agree

    shares = functools.partial(hybrid, uniform=uniform, power=power)
    (clean, masked, other), (fall, more, rise) = jax.jvp(shares, (t,), (jnp.ones_like(t),))
    into_mask, into_other = more - fall / clean * masked, (rise - fall / clean * other) / (size - 1)
    rate = jnp.where(x_t == mask_id, into_mask[:, None], into_other[:, None])
    return jnp.where(true_here > 0, rate / jnp.maximum(true_here, 1e-30), 0.0) * (divergence + distance)
