"""Tokenizers of waveforms in one channel: encoder, quantizer, decoder, each sample in and each sample out."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.nn.stream import lengths_of, real
from jaxtok.quantizers import Quantized
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer


class WaveformTokenizer(FeedForwardTokenizer):
    """Audio [B, L] to frames(L) tokens and back; a row has the tokens that it has alone, however it is padded.

    The encoder takes [B, L, 1], has the field ``hop`` and says in ``frames`` how many frames come out of so many
    samples, as those of :mod:`jaxtok.nn.seanet`, :mod:`jaxtok.nn.sq_codec` and :mod:`jaxtok.nn.oobleck`; the decoder
    gives [B, hop T, 1]. The other fields are :class:`FeedForwardTokenizer`'s. Where both ``stream``
    (:mod:`jaxtok.nn.stream`), so does the tokenizer.
    """

    @property
    def hop(self) -> int:
        """Samples per token."""
        return self.encoder.hop

    @property
    def streams(self) -> bool:
        """Whether tokens and audio can be made while the sound goes on."""
        return getattr(self.encoder, "streams", False) and getattr(self.decoder, "streams", False)

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[Quantized, jax.Array]:
        """Tokens of audio x [B, L] and audio [B, L] again, with zeros outside ``mask`` and where no token reaches."""
        tokens = self.encode(x, mask=mask)
        y = self.decode(tokens.latents, mask=self.frames(mask))[:, : x.shape[1]]
        y = jnp.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1])))
        return tokens, y if mask is None else jnp.where(mask, y, 0)

    def frames(self, mask: jax.Array | None) -> jax.Array | None:
        """The tokens' mask bool [B, frames(L)] of the samples' [B, L]."""
        return None if mask is None else real(self.encoder.frames(mask.sum(1)), self.encoder.frames(mask.shape[1]))

    def analyse(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """The encoder's vectors of audio [B, L] in [-1, 1] and their mask; ``mask`` [B, L] is True on what comes first.

        Raises:
          ValueError: for another rank, no sample, or a mask of another shape.
        """
        if x.ndim != 2 or not x.shape[1]:
            raise ValueError(f"audio: expected [batch, samples] with samples > 0, found shape {x.shape}")
        lengths_of(mask, x[..., None])
        return super().analyse(x[..., None], mask)

    def synthesise(self, z: jax.Array, mask: jax.Array | None, **more: Any) -> jax.Array:
        """Audio float32 [B, hop T], not limited to [-1, 1]; ``mask`` is the tokens', bool [B, T]."""
        return super().synthesise(z, mask, **more)[..., 0]

    def stream_encode(self, x: jax.Array, state: Any = None, *, last: bool = False) -> tuple[Quantized, Any]:
        """The tokens that are certain by now, perhaps none, and the state for the samples that follow.

        All parts together are what ``encode`` gives of the whole, up to the rounding of sums.

        Args:
          x: audio [B, any number], what follows the samples before; multiples of ``hop`` compile least.
          state: of the call before; None at the beginning.
          last: whether the sound ends with it.

        Raises:
          ValueError: for another rank, or a tokenizer that does not stream.
        """
        self._check_streams()
        if x.ndim != 2:
            raise ValueError(f"audio: expected [batch, samples], found shape {x.shape}")
        z, state = self.encoder.stream(x[..., None], state, last)
        count = z.shape[1]
        tokens = self.quantize(z if count else jnp.zeros((len(z), 1, z.shape[2]), z.dtype))  # quantizers refuse none
        codes = None if tokens.codes is None else tokens.codes[:, :count]
        return dataclasses.replace(tokens, latents=tokens.latents[:, :count], codes=codes), state

    def stream_decode(self, latents: jax.Array, state: Any = None, *, last: bool = False) -> tuple[jax.Array, Any]:
        """The samples that are certain by now, float32 [B, any number], and the state for the latents that follow.

        Args:
          latents: [B, any number, D], what follows those before.
          state: of the call before; None at the beginning.
          last: whether the sound ends with it.

        Raises:
          ValueError: for a tokenizer that does not stream.
        """
        self._check_streams()
        y, state = self.decoder.stream(self.receive(latents), state, last)
        return y[..., 0], state

    def _check_streams(self) -> None:
        if not self.streams:
            kinds = f"{type(self.encoder).__name__} and {type(self.decoder).__name__}"
            raise ValueError(f"stream: expected an encoder and a decoder that are causal, found {kinds} that are not")


@functools.lru_cache(maxsize=64)
def latent_width(tokenizer: WaveformTokenizer) -> int:
    """Numbers per latent, known without running anything."""
    audio = jnp.zeros((1, tokenizer.hop))
    tokens, _ = jax.eval_shape(lambda: tokenizer.init_with_output(jax.random.key(0), audio)[0])
    return tokens.latents.shape[-1]
