"""Llama with a cache equals Llama without one; layouts of its parameters agree."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decode import blocks, policies
from jaxtok.nn import cache as cache_lib
from jaxtok.nn import linear
from jaxtok.nn.linear import OutFirst
from jaxtok.nn.llama import Llama, LlamaLM, out_first, stack_blocks, unstack_blocks

SIZES = dict(vocabulary=17, width=16, depth=2, heads=4, hidden=24)
IDS = np.random.default_rng(1).integers(0, 17, (2, 9))


def made(**fields):
    model = LlamaLM(**SIZES | fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IDS)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32), shapes)
    return model, params | {"norm_scales": 1.0 + params["norm_scales"]}


def stepwise(model, params, ids, prompt, slots):
    """Logits by a prompt of some tokens and one token at a time after it."""
    logits, cache = model.apply({"params": params}, ids[:, :prompt], cache=model.cache(len(ids), slots))

    def one(cache, token):
        logits, cache = model.apply({"params": params}, token[:, None], cache=cache)
        return cache, logits[:, 0]

    cache, rest = jax.lax.scan(one, cache, ids[:, prompt:].T)
    return jnp.concatenate([logits, jnp.moveaxis(rest, 0, 1)], axis=1), cache


@pytest.mark.parametrize("scan, kv_heads", [(False, 2), (True, 0)])
def test_cached_logits_equal_uncached_ones(scan, kv_heads):
    model, params = made(scan=scan, kv_heads=kv_heads, qkv_bias=not scan, tied=scan)
    slots = cache_lib.CHUNK + 5 if scan else 11  # more than a chunk, and less

    @jax.jit
    def both(params, ids):
        cached, cache = stepwise(model, params, ids, 4, slots)
        return model.apply({"params": params}, ids), cached, cache.length

    whole, cached, length = both(params, IDS)
    assert whole.shape == (2, 9, 17) and length == 9
    np.testing.assert_allclose(cached, whole, atol=2e-5)
    assert np.array_equal(cached.argmax(-1), whole.argmax(-1))
    assert np.abs(np.asarray(whole[0] - whole[1])).max() > 0.1


def test_turned_and_stacked_parameters_give_the_same_logits():
    model, params = made()
    expected = jax.jit(model.apply)({"params": params}, IDS)
    turned = model.clone(dense=OutFirst)
    shapes = jax.eval_shape(turned.init, jax.random.key(0), IDS)["params"]
    assert jax.tree.map(jnp.shape, out_first(params)) == jax.tree.map(jnp.shape, shapes)
    short = IDS[:1, :4]  # few rows take another product than many
    found, few, cached = jax.jit(
        lambda p: (
            turned.apply({"params": p}, jnp.tile(IDS, (2, 1))),
            turned.apply({"params": p}, short),
            stepwise(turned, p, short, 2, 4)[0],
        )
    )(out_first(params))
    np.testing.assert_allclose(found[:2], expected, atol=2e-5)
    np.testing.assert_allclose(few, expected[:1, :4], atol=2e-5)
    np.testing.assert_allclose(cached, expected[:1, :4], atol=2e-5)
    inner = {"transformer": stack_blocks(params["transformer"])}
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(inner["transformer"]), params["transformer"])
    stacked, plain = out_first(inner), out_first(params)["transformer"]
    jax.tree.map(np.testing.assert_array_equal, stacked["transformer"], stack_blocks(plain))


def test_a_turned_layer_begins_with_the_values_of_a_plain_one():
    x, options = jnp.ones((2, 4, 3)), dict(features=(2, 5), axis=(-2, -1))
    plain, turned = nn.DenseGeneral(**options), OutFirst(**options)
    params, same = (m.init(jax.random.key(0), x)["params"] for m in (plain, turned))
    np.testing.assert_array_equal(same["kernel"], linear.out_first(params["kernel"], 2))
    assert same["kernel"].shape == (10, 12) and same["bias"].shape == (2, 5)
    np.testing.assert_allclose(turned.apply({"params": same}, x), plain.apply({"params": params}, x), atol=1e-6)


def test_causality_and_its_absence():
    model, params = made()
    other = IDS.copy()
    other[:, 6] = (other[:, 6] + 1) % 17
    run = jax.jit(lambda causal, p, ids: model.clone(causal=causal).apply({"params": p}, ids), static_argnums=0)
    a, b = run(True, params, IDS), run(True, params, other)
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert np.abs(np.asarray(a[:, 6:] - b[:, 6:])).max() > 1e-3
    a, b = run(False, params, IDS), run(False, params, other)
    assert np.abs(np.asarray(a[:, :6] - b[:, :6])).max(-1).min() > 0
    with pytest.raises(ValueError, match="needs a mask over its slots"):
        jax.eval_shape(lambda: model.clone(causal=False).apply({"params": params}, IDS, cache=model.cache(2, 9)))


def test_block_decoding_with_a_cache_of_the_same_tokens_equals_the_whole_forward():
    """With one step per block nothing is reused: both caches must then give what no cache gives."""
    model, params = made(causal=False, depth=1)
    ids = jnp.concatenate([IDS[:, :3], jnp.full((2, 6), 16)], axis=1)
    keys = jax.random.split(jax.random.key(0), 2)
    options = dict(mask_id=16, prompt=3, length=6, block=2)

    def forward(ids, start, cache):
        mask = jnp.ones((1, 1, 1, cache.slots), bool)
        return model.apply({"params": params}, ids, mask=mask, cache=cache_lib.crop(cache, start))

    def plain(ids):
        return model.apply({"params": params}, ids)

    @functools.partial(jax.jit, static_argnums=0)
    def run(steps, ids):
        settings = options | dict(policy=policies.counted(steps), steps=steps)
        whole = blocks.decode(plain, ids, keys, **settings)
        return whole, blocks.decode_cached(forward, model.cache(2, 9), ids, keys, reuse="dual", **settings)

    (expected, calls), (found, count) = run(1, ids)
    assert np.array_equal(found, expected) and calls.tolist() == count.tolist() == [3, 3]
    _, (found, count) = run(2, ids)
    assert count.tolist() == [6, 6] and int((found == 16).sum()) == 0


@pytest.mark.parametrize("remat", ["", "nothing_saveable"])
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("shape", [None, (2, 1, 1, 9), (1, 1, 9, 9)])
def test_kept_positions_are_those_of_the_whole(shape, scan, remat):
    stack = Llama(2, 2, 16, scan=scan, remat=remat)
    x, scales = jax.random.normal(jax.random.key(0), (2, 9, 8)), jax.random.normal(jax.random.key(1), (5, 2, 8))
    mask = None if shape is None else jax.random.bernoulli(jax.random.key(2), 0.7, shape)
    kept = np.asarray([3, 4, 7])
    variables = stack.init(jax.random.key(3), x)
    whole = stack.apply(variables, x, mask=mask, scales=scales)
    assert whole.shape == x.shape
    few = stack.apply(variables, x, mask=mask, scales=scales, kept=kept)
    np.testing.assert_allclose(few, whole[:, kept], atol=1e-6)


def test_sizes_that_do_not_fit_are_refused():
    x = jnp.zeros((2, 5, 16))
    stack = Llama(depth=2, heads=4, hidden=8)
    shapes = (
        (cache_lib.empty(3, 2, 9, 4, 4), "cache must hold keys and values of shape"),
        (cache_lib.empty(2, 2, 4, 4, 4), "5 tokens do not fit in a cache of 4 slots"),
    )
    for cache, words in shapes:
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(stack.init, jax.random.key(0), x, cache=cache)
    with pytest.raises(ValueError, match="heads must be a multiple of kv_heads, found 4 and 3"):
        jax.eval_shape(Llama(depth=1, heads=4, hidden=8, kv_heads=3).init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="slots of a cache must be at least 1, found 0"):
        cache_lib.empty(1, 1, 0, 1, 1)
