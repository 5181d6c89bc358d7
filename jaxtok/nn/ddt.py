"""The decoupled diffusion transformer: an encoder of conditions, one per token, and a head that is modulated by them.

DDT (Wang et al., arXiv 2504.05741). With a wide and shallow head it is RAE's DiT-DH (arXiv 2510.11690).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.nn import embed, rope, windows
from jaxtok.nn.dit import DiTBlock, adaln, biased_swiglu, check, class_table, last_layer
from jaxtok.nn.embed import TimeEmbedding
from jaxtok.nn.mlp import SwiGLU
from jaxtok.nn.norms import RMSNorm
from jaxtok.nn.stack import repeat
from jaxtok.nn.vit import embed_patches


def _identity(x: jax.Array) -> jax.Array:
    return x


# The blocks of DDT: the condition went through SiLU already, and the modulation does not begin at zero.
ddt_modulation = functools.partial(adaln, activation=_identity, kernel_init=nn.initializers.xavier_uniform())
ddt_block = functools.partial(DiTBlock, norm=RMSNorm, mlp=SwiGLU, modulation=ddt_modulation, qk_norm=True)
# The blocks of RAE's DiT-DH: LightningDiT's.
rae_block = functools.partial(DiTBlock, norm=RMSNorm, mlp=biased_swiglu)


class Encoder(nn.Module):
    """Conditions of the head: SiLU(time + s), s = blocks(x_t; SiLU(time + class)).

    Attributes:
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class. 0 for no labels at all.
      ratio: two thirds of it is the hidden width of the SwiGLUs over D.
      block: makes a block: ``ddt_block`` or ``rae_block``.
      time: makes the embedding of times; DDT's periods end at 10.
      table: fixed positions are added (RAE).
      extent: rotary positions run from 0 to this along both sides; 0 for whole numbers (RAE).
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    classes: int = 0
    ratio: float = 4.0
    block: Callable[..., nn.Module] = ddt_block
    time: Callable[..., nn.Module] = functools.partial(TimeEmbedding, max_period=10.0)
    table: bool = False
    extent: float = 16.0
    scan: bool = True
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """[B, H / p * W / p, D] of x [B, H, W, C] at times t [B] with labels int [B]."""
        check("DDT", x, self.patch, self.classes, label)
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        down, across = x.shape[1] // self.patch, x.shape[2] // self.patch
        s = embed_patches(x, self.patch, self.width, **types)
        if self.table:
            s = s + jnp.asarray(embed.grid_table(down, across, self.width), s.dtype)
        time = self.time(self.width, name="time", **types)(t)
        condition = time if label is None else time + class_table(self.classes, self.width, **types)(label)
        s = repeat(
            self.block, self.depth, s, nn.silu(condition), _angles(down, across, self.width // self.heads, self.extent),
            scan=self.scan, remat=self.remat, heads=self.heads, hidden=int(self.ratio * self.width * 2 / 3), **types,
        )  # fmt: skip
        return nn.silu(time[:, None] + s)


class Head(nn.Module):
    """The prediction from x_t and a condition per token: the output is 0 at first.

    Attributes:
      depth: blocks.
      width: D; where the conditions have another width, they go through a linear map.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      out_channels: 0 for as many as come in.
      ratio: two thirds of it is the hidden width of the SwiGLUs over D.
      block: makes a block: ``ddt_block`` or ``rae_block``.
      modulation: of the last layer: :func:`jaxtok.nn.dit.adaln`, and for DDT the same without SiLU.
      extent: see :class:`Encoder`, as the following.
      scan: of blocks.
      remat: of blocks.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    out_channels: int = 0
    ratio: float = 4.0
    block: Callable[..., nn.Module] = ddt_block
    modulation: Callable[..., list[jax.Array]] = functools.partial(adaln, activation=_identity)
    extent: float = 16.0
    scan: bool = True
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, conditions: jax.Array) -> jax.Array:
        """Float32 [B, H, W, out_channels] of x [B, H, W, C] and conditions [B, H / p * W / p, E]."""
        check("DDT", x, self.patch)
        height, width, channels = x.shape[1:]
        down, across = height // self.patch, width // self.patch
        if conditions.shape[:2] != (len(x), down * across):
            raise ValueError(
                f"DDT: expected conditions [{len(x)}, {down * across}, width], found shape {conditions.shape}"
            )
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if conditions.shape[-1] != self.width:
            conditions = nn.Dense(self.width, name="condition_linear", **types)(conditions)
        h = embed_patches(x, self.patch, self.width, **types)
        h = repeat(
            self.block, self.depth, h, conditions, _angles(down, across, self.width // self.heads, self.extent),
            scan=self.scan, remat=self.remat, heads=self.heads, hidden=int(self.ratio * self.width * 2 / 3), **types,
        )  # fmt: skip
        features = self.patch**2 * (self.out_channels or channels)
        h = last_layer(h, features, RMSNorm, self.modulation, conditions, types)
        return windows.unpatchify(h, self.patch, height, width)


class DDT(nn.Module):
    """Images or grids of latents, conditioned on time and class: head(x_t, encoder(x_t, t, class)).

    The encoder's outcome changes slowly with time and may serve several steps of a sampler: :meth:`encode` is then
    skipped in some of them.

    Attributes:
      encoder: :class:`Encoder`.
      head: :class:`Head`.
    """

    encoder: nn.Module
    head: nn.Module

    @property
    def classes(self) -> int:
        """Labels that the network knows, besides the one of no class."""
        return self.encoder.classes

    def __call__(self, x: jax.Array, t: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """The prediction for x [B, H, W, C] at times t [B] and labels int [B]: float32 [B, H, W, out_channels]."""
        return self.decode(x, self.encode(x, t, label))

    def encode(self, x: jax.Array, t: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """The head's conditions, [B, H / p * W / p, D]."""
        return self.encoder(x, t, label)

    def decode(self, x: jax.Array, conditions: jax.Array) -> jax.Array:
        """The prediction for x, from what :meth:`encode` gave at this time or an earlier one."""
        return self.head(x, conditions)


def _angles(down: int, across: int, head_dim: int, extent: float) -> tuple[jax.Array, jax.Array]:
    """Axial rotary angles, [1, down * across, head_dim / 2]: the first half by row, the second by column."""
    if not extent:
        return rope.axial_angles(down, across, head_dim)
    if head_dim % 4:
        raise ValueError(f"axial rotary embedding needs a multiple of 4 channels per head, found {head_dim}")
    rows = np.repeat(np.linspace(0, extent, down), across)
    columns = np.tile(np.linspace(0, extent, across), down)
    parts = [rope.angles(jnp.asarray(places, jnp.float32)[None], head_dim // 2) for places in (rows, columns)]
    return jnp.concatenate([p[0] for p in parts], -1), jnp.concatenate([p[1] for p in parts], -1)
