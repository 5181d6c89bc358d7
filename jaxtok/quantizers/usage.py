"""How a codebook is used: counted exactly over a whole evaluation set, or watched in training."""

import jax
import jax.numpy as jnp
import numpy as np


def histogram(codes: np.ndarray, size: int, mask: np.ndarray | None = None) -> np.ndarray:
    """Counts of each code, int64 [size], of codes int [...] where ``mask`` bool [...] is True.

    Raises:
      ValueError: for a code outside [0, size).
    """
    flat = np.asarray(codes).reshape(-1) if mask is None else np.asarray(codes)[np.asarray(mask)].reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= size):
        raise ValueError(f"codes must lie in [0, {size}), found {flat.min()} to {flat.max()}")
    return np.bincount(flat, minlength=size)


def summary(counts: np.ndarray) -> dict[str, float]:
    """``used`` codes, ``usage`` (share of the codebook), ``entropy`` in bits, ``perplexity``, ``tokens`` counted."""
    total = counts.sum()
    p = counts[counts > 0] / max(total, 1)
    entropy = float(-(p * np.log2(p)).sum())
    return {
        "tokens": int(total),
        "used": int((counts > 0).sum()),
        "usage": float((counts > 0).mean()),
        "entropy": entropy,
        "perplexity": float(2.0**entropy) if total else 0.0,
    }


def names(count: int) -> list[str]:
    """What reports call ``count`` codebooks: the only one "codebook", several "codebook 0" and so on."""
    return ["codebook"] if count == 1 else [f"codebook {q}" for q in range(count)]


def books(codes: np.ndarray, size: int, mask: np.ndarray | None = None) -> dict[str, dict[str, float]]:
    """:func:`summary` of each codebook, by its name, of codes int [..., Q] where ``mask`` bool [...] is True."""
    return {name: summary(histogram(codes[..., q], size, mask)) for q, name in enumerate(names(codes.shape[-1]))}


def uniform_usage(size: int, tokens: int) -> float:
    """The share of ``size`` codes that ``tokens`` uniform draws are expected to touch: 1 - (1 - 1/size)^tokens."""
    return float(-np.expm1(tokens * np.log1p(-1.0 / size)))


def balance(bits: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Share of ones of each bit, float64 [d], of bits bool [..., d] where ``mask`` bool [...] is True; 0.5 is best."""
    kept = np.asarray(bits).reshape(-1, bits.shape[-1]) if mask is None else np.asarray(bits)[np.asarray(mask)]
    return kept.mean(0)


def level_histogram(digits: np.ndarray, levels: tuple[int, ...], mask: np.ndarray | None = None) -> list[np.ndarray]:
    """Counts of each level, one int64 [L_i] per dimension, of digits int [..., d] (FSQ, SQ-Codec)."""
    return [histogram(digits[..., i], level, mask) for i, level in enumerate(levels)]


# ---- inside jit: counts over the global batch, in integers ----


def count(codes: jax.Array, size: int, mask: jax.Array | None = None) -> jax.Array:
    """Counts of each code in a batch, int32 [size], of codes int32 [...]; outside [0, size) and masked none count."""
    hits = jnp.ones(codes.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
    hits = jnp.where((codes >= 0) & (codes < size), hits, 0)
    return jnp.zeros(size, jnp.int32).at[jnp.clip(codes, 0, size - 1).reshape(-1)].add(hits.reshape(-1))


def perplexity(counts: jax.Array) -> jax.Array:
    """exp(entropy) of counts [size], float32: the number of codes in effective use; 1 for no counts."""
    p = counts.astype(jnp.float32) / jnp.maximum(counts.sum(), 1).astype(jnp.float32)
    return jnp.exp(-jnp.sum(p * jnp.log(jnp.maximum(p, 1e-12))))


def decayed_hits(hits: jax.Array, codes: jax.Array, mask: jax.Array | None = None, *, decay: float) -> jax.Array:
    """Hit counts that forget: ``decay * hits + counts`` of this batch, for use inside a jitted step.

    Counts are integers of the global batch, so they are the same on any number of devices.

    Args:
      hits: float32 [Q, K], from the last step; zeros at the first.
      codes: int32 [..., Q]; negative ones (dropped) count nowhere.
      mask: bool [...] of the positions that count, or None for all.
      decay: per call; hits are remembered over about 1 / (1 - decay) calls.
    """
    size = hits.shape[1]
    counts = jnp.stack([count(codes[..., i], size, mask) for i in range(hits.shape[0])])
    return decay * hits + counts.astype(jnp.float32)


def watch(hits: jax.Array, *, decay: float) -> dict[str, jax.Array]:
    """What hits [Q, K] of :func:`decayed_hits` say: float32 [Q] by name, for use inside a jitted step.

    ``usage``: the share of codes hit within the last 1 / (1 - decay) calls, or so often before that their count weighs
    as much; ``dead``: how many were not; ``perplexity`` of the decayed counts; ``evenness``: usage divided by the share
    that uniform codes would show after as many hits (at most about 1; near 0 for a collapsed codebook).
    """
    size, total = hits.shape[1], hits.sum(1)
    used = (hits >= decay ** (1 / (1 - decay))).sum(1).astype(jnp.float32)
    p = hits / jnp.maximum(total, 1e-9)[:, None]
    entropy = -(p * jnp.log(jnp.maximum(p, 1e-30))).sum(1)
    uniform = -jnp.expm1(total * np.log1p(-1.0 / max(size, 2)))
    return {
        "usage": used / size,
        "dead": size - used,
        "perplexity": jnp.exp(entropy),
        "evenness": used / size / jnp.maximum(uniform, 1.0 / size),
    }
