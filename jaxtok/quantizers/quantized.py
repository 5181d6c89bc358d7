"""What every quantizer returns, and what all of them compute alike."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Quantized:
    """The result of a quantizer or of a tokenizer's ``encode``.

    Attributes:
      latents: [..., D], what a decoder gets; ``quantizer.decode(codes)`` gives the same values.
      codes: int32 [..., Q], or None for a continuous bottleneck.
      loss: float32 scalar, already weighted; 0 where a quantizer has none.
      metrics: float32 scalars by name, for logs.
    """

    latents: jax.Array
    codes: jax.Array | None
    loss: jax.Array
    metrics: dict[str, jax.Array]


class Around(nn.Module):
    """A quantizer around another, whose codes and sizes it has; a subclass says what ``__call__`` does.

    Attributes:
      inner: the quantizer.
    """

    inner: Any

    @property
    def codebook_size(self) -> int:
        """The inner quantizer's."""
        return self.inner.codebook_size

    @property
    def num_codebooks(self) -> int:
        """The inner quantizer's."""
        return self.inner.num_codebooks

    @property
    def accumulable(self) -> bool:
        """The inner quantizer's."""
        return self.inner.accumulable

    def encode(self, z: jax.Array) -> jax.Array:
        """The inner quantizer's codes."""
        return self.inner.encode(z)

    def decode(self, codes: jax.Array) -> jax.Array:
        """The inner quantizer's vectors."""
        return self.inner.decode(codes)


def vectors(z: jax.Array, width: int, name: str) -> jax.Array:
    """z [..., width] as float32.

    Raises:
      ValueError: for another width, no vector at all, or integers.
    """
    if z.ndim < 1 or z.shape[-1] != width:
        raise ValueError(f"{name}: expected {width} channels, found shape {z.shape}")
    if z.size == 0:
        raise ValueError(f"{name}: expected at least one vector, found shape {z.shape}")
    if not jnp.issubdtype(z.dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating point vectors, found {z.dtype}")
    return z.astype(jnp.float32)


def continuous(name: str) -> ValueError:
    """What the ``decode`` of a bottleneck without codes raises."""
    return ValueError(f"{name}: a continuous bottleneck has no codes to decode, use its latents")


def masked_mean(values: jax.Array, mask: jax.Array | None, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Mean over ``axes`` of the positions where ``mask`` is True; 0 where it is True nowhere.

    Args:
      values: [..., D...]; the leading axes are the mask's.
      mask: bool over the leading axes, or None for all.
      axes: the axes to average over, among the mask's; None averages over every axis of ``values``.
    """
    if axes is None:
        leading = values.ndim if mask is None else mask.ndim
        return masked_mean(values, mask, tuple(range(leading))).mean()
    if mask is None:
        return values.mean(axes)
    weight = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)).astype(values.dtype)
    kept = jnp.where(weight > 0, values, 0.0)  # the value of padding never counts
    return kept.sum(axes) / jnp.maximum(weight.sum(axes), 1.0)


def distortion(z: jax.Array, q: jax.Array, mask: jax.Array | None) -> dict[str, jax.Array]:
    """``error``: sum |z - q|^2 / sum |z|^2 over the positions that count; ``cosine``: their mean cosine."""
    z, q = jax.lax.stop_gradient(z), jax.lax.stop_gradient(q)
    error, square_z, square_q = (jnp.sum(x * x, axis=-1) for x in (z - q, z, q))
    error, power = masked_mean(error, mask), masked_mean(square_z, mask)
    cosine = jnp.sum(z * q, axis=-1) * jax.lax.rsqrt(jnp.maximum(square_z, 1e-12) * jnp.maximum(square_q, 1e-12))
    return {"error": error / jnp.maximum(power, 1e-12), "cosine": masked_mean(cosine, mask)}
