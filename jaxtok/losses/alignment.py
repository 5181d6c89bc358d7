"""Alignment of hidden vectors with a frozen teacher's features.

REPA (Yu et al., arXiv 2410.06940) for diffusion transformers; the marginal distance-matrix and cosine losses of VA-VAE
(Yao et al., arXiv 2501.01423) for autoencoders, with their weight by the ratio of gradients. Losses are per example;
the mean over the global batch is the caller's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Projector(nn.Module):
    """Linear, SiLU, Linear, SiLU, Linear: [..., D] -> [..., out]; for training only.

    Attributes:
      out: width of the teacher's features.
      hidden: width of the layers between.
    """

    out: int
    hidden: int = 2048
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects hidden tokens."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        for i in range(2):
            x = nn.silu(nn.Dense(self.hidden, name=f"linear{i}", **types)(x))
        return nn.Dense(self.out, name="linear2", **types)(x)


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """<a, b> / (|a| |b|) over the last axis in float32: [..., D], [..., D] -> [...]; 0 where a vector is 0."""
    return (_unit(a) * _unit(b)).sum(-1)


def repa(projected: jax.Array, features: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """-cos(projected, features), the mean over tokens: float32 [B]. The paper's weight is 0.5.

    Args:
      projected: [B, T, D], hidden tokens of a middle block (8 in the paper) through a :class:`Projector`.
      features: [B, T, D], of the clean image by the teacher, on the same grid of tokens; no gradient goes to them.
      mask: bool [B, T], True on real tokens.

    Raises:
      ValueError: when the shapes differ.
    """
    if projected.shape != features.shape:
        raise ValueError(f"features: expected the shape of projected, {projected.shape}, found {features.shape}")
    return -_mean(cosine(projected, jax.lax.stop_gradient(features)), mask)


def distance_matrix(
    projected: jax.Array, features: jax.Array, *, margin: float = 0.25, mask: jax.Array | None = None
) -> jax.Array:
    """L_mdms: the mean over pairs i, j of relu(|cos(z_i, z_j) - cos(f_i, f_j)| - margin), float32 [B].

    Args:
      projected: z [B, N, D].
      features: f [B, N, E], of a width of their own; no gradient goes to them.
      margin: differences below it cost nothing.
      mask: bool [B, N], True on real positions.

    Raises:
      ValueError: when there are not as many positions in both.
    """
    if projected.shape[:2] != features.shape[:2]:
        raise ValueError(f"features: expected {projected.shape[:2]} vectors, found shape {features.shape}")
    ours, theirs = (jnp.einsum("bid,bjd->bij", u, u) for u in (_unit(projected), _unit(features)))
    excess = jax.nn.relu(jnp.abs(ours - jax.lax.stop_gradient(theirs)) - margin)
    pairs = None if mask is None else (mask[:, :, None] & mask[:, None, :]).reshape(len(mask), -1)
    return _mean(excess.reshape(len(excess), -1), pairs)


def marginal_cosine(
    projected: jax.Array, features: jax.Array, *, margin: float = 0.5, mask: jax.Array | None = None
) -> jax.Array:
    """L_mcos: the mean over positions of relu(1 - margin - cos(z_i, f_i)), float32 [B].

    Args:
      projected: z [B, N, D].
      features: f [B, N, D]; no gradient goes to them.
      margin: a cosine of 1 - margin and more costs nothing.
      mask: bool [B, N], True on real positions.

    Raises:
      ValueError: when the shapes differ.
    """
    if projected.shape != features.shape:
        raise ValueError(f"features: expected the shape of projected, {projected.shape}, found {features.shape}")
    return _mean(jax.nn.relu(1 - margin - cosine(projected, jax.lax.stop_gradient(features))), mask)


def adaptive_weight(
    losses: Callable[[jax.Array], tuple[jax.Array, jax.Array]], kernel: jax.Array, *, weight: float = 0.1,
    limit: float = 1e8, eps: float = 1e-4,
) -> jax.Array:  # fmt: skip
    """weight min(|d first / d kernel| / (|d second / d kernel| + eps), limit), a constant for the gradient.

    Multiplied by it, the second loss has ``weight`` times the gradient norm of the first at this kernel. Only this leaf
    is differentiated, and one forward pass serves both: what does not depend on the kernel costs nothing more.

    Args:
      losses: from the kernel to (first, second), scalars over the global batch.
      kernel: a leaf of the parameters, see :func:`replaced`; VA-VAE's is the encoder's last convolution, a GAN's the
        decoder's.
      weight: VA-VAE's is 0.1; a GAN's 0.5.
      limit: of the ratio; a GAN's is 1e4.
      eps: added to the second norm.
    """
    values, pull = jax.vjp(losses, kernel)
    ones, zeros = ([f(value) for value in values] for f in (jnp.ones_like, jnp.zeros_like))
    first, second = (
        jnp.sqrt(jnp.sum(jnp.square(pull(cotangents)[0].astype(jnp.float32))))
        for cotangents in ((ones[0], zeros[1]), (zeros[0], ones[1]))
    )
    return jax.lax.stop_gradient(weight * jnp.minimum(first / (second + eps), limit))


def replaced(params: Mapping[str, Any], path: str, leaf: Any = None) -> Any:
    """The leaf at ``path`` of nested parameters, or, where ``leaf`` is given, the parameters with it in that place.

    >>> replaced({"a": {"kernel": 1, "bias": 2}}, "a/kernel")
    1
    >>> replaced({"a": {"kernel": 1, "bias": 2}}, "a/kernel", 3)
    {'a': {'kernel': 3, 'bias': 2}}

    Raises:
      ValueError: when there is no such leaf.
    """
    head, _, rest = path.partition("/")
    if not isinstance(params, Mapping) or head not in params:
        found = sorted(params) if isinstance(params, Mapping) else "a leaf"
        raise ValueError(f"path: expected a leaf at {path!r}, found {found}")
    below = params[head]
    if not rest and isinstance(below, Mapping):
        raise ValueError(f"path: expected a leaf at {path!r}, found a branch of {sorted(below)}")
    if leaf is None:
        return replaced(below, rest) if rest else below
    return {**params, head: replaced(below, rest, leaf) if rest else leaf}


def _unit(x: jax.Array, eps: float = 1e-8) -> jax.Array:
    """x / max(|x|, eps) over the last axis, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps * eps))


def _mean(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over the last axis of [B, T], of the real ones where there is a mask."""
    if mask is None:
        return x.mean(-1)
    return (x * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)
