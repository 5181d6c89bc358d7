"""Vision transformers with query tokens: images to short sequences of vectors, and back (TiTok, arXiv 2406.07550).

Patches stand before the queries in one sequence. Who may look at whom is a mask, a function of their numbers.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed
from jaxtok.nn.mlp import gelu
from jaxtok.nn.norms import LayerNorm
from jaxtok.nn.stack import repeat
from jaxtok.nn.vit import Block, embed_patches

Mask = Callable[[int, int], np.ndarray]

# Depth, width and heads of the published sizes.
SIZES = {
    "S": dict(depth=8, width=512, heads=8),
    "B": dict(depth=12, width=768, heads=12),
    "L": dict(depth=24, width=1024, heads=16),
}


def full(patches: int, queries: int) -> np.ndarray:
    """All look at all: bool [patches + queries] squared, rows look at columns, as in all these masks."""
    return np.ones((patches + queries,) * 2, bool)


def one_way(patches: int, queries: int) -> np.ndarray:
    """Queries look at all, patches at patches only, so that no patch depends on the queries."""
    mask = full(patches, queries)
    mask[:patches, patches:] = False
    return mask


def causal(patches: int, queries: int) -> np.ndarray:
    """Patches are a prefix that sees itself; a query looks at it, at itself and at the queries before."""
    mask = one_way(patches, queries)
    mask[patches:, patches:] = np.tri(queries, dtype=bool)
    return mask


class QueryTrunk(nn.Module):
    """Blocks over patches and queries.

    Attributes:
      depth: blocks.
      heads: of attention; they divide D.
      mask: who may look at whom: :func:`full`, :func:`one_way`, :func:`causal`.
      ratio: hidden width of the MLPs over D.
      activation: of the MLPs; the tanh-GELU unless given.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    heads: int
    mask: Mask = full
    ratio: float = 4.0
    activation: Callable[[jax.Array], jax.Array] = gelu
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, patches: jax.Array, queries: jax.Array, *, patch_mask: jax.Array | None = None,
        query_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:  # fmt: skip
        """Normalised (patches, queries), [B, N, D] and [B, K, D], of the same.

        Args:
          patches: [B, N, D].
          queries: [B, K, D].
          patch_mask: bool [B, N], True where others may look.
          query_mask: bool [B, K], likewise, such as the first ones of a shortened sequence.
        """
        counts = patches.shape[1], queries.shape[1]
        pairs = self.mask(*counts)
        if pairs.shape != (sum(counts),) * 2:
            raise ValueError(f"mask: expected bool {(sum(counts),) * 2} for {counts} tokens, found shape {pairs.shape}")
        mask: Any = None if pairs.all() else pairs[None, None]
        if patch_mask is not None or query_mask is not None:
            given = zip((patch_mask, query_mask), counts)
            keys = [jnp.ones((len(patches), count), bool) if m is None else m for m, count in given]
            mask = jnp.asarray(pairs) & jnp.concatenate(keys, axis=1)[:, None, None, :]
        width = patches.shape[-1]
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        h = repeat(
            Block, self.depth, jnp.concatenate([patches, queries.astype(patches.dtype)], axis=1), mask, scan=self.scan,
            remat=self.remat, heads=self.heads, hidden=int(self.ratio * width), affine=True,
            activation=self.activation, attention=self.attention, **types,
        )  # fmt: skip
        h = LayerNorm(True, name="norm", param_dtype=self.param_dtype)(h)
        return h[:, : counts[0]], h[:, counts[0] :]


class QueryEncoder(nn.Module):
    """Images or grids of vectors to K vectors: what K learned queries become beside the patches.

    Attributes:
      trunk: :class:`QueryTrunk`.
      width: D.
      queries: K.
      patch: p; the grid is H / p x W / p patches.
      dtype: of the patches' linear map.
      param_dtype: of the parameters.
    """

    trunk: nn.Module
    width: int
    queries: int
    patch: int = 16
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, query_mask: jax.Array | None = None) -> jax.Array:
        """[B, K, D] of x [B, H, W, C]; no query looks at one where ``query_mask`` bool [B, K] is False.

        Raises:
          ValueError: when the patch does not divide the grid.
        """
        h = embed_patches(x, self.patch, self.width, dtype=self.dtype, param_dtype=self.param_dtype)
        down, across = x.shape[1] // self.patch, x.shape[2] // self.patch
        h = h + jnp.asarray(embed.grid_table(down, across, self.width), h.dtype)
        queries = _learned(self, "queries", (self.queries, self.width))
        return self.trunk(h, jnp.broadcast_to(queries, (len(x), *queries.shape)), query_mask=query_mask)[1]


class QueryDecoder(nn.Module):
    """K vectors to a grid of vectors: what one learned patch, repeated at all positions, becomes beside them.

    Attributes:
      trunk: :class:`QueryTrunk`, with the mask :func:`full`.
      width: D.
      queries: K, the most vectors that come in.
      dtype: of the vectors' linear map.
      param_dtype: of the parameters.
    """

    trunk: nn.Module
    width: int
    queries: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latents: jax.Array, height: int, width: int, *, query_mask: jax.Array | None = None
    ) -> jax.Array:
        """[B, height, width, D] of latents [B, up to K, E]; ``query_mask`` bool [B, up to K], True where they count.

        Raises:
          ValueError: when there are more latents than ``queries``.
        """
        batch, count = latents.shape[:2]
        if count > self.queries:
            raise ValueError(f"QueryDecoder: expected at most {self.queries} latents, found {count}")
        init = nn.initializers.xavier_uniform()
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        h = nn.Dense(self.width, kernel_init=init, name="latent_linear", **types)(latents)
        h = h + _learned(self, "positions", (self.queries, self.width))[:count]
        patch = _learned(self, "patch", (1, self.width)) + embed.grid_table(height, width, self.width)
        patches = jnp.broadcast_to(patch.astype(h.dtype), (batch, *patch.shape))
        out = self.trunk(patches, h, query_mask=query_mask)[0]
        return out.reshape(batch, height, width, -1)


def _learned(module: Any, name: str, shape: tuple[int, int]) -> jax.Array:
    return module.param(name, nn.initializers.normal(0.02), shape, module.param_dtype).astype(module.dtype)
