import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import embed, rope
from jaxtok.nn.dit import SIZES, DiT
from jaxtok.nn.llama import stack_blocks

KEY = jax.random.key(0)


def _count(module, channels, label=True):
    x, t = jnp.zeros((1, 32, 32, channels)), jnp.zeros(1)
    shapes = jax.eval_shape(lambda: module.init(KEY, x, t, jnp.zeros(1, int) if label else None))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("size", "millions"), [("S", 32.865), ("B", 130.316), ("L", 457.841), ("XL", 674.835)])
def test_published_sizes_of_dit(size, millions):
    count = _count(DiT(**SIZES[size], patch=2, out_channels=8, classes=1000), 4)
    assert abs(count / 1e6 - millions) < 6e-4


def test_published_size_of_lightningdit():
    module = DiT(**SIZES["XL"], patch=1, classes=1000, rms=True, swiglu=True, rope=True)
    x = jnp.zeros((1, 16, 16, 32))
    shapes = jax.eval_shape(lambda: module.init(KEY, x, jnp.zeros(1), jnp.zeros(1, int)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 - 674.96) < 6e-3


def test_table_of_positions():
    found = embed.grid_table(2, 2, 8)[1]  # row 0, column 1
    np.testing.assert_allclose(found, [0.84147, 0.01, 0.5403, 0.99995, 0, 0, 1, 1], atol=1e-5)


def test_axial_rotation_depends_on_differences_of_rows_and_columns():
    query, key = jax.random.normal(KEY, (2, 8))
    cos, sin = rope.axial_angles(4, 5, 8)

    def at(x, place):
        return rope.rotate_pairs(x[None, None, None], cos[:, place, None], sin[:, place, None])[0, 0, 0]

    def product(a, b):
        return at(query, [a]) @ at(key, [b])

    np.testing.assert_allclose(product(0, 6), product(7, 13), rtol=1e-5)  # one row down and one column right
    assert abs(product(0, 1) - product(0, 5)) > 1e-3  # a column is no row
    one = jnp.zeros(8).at[0].set(1.0)
    np.testing.assert_allclose(at(one, [5])[:2], [np.cos(1), np.sin(1)], rtol=1e-6)  # the first channels turn by row


TINY = dict(depth=2, width=16, heads=2, classes=3)
LIGHTNING = dict(rms=True, swiglu=True, rope=True, qk_norm=True)


@pytest.mark.parametrize("fields", [{}, LIGHTNING])
def test_output_is_zero_at_first_and_conditions_matter_later(fields):
    module, x = DiT(**TINY, **fields), jax.random.normal(KEY, (2, 4, 8, 3))
    t, label = jnp.array([0.1, 0.9]), jnp.array([0, 3])
    variables = module.init(KEY, x, t, label)
    out = module.apply(variables, x, t, label)
    assert out.shape == x.shape and (out == 0).all()
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(KEY, len(leaves))
    variables = tree.unflatten([leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])
    out = module.apply(variables, x, t, label)
    assert jnp.abs(module.apply(variables, x, t, jnp.array([1, 3])) - out)[0].max() > 1e-4
    assert jnp.abs(module.apply(variables, x, jnp.array([0.1, 0.5]), label) - out)[1].max() > 1e-4
    alone = module.apply(variables, x[1:], t[1:], label[1:])
    np.testing.assert_allclose(alone[0], out[1], atol=1e-5)
    # Unrolled blocks compute the same.
    unrolled = module.clone(scan=False, parent=None)
    flat = unrolled.init(KEY, x, t, label)["params"]
    stacked = stack_blocks(flat)
    for name in ("last_linear", "last_modulation"):
        flat[name] = stacked[name] = variables["params"][name]
    np.testing.assert_allclose(
        unrolled.apply({"params": flat}, x, t, label), module.apply({"params": stacked}, x, t, label), atol=1e-6
    )


def test_tokens_are_patches_row_by_row():
    """With all else at zero, the last layer's bias is tiled: its layout is (row in patch, column in patch, channel)."""
    module, x = DiT(**{**TINY, "classes": 0}, patch=2), jnp.zeros((1, 4, 4, 3))
    variables = module.init(KEY, x, jnp.zeros(1))
    variables["params"]["last_linear"]["bias"] = jnp.arange(12.0)
    out = module.apply(variables, x, jnp.zeros(1))
    np.testing.assert_array_equal(out[0, 2:, :2].reshape(-1), np.arange(12))


@pytest.mark.parametrize(
    ("fields", "shape", "label", "message"),
    [
        ({}, (1, 4, 5, 3), jnp.zeros(1, int), "patch 2 must divide the grid"),
        ({}, (1, 4, 4, 3), None, "3 classes and no label do not agree"),
        ({"classes": 0}, (1, 4, 4, 3), jnp.zeros(1, int), "0 classes and a label"),
        ({"remat": "some"}, (1, 4, 4, 3), jnp.zeros(1, int), "remat must be '' or one of"),
        ({"heads": 3}, (1, 4, 4, 3), jnp.zeros(1, int), "heads must divide the width, found 3 and 16"),
    ],
)
def test_bad_input(fields, shape, label, message):
    with pytest.raises(ValueError, match=message):
        DiT(**{**TINY, **fields}).init(KEY, jnp.zeros(shape), jnp.zeros(1), label)
