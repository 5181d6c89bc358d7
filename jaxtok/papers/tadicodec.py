"""TaDiCodec: a 6.25 Hz speech tokenizer whose diffusion decoder is given the text (Wang et al., arXiv 2508.16790).

What is new here: the transcript stands before the frames as a prefix, so the tokens need only carry what text does not;
a clean prefix of frames (the prompt) may show the speaker; the norms of the decoder are scaled by the diffusion time.
Encoder, binary spherical quantizer and decoder are trained together by one flow-matching loss.

Where the published code depends on a sample's batch, this one does not: codes never depend on padding (lengths are
multiples of the factor 8 by definition, and keys are masked), positions count from each sample's own text length, the
prompt is aligned to whole tokens, and coins are tossed per sample. With lengths that are multiples of 8 and batches of
one, both agree.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion import paths, predictions
from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed
from jaxtok.nn.llama import Llama
from jaxtok.nn.mlp import MLP
from jaxtok.signal import resample

_NORMAL = nn.initializers.normal(0.02)


def norm_scales(depth: int, width: int, init: str, param_dtype: Any) -> nn.Module:
    """The layer from a time's vector to the scales of the norms of ``depth`` blocks and of the last norm.

    Args:
      depth: blocks.
      width: of the vector and of the scales.
      init: "reference" draws it from N(0, 0.02) with zero bias, so that scales start near zero, as in the released
        training; "stable" starts all scales at 1.
      param_dtype: of the parameters.

    Raises:
      ValueError: for another ``init``.
    """
    if init not in ("reference", "stable"):
        raise ValueError(f"norm_init must be 'reference' or 'stable', found {init!r}")
    stable = init == "stable"
    return nn.DenseGeneral(
        (2 * depth + 1, width),
        kernel_init=nn.initializers.zeros if stable else _NORMAL,
        bias_init=nn.initializers.ones if stable else nn.initializers.zeros,
        param_dtype=param_dtype,
    )


def time_scales(mlp: Any, scales: Any, t: jax.Array) -> jax.Array:
    """The norms' scales [2 depth + 1, B, width] at times t [B] in the reference's unit, by ``mlp`` and ``scales``."""
    return jnp.moveaxis(scales(mlp(embed.sinusoidal(t, mlp.out))), 0, 1)


class Encoder(nn.Module):
    """Mel frames to pre-quantizer vectors: Linear, bidirectional Llama without norm scales, resampling, Linear.

    Attributes:
      width: channels of the transformer.
      factor: frames per token.
      bits: output channels, the quantizer's input.
      depth: blocks; ``heads``, ``hidden``, ``scan``, ``remat`` as in :class:`jaxtok.nn.llama.Llama`.
    """

    width: int = 1024
    depth: int = 8
    heads: int = 16
    hidden: int = 4096
    bits: int = 14
    factor: int = 8
    scan: bool = False
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """z float32 [B, T / factor, bits] and its mask, from normalised mel [B, T, F] and bool mask [B, T].

        Raises:
          ValueError: when T is not a multiple of ``factor``: the grid of tokens would depend on the padding.
        """
        if x.ndim != 3 or x.shape[1] % self.factor or not x.shape[1]:
            raise ValueError(
                f"mel must be [batch, frames, bands] with a multiple of {self.factor} frames, found shape {x.shape}"
            )
        options: dict[str, Any] = dict(kernel_init=_NORMAL, dtype=self.dtype, param_dtype=self.param_dtype)
        x = nn.Dense(self.width, name="in_linear", **options)(x)
        stack = Llama(
            self.depth, self.heads, self.hidden, scan=self.scan, remat=self.remat, attention=self.attention,
            name="transformer", **options,
        )  # fmt: skip
        tokens = x.shape[1] // self.factor
        middle = np.arange((self.factor - 1) // 2, self.factor // 2 + 1)  # the frames of a token that resampling reads
        kept = (np.arange(tokens)[:, None] * self.factor + middle).reshape(-1)
        x = resample.linear(stack(x, mask=attention_lib.key_mask(mask), kept=kept).astype(jnp.float32), tokens)
        z = nn.Dense(self.bits, name="code_linear", kernel_init=_NORMAL, param_dtype=self.param_dtype)(x)
        return z, None if mask is None else mask[:, self.factor // 2 :: self.factor]


@flax.struct.dataclass
class Context:
    """What the decoder knows beside the state and the time.

    Attributes:
      frames: [B, T, width], the tokens' share of each frame.
      text: [B, N, width] or None.
      positions: int [B, N + T].
      keys: bool [B, 1, 1, N + T]: text and frames that exist.
      mask: bool [B, T] of real frames; ``prompt_mask`` of the frames given clean in ``prompt`` [B, T, F] (or None).
      null_frames: [1, 1, width], what the frames get without tokens.
    """

    frames: jax.Array
    text: jax.Array | None
    positions: jax.Array
    keys: jax.Array
    mask: jax.Array
    prompt: jax.Array | None
    prompt_mask: jax.Array | None
    null_frames: jax.Array


class PrefixDecoder(nn.Module):
    """A flow-matching denoiser of mel frames with text as prefix and the diffusion time in every norm.

    The reference's time runs from noise (0) to data (1), unscaled; here t is 0 for data, so the network is shown 1 - t
    and its output, the reference's velocity, is negated.

    Attributes:
      bands: mel bands; ``vocabulary`` text ids; ``factor`` frames per token.
      norm_init: see :func:`norm_scales`.
      prediction: "flow", as in the reference, or "data": the frames themselves, where noise of ``bands`` numbers does
        not pass a narrow network (Li and He, arXiv 2511.13720); then dx_t/dt divides by at least 0.05.
    """

    bands: int = 128
    width: int = 1024
    depth: int = 16
    heads: int = 16
    hidden: int = 4096
    vocabulary: int = 32100
    factor: int = 8
    norm_init: str = "stable"
    prediction: str = "flow"
    scan: bool = False
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.prediction not in ("flow", "data"):
            raise ValueError(f"prediction must be 'flow' or 'data', found {self.prediction!r}")
        super().__post_init__()

    def setup(self):
        """Makes the parts."""
        options: dict[str, Any] = dict(kernel_init=_NORMAL, dtype=self.dtype, param_dtype=self.param_dtype)
        mlp: dict[str, Any] = dict(hidden=4 * self.width, out=self.width, **options)
        self.in_linear = nn.Dense(self.width, **options)
        self.out_linear = nn.Dense(self.bands, **options)
        self.code_linear = nn.Dense(self.width, kernel_init=_NORMAL, param_dtype=self.param_dtype)
        self.code_mlp = MLP(**mlp)
        self.text_embed = nn.Embed(
            self.vocabulary, self.width, embedding_init=_NORMAL, dtype=self.dtype, param_dtype=self.param_dtype
        )
        self.text_mlp = MLP(**mlp)
        self.time_mlp = MLP(hidden=4 * self.width, out=self.width, kernel_init=_NORMAL, param_dtype=self.param_dtype)
        self.norm_scales = norm_scales(self.depth, self.width, self.norm_init, self.param_dtype)
        self.transformer = Llama(
            self.depth, self.heads, self.hidden, scan=self.scan, remat=self.remat, attention=self.attention, **options
        )

    def shape(self, latents: jax.Array) -> tuple[int, int, int]:
        """The shape [B, T, bands] of the mel frames that the latents describe."""
        return latents.shape[0], latents.shape[1] * self.factor, self.bands

    def context(
        self,
        latents: jax.Array,
        *,
        mask: jax.Array | None = None,
        cond: Mapping[str, jax.Array] | None = None,
    ) -> Context:
        """Everything that depends on neither state nor time.

        Args:
          latents: [B, N, bits].
          mask: bool [B, T], T = N * factor.
          cond: ``text_ids`` int [B, M] with ``text_mask`` bool [B, M] (padding at the end); ``prompt`` [B, T, bands]
            with ``prompt_mask`` bool [B, T]; ``latents_keep`` bool [B], False drops a sample's tokens.
        """
        cond = cond or {}
        batch, length, _ = self.shape(latents)
        codes = self.code_linear(latents)
        if mask is None:
            mask = jnp.ones((batch, length), bool)
        else:  # beyond the end of a sample stands its last token: frames near the end are interpolated as if alone
            last = mask[:, self.factor // 2 :: self.factor].sum(1, keepdims=True) - 1
            index = jnp.clip(jnp.arange(codes.shape[1])[None], max=jnp.maximum(last, 0))
            codes = jnp.take_along_axis(codes, index[..., None], axis=1)
        codes = resample.linear(codes, length)
        if "latents_keep" in cond:
            codes = codes * cond["latents_keep"][:, None, None]
        null_frames = self.code_mlp(jnp.zeros((1, 1, self.width), codes.dtype))
        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        text, keys = None, mask
        if cond.get("text_ids") is not None:
            text_mask = cond["text_mask"] if "text_mask" in cond else jnp.ones(cond["text_ids"].shape, bool)
            text = self.text_mlp(self.text_embed(cond["text_ids"]))
            before = jnp.broadcast_to(jnp.arange(text_mask.shape[1]), text_mask.shape)
            positions = jnp.concatenate([before, positions + text_mask.sum(1, keepdims=True)], axis=1)
            keys = jnp.concatenate([text_mask, mask], axis=1)
        return Context(
            frames=self.code_mlp(codes), text=text, positions=positions, keys=keys[:, None, None, :], mask=mask,
            prompt=cond.get("prompt"), prompt_mask=cond.get("prompt_mask"), null_frames=null_frames,
        )  # fmt: skip

    def null(self, context: Context) -> Context:
        """The same without text and tokens; frame positions count from 0, the prompt stays."""
        batch, length, _ = context.frames.shape
        return dataclasses.replace(
            context,
            frames=jnp.broadcast_to(context.null_frames, context.frames.shape),
            text=None,
            positions=jnp.broadcast_to(jnp.arange(length), (batch, length)),
            keys=context.mask[:, None, None, :],
        )

    def modulation(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The norms' scales [2 depth + 1, B, width] at times t [B] (0 = data, 1 = noise), and t."""
        return time_scales(self.time_mlp, self.norm_scales, 1.0 - t), t

    def velocity(self, x_t: jax.Array, modulation: tuple[jax.Array, jax.Array], context: Context) -> jax.Array:
        """dx_t/dt, float32 [B, T, bands]; the prompt's frames are put in place of the state's."""
        if context.prompt is not None and context.prompt_mask is not None:
            x_t = jnp.where(context.prompt_mask[..., None], context.prompt, x_t)
        h = self.in_linear(x_t) + context.frames.astype(self.dtype)
        if context.text is not None:
            h = jnp.concatenate([context.text.astype(h.dtype), h], axis=1)
        scales, t = modulation
        h = self.transformer(h, positions=context.positions, mask=context.keys, scales=scales)
        out = self.out_linear(h[:, h.shape[1] - x_t.shape[1] :]).astype(jnp.float32)
        if self.prediction == "flow":
            return -out
        return predictions.flow("data", paths.Linear(), out, x_t, jnp.maximum(t, 0.05))

    def target_mask(self, context: Context) -> jax.Array:
        """The frames to be sampled, bool [B, T]: real and not prompt."""
        return context.mask if context.prompt_mask is None else context.mask & ~context.prompt_mask

    def finish(self, x: jax.Array, context: Context) -> jax.Array:
        """The sample with the prompt's frames as given."""
        if context.prompt is None or context.prompt_mask is None:
            return x
        return jnp.where(context.prompt_mask[..., None], context.prompt, x)
