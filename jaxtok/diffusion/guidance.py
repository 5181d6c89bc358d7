"""Guidance: from predictions with and without a condition to one prediction."""

import jax
import jax.numpy as jnp


def classifier_free(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """u + scale (c - u) (Ho and Salimans, arXiv 2207.12598); scale 1 is the conditional prediction."""
    return unconditional + scale * (conditional - unconditional)


def rescale(
    guided: jax.Array,
    conditional: jax.Array,
    amount: float,
    *,
    mask: jax.Array | None = None,
    per_sample: bool = True,
) -> jax.Array:
    """Pulls the standard deviation of a guided prediction towards the conditional one's (Lin et al., 2305.08891).

    amount * guided * std(conditional)/std(guided) + (1 - amount) * guided.

    Args:
      guided: [B, ...].
      conditional: [B, ...].
      amount: 0 changes nothing, 1 matches the standard deviation.
      mask: bool [B, T] of the positions that count in the standard deviations (not padding, not prompt), or None.
      per_sample: False takes one standard deviation over the whole batch, as TaDiCodec's code does; samples then
        depend on their batch neighbours.
    """
    axes = tuple(range(1 if per_sample else 0, guided.ndim))
    weight = jnp.ones(guided.shape, jnp.float32)
    if mask is not None:
        weight = weight * mask.reshape(mask.shape + (1,) * (guided.ndim - mask.ndim))
    count = jnp.maximum(weight.sum(axes, keepdims=True), 1.0)

    def deviation(x: jax.Array) -> jax.Array:
        mean = (x * weight).sum(axes, keepdims=True) / count
        return jnp.sqrt((jnp.square(x - mean) * weight).sum(axes, keepdims=True) / count)

    ratio = deviation(conditional) / jnp.maximum(deviation(guided), 1e-12)
    return guided * (amount * ratio + (1.0 - amount))


def some_channels(guided: jax.Array, conditional: jax.Array, count: int) -> jax.Array:
    """Guidance of the first ``count`` channels (the last axis) alone: 3 in DiT, SiT and LightningDiT."""
    return jnp.concatenate([guided[..., :count], conditional[..., count:]], axis=-1)


def interval(t: jax.Array, scale: float, low: float, high: float) -> jax.Array:
    """``scale`` for times in [low, high], else 1, which is no guidance (Kynkaanniemi et al., arXiv 2404.07724)."""
    return jnp.where((t >= low) & (t <= high), scale, 1.0)


def ramp(done: jax.Array, scale: float) -> jax.Array:
    """1 + (scale - 1) done, for a generation of which a share ``done`` is decided (MAR, arXiv 2406.11838)."""
    return 1.0 + (scale - 1.0) * done


def power_cosine(t: jax.Array, scale: float, power: float) -> jax.Array:
    """1 + (scale - 1)(1 - cos(pi (1 - t)^power))/2: none at noise, ``scale`` at data (DiMR, arXiv 2406.09416)."""
    return 1.0 + (scale - 1.0) * (1.0 - jnp.cos(jnp.pi * (1.0 - t) ** power)) / 2.0


def zero_star(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """b u + scale (c - b u) with b = <c, u>/|u|^2 per sample (CFG-Zero*, arXiv 2503.18886).

    Its sampler also answers 0 in the first step or steps.
    """
    axes = tuple(range(1, conditional.ndim))
    dot = jnp.sum(conditional * unconditional, axis=axes, keepdims=True)
    share = dot / (jnp.sum(jnp.square(unconditional), axis=axes, keepdims=True) + 1e-8)
    return classifier_free(conditional, share * unconditional, scale)


def projected(
    conditional: jax.Array,
    unconditional: jax.Array,
    scale: jax.Array | float,
    *,
    parallel: float = 0.0,
    longest: float = 15.0,
) -> jax.Array:
    """u + scale (d_orthogonal + parallel d_parallel), d = c - u cut to ``longest`` and split along c (APG, 2410.02416).

    ``parallel`` 1 and no cut give :func:`classifier_free`. One split and one norm per sample.
    """
    axes = tuple(range(1, conditional.ndim))
    change = conditional - unconditional
    length = jnp.sqrt(jnp.sum(jnp.square(change), axis=axes, keepdims=True))
    change = change * jnp.minimum(1.0, longest / jnp.maximum(length, 1e-12))
    dot = jnp.sum(change * conditional, axis=axes, keepdims=True)
    along = dot / jnp.maximum(jnp.sum(jnp.square(conditional), axis=axes, keepdims=True), 1e-12) * conditional
    return unconditional + scale * (change - along + parallel * along)
