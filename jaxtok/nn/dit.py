"""Diffusion transformers on grids, conditioned on time and class, by text or token by token.

DiT (Peebles and Xie, arXiv 2212.09748) and its in-context form, LightningDiT (arXiv 2501.01423), PixArt (arXiv
2310.00426), DDT (arXiv 2504.05741) and the head of RAE (arXiv 2510.11690). One block serves them all; how it is
modulated, its norm and its MLP are callables.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed, rope, windows
from jaxtok.nn.embed import TimeEmbedding
from jaxtok.nn.mlp import MLP, SwiGLU, gelu
from jaxtok.nn.norms import LayerNorm, RMSNorm
from jaxtok.nn.stack import repeat
from jaxtok.nn.vit import Block, CrossAttention, SelfAttention, embed_patches

# Depth, width and heads of the published sizes.
SIZES = {
    "S": dict(depth=12, width=384, heads=6),
    "B": dict(depth=12, width=768, heads=12),
    "L": dict(depth=24, width=1024, heads=16),
    "XL": dict(depth=28, width=1152, heads=16),
}

Modulation = Callable[..., list[jax.Array]]
gelu_mlp = functools.partial(MLP, activation=gelu)
biased_swiglu = functools.partial(SwiGLU, bias=True)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (1 + scale) + shift, for x [B, T, D] and shift, scale [B, D] or per token [B, T or 1, D]."""
    if shift.ndim == x.ndim - 1:
        shift, scale = shift[:, None], scale[:, None]
    return x * (1 + scale) + shift


def adaln(
    condition: jax.Array, count: int, width: int, *, name: str,
    activation: Callable[[jax.Array], jax.Array] = nn.silu,
    kernel_init: Callable[..., Any] = nn.initializers.zeros, **types: Any,
) -> list[jax.Array]:  # fmt: skip
    """adaLN-Zero: Linear(SiLU(condition)), zero at first; within a compact method.

    Args:
      condition: [B, C], or per token [B, T, C].
      count: vectors.
      width: D.
      name: of the linear map.
      activation: before the linear map.
      kernel_init: of the linear map.
      **types: ``dtype`` and ``param_dtype``.

    Returns:
      ``count`` arrays [B, 1, D] or [B, T, D].
    """
    vectors = nn.Dense(count * width, kernel_init=kernel_init, name=name, **types)(activation(condition))
    return jnp.split(vectors[:, None] if condition.ndim == 2 else vectors, count, axis=-1)


def adaln_single(condition: jax.Array, count: int, width: int, *, name: str, **types: Any) -> list[jax.Array]:
    """adaLN-single (PixArt): the condition holds the vectors, and a table of this block is added to them.

    Args:
      condition: [B, count * D], the same for all blocks.
      count: vectors.
      width: D.
      name: of the module that holds the ``table`` [count, D], N(0, 1) / sqrt(D) at first.
      **types: ``dtype`` and ``param_dtype``.

    Returns:
      ``count`` arrays [B, 1, D].
    """
    vectors = _Table(count, width, name=name, **types)(condition.reshape(len(condition), count, width))
    return jnp.split(vectors, count, axis=1)


class _Table(nn.Module):
    count: int
    width: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.width**-0.5)
        table = self.param("table", init, (self.count, self.width), self.param_dtype)
        return vectors + table.astype(vectors.dtype)


class DiTBlock(nn.Module):
    """adaLN: x + gate1 attention(norm(x) (1 + scale1) + shift1), and the same around an MLP.

    The six vectors are in the order shift1, scale1, gate1, shift2, scale2, gate2. Where there is text, x looks at it
    between the two, without norm and gate. Records "tokens".

    Attributes:
      heads: of attention.
      hidden: width of the MLP.
      norm: makes the norms: LayerNorm without parameters, RMSNorm.
      mlp: makes the MLP, ``mlp(hidden, kernel_init=..., name=..., dtype=..., param_dtype=...)``.
      modulation: makes the six vectors: :func:`adaln`, :func:`adaln_single` or a partial of them.
      qk_norm: RMSNorm on queries and keys.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    heads: int
    hidden: int
    norm: Callable[..., nn.Module] = LayerNorm
    mlp: Callable[..., nn.Module] = gelu_mlp
    modulation: Modulation = adaln
    qk_norm: bool = False
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array, angles: Any = None, text: jax.Array | None = None,
        text_mask: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """One block on x [B, T, D].

        Args:
          x: [B, T, D].
          condition: what ``modulation`` takes, such as [B, D] or per token [B, T, D].
          angles: of rotary positions, see :class:`jaxtok.nn.vit.SelfAttention`.
          text: [B, N, C], or None for no cross-attention.
          text_mask: bool [B, N], True on real tokens.
        """
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        vectors = self.modulation(condition, 6, x.shape[-1], name="modulation", **types)
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        y = modulate(self.norm(param_dtype=self.param_dtype, name="attention_norm")(x), shift1, scale1)
        attend = SelfAttention(self.heads, self.qk_norm, self.attention, name="attention", **types)
        x = x + gate1 * attend(y, angles=angles)
        if text is not None:
            look = CrossAttention(self.heads, attention=self.attention, name="cross_attention", **types)
            x = x + look(x, text, mask=text_mask)
        y = modulate(self.norm(param_dtype=self.param_dtype, name="mlp_norm")(x), shift2, scale2)
        x = x + gate2 * self.mlp(self.hidden, kernel_init=nn.initializers.xavier_uniform(), name="mlp", **types)(y)
        self.sow("intermediates", "tokens", x)
        return x


class DiT(nn.Module):
    """A diffusion transformer on images or grids of latents, conditioned on time and class: the output is 0 at first.

    With the defaults it is DiT; ``rms``, ``swiglu`` and ``rope`` make it LightningDiT. Time is fed as it comes: DiT's
    is the index of a table of 1000, SiT's and LightningDiT's runs from 0 (noise) to 1 (data); a wrapper translates.
    What the blocks give is recorded, see :func:`jaxtok.nn.stack.recorded`.

    Attributes:
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      out_channels: 0 for as many as come in; twice as many where the variance is learned.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class. 0 for no labels at all.
      ratio: hidden width of the MLP over D; a SwiGLU has two thirds of it, rounded down.
      rms: RMSNorm with a learned scale instead of LayerNorm.
      swiglu: SwiGLU with biases instead of tanh-GELU.
      rope: axial rotary positions in every block, beside the fixed table.
      qk_norm: RMSNorm on queries and keys.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    out_channels: int = 0
    classes: int = 0
    ratio: float = 4.0
    rms: bool = False
    swiglu: bool = False
    rope: bool = False
    qk_norm: bool = False
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """The prediction for x [B, H, W, C] at times t [B] and labels int [B]: float32 [B, H, W, out_channels]."""
        check("DiT", x, self.patch, self.classes, label)
        height, width, channels = x.shape[1:]
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        down, across = height // self.patch, width // self.patch
        h = embed_patches(x, self.patch, self.width, **types)
        h = h + jnp.asarray(embed.grid_table(down, across, self.width), h.dtype)
        condition = condition_vector(TimeEmbedding, self.width, self.classes, t, label, **types)
        norm = RMSNorm if self.rms else LayerNorm
        h = repeat(
            DiTBlock, self.depth, h, condition,
            rope.axial_angles(down, across, self.width // self.heads) if self.rope else None,
            scan=self.scan, remat=self.remat, heads=self.heads,
            hidden=int(self.ratio * self.width * 2 / 3) if self.swiglu else int(self.ratio * self.width),
            norm=norm, mlp=biased_swiglu if self.swiglu else gelu_mlp, qk_norm=self.qk_norm,
            attention=self.attention, **types,
        )  # fmt: skip
        features = self.patch**2 * (self.out_channels or channels)
        h = last_layer(h, features, norm, adaln, condition, types)
        return windows.unpatchify(h, self.patch, height, width)


class InContextDiT(nn.Module):
    """A diffusion transformer whose conditions are tokens beside the patches, and leave before the last layer.

    The blocks are a vision transformer's; time, the class and any given tokens are appended in this order. The output
    is 0 at first.

    Attributes:
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      out_channels: 0 for as many as come in.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class. 0 for no labels at all.
      ratio: hidden width of the MLP over D.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    out_channels: int = 0
    classes: int = 0
    ratio: float = 4.0
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, label: jax.Array | None = None, *, context: jax.Array | None = None,
        context_mask: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """The prediction for x [B, H, W, C]: float32 [B, H, W, out_channels].

        Args:
          x: [B, H, W, C].
          t: [B], in the unit that the network was trained with.
          label: int [B], with classes.
          context: [B, N, E], tokens such as text or the codes of a tokenizer, through a linear map.
          context_mask: bool [B, N], True on real tokens.
        """
        check("InContextDiT", x, self.patch, self.classes, label)
        batch, height, width, channels = x.shape
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        h = embed_patches(x, self.patch, self.width, **types)
        h = h + jnp.asarray(embed.grid_table(height // self.patch, width // self.patch, self.width), h.dtype)
        count, parts = h.shape[1], [h, TimeEmbedding(self.width, name="time", **types)(t)[:, None]]
        if label is not None:
            parts.append(class_table(self.classes, self.width, **types)(label)[:, None])
        mask = None
        if context is not None:
            parts.append(nn.Dense(self.width, name="context_linear", **types)(context))
            if context_mask is not None:
                before = sum(part.shape[1] for part in parts[:-1])
                mask = jnp.concatenate([jnp.ones((batch, before), bool), context_mask], axis=1)
        h = repeat(
            Block, self.depth, jnp.concatenate(parts, axis=1), mask, scan=self.scan, remat=self.remat,
            heads=self.heads, hidden=int(self.ratio * self.width), attention=self.attention, **types,
        )[:, :count]  # fmt: skip
        h = LayerNorm(name="last_norm")(h)
        features = self.patch**2 * (self.out_channels or channels)
        h = nn.Dense(features, kernel_init=nn.initializers.zeros, name="last_linear", param_dtype=self.param_dtype)(h)
        return windows.unpatchify(h, self.patch, height, width)


def check(name: str, x: jax.Array, patch: int, classes: int = 0, label: jax.Array | None = None) -> None:
    """Raises ValueError when ``patch`` does not divide the grid x [B, H, W, C], or when label and classes disagree."""
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(f"{name}: patch {patch} must divide the grid [B, H, W, C], found shape {x.shape}")
    if (label is None) != (classes == 0):
        raise ValueError(f"{name}: {classes} classes and {'no label' if label is None else 'a label'} do not agree")


def class_table(classes: int, width: int, **types: Any) -> nn.Embed:
    """The embedding of labels and of no class, within a compact method."""
    return nn.Embed(classes + 1, width, embedding_init=nn.initializers.normal(0.02), name="label", **types)


def condition_vector(
    time: Callable[..., nn.Module], width: int, classes: int, t: jax.Array, label: jax.Array | None, **types: Any
) -> jax.Array:
    """Embedded time plus embedded class, [B, width], within a compact method."""
    condition = time(width, name="time", **types)(t)
    return condition if label is None else condition + class_table(classes, width, **types)(label)


def last_layer(
    h: jax.Array, features: int, norm: Callable[..., nn.Module], modulation: Modulation, condition: jax.Array,
    types: dict[str, Any],
) -> jax.Array:  # fmt: skip
    """norm, shift and scale by the condition, and a linear map that is 0 at first: float32 [B, T, features]."""
    shift, scale = modulation(condition, 2, h.shape[-1], name="last_modulation", **types)
    h = modulate(norm(param_dtype=types["param_dtype"], name="last_norm")(h), shift, scale)
    options: dict[str, Any] = dict(kernel_init=nn.initializers.zeros, param_dtype=types["param_dtype"])
    return nn.Dense(features, name="last_linear", **options)(h.astype(jnp.float32))
