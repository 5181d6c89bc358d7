"""Transformers on grids of codes, with a class: one that looks back (LlamaGen), one that fills in (MaskGIT).

LlamaGen: Sun et al., arXiv 2406.06525; MaskGIT: Chang et al., arXiv 2202.04200.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import cache as cache_lib
from jaxtok.nn import linear, llama, rope, vit
from jaxtok.nn.cache import KVCache
from jaxtok.nn.dropout import dropout
from jaxtok.nn.mlp import SwiGLU
from jaxtok.nn.norms import rms_normalize
from jaxtok.nn.remat import remat

# Depth, width, heads and hidden width of LlamaGen's published sizes.
SIZES = {
    "B": dict(depth=12, width=768, heads=12, hidden=2048),
    "L": dict(depth=24, width=1024, heads=16, hidden=2816),
    "XL": dict(depth=36, width=1280, heads=20, hidden=3584),
    "XXL": dict(depth=48, width=1536, heads=24, hidden=4096),
}


class CausalBlock(nn.Module):
    """x + drop(attention(norm(x))), then x + drop(SwiGLU(norm(x))), with learned scales that come from outside."""

    heads: int
    hidden: int
    dropout: float
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry, scales, layer, angles, mask, keys):
        """One block on (x, cache); ``scales`` is [2, D], ``keys`` [B] or None. Returns (carry, None)."""
        x, cache = carry
        options: dict[str, Any] = dict(
            kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, param_dtype=self.param_dtype
        )
        first, second = _keys(keys, 2 * layer), _keys(keys, 2 * layer + 1)
        attend = llama.SelfAttention(
            self.heads, x.shape[-1] // self.heads, attention=self.attention, name="attention", **options
        )
        change, cache = attend(rms_normalize(x, scales[0], eps=1e-5), angles, mask, cache, layer)
        x = x + dropout(change, first, self.dropout)
        change = SwiGLU(self.hidden, name="mlp", **options)(rms_normalize(x, scales[1], eps=1e-5))
        return (x + dropout(change, second, self.dropout), cache), None


class CausalCodes(nn.Module):
    """LlamaGen's class-conditional decoder: the next code of a grid, read row by row after its class.

    Positions are rotary by row and column. The class stands before the grid; as in the reference, its query and key are
    zero, so that every position looks at it with logit 0. The reference rotates neighbouring channels, this one the
    channels i and i + head_dim/2: the same network up to the order of the queries' and keys' channels.

    Attributes:
      codes: of the codebook.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class.
      grid: (h, w).
      width: D; ``depth``, ``heads``, ``hidden`` as in ``SIZES``.
      dropout: of the embeddings and of what every layer adds, where keys are given.
      scan: True stacks the blocks' parameters and compiles one of them; False decodes faster on CPUs.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    codes: int
    classes: int
    grid: tuple[int, int]
    depth: int
    width: int
    heads: int
    hidden: int
    dropout: float = 0.1
    scan: bool = False
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        codes: jax.Array,
        label: jax.Array | None = None,
        *,
        keys: jax.Array | None = None,
        cache: KVCache | None = None,
    ) -> Any:
        """Logits of the code after each token.

        Args:
          codes: int [B, T], the first of the grid, or, with a cache, those that come next; T may be 0 with a label.
          label: int [B]; it stands before the codes. None where a cache holds it.
          keys: for dropout, [B]; None for none.
          cache: from :meth:`cache`, or None.

        Returns:
          float32 [B, T + 1, codes], or [B, T, codes] without a label; with a cache, this and the new cache.
        """
        if label is None and cache is None:
            raise ValueError("CausalCodes: label: expected int [B] where there is no cache, found None")
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        normal = nn.initializers.normal(0.02)
        table = nn.Embed(self.codes, self.width, embedding_init=normal, name="code", **options)
        labels = nn.Embed(self.classes + 1, self.width, embedding_init=normal, name="label", **options)
        x = table(codes)
        if label is not None:
            x = jnp.concatenate([labels(label)[:, None], x], axis=1)
        x = dropout(x, _keys(keys, 2 * self.depth), self.dropout)
        scales = self.param("norm_scales", nn.initializers.ones, (2 * self.depth + 1, self.width), self.param_dtype)
        angles, mask = self._places(x.shape[1], cache)
        if cache is not None:
            cache_lib.check(cache, self.depth, *x.shape[:2], self.heads, self.width // self.heads)
        x, cache = self._blocks((x, cache), scales[:-1].reshape(self.depth, 2, -1), angles, mask, keys)
        count, x = x.shape[1], rms_normalize(x, scales[-1], eps=1e-5)
        head = nn.Dense(self.codes, use_bias=False, kernel_init=nn.initializers.zeros, name="head", **options)
        logits = head(x).astype(jnp.float32)
        return logits if cache is None else (logits, cache_lib.advance(cache, count))

    @nn.nowrap
    def cache(self, batch: int) -> KVCache:
        """An empty cache for the class and all codes but the last, which nothing follows."""
        return cache_lib.empty(
            self.depth, batch, math.prod(self.grid), self.heads, self.width // self.heads, self.dtype
        )

    def _places(self, count: int, cache: KVCache | None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Rotations of the next tokens, and what they may look at."""
        if self.width % self.heads:
            raise ValueError(f"CausalCodes: heads must divide the width, found {self.heads} and {self.width}")
        slots = math.prod(self.grid)
        if count > slots:
            raise ValueError(f"CausalCodes: a class and all codes but the last are {slots} tokens, found {count}")
        axial = rope.axial_angles(*self.grid, self.width // self.heads)
        tables = [jnp.pad(part, ((0, 0), (1, 0), (0, 0))) for part in axial]  # 0 for the class
        if cache is None:
            cosine, sine = (table[:, :count] for table in tables)
            return (cosine, sine), jnp.tril(jnp.ones((count, count), bool))[None, None]
        cosine, sine = (jax.lax.dynamic_slice_in_dim(table, cache.length, count, axis=1) for table in tables)
        return (cosine, sine), cache_lib.causal_mask(cache, count)

    def _blocks(self, carry: Any, scales: jax.Array, angles: Any, mask: jax.Array, keys: jax.Array | None) -> Any:
        block = remat(CausalBlock, self.remat, scanned=self.scan)
        options: dict[str, Any] = dict(
            heads=self.heads, hidden=self.hidden, dropout=self.dropout, attention=self.attention, dtype=self.dtype,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        if not self.scan:
            for i in range(self.depth):
                carry, _ = block(name=f"blocks_{i}", **options)(carry, scales[i], i, angles, mask, keys)
            return carry
        stack = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth,
            in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
        )  # fmt: skip
        return stack(name="blocks", **options)(carry, scales, jnp.arange(self.depth), angles, mask, keys)[0]


class MaskedBlock(nn.Module):
    """norm(x + drop(attention(x))), then norm(x + drop(MLP(x))): BERT's block, tanh-GELU, biases everywhere."""

    heads: int
    hidden: int
    dropout: float
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, layer: jax.Array | int, keys: jax.Array | None) -> tuple[jax.Array, None]:
        """One block on x [B, T, D]; ``keys`` [B] or None. Returns (x, None)."""
        options: dict[str, Any] = dict(
            kernel_init=nn.initializers.truncated_normal(0.02), dtype=self.dtype, param_dtype=self.param_dtype
        )
        first, second = _keys(keys, 2 * layer), _keys(keys, 2 * layer + 1)
        change = vit.SelfAttention(self.heads, attention=self.attention, name="attention", **options)(x)
        x = _norm("attention_norm", x + dropout(change, first, self.dropout))
        change = nn.gelu(linear.Dense(self.hidden, name="hidden_linear", **options)(x), approximate=True)
        change = linear.Dense(x.shape[-1], name="out_linear", **options)(change)
        return _norm("mlp_norm", x + dropout(change, second, self.dropout)), None


class MaskedCodes(nn.Module):
    """MaskGIT's transformer: the codes of a grid from those that are known and from the class, all at once.

    One table embeds codes, classes and the mask, in this order, and is the head too, behind a linear layer, tanh-GELU
    and LayerNorm. Positions are learned; the class comes first. The class of no class is the mask itself. The reference
    also drops attention weights; here what every layer adds is dropped alone.

    Attributes:
      codes: of the codebook.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class.
      grid: (h, w).
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      hidden: width of the MLPs.
      dropout: of the embeddings and of what every layer adds, where keys are given.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    codes: int
    classes: int
    grid: tuple[int, int]
    depth: int
    width: int
    heads: int
    hidden: int
    dropout: float = 0.1
    scan: bool = False
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def mask_id(self) -> int:
        """The id of a masked position, which lies outside the codebook."""
        return self.codes + self.classes

    @nn.compact
    def __call__(self, ids: jax.Array, label: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """Logits of every position's id.

        Args:
          ids: int [B, h w], codes or ``mask_id``.
          label: int [B].
          keys: for dropout, [B]; None for none.

        Returns:
          float32 [B, h w, codes + classes + 1], of which only the codes make sense.
        """
        if ids.shape[1] != math.prod(self.grid):
            raise ValueError(f"MaskedCodes: expected ids [B, {math.prod(self.grid)}], found shape {ids.shape}")
        normal = nn.initializers.truncated_normal(0.02)
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        vocabulary = self.codes + self.classes + 1
        table = nn.Embed(vocabulary, self.width, embedding_init=normal, name="embed", **types)
        places = self.param("positions", normal, (ids.shape[1] + 1, self.width), self.param_dtype)
        x = table(jnp.concatenate([self.codes + label[:, None], ids], axis=1))
        x = _norm("embed_norm", x + places.astype(x.dtype))
        x = dropout(x, _keys(keys, 2 * self.depth), self.dropout)
        x = self._blocks(x, keys, types)[:, 1:]
        x = nn.gelu(nn.Dense(self.width, kernel_init=normal, name="head_linear", **types)(x), approximate=True)
        bias = self.param("head_bias", nn.initializers.zeros, (vocabulary,), self.param_dtype)
        return table.attend(_norm("head_norm", x)).astype(jnp.float32) + bias.astype(jnp.float32)

    def _blocks(self, x: jax.Array, keys: jax.Array | None, types: dict[str, Any]) -> jax.Array:
        block = remat(MaskedBlock, self.remat, scanned=self.scan)
        options: dict[str, Any] = dict(
            heads=self.heads, hidden=self.hidden, dropout=self.dropout, attention=self.attention, **types
        )
        if not self.scan:
            for i in range(self.depth):
                x, _ = block(name=f"blocks_{i}", **options)(x, i, keys)
            return x
        stack = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth,
            in_axes=(0, nn.broadcast),
        )  # fmt: skip
        return stack(name="blocks", **options)(x, jnp.arange(self.depth), keys)[0]


def _norm(name: str, x: jax.Array) -> jax.Array:
    """LayerNorm with scale and bias; statistics in float32."""
    return nn.LayerNorm(1e-12, name=name)(x).astype(x.dtype)


def _keys(keys: jax.Array | None, number: jax.Array | int) -> jax.Array | None:
    """Keys [B] of one place of dropout."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
