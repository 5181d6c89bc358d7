"""Any quantizer behind channels of mean 0 and deviation 1, so that a codebook begins with something to tell apart."""

import jax
import jax.numpy as jnp

from jaxtok.quantizers.quantized import Around, Quantized, masked_mean, vectors


class Standardized(Around):
    """A quantizer of (z - mean) / deviation, by channel: batch normalisation without parameters before the look-up.

    An untrained encoder of sound gives one large vector for everything and, on top of it, little that depends on the
    input; a decoder reads the first, and the codebook falls to a few codes. Source: Łańcucki et al., "Robust Training
    of Vector Quantized Bottleneck Models" (arXiv 2005.08520). Training takes the statistics of the global batch,
    without padding, and moves running ones, which begin as those of the first batch and lie in the collection
    "codebook"; everything else takes the running ones, so tokens depend on nothing around them. Latents are the inner
    quantizer's.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.Standardized(inner=jq.EMAVQ(size=64, width=8), width=8)
    >>> z = 100 + jax.random.normal(jax.random.key(0), (2, 50, 8))
    >>> y, _ = q.apply(q.init(jax.random.key(1), z), z, train=True, mutable=["codebook"])
    >>> abs(float(y.latents.mean())) < 1
    True

    Attributes:
      inner: the quantizer.
      width: channels.
      decay: of the running statistics per call.
      epsilon: added to the variance.
    """

    width: int
    decay: float = 0.99
    epsilon: float = 1e-6

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"Standardized: expected decay in [0, 1), found {self.decay}")
        super().__post_init__()

    @property
    def accumulable(self) -> bool:
        """False: the statistics move once per call."""
        return False

    def setup(self):
        """The running statistics."""
        self.mean = self.variable("codebook", "mean", lambda: jnp.zeros(self.width))
        self.variance = self.variable("codebook", "variance", lambda: jnp.ones(self.width))
        self.begun = self.variable("codebook", "begun", lambda: jnp.zeros((), bool))

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., width]; ``mask`` bool [...] keeps padding out of the statistics."""
        z = vectors(z, self.width, "Standardized")
        if not train:
            return self.inner(self._standard(z), mask=mask, rng=rng)
        axes = tuple(range(z.ndim - 1))
        mean = masked_mean(z, mask, axes)
        variance = masked_mean(jnp.square(z - mean), mask, axes)
        if not self.is_initializing() and self.is_mutable_collection("codebook"):
            for kept, found in ((self.mean, mean), (self.variance, variance)):
                found = jax.lax.stop_gradient(found)
                kept.value = jnp.where(self.begun.value, kept.value + (1 - self.decay) * (found - kept.value), found)
            self.begun.value = jnp.ones((), bool)
        return self.inner((z - mean) * jax.lax.rsqrt(variance + self.epsilon), mask=mask, rng=rng, train=True)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., width]."""
        return self.inner.encode(self._standard(vectors(z, self.width, "Standardized")))

    def _standard(self, z: jax.Array) -> jax.Array:
        return (z - self.mean.value) * jax.lax.rsqrt(self.variance.value + self.epsilon)
