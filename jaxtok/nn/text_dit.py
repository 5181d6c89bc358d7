"""A diffusion transformer that looks at text by cross-attention (PixArt-alpha, arXiv 2310.00426), and its reader."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed, windows
from jaxtok.nn.dit import DiTBlock, adaln_single, check, gelu_mlp, last_layer
from jaxtok.nn.embed import TimeEmbedding
from jaxtok.nn.llama import Llama
from jaxtok.nn.norms import LayerNorm
from jaxtok.nn.stack import repeat
from jaxtok.nn.vit import embed_patches


class TextDiT(nn.Module):
    """Images or grids of latents, conditioned on time and text: the output is 0 at first.

    One linear map of the time makes the six vectors of all blocks, to which each adds a table of its own
    (adaLN-single); cross-attention stands between self-attention and MLP.

    Attributes:
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      out_channels: 0 for as many as come in; twice as many where the variance is learned.
      ratio: hidden width of the MLPs over D.
      position_scale: positions of the fixed table are divided by it: 1 at 512 pixels and below, 2 at 1024.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    out_channels: int = 0
    ratio: float = 4.0
    position_scale: float = 1.0
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, text: jax.Array, *, text_mask: jax.Array | None = None,
        condition: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """The prediction for x [B, H, W, C]: float32 [B, H, W, out_channels].

        Args:
          x: [B, H, W, C].
          t: [B], in the unit that the network was trained with; PixArt's is the index of a table of 1000.
          text: [B, N, E], of a text encoder; at least one token of each example must be real.
          text_mask: bool [B, N], True on real tokens.
          condition: [B, D], added to the embedded time (PixArt at 1024 pixels: embedded sizes).

        Raises:
          ValueError: when the patch does not divide the grid, or the text has another rank.
        """
        check("TextDiT", x, self.patch)
        if text.ndim != 3 or len(text) != len(x):
            raise ValueError(f"TextDiT: expected text [{len(x)}, tokens, width], found shape {text.shape}")
        height, width, channels = x.shape[1:]
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        down, across = height // self.patch, width // self.patch
        h = embed_patches(x, self.patch, self.width, **types)
        h = h + jnp.asarray(embed.grid_table(down, across, self.width, scale=self.position_scale), h.dtype)
        time = TimeEmbedding(self.width, name="time", **types)(t)
        if condition is not None:
            time = time + condition.astype(time.dtype)
        init = nn.initializers.normal(0.02)
        vectors = nn.Dense(6 * self.width, kernel_init=init, name="modulation", **types)(nn.silu(time))
        # The reference draws N(0, 0.02), which is this at its 4096 features of text; of fewer it would leave no text.
        wide = nn.initializers.lecun_normal()
        text = gelu_mlp(self.width, self.width, kernel_init=wide, name="text", **types)(text)
        h = repeat(
            DiTBlock, self.depth, h, vectors, None, text, text_mask, scan=self.scan, remat=self.remat,
            heads=self.heads, hidden=int(self.ratio * self.width), modulation=adaln_single, attention=self.attention,
            **types,
        )  # fmt: skip
        features = self.patch**2 * (self.out_channels or channels)
        h = last_layer(h, features, LayerNorm, adaln_single, jnp.tile(time, (1, 2)), types)
        return windows.unpatchify(h, self.patch, height, width)


class TextEncoder(nn.Module):
    """Ids to vectors: embeddings and Llama blocks that look both ways, learned with what reads them.

    Attributes:
      vocabulary: ids that there are.
      width: E.
      depth: blocks.
      heads: of attention; they divide E.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    scan: bool = True
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """[B, N, E] of ids int [B, N] with mask bool [B, N], True on real ones; padding changes no real one."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        init = nn.initializers.normal(0.02)
        h = nn.Embed(self.vocabulary, self.width, embedding_init=init, name="embed", **types)(ids)
        scales = self.param("norm_scales", nn.initializers.ones, (2 * self.depth + 1, self.width), self.param_dtype)
        stack = Llama(
            self.depth, self.heads, 4 * self.width, scan=self.scan, remat=self.remat, name="transformer", **types
        )  # fmt: skip
        return stack(h, mask=mask[:, None, None, :], scales=scales[:, None])


class CaptionDiT(nn.Module):
    """A :class:`TextDiT` that reads ids of text by an encoder of its own.

    Attributes:
      encoder: such as :class:`TextEncoder`: ids and mask [B, N] to [B, N, E].
      network: a :class:`TextDiT`.
      pool: from the mean of a text's vectors [B, E] to [B, D], which is added to the embedded time, as Stable Diffusion
        3 does (arXiv 2403.03206); None leaves the text to cross-attention alone, as PixArt.
    """

    encoder: nn.Module
    network: nn.Module
    pool: nn.Module | None = None
    classes = 0  # no field: text in their place

    def __call__(self, x: jax.Array, t: jax.Array, text: Mapping[str, jax.Array]) -> jax.Array:
        """The prediction for x [B, H, W, C] at t [B] of a text: ``ids`` and ``mask`` [B, N], or what ``read`` made."""
        text = self.read(text)
        vectors, mask = text["vectors"], text["mask"]
        condition = None
        if self.pool is not None:
            real = mask[..., None].astype(vectors.dtype)
            condition = self.pool((vectors * real).sum(1) / real.sum(1))
        return self.network(x, t, vectors, text_mask=mask, condition=condition)

    def read(self, text: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """``vectors`` [B, N, E] and ``mask``: what does not change from one step of sampling to the next."""
        if "vectors" in text:
            return dict(text)
        return {"vectors": self.encoder(text["ids"], text["mask"]), "mask": text["mask"]}
