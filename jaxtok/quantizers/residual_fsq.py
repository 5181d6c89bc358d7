"""Residual finite scalar quantization, as in vector-quantize-pytorch."""

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers.fsq import FSQ
from jaxtok.quantizers.quantized import Quantized, vectors
from jaxtok.quantizers.residual import ResidualVQ


class ScaledFSQ(nn.Module):
    """A symmetric FSQ with clipping, of z / scale, times scale: one layer of :func:`ResidualFSQ`.

    Attributes:
      levels: per channel.
      exponent: scale = L^-exponent, per channel.
    """

    levels: Sequence[int]
    exponent: int

    @property
    def codebook_size(self) -> int:
        """The product of the levels."""
        return self._inner.codebook_size

    @property
    def num_codebooks(self) -> int:
        """1."""
        return 1

    @property
    def accumulable(self) -> bool:
        """Whether the loss is a plain mean over positions, so that gradients of micro-batches add up."""
        return True

    @property
    def _inner(self) -> FSQ:
        return FSQ(levels=tuple(self.levels), symmetric=True, bound="clip", parent=None)

    @property
    def _scale(self) -> np.ndarray:
        return np.asarray(self.levels, np.float32) ** -np.float32(self.exponent)

    def __call__(self, z, *, mask=None, rng=None, train=False) -> Quantized:
        """Quantizes z [..., d]."""
        y = self._inner(z / self._scale, mask=mask, rng=rng, train=train)
        return dataclasses.replace(y, latents=y.latents * self._scale)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., 1] of z [..., d]."""
        return self._inner.encode(z / self._scale)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Vectors float32 [..., d] of codes int32 [..., 1]."""
        return self._inner.decode(codes) * self._scale


class ResidualFSQ(nn.Module):
    """Layer i quantizes the residual in steps L^-i as fine; z is bounded softly to (-c, c), c = 1 + 1/(L - 1), first.

    The estimator carries the gradient from the output to the bounded z once, whatever the number of layers.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.ResidualFSQ(levels=(5, 5, 3), depth=4)
    >>> y = q.apply({}, jax.numpy.ones((2, 3)))
    >>> y.codes.shape
    (2, 4)

    Attributes:
      levels: per channel, the same in every layer.
      depth: Q, the number of layers.
      dropout: as in :class:`~jaxtok.quantizers.ResidualVQ`, also the following.
      at_least: the least number of active layers.
      multiple: their number is rounded up to a multiple of it.
      share: of the samples that "sample" drops layers of.
    """

    levels: Sequence[int]
    depth: int
    dropout: str = ""
    at_least: int = 1
    multiple: int = 1
    share: float = 0.5

    @property
    def codebook_size(self) -> int:
        """Of one layer: the product of the levels."""
        return math.prod(self.levels)

    @property
    def num_codebooks(self) -> int:
        """Layers."""
        return self.depth

    @property
    def accumulable(self) -> bool:
        """Whether the loss is a plain mean over positions, so that gradients of micro-batches add up."""
        return True

    def setup(self):
        """The layers."""
        self.residual = ResidualVQ(
            layers=tuple(ScaledFSQ(levels=tuple(self.levels), exponent=i) for i in range(self.depth)),
            dropout=self.dropout, at_least=self.at_least, multiple=self.multiple, share=self.share,
        )  # fmt: skip

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [B, ..., d]; codes are int32 [B, ..., Q], -1 where dropped."""
        return self.residual(self._bound(z), mask=mask, rng=rng, train=train)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., d]."""
        return self.residual.encode(self._bound(z))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Vectors float32 [..., d] of codes int32 [..., q] of the first q layers."""
        return self.residual.decode(codes)

    def _bound(self, z: jax.Array) -> jax.Array:
        limit = 1 + 1 / (np.asarray(self.levels, np.float32) - 1)
        return limit * jnp.tanh(vectors(z, len(self.levels), "ResidualFSQ") / limit)
