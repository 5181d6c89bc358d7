"""Entropies of soft assignments, whose difference keeps a codebook in use.

H_s = E[H(p)] is the mean entropy of one vector's distribution over codes (small: confident), H_c = H(E[p]) the entropy
of the mean distribution (large: all codes in use), in nats. E is over the positions of the global batch that count.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import nearest

ENTRIES = 1 << 25  # probabilities that are in memory at a time


def plogp(p: jax.Array) -> jax.Array:
    """p log p with 0 and a finite gradient at 0; the logarithm is cut at 1e-30."""
    return p * jnp.log(jnp.maximum(p, 1e-30))


def of_bits(logits: jax.Array) -> jax.Array:
    """Entropy of Bernoulli(sigmoid(logits)), elementwise, exact in the tails and differentiable everywhere."""
    p = jax.nn.sigmoid(logits)
    return -(p * jax.nn.log_sigmoid(logits) + (1 - p) * jax.nn.log_sigmoid(-logits))


def of_mean_bits(logits: jax.Array, mask: jax.Array | None, group: int) -> jax.Array:
    """H_c of codes made of independent bits, summed over groups of ``group`` bits.

    The sum over groups bounds the joint entropy from above and equals it for one group. A group's mean distribution is
    a matrix product of its halves' distributions over the positions: 2^18 codes cost two [N, 2^9] arrays.

    Args:
      logits: [..., d], log-odds of each bit.
      mask: bool [...] of the positions that count, or None.
      group: bits per group, a divisor of d.
    """
    if mask is not None:
        logits = jnp.where(mask[..., None], logits, 0.0)
    x = logits.reshape(-1, logits.shape[-1] // group, group).transpose(1, 2, 0)  # [G, group, N]
    weight = jnp.ones(x.shape[-1]) if mask is None else mask.reshape(-1).astype(x.dtype)
    weight = weight / jnp.maximum(weight.sum(), 1.0)
    low, high = joint(x[:, : group // 2]), joint(x[:, group // 2 :])
    mean = jnp.einsum("gan,gbn->gab", low * weight, high, precision="highest")
    return -plogp(mean).sum()


@jax.custom_jvp
def joint(logits: jax.Array) -> jax.Array:
    """Probabilities of all 2^k values of k independent bits with these log-odds: [G, k, N] -> [G, 2^k, N].

    The first bit is the least significant. Vectors lie innermost, and the gradient is one matrix product: the slope of
    a value's probability by the log-odds of a bit is that probability times (bit - P(bit = 1)).
    """
    groups, bits, count = logits.shape
    pairs = jnp.stack([jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)], axis=2)  # [G, k, 2, N]
    values = jnp.ones((groups, 1, count), logits.dtype)
    for i in range(bits):
        values = (pairs[:, i, :, None] * values[:, None]).reshape(groups, -1, count)
    return values


@joint.defjvp
def _joint_slope(primals, tangents):
    (logits,), (change,) = primals, tangents
    values, bits = joint(logits), logits.shape[1]
    ones = ((np.arange(1 << bits) >> np.arange(bits)[:, None]) & 1).astype(np.float32)  # [k, 2^k]
    up = jnp.einsum("ka,gkn->gan", ones, change * jax.nn.sigmoid(-logits), precision="highest")
    down = jnp.einsum("ka,gkn->gan", 1 - ones, change * jax.nn.sigmoid(logits), precision="highest")
    return values, values * (up - down)


def of_codes(
    z: jax.Array, codebook: jax.Array, mask: jax.Array | None, *, temperature: float, metric: str = "euclidean"
) -> tuple[jax.Array, jax.Array]:
    """(H_s, H_c) of p = softmax(logits / temperature) for a free codebook, over blocks of vectors, recomputed backward.

    Args:
      z: [..., D].
      codebook: [K, D].
      mask: bool [...] or None.
      temperature: of the softmax.
      metric: logits are "euclidean": -|z - e|^2 (MAGVIT), or "dot": z . e (IBQ).
    """
    flat = (z if mask is None else jnp.where(mask[..., None], z, 0.0)).reshape(-1, z.shape[-1])
    weight = jnp.ones(len(flat)) if mask is None else mask.reshape(-1).astype(jnp.float32)
    block = max(1, min(len(flat), ENTRIES // len(codebook)))
    blocks = -(-len(flat) // block)
    pad = blocks * block - len(flat)
    # Block i holds vectors i, i + blocks, ...: rows that lie divided over devices stay where they are.
    flat = jnp.pad(flat, ((0, pad), (0, 0))).reshape(block, blocks, -1).swapaxes(0, 1)
    rows = jnp.pad(weight, (0, pad)).reshape(block, blocks).T

    @jax.checkpoint
    def sums(z, weight):
        log_p = jax.nn.log_softmax(logits(z, codebook, metric) / np.float32(temperature))
        p = jnp.exp(log_p)
        return (weight * -(p * log_p).sum(-1)).sum(), weight @ p

    def step(total, part):
        return jax.tree.map(jnp.add, total, sums(*part)), None

    if blocks == 1:
        sample, mean = sums(flat[0], rows[0])
    else:
        (sample, mean), _ = jax.lax.scan(step, (jnp.zeros(()), jnp.zeros(len(codebook))), (flat, rows))
    total = jnp.maximum(weight.sum(), 1.0)
    return sample / total, -plogp(mean / total).sum()


def logits(z: jax.Array, codebook: jax.Array, metric: str) -> jax.Array:
    """-|z - e|^2 up to a constant of z that no softmax sees, or z . e: [..., K]."""
    if metric == "euclidean":
        return 2 * nearest.scores(z, codebook)
    return nearest.dots(z, codebook)
