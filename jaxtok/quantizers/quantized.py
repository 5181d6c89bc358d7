"""What every quantizer returns."""

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


def masked_mean(values: jax.Array, mask: jax.Array | None, axes: tuple[int, ...]) -> jax.Array:
    """Mean over ``axes`` of the positions where ``mask`` is True.

    Args:
      values: [..., D...]; the leading axes are the mask's.
      mask: bool over the leading axes, or None for all.
      axes: the axes to average over, among the mask's.
    """
    if mask is None:
        return values.mean(axes)
    weight = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)).astype(values.dtype)
    return (values * weight).sum(axes) / jnp.maximum(weight.sum(axes), 1.0)
