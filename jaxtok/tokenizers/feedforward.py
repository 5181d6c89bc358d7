"""Tokenizers whose decoder is one pass of a network: encoder, quantizer, decoder."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from jaxtok.nn.conv2d import dense
from jaxtok.quantizers import Quantized


class FeedForwardTokenizer(nn.Module):
    """Encoder and quantizer to tokens; one pass of a network back to data. Any modality.

    What a modality adds stands in ``analyse`` and ``synthesise``, what a paper does to latents before they are decoded
    in ``receive``; ``encode`` and ``decode`` are the same for all.

    A codebook that moves by itself lives in the collection "codebook": it is read wherever it is given, and moves where
    ``train=True`` and ``apply`` is told ``mutable=["codebook"]``.

    Attributes:
      encoder: ``encoder(x, mask=) -> (z [B, ..., Z], token_mask [B, ...] or None)``.
      quantizer: see :mod:`jaxtok.quantizers`.
      decoder: ``decoder(z, mask=) -> x``, and with ``cond=, rng=, train=`` where it is ``conditional``.
      pre: width D of the codes' vectors where a linear map stands before the quantizer; 0 for none.
      post: width of the decoder's input where a linear map stands behind the quantizer; 0 for none.
      conditional: whether the decoder looks at conditions or draws in training.
    """

    encoder: nn.Module
    quantizer: nn.Module
    decoder: nn.Module
    pre: int = 0
    post: int = 0
    conditional: bool = False

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[Quantized, jax.Array]:
        """Tokens of x and x again: touches every parameter; for initialisation."""
        tokens = self.encode(x, mask=mask)
        return tokens, self.decode(tokens.latents, mask=mask)

    @nn.compact
    def project(self, z: jax.Array, name: str, features: int) -> jax.Array:
        """A linear map, in float32, or nothing where ``features`` is 0."""
        return dense(z.shape[-1], features, name=name)(z) if features else z

    def encode(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
        rng: jax.Array | None = None,
        train: bool = False,
    ) -> Quantized:
        """Tokens of x [B, ...].

        Args:
          x: data as the encoder takes it.
          mask: marks what is real in x, for encoders that take padding.
          cond: not used.
          rng: one key, for quantizers that draw in training; what they draw depends on a token's place in the batch.
          train: whether codebooks may move and quantizers may draw.
        """
        del cond
        z, token_mask = self.analyse(x, mask)
        return self.quantize(z, mask=token_mask, rng=rng, train=train)

    def analyse(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """The encoder's vectors of x and their mask."""
        return self.encoder(x, mask=mask)

    def quantize(self, z: jax.Array, **fields: Any) -> Quantized:
        """Tokens of the encoder's vectors z [B, ..., Z]; ``fields`` are the quantizer's."""
        return self.quantizer(self.project(z, "pre_linear", self.pre), **fields)

    def decode(
        self,
        latents: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
        rng: jax.Array | None = None,
        sampler: None = None,
        train: bool = False,
    ) -> jax.Array:
        """x of its tokens' latents, from ``encode`` or ``quantizer.decode(codes)``.

        Args:
          latents: [B, ..., D].
          mask: marks what is real, as the decoder takes it.
          cond: for a decoder that is ``conditional``.
          rng: one key per example, [B], for a conditional decoder in training; else nothing is drawn.
          sampler: not used.
          train: whether a conditional decoder may draw.
        """
        del sampler
        more = dict(cond=cond, rng=rng, train=train) if self.conditional else {}
        return self.synthesise(self.receive(latents), mask, **more)

    def receive(self, latents: jax.Array) -> jax.Array:
        """What the decoder gets of latents [B, ..., D]."""
        return self.project(latents, "post_linear", self.post)

    def synthesise(self, z: jax.Array, mask: jax.Array | None, **more: Any) -> jax.Array:
        """The decoder's x of what ``receive`` gave; ``more`` are a conditional one's ``cond``, ``rng``, ``train``."""
        return self.decoder(z, mask=mask, **more)
