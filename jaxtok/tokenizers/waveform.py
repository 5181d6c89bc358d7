"""Tokenizers of waveforms in one channel: encoder, quantizer, decoder, each sample in and each sample out."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxtok.nn.stream import lengths_of, real
from jaxtok.quantizers import Quantized
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer


class WaveformTokenizer(FeedForwardTokenizer):
    """Audio [B, L] to ceil(L / hop) tokens and back; a row has the tokens that it has alone, however it is padded.

    The encoder takes [B, L, 1], has the field ``hop`` and gives ceil(L / hop) frames, as that of
    :mod:`jaxtok.nn.seanet`; the decoder gives [B, hop T, 1]. The other fields are :class:`FeedForwardTokenizer`'s.
    """

    @property
    def hop(self) -> int:
        """Samples per token."""
        return self.encoder.hop

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[Quantized, jax.Array]:
        """Tokens of audio x [B, L] and audio [B, L] again, with zeros outside ``mask``."""
        tokens = self.encode(x, mask=mask)
        y = self.decode(tokens.latents, mask=self.frames(mask))[:, : x.shape[1]]
        return tokens, y if mask is None else jnp.where(mask, y, 0)

    def frames(self, mask: jax.Array | None) -> jax.Array | None:
        """The tokens' mask bool [B, ceil(L / hop)] of the samples' [B, L]: a token that is begun exists."""
        return None if mask is None else real(-(-mask.sum(1) // self.hop), -(-mask.shape[1] // self.hop))

    def encode(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
        rng: jax.Array | None = None,
        train: bool = False,
    ) -> Quantized:
        """Tokens of audio; see :meth:`FeedForwardTokenizer.encode`.

        Args:
          x: audio [B, L] in [-1, 1].
          mask: [B, L], True on a row's samples, which come first.
          cond: not used.
          rng: one key, for quantizers that draw in training.
          train: whether codebooks may move and quantizers may draw.

        Raises:
          ValueError: for another rank, no sample, or a mask of another shape.
        """
        if x.ndim != 2 or not x.shape[1]:
            raise ValueError(f"audio: expected [batch, samples] with samples > 0, found shape {x.shape}")
        lengths_of(mask, x[..., None])
        return super().encode(x[..., None], mask=mask, cond=cond, rng=rng, train=train)

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
        """Audio float32 [B, hop T] of latents [B, T, D], not limited to [-1, 1]; see the class above.

        ``mask`` is the tokens', bool [B, T].
        """
        return super().decode(latents, mask=mask, cond=cond, rng=rng, sampler=sampler, train=train)[..., 0]
