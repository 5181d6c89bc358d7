import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtok.nn import moe

SCORES = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.3, 0.5], [0.9, 0.05, 0.05]], np.float32)

run = jax.jit(lambda route, *arguments: route(*arguments), static_argnums=(0, 4, 5))


def test_token_choice_seats_first_choices_first_and_drops_the_late():
    real = np.array([1, 1, 1, 1, 0], bool)
    tokens, weights, chosen = (np.asarray(a) for a in run(moe.token_choice, SCORES, SCORES, real, 2, 2))
    # First choices: 0, 1, 2 -> expert 0 (full after 1), 3 -> expert 2. Second: 0, 1 -> 1, 2 -> 2, 3 -> 1 (full).
    assert tokens.tolist() == [[0, 1], [0, 1], [3, 2]]
    np.testing.assert_allclose(weights, [[0.7, 0.6], [0.2, 0.3], [0.5, 0.4]])
    assert chosen.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]]


def test_expert_choice_fills_each_expert_with_real_tokens():
    real = np.array([1, 1, 1, 1, 0], bool)
    tokens, weights, chosen = (np.asarray(a) for a in run(moe.expert_choice, SCORES, 2 * SCORES, real, 1, 2))
    assert tokens.tolist() == [[0, 1], [1, 3], [3, 2]]
    np.testing.assert_allclose(weights, [[1.4, 1.2], [0.6, 0.6], [1.0, 0.8]])
    assert chosen.sum(0).tolist() == [2, 2, 2] and chosen[4].sum() == 0
    _, weights, _ = run(moe.expert_choice, SCORES, SCORES, real, 1, 5)
    assert (np.asarray(weights) > 0).sum(1).tolist() == [4, 4, 4]  # padding has a place there, and no weight


def test_balancing_loss_is_one_when_even_and_the_number_of_experts_when_not():
    real = np.ones(4, bool)
    loss, eye = jax.jit(moe.balancing_loss), np.eye(4, dtype=np.float32)
    np.testing.assert_allclose(loss(np.full_like(eye, 0.25), eye, real), 1.0)
    one = eye[[0, 0, 0, 0]]
    np.testing.assert_allclose(loss(one, one, real), 4.0)
    pad = np.array([1, 1, 0, 0], bool)
    np.testing.assert_allclose(loss(eye, eye * pad[:, None], pad), 2.0)


@pytest.mark.parametrize("route", [moe.token_choice, moe.expert_choice])
def test_layer_is_the_sum_of_experts_and_example_by_example(route, filled):
    """With room for all, every token's output is sum_e gate_e MLP_e(x) over its experts; also on 8 devices."""
    layer = moe.MoE(experts=4, hidden=5, top_k=2, room=2.0, route=route, normalize=True, activation=jnp.tanh)
    rng = np.random.default_rng(1)
    x, mask = rng.standard_normal((8, 6, 3), dtype=np.float32), np.ones((8, 6), bool)
    mask[1, 4:] = False
    variables = filled(layer, x, deviation=1.0)
    mesh = Mesh(jax.devices(), ("data",))
    spread = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in (x, mask)]
    out, numbers = jax.jit(lambda x, mask: layer.apply(variables, x, mask=mask))(*spread)
    p = variables["params"]
    logits = x @ p["router"]["kernel"]
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    best = np.sort(scores, -1)[..., :1:-1]
    gates = scores / best.sum(-1, keepdims=True)
    chosen = scores >= best[..., 1:] if route is moe.token_choice else np.ones_like(scores, bool)
    hidden = np.tanh(np.einsum("btd,edf->btef", x, p["hidden_kernel"]) + p["hidden_bias"])
    each = np.einsum("btef,efd->bted", hidden, p["out_kernel"]) + p["out_bias"]
    chosen = chosen & mask[..., None]
    expected = (each * (gates * chosen)[..., None]).sum(2)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    share = chosen.sum((0, 1)) / chosen.sum()
    np.testing.assert_allclose(numbers["load"], share, atol=1e-6)
    np.testing.assert_allclose(numbers["dropped"], 0.0, atol=1e-6)
    mean = (scores * mask[..., None]).sum((0, 1)) / mask.sum()
    np.testing.assert_allclose(numbers["loss"], 4 * (share * mean).sum(), rtol=1e-5)


def test_capacity_and_bad_fields(filled):
    layer = moe.MoE(experts=12, hidden=4, room=1.0)
    assert layer.capacity(256) == 21 and layer.capacity(4) == 1 and layer.clone(room=99.0).capacity(8) == 8
    with pytest.raises(ValueError, match="top_k: expected 1 to 2 experts, found 3"):
        filled(moe.MoE(experts=2, hidden=4, top_k=3), jnp.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"expected \[batch, tokens, width\]"):
        filled(layer, jnp.zeros((2, 3)))
