"""Standardized: statistics by closed forms."""

import jax
import numpy as np
import pytest

import jaxtok.quantizers as jq

Q = jq.Standardized(inner=jq.FSQ(levels=(9, 9)), width=2, decay=0.75, epsilon=0.0)


def batches():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(3, 40, 2)) * (0.5, 20) + (7, -300)).astype(np.float32) for _ in range(3)]


def test_running_statistics_begin_with_the_first_batch_and_follow():
    variables, kept = Q.init(jax.random.key(0), batches()[0]), None
    for number, z in enumerate(batches()):
        mask = np.arange(40) < np.asarray([[40], [9], [1]])
        y, variables = Q.apply(variables, np.where(mask[..., None], z, 1e6), mask=mask, train=True, mutable="codebook")
        real = z[mask].astype(np.float64)
        found = real.mean(0), real.var(0)
        kept = found if kept is None else tuple(0.75 * a + 0.25 * b for a, b in zip(kept, found))
        inner = Q.inner.apply({}, (z - found[0]).astype(np.float32) / np.sqrt(found[1]).astype(np.float32))
        assert (y.codes[mask] == inner.codes[mask]).mean() > 0.98, number  # but for rounding at the cells' edges
        assert abs(y.latents[mask].mean(0)).max() < 0.1
    np.testing.assert_allclose(variables["codebook"]["mean"], kept[0], rtol=1e-5)
    np.testing.assert_allclose(variables["codebook"]["variance"], kept[1], rtol=1e-4)
    z = batches()[0]
    want = Q.inner.apply({}, (z - kept[0]) / np.sqrt(kept[1])).codes
    assert (Q.apply(variables, z, method="encode") == want).mean() > 0.98
    alone = Q.apply(variables, z[:1, :1]).codes  # what stands beside a vector changes nothing, nor does it move
    np.testing.assert_array_equal(alone, Q.apply(variables, z).codes[:1, :1])


def test_bad_decay():
    with pytest.raises(ValueError, match=r"expected decay in \[0, 1\), found 1"):
        jq.Standardized(inner=jq.FSQ(levels=(3,)), width=1, decay=1)
