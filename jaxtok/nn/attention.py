"""Attention behind one interface: ``implementation(query, key, value, mask) -> output``.

Shapes are [B, T, N, H] for queries, [B, S, N or fewer, H] for keys and values, and bool, broadcastable to
[B, N, T, S], for the mask (True = may be looked at). The softmax is in float32 in all of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


def xla(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Attention as XLA compiles it, on every device."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


AT_ONCE = 1 << 22  # weights (16 MB) that by_head makes at once, at most


def by_head(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """All heads at once where they are small, else one after another, in blocks of queries: the quickest on CPUs.

    Temporaries have up to ``AT_ONCE`` numbers, so memory grows linearly with the length.
    """
    batch, length, heads, _ = query.shape
    key, value = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (key, value))
    shape = (batch, length, key.shape[1])
    if mask is not None:
        mask = jnp.moveaxis(jnp.broadcast_to(mask, (mask.shape[0], heads, *mask.shape[2:])), 1, 0)

    def weigh(query, key, value, mask):
        logits = jnp.einsum("bth,bsh->bts", query, key, preferred_element_type=jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, 0.7 * jnp.finfo(jnp.float32).min)
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)  # the quotient is taken of the [T, H] output, not of the [T, S] weights
        out = jnp.einsum("bts,bsh->bth", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        return (out / total).astype(query.dtype)

    def one(arrays):
        query, key, value, mask = arrays
        blocks = min(-(-math.prod(shape) // AT_ONCE), length)
        rows = jax.tree.map(lambda x: _divided(x, blocks), (query, mask))
        out = jax.lax.map(lambda block: weigh(block[0], key, value, block[1]), rows)
        return jnp.moveaxis(out, 0, 1).reshape(batch, -1, out.shape[-1])[:, :length]

    arrays = *(jnp.moveaxis(x, 2, 0) for x in (query * query.shape[-1] ** -0.5, key, value)), mask
    if heads * math.prod(shape) > AT_ONCE:
        return jnp.moveaxis(jax.lax.map(one, arrays), 0, 2)
    if mask is not None:
        arrays = *arrays[:3], jnp.broadcast_to(mask, (heads, batch, *mask.shape[2:]))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)
    return jnp.moveaxis(weigh(*flat).reshape(heads, batch, length, -1), 0, 2)


def _divided(x: jax.Array, blocks: int) -> jax.Array:
    """Blocks of rows, [blocks, B, rows, ...], the last one padded, of an array [B, T, ...]; T = 1 is repeated."""
    if x.shape[1] == 1:
        return jnp.broadcast_to(x, (blocks, *x.shape))
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % blocks), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(len(x), blocks, -1, *x.shape[2:]), 1, 0)


def auto(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """:func:`by_head` where the program is compiled for a CPU, :func:`xla` elsewhere."""
    return jax.lax.platform_dependent(query, key, value, mask, cpu=by_head, default=xla)


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """cuDNN's fused attention: NVIDIA devices, bfloat16 or float16 inputs, even sequence lengths."""
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def splash(
    mesh: Any = None, *, batch: Sequence[str] = ("data", "fsdp"), heads: str = "tensor", block: int = 512,
    interpret: bool = False,
) -> Attention:  # fmt: skip
    """Makes the TPU's splash attention, which never holds the [T, S] weights; to be made once, with the mesh.

    Sequences are padded to whole blocks and heads to a multiple of 128 channels. A mask may be a padding mask of the
    keys, [B, 1, 1, S], or an array of numpy [T, S] or [1, 1, T, S], which is compiled in; a query that may look nowhere
    gets an arbitrary output.

    Args:
      mesh: of ``jax.sharding``; None for one device.
      batch: its axes over which the batch is divided.
      heads: its axis over which the heads are divided.
      block: positions per block, a multiple of 128.
      interpret: run by the interpreter, on any device, for tests.

    Raises:
      ValueError: for another block size, and, when called, for another kind of mask.
    """
    if block < 128 or block % 128:
        raise ValueError(f"block: expected a multiple of 128, found {block}")

    def attend(
        query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | np.ndarray | None = None
    ) -> jax.Array:
        static, real = _splash_mask(mask, query.shape[1], (len(key), key.shape[1]))
        if mesh is None:
            return _splash(query, key, value, real, static, block, interpret)
        spread = jax.sharding.PartitionSpec(tuple(batch), None, heads, None)
        rows = jax.sharding.PartitionSpec(tuple(batch), None)
        local = jax.shard_map(
            lambda q, k, v, r: _splash(q, k, v, r, static, block, interpret), mesh=mesh,
            in_specs=(spread, spread, spread, rows), out_specs=spread, check_vma=False,
        )  # fmt: skip
        return local(query, key, value, real)

    return attend


def _splash_mask(mask: Any, length: int, keys: tuple[int, int]) -> tuple[np.ndarray, jax.Array]:
    """The part of a mask that is compiled in, bool [T, S], and the one that is data, bool [B, S]."""
    batch, size = keys
    everything, real = np.ones((length, size), bool), jnp.ones((batch, size), bool)
    if mask is None:
        return everything, real
    if isinstance(mask, np.ndarray) and mask.size == length * size and mask.shape[-2:] == (length, size):
        return mask.reshape(length, size).astype(bool), real
    if mask.ndim == 4 and mask.shape[1:3] == (1, 1):
        return everything, jnp.broadcast_to(mask[:, 0, 0], (batch, size))
    raise ValueError(
        f"splash attention: expected a mask of keys [B, 1, 1, {size}] or a numpy array [{length}, {size}], found "
        f"{type(mask).__name__} of shape {mask.shape}"
    )


def _splash(
    query: jax.Array, key: jax.Array, value: jax.Array, real: jax.Array, static: np.ndarray, block: int, interpret: bool
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    length, size, heads, width = query.shape[1], key.shape[1], query.shape[2], query.shape[3]
    tall, wide = (min(block, -(-n // 128) * 128) for n in (length, size))
    more = (-length % tall, -size % wide)
    static = np.pad(static, ((0, more[0]), (0, more[1])), constant_values=True)
    sizes = kernels.BlockSizes(
        block_q=tall, block_kv=wide, block_kv_compute=wide, block_q_dkv=tall, block_kv_dkv=wide,
        block_kv_dkv_compute=wide, block_q_dq=tall, block_kv_dq=wide,
    )  # fmt: skip
    masks = kernels.MultiHeadMask([kernels.NumpyMask(static)] * heads)
    kernel = kernels.make_splash_mha_single_device(masks, block_sizes=sizes, interpret=interpret)
    key, value = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (key, value))

    def ready(x: jax.Array, rows: int) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, rows), (0, 0), (0, -width % 128))).swapaxes(1, 2)

    # All queries and the real keys are segment 1; padded queries are cut off again.
    segments = kernels.SegmentIds(
        q=jnp.ones((len(query), length + more[0]), jnp.int32),
        kv=jnp.pad(real, ((0, 0), (0, more[1]))).astype(jnp.int32),
    )
    out = jax.vmap(kernel)(ready(query * width**-0.5, more[0]), ready(key, more[1]), ready(value, more[1]), segments)
    return out.swapaxes(1, 2)[:, :length, :, :width].astype(query.dtype)


def key_mask(mask: jax.Array | None) -> jax.Array | None:
    """From a padding mask, bool [B, S] (True = real), to the mask of the keys, bool [B, 1, 1, S]."""
    return None if mask is None else mask[:, None, None, :]


def pair_mask(mask: jax.Array | np.ndarray | None) -> Any:
    """The mask of an implementation, from one of keys, bool [B, S], or of pairs, bool [B or 1, N or 1, T or 1, S].

    Raises:
      ValueError: for another rank.
    """
    if mask is None or mask.ndim == 4:
        return mask
    if mask.ndim != 2:
        raise ValueError(f"mask: expected bool [B, S] or [B or 1, heads or 1, T, S], found shape {mask.shape}")
    return key_mask(jnp.asarray(mask))
