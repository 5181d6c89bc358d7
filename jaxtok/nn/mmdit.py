"""Multimodal diffusion transformers: image and text tokens with weights of their own, in one attention.

MM-DiT (Esser et al., "Scaling Rectified Flow Transformers", arXiv 2403.03206), as in Stable Diffusion 3 and 3.5, and
the single-stream block of Flux. Image tokens stand before text tokens in :class:`JointBlock`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed, rope, windows
from jaxtok.nn.dit import adaln, check, gelu_mlp, last_layer, modulate
from jaxtok.nn.embed import TimeEmbedding
from jaxtok.nn.mlp import MLP, gelu
from jaxtok.nn.norms import LayerNorm
from jaxtok.nn.stack import repeat
from jaxtok.nn.vit import SelfAttention, embed_patches, normalized


class JointBlock(nn.Module):
    """One attention over image and text tokens; norms, maps, MLPs and six adaLN vectors for each of the two.

    The vectors are in the order shift1, scale1, gate1, shift2, scale2, gate2; the last block's text has shift, scale;
    with ``dual`` the image has three more: shift3, scale3, gate3. Records the image tokens as "tokens".

    Attributes:
      heads: of attention; they divide D.
      hidden: width of the MLPs.
      qk_norm: RMSNorm on queries and keys, with scales for image and text (3.5).
      last: text gives keys and values only, and stays what it is ("context_pre_only").
      dual: a second attention among image tokens, of the same normalised x (3.5-medium).
      attention: see :mod:`jaxtok.nn.attention`.
    """

    heads: int
    hidden: int
    qk_norm: bool = False
    last: bool = False
    dual: bool = False
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, streams: tuple[jax.Array, jax.Array], condition: jax.Array, text_mask: jax.Array | None = None,
        angles: Any = None,
    ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
        """One block. Returns (image, text).

        Args:
          streams: image [B, T, D] and text [B, N, D].
          condition: [B, C], of time and pooled text.
          text_mask: bool [B, N], True on real tokens.
          angles: of rotary positions of image and text tokens together, [B or 1, T + N, D / heads / 2], or None.
        """
        image, text = streams
        width, types = image.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if width % self.heads:
            raise ValueError(f"JointBlock: heads must divide the width, found {self.heads} and {width}")
        of_image = adaln(condition, 9 if self.dual else 6, width, name="image_modulation", **types)
        of_text = adaln(condition, 2 if self.last else 6, width, name="text_modulation", **types)
        plain = LayerNorm()(image)
        parts = [
            self._heads("image", modulate(plain, *of_image[:2]), types),
            self._heads("text", modulate(LayerNorm()(text), *of_text[:2]), types),
        ]
        query, key, value = (jnp.concatenate(pair, axis=1) for pair in zip(*parts))
        if angles is not None:
            query, key = rope.rotate_pairs(query, *angles), rope.rotate_pairs(key, *angles)
        mask = None
        if text_mask is not None:
            mask = jnp.concatenate([jnp.ones(image.shape[:2], bool), text_mask], axis=1)
        out = self.attention(query, key, value, attention_lib.key_mask(mask))
        out = out.reshape(*out.shape[:2], width)
        seen, read = out[:, : image.shape[1]], out[:, image.shape[1] :]
        image = image + of_image[2] * self._linear(width, "image_out", types)(seen)
        if self.dual:
            attend = SelfAttention(self.heads, self.qk_norm, self.attention, name="image_attention", **types)
            image = image + of_image[8] * attend(modulate(plain, *of_image[6:8]))
        image = self._mlp("image", image, of_image[3:6], types)
        if not self.last:
            text = text + of_text[2] * self._linear(width, "text_out", types)(read)
            text = self._mlp("text", text, of_text[3:6], types)
        self.sow("intermediates", "tokens", image)
        return image, text

    def _linear(self, features: int, name: str, types: dict[str, Any]) -> nn.Dense:
        return nn.Dense(features, kernel_init=nn.initializers.xavier_uniform(), name=name, **types)

    def _heads(self, name: str, x: jax.Array, types: dict[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
        qkv = self._linear(3 * x.shape[-1], f"{name}_qkv", types)(x).reshape(*x.shape[:2], 3, self.heads, -1)
        query, key, value = (qkv[:, :, i] for i in range(3))
        if self.qk_norm:
            query, key = normalized(self, query, key, f"{name}_")
        return query, key, value

    def _mlp(self, name: str, x: jax.Array, vectors: list[jax.Array], types: dict[str, Any]) -> jax.Array:
        shift, scale, gate = vectors
        mlp = gelu_mlp(self.hidden, kernel_init=nn.initializers.xavier_uniform(), name=f"{name}_mlp", **types)
        return x + gate * mlp(modulate(LayerNorm()(x), shift, scale))


class SingleBlock(nn.Module):
    """Flux's block on one stream: x + gate out([attention(y), gelu(hidden y)]), y = norm(x) (1 + scale) + shift.

    Queries, keys, values and the hidden layer come from one linear map, in this order; queries and keys have RMSNorms.

    Attributes:
      heads: of attention; they divide D.
      hidden: width of the MLP.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    heads: int
    hidden: int
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, angles: Any = None, mask: jax.Array | None = None
    ) -> jax.Array:
        """The same of x [B, T, D] (Flux: text, then image), condition [B, C], and the mask bool [B, T] of real tokens.

        ``angles`` are of neighbouring channels, see :class:`jaxtok.nn.vit.SelfAttention`.
        """
        width, types = x.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if width % self.heads:
            raise ValueError(f"SingleBlock: heads must divide the width, found {self.heads} and {width}")
        init = nn.initializers.xavier_uniform()
        shift, scale, gate = adaln(condition, 3, width, name="modulation", **types)
        y = modulate(LayerNorm()(x), shift, scale)
        y = nn.Dense(3 * width + self.hidden, kernel_init=init, name="in_linear", **types)(y)
        qkv = y[..., : 3 * width].reshape(*x.shape[:2], 3, self.heads, -1)
        query, key = normalized(self, qkv[:, :, 0], qkv[:, :, 1])
        if angles is not None:
            query, key = rope.rotate_pairs(query, *angles), rope.rotate_pairs(key, *angles)
        seen = self.attention(query, key, qkv[:, :, 2], attention_lib.key_mask(mask)).reshape(x.shape)
        y = jnp.concatenate([seen, gelu(y[..., 3 * width :])], axis=-1)
        x = x + gate * nn.Dense(width, kernel_init=init, name="out_linear", **types)(y)
        self.sow("intermediates", "tokens", x)
        return x


class MMDiT(nn.Module):
    """Images or grids of latents, conditioned on time, text and a pooled text vector: the output is 0 at first.

    Stable Diffusion 3 medium: depth 24, width 1536, heads 24, table 192; 3.5 medium: dual 13, qk_norm, table 384.

    Attributes:
      depth: blocks; in the last the text gives keys and values only.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      out_channels: 0 for as many as come in.
      ratio: hidden width of the MLPs over D.
      qk_norm: RMSNorm on queries and keys.
      dual: how many of the first blocks have a second attention among image tokens; fewer than ``depth``.
      table: side of the fixed table of positions, from whose centre the grid's are cut; 0 for the grid's own.
      position_scale: the table's positions are divided by it (SD3: table side over side of the training's grid).
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    out_channels: int = 0
    ratio: float = 4.0
    qk_norm: bool = False
    dual: int = 0
    table: int = 0
    position_scale: float = 1.0
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, text: jax.Array, pooled: jax.Array | None = None, *,
        text_mask: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """The prediction for x [B, H, W, C]: float32 [B, H, W, out_channels].

        Args:
          x: [B, H, W, C].
          t: [B], in the unit that the network was trained with; SD3's runs to 1000.
          text: [B, N, E], through a linear map.
          pooled: [B, P], through an MLP, added to the embedded time; or None.
          text_mask: bool [B, N], True on real tokens; None in SD3, where padding is seen.

        Raises:
          ValueError: when the patch does not divide the grid, or the grid does not fit into the table.
        """
        check("MMDiT", x, self.patch)
        if not 0 <= self.dual < self.depth:
            raise ValueError(f"dual: expected 0 to {self.depth - 1} of {self.depth} blocks, found {self.dual}")
        height, width, channels = x.shape[1:]
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        image = embed_patches(x, self.patch, self.width, **types)
        image = image + jnp.asarray(self._positions(height // self.patch, width // self.patch), image.dtype)
        condition = TimeEmbedding(self.width, name="time", **types)(t)
        init = nn.initializers.normal(0.02)
        if pooled is not None:
            condition = condition + MLP(self.width, self.width, kernel_init=init, name="pooled", **types)(pooled)
        text = nn.Dense(self.width, kernel_init=init, name="text_linear", **types)(text)
        fields: dict[str, Any] = dict(heads=self.heads, hidden=int(self.ratio * self.width), qk_norm=self.qk_norm,
                      attention=self.attention, scan=self.scan, remat=self.remat, **types)  # fmt: skip
        shared, streams = (condition, text_mask), (image, text)
        streams = repeat(JointBlock, self.dual, streams, *shared, name="dual_blocks", dual=True, **fields)
        streams = repeat(JointBlock, self.depth - self.dual - 1, streams, *shared, **fields)
        fields["scan"] = False
        image, _ = repeat(JointBlock, 1, streams, *shared, name="last_block", last=True, **fields)
        features = self.patch**2 * (self.out_channels or channels)
        out = last_layer(image, features, LayerNorm, adaln, condition, types)
        return windows.unpatchify(out, self.patch, height, width)

    def _positions(self, down: int, across: int) -> Any:
        side = self.table
        if side and (down > side or across > side):
            raise ValueError(f"MMDiT: a grid of {down} x {across} tokens does not fit into a table of {side} x {side}")
        start = ((side - down) // 2, (side - across) // 2) if side else (0, 0)
        return embed.grid_table(down, across, self.width, scale=self.position_scale, start=start)
