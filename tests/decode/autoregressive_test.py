"""The loop over tokens on a network that can be counted by hand: the next id is (3 id + position) mod 11."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.decode import autoregressive, sampling

V = 11
GREEDY = functools.partial(sampling.choose, temperature=0.0)


def step(ids, position, carry):
    """The carry counts rows' calls; logits of a sharp but not certain distribution."""
    return 4.0 * jax.nn.one_hot((3 * ids + position) % V, V), carry + 1


def by_hand(first, length):
    ids = [first]
    for position in range(length - 1):
        ids.append((3 * ids[-1] + position) % V)
    return ids


@functools.cache
def compiled(length, stop=None, choose=GREEDY):
    @jax.jit
    def run(logits, keys, forced):
        return autoregressive.generate(
            step, jnp.zeros((), jnp.int32), logits, keys, length=length, choose=choose, forced=forced, stop=stop
        )

    return run


def inputs(rows):
    return jax.nn.one_hot(jnp.asarray(rows), V), jax.random.split(jax.random.key(0), len(rows))


def free(rows, length):
    return jnp.full((rows, length), -1, jnp.int32)


def test_greedy_ids_forced_tokens_and_the_number_of_calls():
    logits, keys = inputs([2, 5])
    ids, calls = compiled(8)(logits, keys, free(2, 8))
    assert ids.tolist() == [by_hand(2, 8), by_hand(5, 8)] and calls == 7
    forced = free(2, 8).at[1, :3].set(jnp.array([7, 0, 9]))
    ids, _ = compiled(8)(logits, keys, forced)
    assert ids[0].tolist() == by_hand(2, 8) and ids[1, :4].tolist() == [7, 0, 9, (3 * 9 + 2) % V]


def test_a_row_that_stopped_holds_nothing_else_and_the_loop_ends_with_the_last():
    logits, keys = inputs([2, 7])
    first, second = by_hand(2, 8), by_hand(7, 8)
    stop = next(i for i in first[2:] if i not in second)
    end = first.index(stop)
    ids, calls = compiled(8, stop)(logits, keys, free(2, 8))
    assert ids.tolist() == [first[: end + 1] + [stop] * (7 - end), second] and calls == 7
    ids, calls = compiled(8, stop)(logits[:1], keys[:1], free(1, 8))
    assert ids[0].tolist() == first[: end + 1] + [stop] * (7 - end) and calls == end < 7
    forced = free(1, 8).at[0, 0].set(stop)  # a forced one is no end
    ids, _ = compiled(8, stop)(logits[:1], keys[:1], forced)
    assert ids[0, 1] == 3 * stop % V != stop


def test_draws_depend_on_the_row_and_the_position_alone():
    logits, keys = inputs([2, 5, 1])
    ids, _ = compiled(8, None, sampling.choose)(logits, keys, free(3, 8))
    alone, _ = compiled(8, None, sampling.choose)(logits[1:2], keys[1:2], free(1, 8))
    assert np.array_equal(alone[0], ids[1]) and ids[1].tolist() != by_hand(5, 8)


def test_guidance_doubles_the_batch_and_follows_its_schedule():
    def both(ids, position, carry):  # the second half is the network without its condition
        half = len(ids) // 2
        assert len(ids) == 4
        return jnp.stack([ids + 1.0, 2.0 * ids, jnp.zeros(4) + position], 1) * jnp.repeat(jnp.array([1, 3]), half)[
            :, None
        ], carry

    scale = lambda position: jnp.where(position == 4, 2.0, 0.5)  # noqa: E731
    ids = jnp.array([1, 2])
    c = np.array([[2.0, 2.0, 3.0], [3.0, 4.0, 3.0]])
    logits, _ = autoregressive.guided(both, scale)(ids, jnp.int32(3), None)  # logits of the token at 4
    np.testing.assert_allclose(logits, 3 * c + 2.0 * (c - 3 * c))
    np.testing.assert_allclose(autoregressive.guide(jnp.array([[1.0], [4.0]]), scale), [[4.0 + 0.5 * (1.0 - 4.0)]])
    with pytest.raises(ValueError, match="found 3 rows"):
        autoregressive.guide(jnp.zeros((3, 2)), 2.0)


def test_lengths_and_shapes_that_do_not_fit_are_refused():
    logits, keys = inputs([1])
    with pytest.raises(ValueError, match="length must be at least 1, found 0"):
        compiled(0)(logits, keys, None)
    with pytest.raises(ValueError, match=r"forced must have shape \(1, 8\), found \(1, 7\)"):
        compiled(8)(logits, keys, free(1, 7))
