"""Attention behind one interface: ``implementation(query, key, value, mask) -> output``.

Shapes are [B, T, N, H] for queries, [B, S, N or fewer, H] for keys and values, and bool, broadcastable to
[B, N, T, S], for the mask (True = may be looked at). The softmax is in float32 in all of them.
"""

from collections.abc import Callable

import jax

Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


def xla(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Attention as XLA compiles it, on every device."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """cuDNN's fused attention: NVIDIA devices, bfloat16 or float16 inputs, even sequence lengths."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def key_mask(mask: jax.Array | None) -> jax.Array | None:
    """From a padding mask, bool [B, S] (True = real), to the mask of the keys, bool [B, 1, 1, S]."""
    return None if mask is None else mask[:, None, None, :]
