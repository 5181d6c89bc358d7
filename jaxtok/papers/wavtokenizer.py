"""WavTokenizer's decoder, and discriminators that know a condition.

Source: Ji et al., "WavTokenizer: an Efficient Acoustic Discrete Codec Tokenizer for Audio Language Modeling" (arXiv
2408.16532). Its encoder is :class:`jaxtok.nn.seanet.Encoder`, its quantizer :class:`jaxtok.quantizers.EMAVQ`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import discriminators
from jaxtok.nn.conv1d import Conv1D
from jaxtok.nn.conv2d import GroupNorm
from jaxtok.nn.discriminators import Ensemble, Judged
from jaxtok.nn.dropout import dropout
from jaxtok.nn.views import BANDS
from jaxtok.nn.vocos import ConditionalLayerNorm, ConvNeXtBlock, InverseSTFT
from jaxtok.nn.vqgan import AttentionBlock

_normal = nn.initializers.normal(0.02)


class ResBlock(nn.Module):
    """x + conv(dropout(swish(norm(conv(swish(norm(x))))))), the VQGAN's block over time, windows of 3.

    Attributes:
      groups: of the normalisations.
      rate: of dropout.
    """

    groups: int = 32
    rate: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, rng: jax.Array | None = None) -> jax.Array:
        """``[B, T, C] -> [B, T, C]``; ``mask`` is [B, T], ``rng`` [B] keys, None for no dropout."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        h = x
        for i in (1, 2):
            h = nn.swish(GroupNorm(self.groups, name=f"norm{i}", **types)(h, mask))
            h = h if i == 1 else dropout(h, rng, self.rate)
            h = Conv1D(x.shape[-1], 3, padding=(1, 1), name=f"conv{i}", **types)(_inside(h, mask))
        return x + h


class Decoder(nn.Module):
    """Tokens' vectors to audio, ``[B, T, dimension] -> [B, hop T, 1]``, at the tokens' rate until the very end.

    Convolution 7; two residual blocks, attention over all frames with one head, two residual blocks, GroupNorm; a
    LayerNorm by bandwidth; ConvNeXt blocks with the same; LayerNorm; inverse STFT. All releases have one bandwidth four
    times: its id, random in training, acts as noise and is 0 afterwards. The defaults are those of 40 tokens a second.

    Attributes:
      dimension: channels of the tokens' vectors.
      width: channels inside; ``hidden`` the width inside the ConvNeXt blocks, ``depth`` their number.
      n_fft: window of the inverse STFT in samples; ``hop`` the samples per token.
      bandwidths: ids.
      groups: of the GroupNorms.
      rate: of dropout in the residual blocks.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    dimension: int = 512
    width: int = 768
    hidden: int = 2304
    depth: int = 12
    n_fft: int = 2400
    hop: int = 600
    bandwidths: int = 4
    groups: int = 32
    rate: float = 0.1
    attention: attention_lib.Attention = attention_lib.xla
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        mask: jax.Array | None = None,
        *,
        cond: Mapping[str, jax.Array] | None = None,
        rng: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Audio float32 [B, hop T, 1], not limited to [-1, 1].

        Args:
          z: [B, T, dimension].
          mask: [B, T], True on a row's frames, which come first; a row then gives what it gives alone, and zeros.
          cond: ``bandwidth_id`` int32 [B]; 0 where absent.
          rng: keys [B] for dropout.
          train: whether there is dropout.

        Raises:
          ValueError: for another shape of z or mask, or training without rng.
        """
        if z.ndim != 3 or z.shape[1] == 0 or z.shape[2] != self.dimension:
            raise ValueError(f"latents: expected [batch, frames > 0, {self.dimension}], found shape {z.shape}")
        if mask is not None and mask.shape != z.shape[:2]:
            raise ValueError(f"mask: expected shape {z.shape[:2]} as the latents have frames, found {mask.shape}")
        if train and self.rate and rng is None:
            raise ValueError("rng: training with dropout expected one key per example, found None")
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        which = (cond or {}).get("bandwidth_id", jnp.zeros(len(z), jnp.int32))
        present = None if mask is None else mask[..., None]
        x = nn.Conv(self.width, (7,), padding="SAME", kernel_init=_normal, name="embed", **types)(_inside(z, mask))
        x = self._context(x, mask, rng if train else None)
        x = ConditionalLayerNorm(self.bandwidths, name="norm", **types)(x, which)
        for i in range(self.depth):
            block = ConvNeXtBlock(self.hidden, 1 / self.depth, 7, self.bandwidths, name=f"blocks_{i}", **types)
            x = block(x, present, which)
        x = nn.LayerNorm(epsilon=1e-6, name="final_norm", **types)(x)
        return InverseSTFT(self.n_fft, self.hop, param_dtype=self.param_dtype, name="head")(x, mask)[..., None]

    def _context(self, x: jax.Array, mask: jax.Array | None, rng: jax.Array | None) -> jax.Array:
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        for i in range(4):
            keys = None if rng is None else jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(rng)
            if i == 2:
                x = AttentionBlock(self.groups, self.attention, name="attention", **types)(x, mask)
            x = ResBlock(self.groups, self.rate, name=f"res{i}", **types)(x, mask, keys)
        return GroupNorm(self.groups, name="context_norm", **types)(x, mask)


class Projection(nn.Module):
    """A discriminator that knows a condition: logits + <row of the table, last hidden layer> at each position.

    Source: Miyato and Koyama, "cGANs with Projection Discriminator" (arXiv 1802.05637). The table [conditions, C]
    begins with zeros.

    Attributes:
      discriminator: of one part, whose last convolution keeps the positions.
      conditions: rows of the table.
    """

    discriminator: nn.Module
    conditions: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, audio: jax.Array, condition: jax.Array | None = None) -> Judged:
        """Logits and hidden layers of ``audio [B, L]`` where ``condition`` int32 [B] holds.

        Raises:
          ValueError: without a condition.
        """
        if condition is None:
            raise ValueError("condition: expected int32 [batch], found None")
        judged = self.discriminator(audio)
        last = judged.features[-1].astype(jnp.float32)
        table = self.param("table", nn.initializers.zeros, (self.conditions, last.shape[-1]), self.param_dtype)
        row = jnp.take(table, condition, axis=0).astype(jnp.float32)
        more = jnp.einsum("b...c,bc->b...", last, row)
        return Judged(judged.logits + more, judged.features)


def conditional(ensemble: Ensemble, conditions: int = 4) -> Ensemble:
    """The ensemble whose members are :class:`Projection` of the given one's."""
    return Ensemble(tuple(Projection(member, conditions) for member in ensemble.members))


def panel(
    periods: Sequence[int] = discriminators.PERIODS, n_ffts: Sequence[int] = (1024, 2048, 512), *,
    layers: Sequence[int] = (32, 128, 512, 1024, 1024), maps: tuple[int, int] = (64, 32),
    edges: Sequence[float] = BANDS, bandwidths: int = 4,
) -> discriminators.Panel:  # fmt: skip
    """WavTokenizer's discriminators: by period and by resolution, both conditional, and all of DAC's. 84.25 M
    parameters.

    Args:
      periods: in samples, of the conditional ones and of DAC's alike.
      n_ffts: of the spectrograms; likewise.
      layers: channels of the layers by period.
      maps: channels of the layers over spectrograms, and of those over bands.
      edges: of the bands.
      bandwidths: ids.
    """
    period = discriminators.multi_period(periods, channels=layers)
    resolution = discriminators.multi_resolution(n_ffts, channels=maps[0])
    sizes: dict[str, Any] = dict(edges=edges, channels=layers, band_channels=maps[1])
    dac = discriminators.dac(periods, n_ffts, window="rectangular", **sizes)
    known = {"period": conditional(period, bandwidths), "resolution": conditional(resolution, bandwidths)}
    return discriminators.Panel(known | {"dac": dac})


def _inside(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else jnp.where(mask[..., None], x, 0)
