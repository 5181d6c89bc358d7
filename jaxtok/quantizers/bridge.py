"""VQBridge: a small transformer over the codebook, used in training only (arXiv 2509.10140)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.vit import Block
from jaxtok.quantizers.vq import VQ, uniform


class VQBridge(nn.Module):
    """E [K, D] -> codebook [K, D]: the table, seen as a square image of codes, through patches and transformer blocks.

    The table is laid out row by row as sqrt(K) x sqrt(K) codes (or ``rows`` x K/rows, our generalization); a patch
    holds ``patch``^2 of them. There is neither a position nor a skip from E, and the last layer begins at zero, so all
    codes are 0 at first. Linear layers are in float32 at highest precision: codes decide indices.

    Attributes:
      patch: p, a divisor of sqrt(K); 4 for K = 16384, 8 for 65536 and 262144.
      hidden: width of the blocks: 32, 64, 128, 256 (the paper's L), 512.
      depth: blocks.
      heads: of attention.
      ratio: hidden width of a block's MLP over its width.
      rows: of the layout; 0 for sqrt(K).
    """

    patch: int = 4
    hidden: int = 256
    depth: int = 2
    heads: int = 4
    ratio: float = 2.0
    rows: int = 0

    @nn.compact
    def __call__(self, table: jax.Array) -> jax.Array:
        """The codebook of a table [K, D]."""
        size, width = table.shape
        rows, p = check_grid(size, self.patch, self.rows), self.patch
        down, across = rows // p, size // rows // p
        x = table.reshape(down, p, across, p, width).transpose(0, 2, 1, 3, 4).reshape(down * across, p * p * width)
        options: dict[str, Any] = dict(kernel_init=nn.initializers.xavier_uniform(), precision="highest")
        x = nn.Dense(self.hidden, name="compress", **options)(x)
        for i in range(self.depth):
            x = Block(self.heads, round(self.ratio * self.hidden), precision="highest", name=f"blocks_{i}")(x[None])[0]
        x = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)(x)
        options["kernel_init"] = nn.initializers.zeros
        x = nn.Dense(p * p * width, name="expand", **options)(x)
        return x.reshape(down, across, p, p, width).transpose(0, 2, 1, 3, 4).reshape(size, width)


def check_grid(size: int, patch: int, rows: int = 0) -> int:
    """The number of rows in which ``size`` codes are laid out.

    Raises:
      ValueError: when they are no square (or rectangle with that many rows) whose sides ``patch`` divides.
    """
    side = rows or math.isqrt(size)
    if rows == 0 and side * side != size:
        raise ValueError(f"VQBridge: expected size to be a square, or rows to be given, found {size}")
    if side < 1 or size % side or patch < 1 or side % patch or (size // side) % patch:
        raise ValueError(f"VQBridge: patch {patch} must divide the sides of {size} codes in {side} rows")
    return side


class FVQ(VQ):
    """:class:`VQ` whose codebook is VQBridge(E): each chosen code moves all others through the shared network.

    After training, :func:`jaxtok.quantizers.export` stores the codebook and drops the network.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.FVQ(size=256, width=8, patch=4, hidden=32)
    >>> y, variables = q.init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 8)))
    >>> int(y.codes.max()), sorted(variables["params"])
    (0, ['bridge', 'embedding'])

    Attributes:
      patch: see :class:`VQBridge`, as the following.
      hidden: width.
      depth: blocks.
      heads: of attention.
      rows: of the layout; 0 for sqrt(K), which must then be whole.
    """

    patch: int = 4
    hidden: int = 256
    depth: int = 2
    heads: int = 4
    rows: int = 0

    def __post_init__(self):
        check_grid(self.size, self.patch, self.rows)
        super().__post_init__()

    def setup(self):
        """The stored table and the bridge."""
        init = self.init_embedding or uniform(self.size)
        self.embedding = self.param("embedding", init, (self.size, self.width), jnp.float32)
        self.bridge = VQBridge(patch=self.patch, hidden=self.hidden, depth=self.depth, heads=self.heads, rows=self.rows)

    def table(self) -> jax.Array:
        """VQBridge(E), [K, D]."""
        return self.bridge(self.embedding)
