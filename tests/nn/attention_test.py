"""The implementations of attention agree, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import attention


def inputs(heads=4, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, 5, 4, 8), (2, 7, heads, 8), (2, 7, heads, 8)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


@pytest.mark.parametrize("shape", [None, (2, 1, 1, 7), (1, 1, 5, 7), (2, 4, 5, 7)])
@pytest.mark.parametrize("at_once", [1, 30, 80, 1000])  # a query at a time, three, all of a head, all heads
@pytest.mark.parametrize("implementation", [attention.by_head, attention.auto])
def test_by_head_and_auto_equal_xla_under_every_mask(implementation, at_once, shape, monkeypatch):
    monkeypatch.setattr(attention, "AT_ONCE", at_once)
    mask = None if shape is None else jax.random.bernoulli(jax.random.key(1), 0.6, shape)
    if shape == (2, 4, 5, 7):
        mask = mask.at[1, 2, 3].set(False)  # a query that may look nowhere
    query, key, value = inputs()
    out, expected = (
        jax.jit(jax.value_and_grad(lambda *qkv, f=f: jnp.sin(f(*qkv, mask)).sum(), argnums=(0, 1, 2)))(
            query, key, value
        )
        for f in (implementation, attention.xla)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), out, expected)


def test_by_head_with_fewer_key_heads_and_in_bfloat16():
    query, key, value = inputs(heads=2)
    np.testing.assert_allclose(attention.by_head(query, key, value), attention.xla(query, key, value), atol=1e-6)
    query, key, value = inputs(dtype=jnp.bfloat16)
    out = attention.by_head(query, key, value)
    assert out.dtype == jnp.bfloat16
    exact = attention.xla(*(x.astype(jnp.float32) for x in (query, key, value)))
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.02)


def test_splash_equals_xla_with_padding_and_compiled_masks():
    """By the interpreter: lengths and widths that fill no block, hidden keys, a causal mask, and gradients."""
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, *s, 8), dtype=np.float32) for s in ((5, 2), (7, 1), (7, 1)))
    splash = attention.splash(block=128, interpret=True)
    hidden = (np.arange(7) < np.array([7, 4])[:, None])[:, None, None]
    causal = np.tri(5, 7, 2, dtype=bool)
    found = jax.jit(splash)(query, key, value, jnp.asarray(hidden))
    np.testing.assert_allclose(found, jax.jit(attention.xla)(query, key, value, hidden), atol=1e-5)
    found, expected = (
        jax.jit(jax.grad(lambda *qkv, f=f, m=m: jnp.sin(f(*qkv, m)).sum(), argnums=(0, 1, 2)))(query, key, value)
        for f, m in ((splash, causal), (attention.xla, causal[None, None]))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


def test_what_splash_refuses():
    with pytest.raises(ValueError, match="block: expected a multiple of 128, found 100"):
        attention.splash(block=100)
    query, key, value = inputs()
    with pytest.raises(ValueError, match=r"expected a mask of keys \[B, 1, 1, 7\] or a numpy array \[5, 7\]"):
        attention.splash()(query, key, value, jnp.ones((2, 1, 5, 7), bool))


def test_pair_mask():
    mask = np.array([[True, False]])
    assert attention.pair_mask(None) is None and attention.pair_mask(mask).shape == (1, 1, 1, 2)
    assert attention.pair_mask(mask[None, None]).shape == (1, 1, 1, 2)
    with pytest.raises(ValueError, match=r"mask: expected bool \[B, S\] or"):
        attention.pair_mask(mask[None])
