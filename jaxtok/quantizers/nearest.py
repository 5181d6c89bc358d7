"""Nearest neighbours in a codebook: exact, float32, ties to the lowest index, in bounded memory.

Euclidean throughout: cosine search is the same on rows of length 1. The score z . e - |e|^2/2 orders codes as the
distance does and keeps more digits, because |z|^2 cancels.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

Search = Callable[[jax.Array, jax.Array], jax.Array]

ENTRIES = 1 << 25  # scores that are in memory at a time, 128 MB
BLOCK = 512  # codes that are searched at a time where ENTRIES allow it: many enough for a matrix unit, few for a cache


def nearest(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """Indices int32 [...] of the rows of codebook [K, D] nearest to z [..., D].

    The codebook is searched block by block; at most about ``ENTRIES`` scores are in memory, whatever K.
    """
    return _best(z, codebook, scores)[1]


def largest(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """As :func:`nearest`, the rows with the largest dot product z . e (IBQ)."""
    return _best(z, codebook, dots)[1]


@dataclasses.dataclass(frozen=True)
class OverMesh:
    """A search of a codebook that lies divided over a mesh axis: each device searches its part.

    In the place of :func:`nearest`, with equal results; equal ones compare equal, so modules that hold them do.

    Attributes:
      mesh: devices.
      axis: the axis over which codebook [K, D] is divided; its size divides K.
      rows: axes over which the leading axis of z is divided.
      dot: by dot product, as :func:`largest`.
    """

    mesh: Mesh
    axis: str
    rows: str | tuple[str, ...] = ()
    dot: bool = False

    def __call__(self, z: jax.Array, codebook: jax.Array) -> jax.Array:
        """Indices int32 [...] of the rows of codebook [K, D] nearest to z [..., D]."""
        parts = self.mesh.shape[self.axis]
        if codebook.shape[0] % parts:
            raise ValueError(f"nearest: {parts} devices must divide the codes, found {codebook.shape[0]}")

        def local(z, part):
            score, index = _best(z, part, dots if self.dot else scores)
            index = index + jax.lax.axis_index(self.axis) * part.shape[0]
            found, indices = jax.lax.all_gather(score, self.axis), jax.lax.all_gather(index, self.axis)
            # The first maximum is the lowest index: parts lie in order.
            return jnp.take_along_axis(indices, found.argmax(0)[None], axis=0)[0]

        flat = z if z.ndim > 1 else z[None]
        rows = P(self.rows or None, *[None] * (flat.ndim - 2))
        search = jax.shard_map(
            local, mesh=self.mesh, in_specs=(P(*rows, None), P(self.axis, None)), out_specs=rows, check_vma=False
        )
        return search(flat, codebook).reshape(z.shape[:-1])


def unit(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x / max(|x|, eps) over the last axis, with a finite gradient at x = 0."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, eps * eps))


def scores(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """z . e - |e|^2/2 for z [..., D] and codebook [K, D]: [..., K], largest at the nearest code."""
    return dots(z, codebook) - 0.5 * jnp.sum(codebook * codebook, axis=-1)


def dots(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """z . e, [..., K], in float32."""
    return jnp.einsum("...d,kd->...k", z, codebook, precision="highest", preferred_element_type=jnp.float32)


def _best(z: jax.Array, codebook: jax.Array, scores: Search) -> tuple[jax.Array, jax.Array]:
    """The best score [...] and its index int32 [...]."""
    z, codebook = (jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (z, codebook))
    flat = z.reshape(-1, z.shape[-1])
    size = codebook.shape[0]
    block = max(1, min(size, BLOCK, ENTRIES // len(flat)))
    if block == size:
        score, index = _first_maximum(scores(flat, codebook))
        return score.reshape(z.shape[:-1]), index.reshape(z.shape[:-1])
    whole = size // block

    def step(best, number):
        part = jax.lax.dynamic_slice_in_dim(codebook, number * block, block)
        return _better(best, _first_maximum(scores(flat, part)), number * block), None

    start = (jnp.full(len(flat), -jnp.inf), jnp.zeros(len(flat), jnp.int32))
    best, _ = jax.lax.scan(step, start, jnp.arange(whole, dtype=jnp.int32))
    if size % block:
        best = _better(best, _first_maximum(scores(flat, codebook[whole * block :])), whole * block)
    return best[0].reshape(z.shape[:-1]), best[1].reshape(z.shape[:-1])


def _better(best, found, offset):
    """Blocks come in order, so an equal score does not replace an earlier one."""
    new = found[0] > best[0]
    return jnp.where(new, found[0], best[0]), jnp.where(new, found[1] + offset, best[1])


def _first_maximum(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum and its first index over the last axis."""
    return scores.max(-1), scores.argmax(-1).astype(jnp.int32)
