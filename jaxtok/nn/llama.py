"""Llama blocks: pre-norm RMS, rotary attention, SwiGLU, no biases (Touvron et al., arXiv 2302.13971).

The norms carry no weight of their own: each takes its scale from outside, learned or a function of a condition such as
the diffusion time, or none at all.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import rope
from jaxtok.nn.mlp import SwiGLU
from jaxtok.nn.norms import rms_normalize
from jaxtok.nn.remat import remat

Initializer = Callable[..., Any]


class SelfAttention(nn.Module):
    """Rotary multi-head self-attention; one kernel [D, 3, heads, head_dim] for queries, keys, values."""

    heads: int
    head_dim: int
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, angles: tuple[jax.Array, jax.Array], mask: jax.Array | None) -> jax.Array:
        """Attends.

        Args:
          x: [B, T, D].
          angles: cosine and sine of the positions, [B or 1, T, head_dim / 2] each.
          mask: bool, broadcastable to [B, heads, T, T], True where a key may be looked at; None for all.
        """
        options: dict[str, Any] = dict(
            use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        qkv = nn.DenseGeneral((3, self.heads, self.head_dim), name="qkv", **options)(x)  # [B, T, 3, N, H]
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        query, key = rope.rotate_half(query, *angles), rope.rotate_half(key, *angles)
        out = self.attention(query, key, value, mask)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="out", **options)(out)


class Block(nn.Module):
    """x + Attention(norm(x)), then x + SwiGLU(norm(x))."""

    heads: int
    head_dim: int
    hidden: int
    eps: float = 1e-6
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, scales, angles, mask):
        """One block; ``scales`` is [2, B or 1, 1 or T, D] (attention, MLP) or None. Returns (x, None) for scans."""
        options: dict[str, Any] = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        first, second = (None, None) if scales is None else (scales[0], scales[1])
        attend = SelfAttention(self.heads, self.head_dim, self.attention, name="attention", **options)
        x = x + attend(rms_normalize(x, first, eps=self.eps), angles, mask)
        x = x + SwiGLU(self.hidden, name="mlp", **options)(rms_normalize(x, second, eps=self.eps))
        return x, None


class Llama(nn.Module):
    """``depth`` blocks and a last norm: [B, T, D] -> [B, T, D], bidirectional unless the mask says otherwise.

    Attributes:
      depth: number of blocks.
      heads: attention heads; D must be a multiple of it, with an even quotient.
      hidden: inner width of the SwiGLU.
      scan: True stacks the blocks' parameters under ``blocks`` and compiles one of them; False unrolls ``blocks_i``.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    heads: int
    hidden: int
    scan: bool = False
    remat: str = ""
    theta: float = 10000.0
    eps: float = 1e-6
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
    ) -> jax.Array:
        """Runs the stack.

        Args:
          x: [B, T, D].
          positions: int [B or 1, T]; None counts from 0.
          mask: bool, broadcastable to [B, heads, T, T], True where a key may be looked at.
          scales: [2 depth + 1, B or 1, D]: the norms' scales, two per block and the last norm's; None for no scale.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"width {width} is not a multiple of {self.heads} heads")
        if positions is None:
            positions = jnp.arange(x.shape[1])[None]
        angles = rope.angles(positions, width // self.heads, self.theta)
        if scales is not None:
            scales = scales[:, :, None, :]  # [2 depth + 1, B, 1, D]
        pairs = None if scales is None else scales[:-1].reshape(self.depth, 2, *scales.shape[1:])
        block = remat(Block, self.remat, scanned=self.scan)
        options: dict[str, Any] = dict(
            heads=self.heads, head_dim=width // self.heads, hidden=self.hidden, eps=self.eps, attention=self.attention,
            kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype,
        )  # fmt: skip
        if self.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
                in_axes=(nn.broadcast if pairs is None else 0, nn.broadcast, nn.broadcast),
            )
            x, _ = stack(name="blocks", **options)(x, pairs, angles, mask)
        else:
            for i in range(self.depth):
                x, _ = block(name=f"blocks_{i}", **options)(x, None if pairs is None else pairs[i], angles, mask)
        return rms_normalize(x, None if scales is None else scales[-1], eps=self.eps)


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
