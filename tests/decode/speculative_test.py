"""Speculative verification keeps the model's distribution: by summation over all drafts, and by many draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decode import speculative

V, K, N = 3, 2, 20000


def distributions(seed, *shape):
    x = np.random.default_rng(seed).dirichlet(np.ones(V), shape)
    return x.astype(np.float32)


def test_tokens_are_distributed_as_the_models_own_and_drafts_are_accepted_as_often_as_they_overlap():
    """Position-independent q and p: the first token's law is p, and the second's too where there is one."""
    q, p = distributions(0), distributions(1)
    draft = jax.random.categorical(jax.random.key(0), jnp.log(q), shape=(N, K))
    keys = jax.random.split(jax.random.key(1), N)
    proposed, wanted = jnp.broadcast_to(q, (N, K, V)), jnp.broadcast_to(p, (N, K + 1, V))
    ids, accepted = jax.jit(speculative.verify)(draft, proposed, wanted, keys)
    ids, accepted = np.asarray(ids), np.asarray(accepted)
    for place in range(K + 1):
        tokens = ids[:, place][ids[:, place] >= 0]
        share = np.bincount(tokens, minlength=V) / len(tokens)
        assert len(tokens) * np.sum((share - p) ** 2 / p) < 13.8  # 0.1 % of a chi-square of 2 degrees
    rate = np.minimum(p, q).sum()
    expected = speculative.expected_tokens(float(rate), K)
    assert abs(accepted.mean() + 1 - expected) < 4 * K / np.sqrt(N)
    assert np.array_equal((ids >= 0).sum(1), accepted + 1)
    kept = np.arange(K) < accepted[:, None]
    assert np.array_equal(ids[:, :K][kept], np.asarray(draft)[kept])


def test_the_rule_preserves_the_joint_law_exactly():
    """P(first, second) = p(first) p(second | first), summed over all drafts with the rule's probabilities."""
    q, p = distributions(2, V + 1), distributions(3, V + 1)  # row V: after nothing; row i: after token i
    found = np.zeros(V)
    for y in range(V):
        found[y] += q[V, y] * min(1.0, p[V, y] / q[V, y])
    rest = np.maximum(p[V] - q[V], 0)
    found += (1 - found.sum()) * rest / rest.sum()
    np.testing.assert_allclose(found, p[V], atol=1e-6)
    # the function's own decision for every draft: certain where the ratio is above 1
    drafts = np.array(list(itertools.product(range(V), range(V))), np.int32)
    proposed = np.stack([np.broadcast_to(q[V], (V * V, V)), q[drafts[:, 0]]], 1)
    wanted = np.stack([np.broadcast_to(p[V], (V * V, V)), p[drafts[:, 0]], p[drafts[:, 1]]], 1)
    _, accepted = speculative.verify(drafts, proposed, wanted, jax.random.split(jax.random.key(0), V * V))
    sure = (p[V] >= q[V])[drafts[:, 0]]
    assert sure.any() and np.all(np.asarray(accepted)[sure] >= 1)
    both = sure & (p[drafts[:, 0], drafts[:, 1]] >= q[drafts[:, 0], drafts[:, 1]])
    assert both.any() and np.all(np.asarray(accepted)[both] == 2)


def test_greedy_accepts_until_the_model_disagrees():
    wanted = jax.nn.one_hot(jnp.array([[1, 2, 0], [1, 2, 0], [2, 2, 0]]), V)
    ids, accepted = speculative.verify_greedy(jnp.array([[1, 2], [1, 1], [1, 2]]), wanted)
    assert ids.tolist() == [[1, 2, 0], [1, 2, -1], [2, -1, -1]] and accepted.tolist() == [2, 1, 0]


def test_expected_tokens_and_shapes():
    assert speculative.expected_tokens(0.8, 4) == pytest.approx(3.3616)
    assert speculative.expected_tokens(0.8, 8) == pytest.approx(4.3289, abs=5e-5)
    assert speculative.expected_tokens(1.0, 4) == 5.0
    with pytest.raises(ValueError, match=r"wanted must have shape \(1, 3, V\).*found \(1, 2, 3\)"):
        speculative.verify_greedy(jnp.zeros((1, 2), int), jnp.zeros((1, 2, 3)))
