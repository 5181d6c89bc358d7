"""MaskGIT's counts and order, MAR's random order."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decode import masked, sampling


@functools.cache
def left(total, steps, schedule="cosine"):
    """Masked positions after each step, all masked at the start."""

    def step(count, k):
        count = masked.remaining(k, steps, jnp.int32(total), count, schedule)
        return count, count

    return jax.jit(lambda: jax.lax.scan(step, jnp.int32(total), jnp.arange(steps))[1])().tolist()


def test_masked_counts_of_the_cosine_schedule():
    assert left(256, 8)[:7] == [251, 236, 212, 181, 142, 97, 49] and left(256, 8)[7] == 1
    revealed = [-b for b in np.diff([256, *left(256, 12)])]
    assert revealed == [3, 6, 11, 15, 18, 22, 26, 28, 30, 31, 33, 32]
    assert masked.counts(256, 8).tolist() == [5, 15, 24, 31, 39, 45, 48, 49]
    assert masked.counts(3, 5).sum() == 3 and masked.counts(4, 1).tolist() == [4]


@pytest.mark.parametrize(
    "name, expected",
    [("cosine", np.cos(np.pi / 8)), ("uniform", 0.75), ("pow2", 15 / 16), ("log", 2 / 6), ("exp", 1 - 2**-4.5)],
)
def test_schedules_at_a_quarter_of_64_positions(name, expected):
    np.testing.assert_allclose(masked.masked_share(0.25, 64, name), expected, rtol=1e-6)
    assert float(masked.masked_share(1.0, 64, name)) == pytest.approx(1e-6)


L, V, MASK = 12, 6, 6
TRUTH = jnp.arange(L) % V


def predict(ids, done):
    """Sure of position i by its number; a masked neighbour to the right does not matter."""
    return jax.nn.one_hot(jnp.broadcast_to(TRUTH, ids.shape), V + 1) * (1.0 + jnp.arange(L))[:, None] + 20.0 * (
        jnp.arange(V + 1) == MASK
    )  # the mask id is the most probable of all, and must not come out


def decode(ids, keys, **options):
    return jax.jit(lambda ids, keys: masked.maskgit(predict, ids, keys, mask_id=MASK, **options))(ids, keys)


def test_maskgit_fills_everything_keeps_what_is_known_and_uses_a_call_per_step():
    seen = []

    def watched(ids, done):
        jax.debug.callback(lambda ids, done: seen.append((float(done), (np.asarray(ids) == MASK).sum(1))), ids, done)
        return predict(ids, done)

    keys = jax.random.split(jax.random.key(0), 2)
    ids = jnp.full((2, L), MASK).at[1, 3:7].set(5)
    options = dict(steps=4, mask_id=MASK, temperature=0.0, choice_temperature=0.0)
    out = jax.jit(lambda ids, keys: masked.maskgit(watched, ids, keys, **options))(ids, keys)
    jax.effects_barrier()
    assert out[0].tolist() == TRUTH.tolist()
    assert out[1].tolist() == jnp.where(ids[1] == MASK, TRUTH, ids[1]).tolist()
    assert [s[0] for s in seen] == [0.0, 0.25, 0.5, 0.75]
    # floor(12 cos) and floor(8 cos) at 1/4, 1/2, 3/4
    assert [s[1].tolist() for s in seen] == [[12, 8], [11, 7], [8, 5], [4, 3]]


def test_the_least_confident_positions_wait_and_draws_do_not_depend_on_neighbours():
    order = []

    def watched(ids, done):
        jax.debug.callback(lambda ids: order.append(np.flatnonzero(np.asarray(ids[0]) == MASK)), ids)
        return predict(ids, done)

    keys = jax.random.split(jax.random.key(3), 3)
    ids = jnp.full((3, L), MASK)
    masked.maskgit(watched, ids[:1], keys[:1], steps=3, mask_id=MASK, temperature=0.0, choice_temperature=0.0)
    jax.effects_barrier()
    assert order[1].tolist() == list(range(10)) and order[2].tolist() == list(
        range(5)
    )  # 12 cos(pi/3) is 5.99.. in float32
    out = decode(ids, keys, steps=3)
    assert np.array_equal(decode(ids[1:2], keys[1:2], steps=3)[0], out[1]) and int((out == MASK).sum()) == 0


def test_by_order_visits_every_position_once_in_the_given_order():
    order = jnp.array([[3, 1, 0, 2, 4], [0, 1, 2, 3, 4]])
    keys = jax.random.split(jax.random.key(0), 2)

    def sample(values, masked, chosen, share, keys):  # a position gets the number that were decided with it or before
        decided = values.shape[1] - masked.sum(1) + chosen.sum(1)
        return jnp.broadcast_to(decided[:, None, None].astype(jnp.float32), values.shape) + 0.001 * share

    values = jnp.full((2, 5, 1), -1.0)
    out = masked.by_order(sample, values, keys, steps=3, schedule="uniform", order=order)
    assert masked.counts(5, 3, "uniform").tolist() == [2, 2, 1]
    assert np.round(out[0, :, 0]).tolist() == [4, 2, 4, 2, 5] and np.round(out[1, :, 0]).tolist() == [2, 2, 4, 4, 5]
    np.testing.assert_allclose(out[0, :, 0] % 1, np.array([0.8, 0.4, 0.8, 0.4, 1.0]) / 1000, atol=1e-6)
    found = masked.random_order(keys, 50)
    assert np.array_equal(np.sort(found, 1), np.tile(np.arange(50), (2, 1))) and not np.array_equal(*found)


def test_settings_that_make_no_sense_are_refused():
    ids, keys = jnp.zeros((1, L), jnp.int32), jax.random.split(jax.random.key(0), 1)
    for options, words in (
        (dict(steps=0), "steps must be at least 1, found 0"),
        (dict(steps=2, start=2), r"start must lie in \[0, 2\), found 2"),
        (dict(steps=2, schedule="sine"), "schedule must be one of cosine.*found 'sine'"),
        (dict(steps=2, choice_temperature=-1.0), "choice_temperature"),
    ):
        with pytest.raises(ValueError, match=words):
            masked.maskgit(predict, ids, keys, mask_id=MASK, **options)


def annealed(steps, *, length=40, top_share=0.1, rows=2):
    """What TaDiCodec's sampler does to ids [rows, length] of 30 codes, step by step."""
    seen = []
    table = jax.random.normal(jax.random.key(1), (length, 30))

    def watched(ids, done):
        jax.debug.callback(lambda ids: seen.append(np.asarray(ids)), ids)
        return jnp.broadcast_to(table, (rows, length, 30)) + 0.1 * done

    propose = masked.annealed(steps, top_share=top_share)

    @jax.jit
    def run(ids, keys):
        return masked.fill(watched, ids, keys, steps=steps, mask_id=30, propose=propose, left=masked.sine(steps))

    out = run(jnp.full((rows, length), 30), jax.random.split(jax.random.key(0), rows))
    jax.effects_barrier()
    return np.asarray(out), seen, np.asarray(table)


def test_the_annealed_sampler_masks_as_many_as_the_sine_says_and_never_changes_what_it_accepted():
    out, seen, table = annealed(25)
    expected = [math.floor(math.sin(math.pi / 2 * (1 - k / 25)) * 40 + 1e-9) for k in range(25)]
    assert [(ids == 30).sum(1).tolist() for ids in seen] == [[count] * 2 for count in expected]
    assert expected[:3] == [40, 39, 39] and expected[-1] == 2
    for before, after in itertools.pairwise([*seen, out]):
        known = before != 30
        np.testing.assert_array_equal(after[known], before[known])
    allowed = np.argsort(-table, axis=1)[:, :3]  # the most probable tenth
    assert (out[..., None] == allowed).any(-1).all() and (out != allowed[:, 0]).any() and (out[0] != out[1]).any()


def test_an_only_step_is_one_draw_at_a_fifth_of_the_temperature():
    out, seen, table = annealed(1, rows=3)
    keys = sampling.fold_in(jax.random.split(jax.random.key(0), 3), 0)
    kept = sampling.keep_top_k(jnp.broadcast_to(table, (3, 40, 30)), 3)
    np.testing.assert_array_equal(out, sampling.draw(kept / 0.2, sampling.fold_in(keys, 0)))
    assert len(seen) == 1


def test_the_last_of_several_steps_takes_the_most_probable_ids():
    logits, keys = jax.random.normal(jax.random.key(2), (1, 50, 20)), jax.random.split(jax.random.key(0), 1)
    ids, score = jax.jit(masked.annealed(4, top_share=0.5))(logits, keys, 3)
    np.testing.assert_array_equal(ids, logits.argmax(-1))
    sure = jax.nn.softmax(sampling.keep_top_k(logits, 10)).max(-1)
    np.testing.assert_allclose(score, sure + 0.25 * sampling.gumbel(sampling.fold_in(keys, 1), 50), rtol=1e-5)
    with pytest.raises(ValueError, match=r"top_share in \(0, 1\], found 0.9, 1.0 and 0"):
        masked.annealed(4, top_share=0)
