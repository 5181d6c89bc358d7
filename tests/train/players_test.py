"""Players: who owns what, and when they move."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy_game

from jaxtok.train import players as playing

PARAMS = {"encoder": {"kernel": jnp.ones(2)}, "decoder": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}}


def built(**patterns):
    return playing.from_config({name: toy_game.player(pattern) for name, pattern in patterns.items()})


def test_each_parameter_has_one_player():
    one, two = playing.assign(built(one="encoder/.*", two="decoder/.*"), PARAMS)
    assert one.paths == ("encoder/kernel",) and two.paths == ("decoder/bias", "decoder/kernel")
    assert set(two.take(PARAMS)) == {"decoder"}
    (one,) = playing.assign(built(one="decoder/.*"), PARAMS, frozen=("encoder/.*",))
    assert len(one.paths) == 2


@pytest.mark.parametrize(
    ("patterns", "frozen", "message"),
    [
        (dict(one="encoder/.*"), (), r"'decoder/bias' belongs to no player and is not in train.frozen"),
        (dict(one=".*", two="decoder/.*"), (), r"'decoder/bias' belongs to one and two"),
        (dict(one=".*"), ("encoder/.*",), r"'encoder/kernel' belongs to one and frozen"),
        (dict(one=".*", two="critic/.*"), (), r"'train.players.two.pattern': 'critic/.*' matches no parameter"),
    ],
)
def test_gaps_and_overlaps_are_named(patterns, frozen, message):
    with pytest.raises(ValueError, match=message):
        playing.assign(built(**patterns), PARAMS, frozen)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(period=0), "expected start >= 0, period >= 1"),
        (dict(start=5, stop=5), "stop 0 or above start"),
        (dict(clip=-1.0), "clip' must be a norm"),
        (dict(begin=3), r"'train.players.main.begin' does not exist"),
        (dict(optimizer=dict(target="jaxtok.train.optimizers:adamw")), "optimizer' must be a dict"),
        (dict(pattern="("), "is no regular expression"),
    ],
)
def test_bad_players_are_one_sentence(fields, message):
    with pytest.raises(ValueError, match=message):
        playing.from_config({"main": toy_game.player(".*") | fields})


def test_the_schedule_advances_with_the_moves():
    schedule = dict(target="jaxtok.train.schedules:constant", value=1.0, warmup=10)
    spec = dict(optimizer=dict(target="jaxtok.train.optimizers:sgd", schedule=schedule), start=3, stop=12, period=4)
    (player,) = playing.from_config({"main": spec})
    steps = range(15)
    active = [bool(player.active(jnp.int32(step))) for step in steps]
    assert [step for step in steps if active[step]] == [3, 7, 11]
    moves = [int(player.moves(jnp.int32(step))) for step in steps]
    assert moves == [sum(active[:step]) for step in steps]
    np.testing.assert_allclose(float(player.rate(jnp.int32(7))), 0.1, rtol=1e-6)
