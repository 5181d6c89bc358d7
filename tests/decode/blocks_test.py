"""Block decoding: the counts of LLaDA and Dream, Fast-dLLM's threshold, and loops on networks with a closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decode import blocks, policies, sampling

MASK = 3


def written(policy, count, steps):
    """How many positions each of the steps writes of ``count``, all in one block."""
    confidence = jax.random.uniform(jax.random.key(0), (1, count))
    started, keys = jnp.array([count], jnp.int32), jax.random.split(jax.random.key(1), 1)

    def one(masked, step):
        aux = policies.Aux(jnp.zeros((1, count, 2)), started, sampling.fold_in(keys, step))
        seen = jnp.where(masked, confidence, -jnp.inf)
        chosen = policy(seen, jnp.zeros((1, count), jnp.int32), masked, step[None], aux)
        least = jnp.min(jnp.where(chosen, seen, 2.0)) >= jnp.max(jnp.where(masked & ~chosen, seen, -1.0))
        return masked & ~chosen, (chosen.sum(), least | (chosen.sum() == 0))

    counts, ordered = jax.jit(lambda: jax.lax.scan(one, jnp.ones((1, count), bool), jnp.arange(steps))[1])()
    return counts.tolist(), bool(ordered.all())


def test_counts_of_llada_and_dream_and_that_the_most_confident_go_first():
    assert written(policies.counted(5), 32, 5) == ([7, 7, 6, 6, 6], True)
    assert written(policies.counted(48), 128, 48) == ([3] * 32 + [2] * 16, True)
    assert written(policies.timed(4), 16, 4) == ([3, 4, 4, 5], True)
    assert written(policies.timed(16), 16, 16) == ([0] + [1] * 14 + [2], True)
    counts, ordered = written(policies.timed(4, temperature=5.0), 16, 4)
    assert counts == [3, 4, 4, 5] and not ordered  # positions are drawn
    counts, _ = written(policies.independent(4), 4000, 4)
    np.testing.assert_allclose(counts, [999, 999, 999, 1003], atol=120)  # 4 standard deviations


def apply_policy(policy, confidence, masked=None):
    confidence = jnp.asarray(confidence)[None]
    masked = jnp.ones(confidence.shape, bool) if masked is None else jnp.asarray(masked)[None]
    aux = policies.Aux(jnp.zeros((*confidence.shape, 2)), masked.sum(1), jax.random.split(jax.random.key(0), 1))
    seen = jnp.where(masked, confidence, -jnp.inf)
    return np.flatnonzero(policy(seen, jnp.zeros(seen.shape, jnp.int32), masked, jnp.zeros(1, int), aux)[0]).tolist()


def test_threshold_and_factor_always_write_the_most_confident_position():
    confidence = [0.5, 0.95, 0.9, 0.2, 0.99]
    assert apply_policy(policies.threshold(0.9), confidence) == [1, 2, 4]
    assert apply_policy(policies.threshold(0.9), confidence, [True, False, False, True, False]) == [0]
    # (n + 1)(1 - c): 2 * 0.01, 3 * 0.05, 4 * 0.1, 5 * 0.5, 6 * 0.8
    assert apply_policy(policies.factor(0.3), confidence) == [1, 4]
    assert apply_policy(policies.factor(0.001), confidence) == [4]


def test_greedy_parallel_equivalence_fails_at_the_bound_and_holds_inside_it():
    """p(00) = 0.32, p(01) = p(10) = 0.34: marginals choose 00, which is not the most probable pair."""
    joint = np.array([[0.32, 0.34], [0.34, 0.0]])
    marginal = joint.sum(1)
    assert marginal.argmax() == 0 and np.unravel_index(joint.argmax(), (2, 2)) != (0, 0)
    assert apply_policy(policies.factor(1.0), [marginal.max()] * 2) == [0]  # 3 * 0.34 > 1: one at a time
    assert apply_policy(policies.factor(1.0), [0.67] * 2) == [0, 1]  # 3 * 0.33 < 1


def pair_network(ids):
    """The exact denoiser of two sequences AA and BB (ids 0, 1), each with probability 1/2, repeated along L."""
    pairs = ids.reshape(len(ids), -1, 2)
    other = pairs[..., ::-1]
    known = jnp.where(other == MASK, -1, other)[..., None]
    odds = jnp.where(known < 0, 0.5, (known == jnp.arange(2)).astype(jnp.float32))
    logits = jnp.concatenate([jnp.log(odds), jnp.full((*odds.shape[:-1], 2), -jnp.inf)], -1)  # C never, nor the mask
    return logits.reshape(*ids.shape, 4)


@functools.cache
def pair_loop(policy_steps):
    options = dict(propose=functools.partial(policies.proposal, temperature=1.0), policy=policies.counted(policy_steps))
    return jax.jit(
        lambda ids, keys: blocks.decode(pair_network, ids, keys, mask_id=MASK, prompt=0, length=2, block=2, **options)
    )


def test_two_tokens_in_one_step_are_wrong_half_of_the_time_and_in_two_steps_never():
    keys = jax.random.split(jax.random.key(0), 2000)
    ids, calls = pair_loop(1)(jnp.full((2000, 2), MASK), keys)
    wrong = np.mean(ids[:, 0] != ids[:, 1])
    assert abs(wrong - 0.5) < 0.045 and np.all(calls == 1)  # 4 standard deviations
    ids, calls = pair_loop(2)(jnp.full((2000, 2), MASK), keys)
    assert np.all(ids[:, 0] == ids[:, 1]) and 0 < np.mean(ids[:, 0]) < 1 and np.all(calls == 2)


V, STOP = 7, 5


def confident(ids):
    """Position i wants id i mod 5, more surely the more of its left neighbours are there; all depends on position."""
    length = ids.shape[1]
    left = jnp.cumsum(ids != V, axis=1) - (ids != V)
    sure = 2.0 + 4.0 * (left == jnp.arange(length)) + 0.1 * (jnp.arange(length) % 3)
    want = jnp.where(jnp.arange(length) == 6, STOP, jnp.arange(length) % 5)
    return jax.nn.one_hot(want, V + 1) * sure[..., None] + 30.0 * (jnp.arange(V + 1) == V)


def run(predict, ids, **options):
    keys = jax.random.split(jax.random.key(0), len(ids))
    options = dict(mask_id=V, policy=policies.threshold(0.9)) | options
    return jax.jit(lambda ids: blocks.decode(predict, ids, keys[: len(ids)], **options))(ids)


def test_rows_go_at_their_own_pace_from_their_own_prompt_and_keep_what_is_given():
    ids = jnp.full((3, 11), V).at[:, 0].set(0).at[1, :3].set(2).at[2, 5].set(4)
    prompt = jnp.array([1, 3, 1])
    out, calls = run(confident, ids, prompt=prompt, length=8, block=4)
    want = [i % 5 if i != 6 else STOP for i in range(11)]
    assert out[0].tolist() == [0, *want[1:9], V, V] and out[1].tolist() == [2, 2, 2, *want[3:11]]
    assert out[2].tolist() == [0, *want[1:5], 4, *want[6:9], V, V]
    assert calls.tolist() == [8, 8, 7]  # only the position after a whole left side passes 0.9
    alone, count = run(confident, ids[1:2], prompt=3, length=8, block=4)
    assert np.array_equal(alone[0], out[1]) and count.tolist() == [8]


def test_a_finished_block_with_the_stop_id_ends_its_row_and_steps_are_bounded():
    ids = jnp.full((1, 12), V).at[:, 0].set(0)
    out, calls = run(confident, ids, prompt=1, length=9, block=3, stop=STOP)
    assert out[0].tolist() == [0, 1, 2, 3, 4, 0, 5, 5, 5, 5, V, V] and calls.tolist() == [6]
    never = lambda confidence, ids, masked, step, aux: jnp.zeros_like(masked)  # noqa: E731
    out, calls = run(confident, ids, prompt=1, length=9, block=3, policy=never, steps=2)
    assert int((out[0, 1:10] == V).sum()) == 0 and calls.tolist() == [6]  # 2 calls for each block


def test_proposals_measure_confidence_of_clean_or_shaped_logits():
    logits = jnp.log(jnp.array([[[0.6, 0.3, 0.1]]]))
    keys = jax.random.split(jax.random.key(0), 1)

    def measured(**options):
        return float(policies.proposal(logits, keys, **options)[1][0, 0])

    assert measured() == pytest.approx(0.6, abs=1e-6)
    assert measured(measure="margin") == pytest.approx(0.3, abs=1e-6)
    assert measured(measure="entropy") == pytest.approx(sum(p * np.log(p) for p in (0.6, 0.3, 0.1)), abs=1e-6)
    assert measured(top_p=0.5, temperature=0.1, clean=False) == pytest.approx(1.0)
    assert measured(top_p=0.5, temperature=0.1) == pytest.approx(0.6, abs=1e-6)
    with pytest.raises(ValueError, match="measure must be one of .* found 'logit'"):
        measured(measure="logit")


def test_guidance_masks_the_prompt_and_shifting_moves_outputs_to_the_right():
    def predict(ids):
        return jnp.stack([ids * 1.0, (ids == MASK) * 1.0], -1)

    ids, hidden = jnp.array([[1, 2]]), jnp.array([[True, False]])
    out = blocks.guided(predict, 3.0, hidden, MASK)(ids)
    np.testing.assert_allclose(out, [[[MASK + 3.0 * (1 - MASK), 1 - 3.0], [2.0, 0.0]]])
    assert blocks.shifted(jnp.array([[[1], [2], [3]]])).tolist() == [[[1], [1], [2]]]


def test_cached_blocks_equal_uncached_ones_where_the_network_is_local():
    """A network whose positions do not see each other, with a cache that only counts what it was fed."""

    def network(ids, start):
        place = start + jnp.arange(ids.shape[1])
        return jax.nn.one_hot(jnp.broadcast_to(place % 5, ids.shape), V + 1) * (1.0 + place % 3)[:, None]

    def forward(ids, start, cache):
        return network(ids, start), cache + ids.shape[1]

    ids = jnp.full((2, 14), V).at[:, :2].set(1).at[1, 5].set(6)
    options = dict(mask_id=V, prompt=2, length=12, block=4, policy=policies.counted(2))
    keys = jax.random.split(jax.random.key(0), 2)
    expected, calls = blocks.decode(lambda ids: network(ids, 0), ids, keys, **options)
    for reuse in blocks.REUSE:
        found, count = jax.jit(
            lambda ids, reuse=reuse: blocks.decode_cached(forward, jnp.int32(0), ids, keys, reuse=reuse, **options)
        )(ids)
        assert np.array_equal(found, expected) and np.array_equal(count, calls) and calls.tolist() == [6, 6]
    with pytest.raises(ValueError, match="length a multiple of block, found 14 positions"):
        blocks.decode_cached(forward, 0, ids, keys, **options | dict(block=5))
