"""Llama blocks: pre-norm RMS, rotary attention, SwiGLU, no biases (Touvron et al., arXiv 2302.13971).

In :class:`Llama` the norms carry no weight of their own: each takes its scale from outside, learned or a function of a
condition such as the diffusion time, or none at all. :class:`LlamaLM` is the ordinary language model around it.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import cache as cache_lib
from jaxtok.nn import linear, rope
from jaxtok.nn.cache import KVCache
from jaxtok.nn.mlp import SwiGLU
from jaxtok.nn.norms import rms_normalize
from jaxtok.nn.remat import remat

Initializer = Callable[..., Any]


class SelfAttention(nn.Module):
    """Rotary multi-head self-attention, with fewer heads of keys and values where ``kv_heads`` says so.

    One kernel makes queries, keys and values: [D, 3, heads, head_dim], or, with fewer key heads,
    [D, heads + 2 kv_heads, head_dim] in this order.
    """

    heads: int
    head_dim: int
    kv_heads: int = 0
    qkv_bias: bool = False
    dense: Callable[..., Any] = linear.DenseGeneral
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        mask: jax.Array | None,
        cache: KVCache | None = None,
        layer: jax.Array | int = 0,
        kept: np.ndarray | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Attends; with a cache, to what it holds after the new keys and values are written into it.

        Args:
          x: [B, T, D].
          angles: cosine and sine of the positions, [B or 1, T, head_dim / 2] each.
          mask: bool, broadcastable to [B, heads, T, T or slots], True where a key may be looked at; None for all.
          cache: of all blocks, or None.
          layer: which block this is.
          kept: int [M], the positions that look; None for all. Without a cache only.

        Returns:
          [B, T or M, D], and the cache.
        """
        options: dict[str, Any] = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        groups = self.kv_heads or self.heads
        same = groups == self.heads
        shape = (3, self.heads, self.head_dim) if same else (self.heads + 2 * groups, self.head_dim)
        qkv = self.dense(shape, use_bias=self.qkv_bias, name="qkv", **options)(x)
        if same:
            query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [B, T, N, H]
        else:
            query, key, value = jnp.split(qkv, (self.heads, self.heads + groups), axis=2)
        query, key = rope.rotate_half(query, *angles), rope.rotate_half(key, *angles)
        if cache is not None:
            cache = cache_lib.write(cache, layer, key, value)
            key, value = cache_lib.read(cache, layer)
        if cache is not None and mask is not None and x.shape[1] == 1:
            out = cache_lib.attend_one(cache, layer, query, mask)
        else:
            if kept is not None:
                query, mask = query[:, kept], mask if mask is None or mask.shape[2] == 1 else mask[:, :, kept]
            out = self.attention(query, key, value, mask)
        out = self.dense(x.shape[-1], axis=(-2, -1), use_bias=False, name="out", **options)(out)
        return out, cache


class Block(nn.Module):
    """x + Attention(norm(x)), then x + SwiGLU(norm(x))."""

    heads: int
    head_dim: int
    hidden: int
    kv_heads: int = 0
    qkv_bias: bool = False
    eps: float = 1e-6
    dense: Callable[..., Any] = linear.DenseGeneral
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry, scales, layer, angles, mask, kept=None):
        """One block on (x, cache); ``scales`` is [2, B or 1, 1, D] (attention, MLP) or None. Answers a scan.

        ``kept``, int [M], are the positions that go on, None for all.
        """
        x, cache = carry
        options: dict[str, Any] = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        first, second = (None, None) if scales is None else (scales[0], scales[1])
        attend = SelfAttention(
            self.heads, self.head_dim, self.kv_heads, self.qkv_bias, self.dense, self.attention, name="attention",
            **options,
        )  # fmt: skip
        change, cache = attend(rms_normalize(x, first, eps=self.eps), angles, mask, cache, layer, kept)
        x = (x if kept is None else x[:, kept]) + change
        x = x + SwiGLU(self.hidden, dense=self.dense, name="mlp", **options)(rms_normalize(x, second, eps=self.eps))
        return (x, cache), None


class Llama(nn.Module):
    """``depth`` blocks and a last norm: [B, T, D] -> [B, T, D]; bidirectional unless mask or cache say otherwise.

    Attributes:
      depth: number of blocks.
      heads: attention heads; D must be a multiple of it, with an even quotient.
      hidden: inner width of the SwiGLU.
      kv_heads: heads of keys and values, of which ``heads`` is a multiple; 0 for as many as queries.
      qkv_bias: biases on queries, keys and values, as in Qwen2.
      scan: True stacks the blocks' parameters under ``blocks`` and compiles one of them; False unrolls ``blocks_i``,
        which decodes faster on CPUs, where a scan copies each block's weights (:func:`unstack_blocks`).
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
      dense: module class of the linear maps; :class:`jaxtok.nn.linear.OutFirst` decodes faster on CPUs, with parameters
        from :func:`out_first`.
    """

    depth: int
    heads: int
    hidden: int
    kv_heads: int = 0
    qkv_bias: bool = False
    scan: bool = False
    remat: str = ""
    theta: float = 10000.0
    eps: float = 1e-6
    dense: Callable[..., Any] = linear.DenseGeneral
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        scales: jax.Array | None = None,
        cache: KVCache | None = None,
        kept: np.ndarray | None = None,
    ) -> Any:
        """Runs the stack, over a whole sequence, a prompt or one more token.

        Args:
          x: [B, T, D].
          positions: int [B or 1, T]; None counts from 0, or from the cache's length.
          mask: bool, broadcastable to [B, heads, T, T], True where a key may be looked at; None for all. With a cache
            the last axis is its slots, and None means the tokens so far, causally; a mask that is given is taken as it
            is (:func:`jaxtok.nn.cache.causal_mask` makes the usual one).
          scales: [2 depth + 1, B or 1, D]: the norms' scales, two per block and the last norm's; None for no scale.
          cache: from :func:`jaxtok.nn.cache.empty`; keys and values of x are written at its length. More tokens than
            there are free slots overwrite the last ones: the caller counts.
          kept: int [M], the positions whose outputs are wanted, None for all; the last of unrolled blocks then leaves
            the others' queries and MLP out. Without a cache only.

        Returns:
          [B, T or M, D]; with a cache, this and the cache that holds x too.
        """
        width = x.shape[-1]
        head_dim = self._check(width)
        if cache is not None:
            cache_lib.check(cache, self.depth, *x.shape[:2], self.kv_heads or self.heads, head_dim)
            mask = cache_lib.causal_mask(cache, x.shape[1]) if mask is None else mask
        if positions is None:
            positions = jnp.arange(x.shape[1])[None] + (0 if cache is None else cache.length)
        angles = rope.angles(positions, head_dim, self.theta)
        if scales is not None:
            scales = scales[:, :, None, :]  # [2 depth + 1, B, 1, D]
        pairs = None if scales is None else scales[:-1].reshape(self.depth, 2, *scales.shape[1:])
        carry = (x, cache)
        block = remat(Block, self.remat, scanned=self.scan)
        options: dict[str, Any] = dict(
            heads=self.heads, head_dim=head_dim, hidden=self.hidden, kv_heads=self.kv_heads, qkv_bias=self.qkv_bias,
            eps=self.eps, dense=self.dense, attention=self.attention, kernel_init=self.kernel_init, dtype=self.dtype,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        if self.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
                in_axes=(nn.broadcast if pairs is None else 0, 0, nn.broadcast, nn.broadcast),
            )
            carry, _ = stack(name="blocks", **options)(carry, pairs, jnp.arange(self.depth), angles, mask)
            carry = carry if kept is None else (carry[0][:, kept], None)
        else:
            for i in range(self.depth):
                one = None if pairs is None else pairs[i]
                going = kept if i == self.depth - 1 else None
                carry, _ = block(name=f"blocks_{i}", **options)(carry, one, i, angles, mask, going)
        out = rms_normalize(carry[0], None if scales is None else scales[-1], eps=self.eps)
        moved: Any = carry[1]
        return out if cache is None else (out, cache_lib.advance(moved, x.shape[1]))

    def _check(self, width: int) -> int:
        """Channels per head."""
        if width % self.heads:
            raise ValueError(f"width {width} is not a multiple of {self.heads} heads")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads, found {self.heads} and {self.kv_heads}")
        return width // self.heads


class LlamaLM(nn.Module):
    """A language model of Llama's or Qwen2's form: embedding, :class:`Llama` with learned norm scales, head.

    Attributes:
      vocabulary: ids, special ones included.
      width: D; the fields that :class:`Llama` has too mean the same.
      tied: the head is the embedding.
      causal: False lets every position see all others (LLaDA); with a cache the mask is then to be given.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    kv_heads: int = 0
    qkv_bias: bool = False
    tied: bool = False
    causal: bool = True
    scan: bool = False
    remat: str = ""
    theta: float = 10000.0
    eps: float = 1e-6
    dense: Callable[..., Any] = linear.DenseGeneral
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        *,
        positions: jax.Array | None = None,
        mask: jax.Array | None = None,
        cache: KVCache | None = None,
        last: int = 0,
    ) -> Any:
        """Logits of the next token, or, without ``causal``, of the token itself.

        Args:
          ids: int [B, T].
          positions: int [B or 1, T]; None counts from 0, or from the cache's length.
          mask: bool [B, 1, 1 or T, T or the cache's slots] of keys that may be looked at, alone where a cache is given
            (see :class:`Llama`), else together with causality.
          cache: from :meth:`cache`, or None.
          last: only the logits of so many last tokens are computed; 0 for all.

        Returns:
          float32 [B, T or ``last``, vocabulary]; with a cache, this and the new cache.
        """
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        normal = nn.initializers.normal(0.02)
        embed = nn.Embed(self.vocabulary, self.width, embedding_init=normal, name="embed", **options)
        scales = self.param("norm_scales", nn.initializers.ones, (2 * self.depth + 1, self.width), self.param_dtype)
        if self.causal and cache is None:
            order = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool))[None, None]
            mask = order if mask is None else order & mask
        if not self.causal and cache is not None and mask is None:
            raise ValueError("a bidirectional model with a cache needs a mask over its slots, found None")
        stack = Llama(
            self.depth, self.heads, self.hidden, self.kv_heads, self.qkv_bias, self.scan, self.remat, self.theta,
            self.eps, self.dense, self.attention, name="transformer", **options,
        )  # fmt: skip
        out = stack(embed(ids), positions=positions, mask=mask, scales=scales[:, None], cache=cache)
        x, cache = (out, None) if cache is None else out
        x = x[:, -last:]
        if self.tied:
            logits = embed.attend(x)
        else:
            logits = self.dense(self.vocabulary, use_bias=False, kernel_init=normal, name="head", **options)(x)
        logits = logits.astype(jnp.float32)
        return logits if cache is None else (logits, cache)

    @nn.nowrap
    def cache(self, batch: int, slots: int) -> KVCache:
        """An empty cache of this model for ``slots`` tokens."""
        return cache_lib.empty(
            self.depth, batch, slots, self.kv_heads or self.heads, self.width // self.heads, self.dtype
        )


def stack_blocks(params: dict, prefix: str = "blocks") -> dict:
    """From unrolled parameters (``blocks_0``, ``blocks_1``, ...) to the scanned layout (``blocks``, leading axis)."""
    names = sorted((name for name in params if name.startswith(f"{prefix}_")), key=lambda n: int(n.rsplit("_", 1)[1]))
    rest = {name: value for name, value in params.items() if name not in names}
    return rest | {prefix: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[name] for name in names))}


def unstack_blocks(params: dict, prefix: str = "blocks") -> dict:
    """The inverse of :func:`stack_blocks`."""
    depth = len(jax.tree.leaves(params[prefix])[0])
    rest = {name: value for name, value in params.items() if name != prefix}
    return rest | {f"{prefix}_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params[prefix]) for i in range(depth)}


def out_first(params: dict) -> dict:
    """Parameters of :class:`Llama` or :class:`LlamaLM` for ``dense=OutFirst``, from those for DenseGeneral."""

    def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        names = [part.key for part in path]
        if names[-1] != "kernel":
            return leaf
        turned = functools.partial(linear.out_first, inputs=2 if names[-2] == "out" else 1)
        return jax.vmap(turned)(leaf) if "blocks" in names else turned(leaf)

    return jax.tree_util.tree_map_with_path(one, params)
