"""The cache: what is written where, and attention of one query over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import attention
from jaxtok.nn import cache as cache_lib


def filled(slots, heads=2):
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (3, 2, heads, slots, 8)
    return cache_lib.KVCache(*(jax.random.normal(k, shape) for k in keys), jnp.int32(5))


def test_tokens_are_written_at_the_length_of_their_block_alone():
    cache = cache_lib.empty(2, 1, 6, 1, 2)
    cache = cache_lib.advance(cache_lib.write(cache, 1, jnp.ones((1, 2, 1, 2)), jnp.full((1, 2, 1, 2), 2.0)), 2)
    cache = cache_lib.write(cache, 1, jnp.full((1, 1, 1, 2), 3.0), jnp.zeros((1, 1, 1, 2)))
    assert cache.key[1, 0, 0, :, 0].tolist() == [1, 1, 3, 0, 0, 0] and not cache.key[0].any()
    assert cache.value[1, 0, 0, :, 1].tolist() == [2, 2, 0, 0, 0, 0] and cache.length == 2 and cache.slots == 6
    assert cache_lib.causal_mask(cache, 2)[0, 0].astype(int).tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert cache_lib.crop(cache, 1).length == 1


@pytest.mark.parametrize("slots, heads", [(7, 4), (2 * cache_lib.CHUNK + 3, 2)])
def test_one_query_equals_attention_over_all_slots_under_the_mask(slots, heads):
    cache = filled(slots, heads)
    query = jax.random.normal(jax.random.key(1), (2, 1, 4, 8))
    run = jax.jit(lambda mask: cache_lib.attend_one(cache, 2, query, mask))
    key, value = cache_lib.read(cache, 2)
    for end in (1, 5, slots):
        mask = (jnp.arange(slots) < end)[None, None, None]
        np.testing.assert_allclose(run(mask), attention.xla(query, key, value, mask), atol=2e-6)
    mask = jax.random.bernoulli(jax.random.key(2), 0.3, (2, 4, 1, slots)).at[..., 0].set(True)
    np.testing.assert_allclose(run(mask), attention.xla(query, key, value, mask), atol=2e-6)


def test_chunks_without_a_visible_key_count_for_nothing():
    slots = 3 * cache_lib.CHUNK
    cache = filled(slots)
    query = jax.random.normal(jax.random.key(1), (2, 1, 2, 8))
    mask = (jnp.arange(slots) >= 2 * cache_lib.CHUNK + 4)[None, None, None]
    key, value = cache_lib.read(cache, 0)
    run = jax.jit(lambda mask: cache_lib.attend_one(cache, 0, query, mask))
    found = run(mask)
    np.testing.assert_allclose(found, attention.xla(query, key, value, mask), atol=2e-6)
    assert not np.any(run(np.zeros((1, 1, 1, slots), bool)))
