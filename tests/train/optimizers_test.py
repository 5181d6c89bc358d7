"""Optimizers and schedules: values, masks, axes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtok.build import build
from jaxtok.train import optimizers, schedules
from jaxtok.train.optimizers import muon_dimensions
from jaxtok.train.state import unflatten


def test_schedules_have_their_closed_forms():
    rate = schedules.inverse_sqrt(7.5e-5, warmup=32_000)
    steps = np.array([0, 1, 16_000, 32_000, 128_000, 800_000])
    expected = 7.5e-5 * np.array([0, 1 / 32_000, 0.5, 1.0, 0.5, 0.2])
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-6)

    rate = schedules.cosine(2.0, steps=110, warmup=10, end=0.5)
    np.testing.assert_allclose([rate(s) for s in (0, 5, 10, 60, 110, 500)], [0, 1, 2, 1.25, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose([schedules.cosine(2.0, steps=10)(s) for s in (0, 5, 10)], [2, 1, 0], atol=1e-6)

    np.testing.assert_allclose([schedules.constant(0.3)(s) for s in (0, 9)], [0.3, 0.3])
    np.testing.assert_allclose([schedules.constant(0.3, warmup=10)(s) for s in (0, 5, 10, 99)], [0, 0.15, 0.3, 0.3])


def test_annealed_schedule_has_the_reference_s_factors():
    rate = schedules.annealed(2.0, steps=1111, warmup=100)  # 1,010 steps from the peak to the last
    steps = (0, 50, 100, 403, 1110, 5000)
    np.testing.assert_allclose([rate(s) / 2 for s in steps], [0.005, 0.5025, 1, 1, 0.01, 0.01], rtol=1e-6)
    np.testing.assert_allclose(rate((403 + 1110) / 2) / 2, (1 + 0.01) / 2, rtol=1e-6)
    assert float(rate(404)) < 2.0
    np.testing.assert_allclose([schedules.annealed(1.0, steps=2)(s) for s in (0, 1)], [1, 0.01], rtol=1e-6)
    with pytest.raises(ValueError, match="steps must exceed warmup \\+ 1 = 4, found steps=4"):
        schedules.annealed(1.0, steps=4, warmup=3)
    with pytest.raises(ValueError, match="held must be less than 1, found 1"):
        schedules.annealed(1.0, steps=4, held=1.0)


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="steps must exceed warmup=10, found steps=10"):
        schedules.cosine(1.0, steps=10, warmup=10)
    with pytest.raises(ValueError, match="warmup must be at least 1"):
        schedules.inverse_sqrt(1.0, warmup=0)
    with pytest.raises(ValueError, match="value must not be negative, found -1"):
        schedules.constant(-1.0)


def test_adamw_decays_kernels_alone():
    """With zero gradients an update is the decay: -rate * decay * parameter."""
    sizes = {"blocks/norm/scale": (4, 8), "blocks/up/kernel": (4, 8, 8), "bias": (8,)}
    params = unflatten({path: jnp.ones(shape) for path, shape in sizes.items()})
    spec = dict(target="jaxtok.train.optimizers:adamw", weight_decay=0.1)
    transform = build(spec, schedule=build(dict(target="jaxtok.train.schedules:constant", value=0.5)))
    updates, _ = transform.update(jax.tree.map(jnp.zeros_like, params), transform.init(params), params)
    assert float(jnp.abs(updates["blocks"]["norm"]["scale"]).max()) == float(jnp.abs(updates["bias"]).max()) == 0
    np.testing.assert_allclose(updates["blocks"]["up"]["kernel"], -0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "ndim", "axes"),
    [
        ("up/kernel", 2, ((0,), (1,))),
        ("blocks/up/kernel", 3, ((1,), (2,))),
        ("decoder/blocks/mlp/up/kernel", 3, ((1,), (2,))),
        ("attention/query/kernel", 3, ((0,), (1, 2))),
        ("attention/out/kernel", 3, ((0, 1), (2,))),
        ("blocks/attention/value/kernel", 4, ((1,), (2, 3))),
        ("blocks/attention/out/kernel", 4, ((1, 2), (3,))),
        ("attention/qkv/kernel", 4, ((0,), (1, 2, 3))),
        ("blocks/mlp/gate_up/kernel", 4, ((1,), (2, 3))),
        ("text_modulation/kernel", 3, ((0,), (1, 2))),
        ("conv/kernel", 4, ((0, 1, 2), (3,))),
        ("blocks/attention/query/kernel", 3, ((1,), (2,))),
        ("bias", 1, None),
        ("blocks/norm/scale", 2, None),
        ("blocks/norm/kernel", 2, None),
        ("embed/embedding", 2, None),
    ],
)
def test_muon_knows_inputs_outputs_and_layers(path, ndim, axes):
    found = muon_dimensions(path, ndim)
    assert (found and tuple(found)) == axes


def test_muon_orthogonalises_each_layer_of_a_stack_by_itself():
    """An update of a stacked kernel equals the updates of its layers; heads are columns of one matrix."""
    rng = np.random.default_rng(0)
    stack, heads = rng.normal(size=(3, 8, 4)), rng.normal(size=(8, 2, 3))
    stack[1] *= 100  # a layer's size must not matter to the others
    transform = optimizers.muon(schedules.constant(1.0), rms=0.0)

    def update(path, gradient):
        gradients = unflatten({path: jnp.asarray(gradient, jnp.float32)})
        params = jax.tree.map(jnp.zeros_like, gradients)
        moved, _ = transform.update(gradients, transform.init(params), params)
        return np.asarray(jax.tree.leaves(moved)[0])

    together = update("blocks/up/kernel", stack)
    for layer in range(3):
        np.testing.assert_allclose(together[layer], update("up/kernel", stack[layer]), atol=1e-5)
        values = np.linalg.svd(together[layer], compute_uv=False)
        assert values.max() / values.min() < 2  # nearly orthogonal, which an Adam update is not
    flat = update("up/kernel", heads.reshape(8, 6))
    np.testing.assert_allclose(update("query/kernel", heads).reshape(8, 6), flat, atol=1e-5)
    assert isinstance(transform, optax.GradientTransformation)
