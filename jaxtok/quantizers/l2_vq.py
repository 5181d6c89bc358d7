"""Quantization in a space of few channels, by direction (ViT-VQGAN, arXiv 2110.04627; DAC, arXiv 2306.06546)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.quantizers.nearest import nearest
from jaxtok.quantizers.quantized import Around, Quantized, vectors
from jaxtok.quantizers.vq import VQ


class Projected(Around):
    """Any quantizer between two linear maps: z [..., width] -> inner width -> [..., width].

    ``latents`` and ``decode`` are after the second map, ``loss`` is the inner one's.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.Projected(inner=jq.FSQ(levels=(8, 5, 5, 5)), width=64, inner_width=4)
    >>> y, variables = q.init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 64)))
    >>> y.latents.shape, y.codes.shape
    ((2, 5, 64), (2, 5, 1))

    Attributes:
      inner: the quantizer.
      width: channels outside.
      inner_width: channels inside.
      weight_norm: the maps' kernels as direction and length (DAC).
      bias: of both maps.
    """

    width: int
    inner_width: int
    weight_norm: bool = False
    bias: bool = True

    def setup(self):
        """The two maps."""
        self.project_in = self._map(self.inner_width)
        self.project_out = self._map(self.width)

    def _map(self, width: int) -> nn.Module:
        dense = nn.Dense(width, use_bias=self.bias, precision="highest")  # what decides codes
        return nn.WeightNorm(dense, variable_filter={"kernel"}) if self.weight_norm else dense

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., width]."""
        z = vectors(z, self.width, type(self).__name__)
        y = self.inner(self.project_in(z), mask=mask, rng=rng, train=train)
        return dataclasses.replace(y, latents=self.project_out(y.latents).astype(jnp.float32))

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., width]."""
        return self.inner.encode(self.project_in(vectors(z, self.width, type(self).__name__)))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Vectors float32 [..., width] of codes int32 [..., Q]."""
        return self.project_out(self.inner.decode(codes)).astype(jnp.float32)


def FactorizedVQ(
    size: int, width: int, inner_width: int = 8, *, commitment: float = 0.25, weight_norm: bool = True, search=nearest
) -> Projected:
    """DAC's quantizer: project to few channels, compare directions, return and train raw codes, project back.

    loss = mean |e - sg(z)|^2 + commitment mean |z - sg(e)|^2 of the projected z; Amphion has commitment 0.005.

    >>> import jax, jaxtok.quantizers as jq
    >>> y, _ = jq.FactorizedVQ(size=1024, width=64).init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 64)))
    >>> y.latents.shape
    (2, 5, 64)
    """
    inner = VQ(
        size=size, width=inner_width, commitment=commitment, normalize="search",
        init_embedding=nn.initializers.normal(1.0), search=search,
    )  # fmt: skip
    return Projected(inner=inner, width=width, inner_width=inner_width, weight_norm=weight_norm)
