import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.vocos import ConvNeXtBlock, DepthwiseConv1D, Vocos

SMALL = dict(bands=6, width=8, hidden=12, depth=2, n_fft=20, hop=6)


def apply(module, variables, x, mask=None):
    return jax.jit(module.apply)(variables, x, mask=mask)


def init(module, x, seed=1):
    return jax.jit(module.init)(jax.random.key(seed), x)


def mel(batch=2, frames=11):
    return jax.random.normal(jax.random.key(0), (batch, frames, 6))


def test_parameter_count_of_the_published_size():
    shapes = jax.eval_shape(Vocos().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 128), jnp.float32))
    per_block = 7 * 1024 + 1024 + 2 * 1024 + 1024 * 4096 + 4096 + 4096 * 1024 + 1024 + 1024
    expected = 7 * 128 * 1024 + 1024 + 2 * 1024 + 30 * per_block + 2 * 1024 + 1024 * 1922 + 1922
    assert expected == 255_042_434
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_initial_values_are_the_references():
    params = init(Vocos(bands=64, width=64, hidden=256, depth=4, n_fft=64, hop=16), jnp.zeros((1, 2, 64)))["params"]
    assert abs(float(params["embed"]["kernel"].std()) - 0.02) < 1e-3
    assert abs(float(params["blocks_0"]["expand"]["kernel"].std()) - 0.02) < 1e-3
    np.testing.assert_array_equal(params["blocks_3"]["scale"], 0.25)
    assert not params["blocks_1"]["contract"]["bias"].any()
    assert 0.12 < float(jnp.abs(params["head"]["kernel"]).max()) <= 0.125  # 1/sqrt(64)
    assert 0.1 < float(jnp.abs(params["head"]["bias"]).max()) <= 0.125


def test_depthwise_is_a_grouped_convolution():
    x = jax.random.normal(jax.random.key(1), (2, 9, 5))
    kernel, bias = jax.random.normal(jax.random.key(2), (7, 5)), jnp.arange(5.0)
    found = DepthwiseConv1D().apply({"params": {"kernel": kernel, "bias": bias}}, x)
    expected = [[np.convolve(x[b, :, c], kernel[::-1, c], mode="same") + c for c in range(5)] for b in range(2)]
    np.testing.assert_allclose(found, np.asarray(expected).transpose(0, 2, 1), atol=1e-5)


def test_block_is_the_identity_at_scale_zero():
    x = mel()
    block = ConvNeXtBlock(hidden=12, scale=0.0)
    np.testing.assert_array_equal(apply(block, init(block, x), x), x)


def test_constant_head_gives_a_pulse_train():
    # Magnitude 1 and phase 0 in all bins is a unit pulse at the start of every frame, where the Hann window is zero;
    # with phase pi k, the pulse stands in the middle of the frame, under a window of one.
    module = Vocos(**SMALL)
    params = init(module, mel())["params"]
    bias = jnp.concatenate([jnp.zeros(11), jnp.pi * jnp.arange(11)])
    params |= {"head": {"kernel": jnp.zeros((8, 22)), "bias": bias}}
    audio = apply(module, {"params": params}, mel(1, 5))[0]
    window = np.sin(np.pi * np.arange(20) / 20) ** 2
    envelope = sum(window[10 + 6 * i] ** 2 for i in (-1, 0, 1))
    expected = np.zeros(30)
    expected[3::6] = 1 / envelope
    np.testing.assert_allclose(audio[6:-6], expected[6:-6], atol=1e-5)
    silent = params | {"head": {"kernel": jnp.zeros((8, 22)), "bias": jnp.full(22, -200.0)}}
    np.testing.assert_array_equal(apply(module, {"params": silent}, mel(1, 5)), 0)
    loud = params | {"head": {"kernel": jnp.zeros((8, 22)), "bias": bias.at[:11].set(1e4)}}
    np.testing.assert_allclose(apply(module, {"params": loud}, mel(1, 5))[0, 9], 100 / envelope, rtol=1e-4)


def test_a_row_is_the_same_alone_in_a_batch_and_padded():
    module = Vocos(**SMALL)
    variables = init(module, mel())
    variables = jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), variables)
    x = mel()
    batch = apply(module, variables, x)
    assert batch.shape == (2, 66) and batch.dtype == jnp.float32
    np.testing.assert_allclose(batch[1], apply(module, variables, x[1:])[0], atol=1e-5)
    mask = jnp.arange(11) < jnp.asarray([[11], [7]])
    padded = apply(module, variables, x, mask=mask)
    np.testing.assert_allclose(padded[0], batch[0], atol=1e-5)
    np.testing.assert_allclose(padded[1, :42], apply(module, variables, x[1:, :7])[0], atol=1e-5)
    np.testing.assert_array_equal(padded[1, 42:], 0)


def test_bfloat16_keeps_parameters_and_audio_in_float32():
    module = Vocos(**SMALL, dtype=jnp.bfloat16)
    variables = init(module, mel())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    audio = apply(module, variables, mel())
    assert audio.dtype == jnp.float32
    exact = apply(Vocos(**SMALL), variables, mel())
    assert float(jnp.abs(audio - exact).max()) < 0.05 * float(jnp.abs(exact).max())


def test_gradient_reaches_every_parameter():
    module = Vocos(**SMALL)
    variables = init(module, mel())
    gradient = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, mel()) - 1).sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("shape", [(11, 6), (1, 0, 6), (1, 11, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"mel: found shape .* expected \[batch, frames, 6\]"):
        Vocos(**SMALL).init(jax.random.key(0), jnp.zeros(shape))


def test_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"mask: found shape \(1, 10\), expected \(1, 11\)"):
        Vocos(**SMALL).init(jax.random.key(0), mel(1), mask=jnp.ones((1, 10), bool))
