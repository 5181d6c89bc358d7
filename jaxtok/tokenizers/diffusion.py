"""Tokenizers with a diffusion decoder: encoder, quantizer, denoiser."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.diffusion import guidance, noise, samplers, times
from jaxtok.quantizers import Quantized


@dataclasses.dataclass(frozen=True)
class FlowSampler:
    """How the decoder is run: Euler steps, guidance, and its rescaling.

    Attributes:
      steps: network calls per sample (twice as many with guidance).
      guidance: v_u + guidance (v_c - v_u); 1 skips the unconditional pass, which is exact.
      rescale: share of the guided velocity whose standard deviation is set to the conditional one's.
      middle: show the network the middle of each step (TaDiCodec).
      per_sample: False takes one standard deviation over the batch, as TaDiCodec's code does; then samples depend on
        their neighbours.
    """

    steps: int = 32
    guidance: float = 2.0
    rescale: float = 0.75
    middle: bool = True
    per_sample: bool = True

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"rescale must lie in [0, 1], found {self.rescale}")
        if self.guidance < 0.0:
            raise ValueError(f"guidance must not be negative, found {self.guidance}")


class DiffusionTokenizer(nn.Module):
    """Encoder and quantizer to tokens; a denoiser, conditioned on them, back to data.

    Attributes:
      encoder: ``encoder(x, mask) -> (z [B, N, D], token_mask [B, N] or None)``.
      quantizer: see :mod:`jaxtok.quantizers`.
      decoder: a denoiser in four parts, so that sampling computes once what does not depend on the state:
        ``context(latents, mask=, cond=) -> pytree``, ``null(context) -> pytree`` (the same without condition),
        ``modulation(t) -> pytree``, ``velocity(x_t, modulation, context)``; with ``shape(latents)`` of one batch of x.
    """

    encoder: nn.Module
    quantizer: nn.Module
    decoder: Any

    def __call__(self, x, t, *, mask=None, cond=None) -> tuple[Quantized, jax.Array]:
        """Encodes x and denoises x itself at t: touches every parameter; for initialisation."""
        tokens = self.encode(x, mask=mask)
        return tokens, self.denoise(x, t, tokens.latents, mask=mask, cond=cond)

    def encode(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
        rng: jax.Array | None = None,
        train: bool = False,
    ) -> Quantized:
        """Tokens of x [B, T, ...]; ``mask`` bool [B, T] marks real frames."""
        del cond
        z, token_mask = self.encoder(x, mask=mask)
        return self.quantizer(z, mask=token_mask, rng=rng, train=train)

    def denoise(
        self,
        x_t: jax.Array,
        t: jax.Array,
        latents: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
    ) -> jax.Array:
        """The velocity dx_t/dt at times t [B] (0 = data, 1 = noise), float32 in the shape of x_t."""
        context = self.decoder.context(latents, mask=mask, cond=cond)
        return self.decoder.velocity(x_t, self.decoder.modulation(t), context)

    def decode(
        self,
        latents: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
        rng: jax.Array | None = None,
        sampler: FlowSampler | None = None,
        start: jax.Array | None = None,
    ) -> jax.Array:
        """Samples x from its tokens' latents.

        Args:
          latents: [B, N, D], from ``encode`` or ``quantizer.decode(codes)``.
          mask: bool [B, T] of real frames, or None.
          cond: the decoder's further conditions.
          rng: keys [B], one per example, or one key that serves each of them. The same key gives the same sample
            whatever stands beside it in the batch.
          sampler: None for the defaults.
          start: the noise to start from, in the shape of x; None draws it from ``rng``.

        Returns:
          x, float32.
        """
        sampler = sampler or FlowSampler()
        if start is None:
            if rng is None:
                raise ValueError("decode needs rng (a jax.random.key) or start (the noise), found neither")
            batch, length, width = self.decoder.shape(latents)
            start = noise.sequence(jnp.broadcast_to(rng, (batch,)), length, width)
        decoder, variables = self.decoder.unbind()
        context = decoder.apply(variables, latents, mask=mask, cond=cond, method="context")
        null = decoder.apply(variables, context, method="null")
        counted = decoder.apply(variables, context, method="target_mask")

        def velocity(x, t, modulation):
            conditional = decoder.apply(variables, x, modulation, context, method="velocity")
            if sampler.guidance == 1.0:
                return conditional
            unconditional = decoder.apply(variables, x, modulation, null, method="velocity")
            guided = guidance.classifier_free(conditional, unconditional, sampler.guidance)
            if sampler.rescale == 0.0:
                return guided
            return guidance.rescale(guided, conditional, sampler.rescale, mask=counted, per_sample=sampler.per_sample)

        grid = times.uniform_grid(sampler.steps)
        shown = samplers.network_times(grid, middle=sampler.middle)
        table = jax.vmap(lambda t: decoder.apply(variables, t[None], method="modulation"))(shown)
        x = samplers.euler(velocity, start, grid, per_step=table, middle=sampler.middle)
        return decoder.apply(variables, x, context, method="finish")
