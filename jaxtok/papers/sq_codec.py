"""SQ-Codec's contract around its rounding: latents are what stands before it, and decoding rounds first.

Source: Yang et al., "SimpleSpeech" (arXiv 2406.02328) and "SimpleSpeech 2" (arXiv 2408.13893). So a generator learns
continuous values in (-1, 1), and its samples are snapped to the grid when they are decoded. The networks are
:mod:`jaxtok.nn.sq_codec`.
"""

import jax
import jax.numpy as jnp

from jaxtok.quantizers import Quantized, ScalarRound
from jaxtok.quantizers.estimators import straight_through
from jaxtok.quantizers.quantized import distortion, vectors
from jaxtok.tokenizers.waveform import WaveformTokenizer


class Bounded(ScalarRound):
    """As :class:`jaxtok.quantizers.ScalarRound`, but the latents are y = tanh(z) itself; the codes are of y rounded.

    So ``decode(codes)`` gives the grid's points and not the latents: ``snap(latents)`` is equal to it.
    """

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Latents float32 [..., d] and codes int32 [..., Q] of z [..., d]."""
        del rng, train
        y = jnp.tanh(vectors(z, self.width, "Bounded"))
        return Quantized(y, self._pack(y), jnp.zeros(()), distortion(y, self.snap(y), mask))


class SQCodec(WaveformTokenizer):
    """A waveform tokenizer of :class:`Bounded`, whose ``decode`` rounds the latents, with the gradient of the identity.

    What is rounded already stays: latents of codes, of ``encode`` and of a generator are decoded alike.
    """

    def receive(self, latents: jax.Array) -> jax.Array:
        """The nearest points of the grid to latents [B, T, d] in [-1, 1]; larger ones are those of 1."""
        y = jnp.clip(latents, -1.0, 1.0)
        return super().receive(straight_through(latents, self.quantizer.snap(y)))
