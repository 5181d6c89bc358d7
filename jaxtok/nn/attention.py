"""Attention behind one interface: ``implementation(query, key, value, mask) -> output``.

Shapes are [B, T, N, H] for queries, [B, S, N or fewer, H] for keys and values, and bool, broadcastable to
[B, N, T, S], for the mask (True = may be looked at). The softmax is in float32 in all of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


def xla(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Attention as XLA compiles it, on every device."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def by_head(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """One head after another: the quickest on CPUs, with temporaries of one head [B, T, S] instead of all of them."""
    heads = query.shape[2]
    key, value = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (key, value))
    if mask is not None:
        mask = jnp.moveaxis(jnp.broadcast_to(mask, (mask.shape[0], heads, *mask.shape[2:])), 1, 0)

    def one(arrays):
        query, key, value, mask = arrays
        logits = jnp.einsum("bth,bsh->bts", query, key, preferred_element_type=jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, 0.7 * jnp.finfo(jnp.float32).min)
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)  # the quotient is taken of the [T, H] output, not of the [T, S] weights
        out = jnp.einsum("bts,bsh->bth", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        return (out / total).astype(query.dtype)

    query = query * query.shape[-1] ** -0.5
    out = jax.lax.map(one, (*(jnp.moveaxis(x, 2, 0) for x in (query, key, value)), mask))
    return jnp.moveaxis(out, 0, 2)


def auto(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """:func:`by_head` where the program is compiled for a CPU, :func:`xla` elsewhere."""
    return jax.lax.platform_dependent(query, key, value, mask, cpu=by_head, default=xla)


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """cuDNN's fused attention: NVIDIA devices, bfloat16 or float16 inputs, even sequence lengths."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def key_mask(mask: jax.Array | None) -> jax.Array | None:
    """From a padding mask, bool [B, S] (True = real), to the mask of the keys, bool [B, 1, 1, S]."""
    return None if mask is None else mask[:, None, None, :]
