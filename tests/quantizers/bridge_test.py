import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtok.quantizers import FVQ, VQ, VQBridge, export

SIZE, WIDTH, PATCH = 64, 6, 4
SIDE = 8
Q = FVQ(size=SIZE, width=WIDTH, patch=PATCH, hidden=16, heads=2)
KEY = jax.random.key(0)


def _random(variables, seed=3):
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [leaf + 0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])


def _z():
    return jax.random.normal(KEY, (50, WIDTH))


def test_sizes_of_the_paper():
    def count(patch):
        shapes = jax.eval_shape(lambda: VQBridge(patch=patch).init(KEY, jnp.zeros((16384, 256))))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(4) == 3_153_664  # L/4: 3.15 M
    assert count(8) == 9_457_408  # L/8: 9.46 M


def test_all_codes_begin_at_zero_and_one_step_frees_the_first_cell_of_each_patch():
    z = _z()
    y, variables = Q.init_with_output(KEY, z)
    assert (y.latents == 0).all() and (y.codes == 0).all()
    gradient = jax.grad(lambda params: Q.apply({"params": params}, z).loss)(variables["params"])
    kernel, bias = gradient["bridge"]["expand"]["kernel"], gradient["bridge"]["expand"]["bias"]
    assert (kernel[:, :WIDTH] != 0).all() and (bias[:WIDTH] != 0).all()
    assert (kernel[:, WIDTH:] == 0).all() and (bias[WIDTH:] == 0).all()
    assert (gradient["embedding"] == 0).all() and (gradient["bridge"]["compress"]["kernel"] == 0).all()
    optimizer = optax.adam(1e-2)
    updates, _ = optimizer.update(gradient, optimizer.init(variables["params"]))
    after = Q.apply({"params": optax.apply_updates(variables["params"], updates)}, method="codebook")
    left = np.flatnonzero(np.asarray(after != 0).any(-1))
    assert left.tolist() == [r * PATCH * SIDE + c * PATCH for r in range(2) for c in range(2)]


def test_patches_have_no_position_and_their_codes_do():
    variables = _random(Q.init(KEY, _z()))
    table = variables["params"]["embedding"]
    run = lambda table: VQBridge(PATCH, 16, heads=2).apply({"params": variables["params"]["bridge"]}, table)  # noqa: E731
    grid = np.arange(SIZE).reshape(SIDE, SIDE)
    patches = np.concatenate([grid[PATCH:], grid[:PATCH]]).reshape(-1)  # whole rows of patches change places
    inside = grid[:, [1, 0, 2, 3, 5, 4, 6, 7]].reshape(-1)
    np.testing.assert_allclose(run(table[patches]), run(table)[patches], atol=1e-5)
    assert np.abs(run(table[inside]) - run(table)[inside]).max() > 0.01


def test_codes_that_are_not_chosen_have_gradients_too():
    z, variables = _z(), _random(Q.init(KEY, _z()))
    y = Q.apply(variables, z)
    unused = np.setdiff1d(np.arange(SIZE), y.codes)
    assert 0 < len(unused) < SIZE
    gradient = jax.grad(lambda params: Q.apply({"params": params}, z).loss)(variables["params"])["embedding"]
    assert (np.abs(gradient[unused]).sum(-1) > 0).all()
    plain = VQ(size=SIZE, width=WIDTH)
    gradient = jax.grad(lambda book: plain.apply({"params": {"embedding": book}}, z).loss)(
        Q.apply(variables, method="codebook")
    )
    assert (gradient[unused] == 0).all()


def test_the_exported_table_gives_the_same_tokens_and_vectors_bit_for_bit():
    z, variables = _z(), _random(Q.init(KEY, _z()))
    plain, exported = export(Q, variables)
    y, other = Q.apply(variables, z), plain.apply(exported, z)
    assert type(plain) is VQ
    np.testing.assert_array_equal(y.codes, other.codes)
    np.testing.assert_array_equal(y.latents, other.latents)
    codes = jnp.arange(SIZE)[:, None]
    np.testing.assert_array_equal(
        Q.apply(variables, codes, method="decode"), plain.apply(exported, codes, method="decode")
    )
    assert (Q.apply(variables, codes, method="decode") != variables["params"]["embedding"]).any()
