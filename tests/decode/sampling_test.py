"""Filters against hand counts, draws against their distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decode import sampling

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32))


def kept(logits):
    return np.flatnonzero(np.isfinite(np.asarray(logits))).tolist()


def test_filters_keep_what_a_count_by_hand_keeps():
    assert kept(sampling.keep_top_k(LOGITS, 2)) == [1, 3]
    assert kept(sampling.keep_top_k(LOGITS, 9)) == [0, 1, 2, 3, 4]
    assert kept(sampling.keep_top_p(LOGITS, 0.3)) == [1]  # the most probable id stays whatever the share
    assert kept(sampling.keep_top_p(LOGITS, 0.6)) == [1, 3]
    assert kept(sampling.keep_top_p(LOGITS, 0.7)) == [1, 3, 4]
    assert kept(sampling.keep_min_p(LOGITS, 0.3)) == [1, 3, 4]  # 0.3 * 0.4 = 0.12
    assert kept(sampling.forbid(LOGITS, (1, 4))) == [0, 2, 3]
    # temperature 0.5 squares the odds: 0.16, 0.0625, 0.04, 0.01, 0.0025; 0.16 / 0.275 = 0.58
    assert kept(sampling.shaped(LOGITS, temperature=0.5, top_p=0.58)) == [1]
    assert kept(sampling.shaped(LOGITS, temperature=1.0, top_p=0.58)) == [1, 3]


def test_draws_follow_the_distribution_and_the_key_of_their_row_alone():
    keys = jax.random.split(jax.random.key(0), 4000)
    logits = jnp.broadcast_to(LOGITS, (4000, 5))
    ids = np.asarray(sampling.choose(logits, keys, top_k=3))
    share = np.bincount(ids, minlength=5) / 4000
    expected = np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85
    chi = 4000 * np.sum((share - expected)[[1, 3, 4]] ** 2 / expected[[1, 3, 4]])
    assert chi < 13.8 and share[0] == share[2] == 0  # 0.1 % of a chi-square of 2 degrees
    assert np.array_equal(sampling.choose(logits[7:9], keys[7:9], top_k=3), ids[7:9])
    assert np.array_equal(sampling.choose(logits[:3], keys[:3], temperature=0.0, top_p=0.1), [1, 1, 1])


def test_longer_sequences_begin_with_the_draws_of_shorter_ones():
    keys = jax.random.split(jax.random.key(1), 2)
    logits = jax.random.normal(jax.random.key(2), (2, 6, 7))
    assert np.array_equal(sampling.choose(logits, keys)[:, :4], sampling.choose(logits[:, :4], keys))
    assert np.array_equal(sampling.gumbel(keys, 6)[:, :4], sampling.gumbel(keys, 4))


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0}, {"temperature": 0.0, "top_p": 1.5}],
)
def test_settings_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match="found"):
        jax.eval_shape(
            functools.partial(sampling.choose, **options), jnp.zeros((1, 5)), jax.random.split(jax.random.key(0), 1)
        )
