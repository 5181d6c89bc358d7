import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.mmdit import MMDiT
from jaxtok.nn.unet import UNet


def zeros(*shape):
    return jnp.zeros(shape)


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_published_sizes(count):
    """The fixed tables of positions are no parameters: 192^2 and 384^2 rows of 1536 would make 2.085 and 2.470 G."""
    inputs = zeros(1, 64, 64, 16), zeros(1), zeros(1, 77, 4096), zeros(1, 2048)
    medium = MMDiT(24, 1536, 24, table=192)
    assert count(medium, *inputs) == 2_028_328_000
    assert count(medium.clone(dual=13, qk_norm=True, table=384), *inputs) == 2_243_171_520
    assert count(UNet(), zeros(1, 64, 64, 4), zeros(1), text=zeros(1, 77, 768)) == 859_520_964


def test_stacked_blocks_of_mmdit_and_hidden_text(filled, first):
    module = MMDiT(depth=4, width=16, heads=2, dual=1)
    x, t, text, pooled = drawn(1, 2, 4, 4, 3), np.array([0.1, 0.9], np.float32), drawn(2, 2, 3, 5), drawn(3, 2, 6)
    assert all((leaf == 0).all() for leaf in first(module, "last_linear", x, t, text, pooled).values())
    variables, mask = filled(module, x, t, text, pooled), np.array([[1, 1, 1], [1, 0, 0]], bool)
    assert jax.tree.leaves(variables["params"]["blocks"])[0].shape[0] == 2
    run = jax.jit(lambda text: module.apply(variables, x, t, text, pooled, text_mask=mask))
    out, changed = np.asarray(run(text)), text.copy()
    changed[:, 1:] = 3
    found = np.asarray(run(changed))
    np.testing.assert_array_equal(found[1], out[1])
    assert np.abs(found[0] - out[0]).max() > 1e-3


def test_pixel_unet_has_classes_and_no_text(first):
    module = UNet(channels=4, multipliers=(1, 2), blocks=1, attend=(False, True), heads=2, classes=3, groups=2)
    x, t, label = drawn(1, 2, 4, 4, 3), np.array([5.0, 900.0], np.float32), np.array([0, 3])
    assert all((leaf == 0).all() for leaf in first(module, "conv_out", x, t, label).values())
    out, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, t, label))
    params = variables["params"]
    assert out.shape == x.shape and params["label"]["embedding"].shape == (4, 16)
    assert "down1_0_attention" in params and "down0_0_attention" not in params
    assert not any("text" in name for name in params["middle_attention"])


def test_bad_input():
    key, x, t = jax.random.key(0), zeros(1, 4, 4, 3), zeros(1)
    with pytest.raises(ValueError, match="dual: expected 0 to 1 of 2 blocks, found 2"):
        jax.eval_shape(MMDiT(2, 16, 2, dual=2).init, key, x, t, zeros(1, 3, 5))
    with pytest.raises(ValueError, match="a grid of 2 x 2 tokens does not fit into a table of 1 x 1"):
        jax.eval_shape(MMDiT(2, 16, 2, table=1).init, key, x, t, zeros(1, 3, 5))
    with pytest.raises(ValueError, match="in multiples of 8, found shape"):
        jax.eval_shape(UNet().init, key, x, t)
    with pytest.raises(ValueError, match="attend: expected 1 entries"):
        jax.eval_shape(UNet(multipliers=(1,)).init, key, x, t)
    with pytest.raises(ValueError, match="UNet: 0 classes and a label do not agree"):
        jax.eval_shape(UNet(channels=8, multipliers=(1,), attend=(True,)).init, key, x, t, jnp.zeros(1, int))
