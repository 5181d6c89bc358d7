import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import ddt, embed, rope, windows
from jaxtok.nn.dit import SIZES, DiT, DiTBlock, InContextDiT, adaln
from jaxtok.nn.embed import TimeEmbedding
from jaxtok.nn.linear import Dense
from jaxtok.nn.stack import recorded
from jaxtok.nn.text_dit import CaptionDiT, TextDiT, TextEncoder

KEY = jax.random.key(0)


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def grid(side, channels):
    return jnp.zeros((1, side, side, channels)), jnp.zeros(1), jnp.zeros(1, int)


def zero(params):
    return all((leaf == 0).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("size", "millions"), [("S", 32.865), ("B", 130.316), ("L", 457.841), ("XL", 674.835)])
def test_published_sizes_of_dit_and_sit(size, millions, count):
    """SiT is DiT's network: it leaves the second half of the outputs unused."""
    found = count(DiT(**SIZES[size], patch=2, out_channels=8, classes=1000), *grid(32, 4))
    assert abs(found / 1e6 - millions) < 6e-4


@pytest.mark.parametrize("size", ["S", "B", "L", "XL"])
def test_sizes_of_lightningdit(size, count):
    """Its parts by hand; of XL the published 674.96 M."""
    module = DiT(**SIZES[size], patch=1, classes=1000, rms=True, swiglu=True, rope=True)
    width, hidden = module.width, int(2 / 3 * 4 * module.width)
    block = 4 * width**2 + 4 * width + 3 * width * hidden + 2 * hidden + width + 2 * width + 6 * width**2 + 6 * width
    ends = 33 * width + (257 + width + 1) * width + 1001 * width + width + 32 * width + 32 + 2 * width**2 + 2 * width
    found = count(module, *grid(16, 32))
    assert found == module.depth * block + ends
    assert size != "XL" or abs(found / 1e6 - 674.96) < 6e-3


def test_published_size_of_pixart(count):
    x, t, _ = grid(64, 4)
    assert count(TextDiT(**SIZES["XL"], out_channels=8), x, t, jnp.zeros((1, 120, 4096))) == 610_856_096


def test_published_sizes_of_ddt_and_its_descendant(count):
    encoder = ddt.Encoder(depth=22, width=1152, heads=16, classes=1000)
    module = ddt.DDT(encoder, ddt.Head(depth=6, width=1152, heads=16))
    assert abs(count(module, *grid(32, 4)) / 1e6 - 675) < 0.5
    rae = dict(block=ddt.rae_block, extent=0.0, patch=1)
    time = functools.partial(TimeEmbedding, features=512)  # 256 random frequencies have as many features
    for depth, width, heads, millions in ((28, 1152, 16, 838.38), (12, 384, 6, 196.36)):
        encoder = ddt.Encoder(depth, width, heads, classes=1000, time=time, table=True, **rae)
        module = ddt.DDT(encoder, ddt.Head(2, 2048, 16, modulation=adaln, **rae))
        assert abs(count(module, *grid(16, 768)) / 1e6 - millions) < 6e-3


def test_tables_of_positions():
    found = embed.grid_table(2, 2, 8)[1]  # row 0, column 1
    expected = [0.84147, 0.01, 0.5403, 0.99995, 0, 0, 1, 1]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    cut = embed.grid_table(2, 3, 8, start=(1, 2)).reshape(2, 3, 8)
    np.testing.assert_array_equal(cut, embed.grid_table(5, 6, 8).reshape(5, 6, 8)[1:3, 2:5])
    np.testing.assert_array_equal(embed.grid_table(1, 5, 8, scale=2.0)[4], embed.grid_table(1, 3, 8)[2])
    np.testing.assert_allclose(embed.line_table(3, 4)[1], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)], atol=1e-7)


def test_axial_rotation_depends_on_differences_of_rows_and_columns():
    query, key = drawn(0, 2, 8)
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
def test_output_is_zero_at_first_and_conditions_matter_later(fields, filled, first):
    module, x = DiT(**TINY, **fields), drawn(1, 2, 4, 8, 3)
    t, label = np.array([0.1, 0.9], np.float32), np.array([0, 3])
    assert zero(first(module, "last_linear", x, t, label)) and zero(first(module, "blocks/modulation", x, t, label))
    variables = filled(module, x, t, label)
    run = jax.jit(lambda *arguments: module.apply(variables, *arguments, mutable=["intermediates"]))
    out, state = run(x, t, label)
    assert out.shape == x.shape and out.dtype == jnp.float32
    change = np.abs(run(x, t, np.array([1, 3]))[0] - np.asarray(out)).max((1, 2, 3))
    assert change[0] > 1e-3 and change[1] < 1e-5
    change = np.abs(run(x, np.array([0.1, 0.5], np.float32), label)[0] - np.asarray(out)).max((1, 2, 3))
    assert change[1] > 1e-3 and change[0] < 1e-5
    if not fields:
        return
    # Unrolled blocks compute and record the same.
    unrolled = module.clone(scan=False, parent=None)
    params = dict(variables["params"])
    blocks = params.pop("blocks")
    params |= {f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(2)}
    flat, flat_state = jax.jit(lambda p: unrolled.apply({"params": p}, x, t, label, mutable=["intermediates"]))(params)
    np.testing.assert_allclose(flat, out, atol=1e-5 * np.abs(out).max())
    for found, expected in zip(recorded(flat_state), recorded(state), strict=True):
        assert found.shape == (2, 8, 16)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ValueError, match="no block of 'heads' recorded 'tokens'"):
        recorded(state, "heads")


def test_block_is_its_equation_with_conditions_of_the_whole_or_of_each_token(filled):
    """Attention whose output is the mean of its values, and an MLP of width 1, by hand."""

    def mean(query, key, value, mask):
        return jnp.broadcast_to(value.mean(1, keepdims=True), value.shape)

    block = DiTBlock(heads=1, hidden=1, attention=mean)
    x, condition = drawn(1, 2, 3, 4), drawn(2, 2, 5)
    variables = filled(block, x, condition, deviation=0.5)
    run = jax.jit(lambda condition: block.apply(variables, x, condition))
    found, each = run(condition), run(np.repeat(condition[:, None], 3, axis=1))
    np.testing.assert_allclose(each, found, atol=1e-6)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x, condition = np.asarray(x, np.float64), np.asarray(condition, np.float64)

    def linear(y, name):
        return y @ name["kernel"] + name["bias"]

    def norm(y):
        return (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)

    vectors = linear(condition / (1 + np.exp(-condition)), p["modulation"])[:, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(vectors, 6, axis=-1)
    value = linear(norm(x) * (1 + scale1) + shift1, p["attention"]["qkv"])[..., 8:]
    x = x + gate1 * linear(value.mean(1, keepdims=True), p["attention"]["out"])
    h = linear(norm(x) * (1 + scale2) + shift2, p["mlp"]["hidden_linear"])
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(found, x + gate2 * linear(h, p["mlp"]["out_linear"]), atol=1e-5)


@pytest.mark.parametrize("make", [TextDiT, InContextDiT])
def test_real_tokens_of_the_context_matter_and_padding_does_not(make, filled, first):
    module, x, t = make(depth=1, width=16, heads=2), drawn(1, 2, 4, 4, 3), np.array([0.1, 0.9], np.float32)
    context, mask = drawn(2, 2, 3, 5), np.array([[1, 1, 0], [1, 0, 0]], bool)
    text = dict(text=context) if make is TextDiT else dict(context=context)
    assert zero(first(module, "last_linear", x, t, **text))
    variables = filled(module, x, t, **text)

    @jax.jit
    def run(context):
        if make is TextDiT:
            return module.apply(variables, x, t, context, text_mask=mask)
        return module.apply(variables, x, t, context=context, context_mask=mask)

    out = np.asarray(run(context))
    assert out.shape == x.shape
    hidden, seen = context.copy(), context.copy()
    hidden[:, 2], hidden[1, 1], seen[0, 1] = 9, 9, 9
    np.testing.assert_array_equal(run(hidden), out)
    changed = np.asarray(run(seen))
    assert np.abs(changed - out)[0].max() > 1e-3 and (changed[1] == out[1]).all()


@pytest.mark.parametrize("pooled", [False, True])
def test_words_reach_the_image_and_padding_does_not(pooled, filled):
    network, pool = TextDiT(depth=1, width=16, heads=2), Dense(16) if pooled else None
    module = CaptionDiT(TextEncoder(vocabulary=9, width=8, depth=1, heads=2), network, pool)
    x, t, mask = drawn(1, 2, 4, 4, 3), np.array([0.1, 0.9], np.float32), np.array([[1, 1, 0], [1, 1, 1]], bool)
    ids = np.array([[3, 4, 0], [5, 6, 7]])
    variables = filled(module, x, t, {"ids": ids, "mask": mask}, deviation=0.6)
    run = jax.jit(lambda ids, mask: module.apply(variables, x, t, {"ids": ids, "mask": mask}))
    out = run(ids, mask)
    tiny = 2e-6 * np.abs(out).max()
    np.testing.assert_allclose(run(np.array([[3, 4, 8], [5, 6, 7]]), mask), out, atol=tiny)
    for other in ([4, 3, 0], [3, 5, 0]):  # their order counts, too
        changed = run(np.array([other, [5, 6, 7]]), mask)
        assert np.abs(changed[0] - out[0]).max() > 1e-4
        np.testing.assert_allclose(changed[1], out[1], atol=tiny)
    longer = run(np.pad(ids, ((0, 0), (0, 2))), np.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_allclose(longer, out, atol=tiny)
    read = module.apply(variables, {"ids": ids, "mask": mask}, method="read")
    np.testing.assert_allclose(module.apply(variables, x, t, read), out, atol=tiny)


def test_head_of_ddt_knows_time_and_class_by_its_conditions_only(filled, first):
    encoder = ddt.Encoder(depth=1, width=16, heads=2, classes=3)
    module = ddt.DDT(encoder, ddt.Head(depth=1, width=24, heads=2))
    x, t, label = drawn(1, 2, 4, 8, 3), np.array([0.1, 0.9], np.float32), np.array([0, 3])
    assert zero(first(module, "head/last_linear", x, t, label))
    variables = filled(module, x, t, label)
    assert variables["params"]["head"]["condition_linear"]["kernel"].shape == (16, 24) and module.classes == 3

    @jax.jit
    def run(label):
        conditions = module.apply(variables, x, t, label, method="encode")
        return module.apply(variables, x, t, label), module.apply(variables, x, conditions, method="decode"), conditions

    out, decoded, conditions = run(label)
    assert conditions.shape == (2, 8, 16)
    np.testing.assert_allclose(decoded, out, atol=1e-5 * np.abs(out).max())
    assert np.abs(run(np.array([1, 3]))[0] - np.asarray(out))[0].max() > 1e-3
    with pytest.raises(ValueError, match=r"expected conditions \[2, 8, width\]"):
        jax.eval_shape(lambda: module.apply(variables, x, np.zeros((2, 4, 16)), method="decode"))
    cos, _ = ddt._angles(3, 2, 8, 16.0)  # rows at 0, 8, 16 and columns at 0, 16
    np.testing.assert_allclose(cos[0, 3, [0, 2]], np.cos([8.0, 16.0]), rtol=1e-5)


def test_tokens_are_patches_row_by_row():
    """The last layer's layout is (row in patch, column in patch, channel)."""
    x = np.arange(4 * 6 * 3.0).reshape(1, 4, 6, 3)
    tokens = windows.patchify(x, 2)
    assert tokens.shape == (1, 6, 12)
    np.testing.assert_array_equal(tokens[0, 4], x[0, 2:, 2:4].reshape(-1))
    np.testing.assert_array_equal(windows.unpatchify(tokens, 2, 4, 6), x)


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
        jax.eval_shape(DiT(**{**TINY, **fields}).init, KEY, jnp.zeros(shape), jnp.zeros(1), label)


def test_bad_text():
    with pytest.raises(ValueError, match=r"expected text \[1, tokens, width\], found shape \(1, 4\)"):
        TextDiT(1, 16, 2).init(KEY, jnp.zeros((1, 4, 4, 3)), jnp.zeros(1), jnp.zeros((1, 4)))
