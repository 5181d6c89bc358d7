"""Guidance: from predictions with and without a condition to one prediction, and from two denoisers to one.

For linear paths it does not matter which kind of prediction is guided.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion.paths import Path, expand

Rule = Callable[[jax.Array, jax.Array, jax.Array | float], jax.Array]  # (conditional, unconditional, scale)


def guided(
    strong: Callable[..., jax.Array],
    weak: Callable[..., jax.Array],
    scale: float | Callable[[jax.Array], jax.Array],
    *,
    rule: Rule | None = None,
) -> Callable[..., jax.Array]:
    """One denoiser of two: ``rule(strong(x, t), weak(x, t), scale)``, the weak one left out where the scale is 1.

    The weak one lacks the condition (:func:`classifier_free`), or is a smaller or less trained network with the same
    condition (autoguidance, Karras et al., arXiv 2406.02507).

    Args:
      strong: ``(x, t) -> prediction``.
      weak: likewise.
      scale: a number, or its value by time, such as a partial of :func:`interval`. Times per example share the pass:
        it is left out where all scales are 1.
      rule: None for :func:`classifier_free`.
    """
    rule = rule or classifier_free

    def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
        prediction = strong(x, t)
        if not callable(scale):
            return prediction if scale == 1.0 else rule(prediction, weak(x, t), scale)
        amount = jnp.asarray(scale(t))

        def both() -> jax.Array:
            return rule(prediction, weak(x, t), expand(amount, x.ndim)).astype(prediction.dtype)

        return jax.lax.cond(jnp.all(amount == 1.0), lambda: prediction, both)

    return denoise


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


def some_channels(guided: jax.Array, conditional: jax.Array, channels: int | Sequence[int]) -> jax.Array:
    """Guidance of some channels (the last axis) alone.

    Args:
      guided: [..., C].
      conditional: [..., C].
      channels: how many of the first ones (3 in DiT, SiT and LightningDiT), or which.
    """
    width = guided.shape[-1]
    chosen = np.arange(channels) if isinstance(channels, int) else np.asarray(channels)
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < width):
        raise ValueError(f"channels to guide must lie among the {width} there are, found {channels}")
    return jnp.where(np.isin(np.arange(width), chosen), guided, conditional)


def nested(predictions: Sequence[jax.Array], scales: Sequence[jax.Array | float]) -> jax.Array:
    """p_0 + sum of w_i (p_i - p_i-1): conditions added one by one (InstructPix2Pix, arXiv 2211.09800).

    Args:
      predictions: from unconditional to fully conditional, n + 1 of them; StyleTokenizer's are none, text, text and
        style.
      scales: n of them; if all are equal to w, this is :func:`classifier_free` of the first and the last.
    """
    if len(predictions) != len(scales) + 1:
        raise ValueError(f"nested guidance of {len(predictions)} predictions takes one scale less, found {len(scales)}")
    total = predictions[0]
    for before, after, scale in zip(predictions, predictions[1:], scales):
        total = total + scale * (after - before)
    return total


def composed(conditionals: Sequence[jax.Array], unconditional: jax.Array, scales: Sequence) -> jax.Array:
    """u + sum of w_i (c_i - u): conditions that hold independently (Liu et al., arXiv 2206.01714); w_i < 0 negates."""
    if len(conditionals) != len(scales):
        raise ValueError(f"composed guidance takes one scale per condition, found {len(scales)} of {len(conditionals)}")
    return unconditional + sum(scale * (c - unconditional) for c, scale in zip(conditionals, scales))


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

    Its sampler also answers 0 in the first step or steps: :func:`zero_start`.
    """
    axes = tuple(range(1, conditional.ndim))
    dot = jnp.sum(conditional * unconditional, axis=axes, keepdims=True)
    share = dot / (jnp.sum(jnp.square(unconditional), axis=axes, keepdims=True) + 1e-8)
    return classifier_free(conditional, share * unconditional, scale)


def zero_start(velocity: Callable[..., jax.Array], times: jax.Array, steps: int = 1) -> Callable[..., jax.Array]:
    """The velocity, 0 in the first ``steps`` steps of a grid [N + 1] (CFG-Zero*, arXiv 2503.18886)."""
    if not 0 <= steps < len(times):
        raise ValueError(f"zero_start: steps must lie in [0, {len(times) - 1}], found {steps}")
    begin = jnp.asarray(times)[steps]

    def zeroed(x: jax.Array, t: jax.Array, *extra: jax.Array) -> jax.Array:
        return jnp.where(expand(t > begin, x.ndim), 0.0, velocity(x, t, *extra))

    return zeroed


def residual(noise: jax.Array, virtual: jax.Array, scale: jax.Array | float, *, share: float = 1.0) -> jax.Array:
    """Guidance away from a virtual noise instead of an unconditional pass: RCFG (StreamDiffusion, arXiv 2312.12491).

    Args:
      noise: the network's, with condition, [B, ...].
      virtual: the noise that would lead from the input image to the state; see :func:`virtual_noise`.
      scale: 1 for none.
      share: delta, of the virtual noise that counts as unconditional.
    """
    return classifier_free(noise, share * virtual, scale)


def virtual_noise(
    virtual: jax.Array,
    guided: jax.Array,
    fresh: jax.Array,
    path: Path,
    now: jax.Array,
    then: jax.Array,
    *,
    skip: jax.Array | float = 0.0,
    out: jax.Array | float = 1.0,
) -> jax.Array:
    """The virtual noise after a consistency step, without the input image (StreamDiffusion, arXiv 2312.12491).

    With ``skip`` 0 and ``out`` 1 it is exactly (x_then - a_then z)/s_then, where z is the image from which the state
    x = a z + s virtual came. It begins as the noise that was added.

    Args:
      virtual: at ``now``, [B, ...].
      guided: the noise that :func:`residual` gave.
      fresh: the noise added on the way to ``then``.
      path: gives a and s.
      now: time of the step.
      then: the next one.
      skip: c_skip of the consistency function.
      out: c_out of it.
    """
    (a, s), (a_then, s_then) = (path.coefficients(expand(t, virtual.ndim)) for t in (now, then))
    change = out * s / a * (virtual - guided) + skip * s * virtual
    return fresh + a_then / s_then * change


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
