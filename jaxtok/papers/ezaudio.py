"""EzAudio's modulation, AdaLN-SOLA: one matrix for all blocks, and in each a low-rank correction and a table.

Source: Hai et al., "EzAudio" (arXiv 2409.10819). Its VAE is a composition of shared parts (``configs/ezaudio.py``).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def shared_condition(time: jax.Array, count: int, **types: Any) -> jax.Array:
    """What all blocks are told, [B, (count + 1) D]: a linear map of u = SiLU(time), zero at first, and u itself.

    Within a compact method; the map's name is "modulation".

    Args:
      time: [B, D], embedded.
      count: vectors of a block.
      **types: ``dtype`` and ``param_dtype``.
    """
    u = nn.silu(time)
    init = nn.initializers.zeros
    return jnp.concatenate([nn.Dense(count * u.shape[-1], kernel_init=init, name="modulation", **types)(u), u], -1)


def sola(
    condition: jax.Array, count: int, width: int, *, name: str, rank: int, gates: tuple[int, ...] = (2, 5), **types: Any
) -> list[jax.Array]:
    """A block's vectors: the shared ones + B A u + a table; all 0 at first. Gates act as 1 - gate: blocks begin open.

    A ``modulation`` of :class:`jaxtok.nn.dit.DiTBlock`, to which it hands 1 - gate in the gates' place.

    Args:
      condition: of :func:`shared_condition`.
      count: vectors.
      width: D.
      name: of the module with ``down`` [D, count rank], ``up`` [count rank, count D] and ``table`` [count, D].
      rank: r; 0 leaves the correction out.
      gates: which of the vectors are gates.
      **types: ``dtype`` and ``param_dtype``.

    Returns:
      ``count`` arrays [B, 1, D].

    Raises:
      ValueError: for a condition of another width.
    """
    if condition.shape[-1] != (count + 1) * width:
        raise ValueError(f"sola: expected a condition of {(count + 1) * width} numbers, found shape {condition.shape}")
    common, u = jnp.split(condition, [count * width], axis=-1)
    vectors = common.reshape(len(common), count, width) + _Correction(count, rank, name=name, **types)(u)
    parts = jnp.split(vectors, count, axis=1)
    return [1 - part if i in gates else part for i, part in enumerate(parts)]


class _Correction(nn.Module):
    count: int
    rank: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        """[B, D] -> [B, count, D]."""
        width, inner = u.shape[-1], self.count * self.rank
        zeros = nn.initializers.zeros
        types: dict[str, Any] = dict(use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        found = self.param("table", zeros, (self.count, width), self.param_dtype).astype(u.dtype)
        if self.rank:
            uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's, with a = sqrt(5)
            low = nn.Dense(inner, kernel_init=uniform, name="down", **types)(u)
            low = nn.Dense(self.count * width, kernel_init=zeros, name="up", **types)(low)
            found = found + low.reshape(len(u), self.count, width)
        return jnp.broadcast_to(found, (len(u), self.count, width))
