"""Diagonal Gaussian bottleneck (Kingma and Welling, arXiv 1312.6114), as in latent diffusion (arXiv 2112.10752)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.quantizers.quantized import Quantized, continuous, vectors

REDUCTIONS = ("sum", "mean", "position")


def clipped(logvar: jax.Array) -> jax.Array:
    """The log variance as it is, cut to [-30, 20] (latent diffusion)."""
    return jnp.clip(logvar, -30.0, 20.0)


def softplus(scale: jax.Array) -> jax.Array:
    """The log variance of the deviation softplus(scale) + 1e-4 (Stable Audio's and EzAudio's, arXiv 2409.10819)."""
    return 2.0 * jnp.log(nn.softplus(scale) + 1e-4)


class Gaussian(nn.Module):
    """z = mean + exp(logvar/2) n in training, the mean otherwise; loss = weight KL(N(mean, var) || N(0, 1)).

    KL = (mean^2 + var - 1 - logvar)/2 per element. ``reduction`` "sum" adds up all elements of a sample and averages
    over the batch (latent diffusion, weight 1e-6); "mean" averages over elements; "position" adds up channels and
    averages over positions (Stable Audio, EzAudio; there twice the KL). Padding does not count in any. The input is
    [..., 2 D]: the mean, then what ``log_variance`` reads.

    >>> import jax.numpy as jnp, jaxtok.quantizers as jq
    >>> y = jq.Gaussian(width=4, weight=1.0)(jnp.concatenate([jnp.ones((2, 4)), jnp.zeros((2, 4))], -1))
    >>> y.latents.shape, float(y.loss)
    ((2, 4), 2.0)

    Attributes:
      width: D.
      weight: of the KL in the loss.
      reduction: of ``REDUCTIONS``.
      log_variance: logvar of the second half of the input: :func:`clipped` or :func:`softplus`.
    """

    width: int
    weight: float = 1e-6
    reduction: str = "sum"
    log_variance: Callable[[jax.Array], jax.Array] = clipped

    codebook_size = 0
    num_codebooks = 0
    accumulable = True

    def __post_init__(self):
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"Gaussian: reduction must be one of {REDUCTIONS}, found {self.reduction!r}")
        super().__post_init__()

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Latents [B, ..., D] of moments [B, ..., 2 D]; sampling, in training, needs ``rng``."""
        mean, second = jnp.split(vectors(z, 2 * self.width, "Gaussian"), 2, axis=-1)
        logvar = self.log_variance(second)
        each = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
        count = jnp.asarray(mean.size / self.width)
        if mask is not None:
            each, count = jnp.where(mask[..., None], each, 0.0), mask.sum()
        samples = len(z) if mask is None else mask.reshape(len(z), -1).any(-1).sum()
        divisors = {"sum": samples, "mean": count * self.width, "position": count}
        kl = each.sum() / jnp.maximum(divisors[self.reduction], 1)
        latents = mean
        if train:
            if rng is None:
                raise ValueError("Gaussian: training needs rng (a jax.random.key), found None")
            latents = mean + jnp.exp(logvar / 2) * jax.random.normal(rng, mean.shape)
        return Quantized(latents, None, jnp.asarray(self.weight * kl, jnp.float32), {"kl": kl})

    def encode(self, z: jax.Array) -> None:
        """None: there are no codes."""

    def decode(self, codes: Any) -> jax.Array:
        """Refused: latents need no decoding."""
        raise continuous("Gaussian")
