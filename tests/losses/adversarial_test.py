import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses import adversarial
from jaxtok.losses.alignment import adaptive_weight


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


REAL = {"a": np.array([[2.0, 0.0], [-1.0, 0.5]], np.float32), "b": np.array([[0.0], [3.0]], np.float32)}
FAKE = {"a": np.array([[-2.0, 1.0], [0.0, 0.0]], np.float32), "b": np.array([[-0.5], [2.0]], np.float32)}


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        # Per discriminator the mean over its positions, then the mean of a and b.
        ("hinge", [(0.5 + 0.5) / 2, (0.0 - 2.0) / 2], [((0.5 + 1.0) + (1.0 + 0.5)) / 2, ((1.25 + 0.0) + (1 + 3)) / 2]),
        ("clipped_hinge", [(1.5 + 1.5) / 2, (1.0 + 0.0) / 2], [1.5, 2.625]),
        ("least_squares", [(4.5 + 2.25) / 2, (1 + 1) / 2], [(1 + 1 + 2.5 + 0.25) / 2, (2.125 + 4 + 0 + 4) / 2]),
    ],
)
def test_criteria_by_hand(name, generator, discriminator):
    np.testing.assert_allclose(adversarial.generator_loss(FAKE, name), generator, rtol=1e-6)
    np.testing.assert_allclose(adversarial.discriminator_loss(REAL, FAKE, name), discriminator, rtol=1e-6)


def test_non_saturating_is_the_negative_log_probability():
    probability = 1 / (1 + np.exp(-FAKE["a"]))
    found = adversarial.generator_loss([FAKE["a"]], "non_saturating")
    np.testing.assert_allclose(found, -np.log(probability).mean(1), rtol=1e-5)
    undecided = adversarial.discriminator_loss(np.zeros((1, 3)), np.zeros((1, 3)), "non_saturating")
    np.testing.assert_allclose(undecided, [2 * math.log(2)], rtol=1e-6)
    slope = jax.grad(lambda d: adversarial.generator_loss(d, "non_saturating").sum())(jnp.full((1, 1), -20.0))
    np.testing.assert_allclose(slope, -1.0, rtol=1e-5)  # a saturating loss has none here
    with pytest.raises(ValueError, match=r"criterion: expected one of hinge, .*, found 'wasserstein'"):
        adversarial.generator_loss(FAKE, "wasserstein")


def test_each_look_is_for_one_player():
    params, real, fake = ({"w": drawn(i, 3)} if i == 0 else drawn(i, 2, 3) for i in range(3))

    def judge(params, x):
        return jnp.tanh(x * params["w"])

    def total(which, params, real, fake):
        return adversarial.looks(judge, params, real, fake)[which].sum()

    looks = adversarial.looks(judge, params, real, fake)
    np.testing.assert_array_equal(looks.fake, looks.through)
    reached = []
    for which in range(3):
        gradients = jax.grad(total, argnums=(1, 2, 3))(which, params, real, fake)
        reached.append([bool(np.abs(jax.tree.leaves(g)[0]).max() > 0) for g in gradients])
    assert reached == [[True, False, False], [True, False, False], [False, False, True]]


def test_feature_matching_by_hand_and_its_gradient():
    real = [[np.full((2, 3, 1), 2.0, np.float32), (np.ones((2, 4)), -np.ones((2, 1)))], [np.zeros((2, 5))]]
    fake = [
        [np.full((2, 3, 1), 1.5, np.float32), (np.zeros((2, 4)), np.ones((2, 1)))],
        [np.array([[1.0] * 5, [3] * 5])],
    ]
    found = adversarial.feature_matching(real, fake)
    np.testing.assert_allclose(found, [(0.5 + 1 + 2 + 1) / 2, (0.5 + 1 + 2 + 3) / 2], rtol=1e-6)
    relative = adversarial.feature_matching(real[:1], fake[:1], relative=True)
    np.testing.assert_allclose(relative, [0.25 + 1 + 2] * 2, rtol=1e-6)
    slopes = jax.grad(lambda a, b: adversarial.feature_matching([[a]], [[b]]).sum(), argnums=(0, 1))(
        drawn(0, 2, 3), drawn(1, 2, 3)
    )
    assert not np.abs(slopes[0]).any() and np.abs(slopes[1]).min() > 0
    with pytest.raises(ValueError, match="fake: expected the layers of real"):
        adversarial.feature_matching(real, fake[:1])


def test_a_late_term_starts_at_its_step():
    assert [float(adversarial.started(jnp.asarray(step), 3)) for step in (0, 2, 3, 9)] == [0, 0, 1, 1]


def test_lecam_by_hand():
    averages = {"real": {"a": 1.0, "b": 0.0}, "fake": {"a": 0.5, "b": -1.0}}
    averages = jax.tree.map(jnp.float32, averages)
    # relu(real - a_fake)^2: a (1.5^2 + 0)/2, (0 + 0)/2; b 1, 16. relu(a_real - fake)^2: a (9 + 0)/2, 1; b 0.25, 0.
    expected = [(1.125 + 1) / 2 + (4.5 + 0.25) / 2, (0 + 16) / 2 + (1 + 0) / 2]
    np.testing.assert_allclose(adversarial.lecam(REAL, FAKE, averages), expected, rtol=1e-6)
    start = adversarial.lecam_init(REAL)
    after = adversarial.lecam_update(start, REAL, FAKE, decay=0.9)
    np.testing.assert_allclose(after["real"]["a"], 0.1 * 0.375, rtol=1e-5)
    np.testing.assert_allclose(after["fake"]["b"], 0.1 * 0.75, rtol=1e-5)
    slopes = jax.grad(lambda avg: adversarial.lecam(REAL, FAKE, avg).sum())(averages)
    assert not any(np.abs(leaf).any() for leaf in jax.tree.leaves(slopes))


def test_the_penalty_of_a_linear_discriminator_is_half_its_squared_weight():
    weight, x = drawn(0, 4, 3), drawn(1, 5, 4, 3)
    found = adversarial.gradient_penalty(lambda x: (x * weight).sum((1, 2), keepdims=True), x)
    np.testing.assert_allclose(found, [0.5 * np.square(weight).sum()] * 5, rtol=1e-5)
    quadratic = adversarial.gradient_penalty(lambda x: jnp.square(x).sum((1, 2)), x)
    np.testing.assert_allclose(quadratic, 0.5 * np.square(2 * x).sum((1, 2)), rtol=1e-5)


def balance(weights, state, y, **fields):
    def losses(y):
        return {"l1": jnp.abs(y).mean(), "far": 100 * jnp.square(y - 3).mean()}

    def scalar(y):
        result, values, after = adversarial.balanced(losses, y, weights, state, **fields)
        return result, (values, after)

    (result, (values, after)), gradient = jax.value_and_grad(scalar, has_aux=True)(y)
    return result, values, after, gradient


def test_balanced_gradients_have_the_shares_of_the_weights():
    weights, y = {"l1": 1.0, "far": 4.0}, drawn(0, 3, 5)
    result, values, after, gradient = balance(weights, adversarial.balance_init(weights), y, total=2.0)
    parts = {"l1": np.sign(y) / 15, "far": 200 * (y - 3) / 15}
    norms = {name: np.linalg.norm(g, axis=1).mean() for name, g in parts.items()}
    expected = sum(2.0 * weights[name] / 5 * g / norms[name] for name, g in parts.items())
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result, values["l1"] + 4 * values["far"], rtol=1e-6)
    # The averages: with decay d, norms n1 then n2 count as (d n1 + n2) / (d + 1).
    _, _, later, moved = balance(weights, after, 2 * y, decay=0.5)
    second = {"l1": norms["l1"], "far": np.linalg.norm(200 * (2 * y - 3) / 15, axis=1).mean()}
    average = {name: (0.5 * norms[name] + second[name]) / 1.5 for name in weights}
    for name in weights:
        np.testing.assert_allclose(later["norms"][name] / later["count"], average[name], rtol=1e-4)
    scaled = {"l1": np.sign(y) / 15, "far": 200 * (2 * y - 3) / 15}
    expected = sum(weights[name] / 5 * g / average[name] for name, g in scaled.items())
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-6)


def test_balanced_opposite_losses_cancel_and_names_must_agree():
    def losses(y):
        return {"up": jnp.abs(y - 1).mean(), "down": 100 * jnp.abs(y + 1).mean()}

    weights = {"up": 1.0, "down": 1.0}
    slope = jax.grad(lambda y: adversarial.balanced(losses, y, weights, adversarial.balance_init(weights))[0])
    np.testing.assert_allclose(slope(jnp.zeros((2, 1))), 0.0, atol=1e-6)
    with pytest.raises(ValueError, match=r"weights: expected positive ones of \['down', 'up'\], found {'up': 1.0}"):
        adversarial.balanced(losses, jnp.zeros((2, 1)), {"up": 1.0}, adversarial.balance_init({"up": 1.0}))


def test_the_adaptive_weight_of_a_gan_equalises_gradients_at_the_last_layer():
    last, hidden, target = drawn(0, 4, 2), drawn(1, 6, 4), drawn(2, 6, 2)

    def losses(kernel):
        y = hidden @ kernel
        return jnp.square(y - target).mean(), adversarial.generator_loss(1e-3 * y).mean()

    weight = adaptive_weight(losses, last, weight=0.8, limit=1e4)
    first, second = (np.linalg.norm(jax.grad(lambda k, i=i: losses(k)[i])(last)) for i in range(2))
    np.testing.assert_allclose(weight, 0.8 * first / (second + 1e-4), rtol=1e-4)
