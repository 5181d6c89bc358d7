"""Losses of a generator and its discriminators: criteria, feature matching, balancing, regularisation.

Plain functions of arrays and pytrees. "Logits" is any pytree of arrays [B, ...], one per discriminator, in which high
means real; losses are float32 ``[B]``: the mean over a discriminator's positions, then over discriminators (a paper
that sums over them multiplies its weight by their number). The mean over the global batch is the caller's. A GAN's
adaptive weight (Esser et al., arXiv 2012.09841) is :func:`jaxtok.losses.alignment.adaptive_weight` with ``limit=1e4``;
:func:`balanced` is EnCodec's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Logits = Any


class Criterion(NamedTuple):
    """What one logit costs: the generator whose sample it is, the discriminator on real data and on a sample."""

    generator: Callable[[jax.Array], jax.Array]
    real: Callable[[jax.Array], jax.Array]
    fake: Callable[[jax.Array], jax.Array]


# hinge: Lim and Ye (arXiv 1705.02894). clipped_hinge: the same, and a generator that is satisfied above 1 (Vocos,
# WavTokenizer). least_squares: Mao et al. (arXiv 1611.04076), as HiFi-GAN and DAC. non_saturating: Goodfellow et al.
# (arXiv 1406.2661), logits in nats.
CRITERIA = {
    "hinge": Criterion(lambda d: -d, lambda d: jax.nn.relu(1 - d), lambda d: jax.nn.relu(1 + d)),
    "clipped_hinge": Criterion(
        lambda d: jax.nn.relu(1 - d), lambda d: jax.nn.relu(1 - d), lambda d: jax.nn.relu(1 + d)
    ),
    "least_squares": Criterion(lambda d: jnp.square(1 - d), lambda d: jnp.square(1 - d), jnp.square),
    "non_saturating": Criterion(lambda d: jax.nn.softplus(-d), lambda d: jax.nn.softplus(-d), jax.nn.softplus),
}


def criterion(name: str) -> Criterion:
    """The criterion of a name; ValueError for another one."""
    if name not in CRITERIA:
        raise ValueError(f"criterion: expected one of {', '.join(CRITERIA)}, found {name!r}")
    return CRITERIA[name]


def generator_loss(fake: Logits, name: str = "hinge") -> jax.Array:
    """What the generator pays for the logits of its samples: float32 [B]; ``name`` is a key of ``CRITERIA``."""
    return _mean(jax.tree.map(criterion(name).generator, _float(fake)))


def discriminator_loss(real: Logits, fake: Logits, name: str = "hinge") -> jax.Array:
    """What the discriminators pay, on real data and samples together: float32 [B]."""
    kind = criterion(name)
    return _mean(jax.tree.map(kind.real, _float(real))) + _mean(jax.tree.map(kind.fake, _float(fake)))


class Looks(NamedTuple):
    """What a discriminator says of real data and samples, with gradients for one player each.

    Attributes:
      real: of real data; gradients reach the discriminator's parameters alone.
      fake: of the samples; likewise.
      through: the same values as ``fake``; gradients reach the samples alone.
    """

    real: Any
    fake: Any
    through: Any


def looks(judge: Callable[[Any, Any], Any], params: Any, real: Any, fake: Any) -> Looks:
    """Judges real data and samples so that no player's loss reaches the other's parameters.

    Args:
      judge: from (parameters, data) to any pytree.
      params: the discriminator's.
      real: data, any pytree.
      fake: samples of the same structure.
    """
    stop = jax.lax.stop_gradient
    return Looks(judge(params, stop(real)), judge(params, stop(fake)), judge(stop(params), fake))


def feature_matching(real: Sequence[Sequence[Any]], fake: Sequence[Sequence[Any]], *, relative: bool = False) -> Any:
    """The mean over discriminators of the sum over layers of the mean |real - fake|: float32 [B].

    Sources: Larsen et al. (arXiv 1512.09300), Kumar et al. (arXiv 1910.06711). HiFi-GAN passes all layers and the
    logits as a last one; Vocos and WavTokenizer leave the first layer out; DAC leaves the logits out.

    Args:
      real: per discriminator, per layer an array [B, ...] or a pytree of them (each leaf counts as a layer); no
        gradient goes to them.
      fake: of the same structure.
      relative: divide each layer by the mean |real| of the example, as EnCodec (arXiv 2210.13438, there of the batch,
        and with the mean over layers).

    Raises:
      ValueError: when the structures differ, or there is no layer.
    """
    if jax.tree.structure(real) != jax.tree.structure(fake) or not jax.tree.leaves(real):
        raise ValueError(
            f"fake: expected the layers of real, {jax.tree.structure(real)}, found {jax.tree.structure(fake)}"
        )

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = jax.lax.stop_gradient(a).astype(jnp.float32), b.astype(jnp.float32)
        difference = _flat_mean(jnp.abs(a - b))
        return difference / (_flat_mean(jnp.abs(a)) + 1e-8) if relative else difference

    layers = jax.tree.leaves(jax.tree.map(distance, real, fake))
    return jnp.stack(layers).sum(0) / len(real)


def started(step: jax.Array, start: int) -> jax.Array:
    """1.0 from step ``start`` on, before it 0.0: the factor of a term that begins late."""
    return jnp.where(step >= start, 1.0, 0.0)


def lecam_init(logits: Logits) -> dict[str, Any]:
    """Averages of LeCam regularisation, 0 per discriminator; the logits may be shapes. To be kept in a task's state."""
    return {name: jax.tree.map(lambda _: jnp.zeros((), jnp.float32), logits) for name in ("real", "fake")}


def lecam(real: Logits, fake: Logits, averages: Mapping[str, Any]) -> jax.Array:
    """LeCam regularisation: relu(D(real) - a_fake)^2 + relu(a_real - D(fake))^2, float32 [B].

    The discriminators pay it. Source: Tseng et al. (arXiv 2104.03310), with the rectification of its released code;
    MAGVIT's weight is 0.001.

    Args:
      real: logits of real data.
      fake: logits of samples.
      averages: running means of earlier logits, see :func:`lecam_update`; no gradient goes to them.
    """
    stop, square = jax.lax.stop_gradient, lambda x: jnp.square(jax.nn.relu(x))
    above = jax.tree.map(lambda d, a: square(d - stop(a)), _float(real), averages["fake"])
    below = jax.tree.map(lambda d, a: square(stop(a) - d), _float(fake), averages["real"])
    return _mean(above) + _mean(below)


def lecam_update(averages: Mapping[str, Any], real: Logits, fake: Logits, *, decay: float = 0.99) -> dict[str, Any]:
    """The averages after a batch: decay * average + (1 - decay) * mean of the batch's logits, per discriminator."""

    def step(average: jax.Array, logits: jax.Array) -> jax.Array:
        return decay * average + (1 - decay) * jax.lax.stop_gradient(logits.astype(jnp.float32).mean())

    return {name: jax.tree.map(step, averages[name], found) for name, found in (("real", real), ("fake", fake))}


def gradient_penalty(judge: Callable[[Any], Logits], real: jax.Array) -> jax.Array:
    """R1: half the squared norm of the gradient of the logits' mean by the real data, float32 [B].

    Source: Mescheder et al. (arXiv 1801.04406); multiply by its gamma. A second derivative: use it every few steps.

    Args:
      judge: from data [B, ...] to logits, each example by itself.
      real: data.
    """
    gradient = jax.grad(lambda x: _mean(_float(judge(x))).sum())(jax.lax.stop_gradient(real))
    return 0.5 * jnp.square(gradient.astype(jnp.float32)).reshape(len(real), -1).sum(-1)


def balance_init(weights: Mapping[str, float]) -> dict[str, Any]:
    """The state of :func:`balanced` before the first batch."""
    return {"norms": {name: jnp.zeros((), jnp.float32) for name in weights}, "count": jnp.zeros((), jnp.float32)}


def balanced(
    losses: Callable[[jax.Array], Mapping[str, jax.Array]], output: jax.Array, weights: Mapping[str, float],
    state: Mapping[str, Any], *, decay: float = 0.999, total: float = 1.0, eps: float = 1e-12,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:  # fmt: skip
    """EnCodec's balancer (arXiv 2210.13438): each loss sends its share of a gradient of fixed size into the output.

    d result / d output = total * sum_i (w_i / sum_j w_j) g_i / (average |g_i| + eps), g_i = d loss_i / d output, with
    |g_i| the mean over examples of the norm, averaged over steps with ``decay``. So weights are shares, whatever the
    losses' scales. The losses' own parameters get no gradient through the result.

    Args:
      losses: from the output to scalars over the global batch by name.
      output: of the generator, [B, ...].
      weights: one per name.
      state: of :func:`balance_init` or the last call.
      decay: of the averages.
      total: norm per example of the gradient when all losses pull the same way.
      eps: added to the norms.

    Returns:
      (scalar to add to the generator's loss: its value is the weighted sum, its gradient the balanced one; the losses;
      the state after this batch).

    Raises:
      ValueError: when the names of losses and weights differ, or no weight is positive.
    """
    stop = jax.lax.stop_gradient
    values, pull = jax.vjp(lambda y: dict(losses(y)), stop(output))
    if set(values) != set(weights) or not sum(weights.values()) > 0:
        raise ValueError(f"weights: expected positive ones of {sorted(values)}, found {dict(weights)}")
    zeros = jax.tree.map(jnp.zeros_like, values)
    gradients = {name: pull(zeros | {name: jnp.ones_like(values[name])})[0].astype(jnp.float32) for name in values}
    sizes = {name: jnp.linalg.norm(g.reshape(len(g), -1), axis=-1).mean() for name, g in gradients.items()}
    after = {
        "norms": {name: decay * state["norms"][name] + size for name, size in sizes.items()},
        "count": decay * state["count"] + 1,
    }
    everything = sum(weights.values())
    direction = sum(
        total * weights[name] / everything * g / (after["norms"][name] / after["count"] + eps)
        for name, g in gradients.items()
    )
    pushed = jnp.sum(stop(direction) * output.astype(jnp.float32))
    value = sum(weights[name] * loss for name, loss in values.items())
    return stop(value) + (pushed - stop(pushed)), values, stop(after)


def _float(logits: Logits) -> Logits:
    return jax.tree.map(lambda x: x.astype(jnp.float32), logits)


def _flat_mean(x: jax.Array) -> jax.Array:
    """[B, ...] -> [B]."""
    return x.reshape(len(x), -1).mean(-1)


def _mean(tree: Any) -> jax.Array:
    """The mean over leaves of the mean over positions, [B]."""
    leaves = [_flat_mean(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).mean(0)
