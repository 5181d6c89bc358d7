"""Known values of every quantizer: worked by hand, or from closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok.quantizers as jq
from jaxtok.quantizers import entropy, estimators, nearest, usage

LN2 = np.log(2.0)
KEY = jax.random.key(0)


def _close(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


# ---- FSQ ----


@pytest.mark.parametrize(
    ("z", "index", "latents"),
    [
        ((0.0, 0.0, 0.0, 0.0), 500, (0.0, 0.0, 0.0, 0.0)),
        ((10.0, 10.0, 10.0, 10.0), 999, (0.75, 1.0, 1.0, 1.0)),
        ((-10.0, -10.0, -10.0, -10.0), 0, (-1.0, -1.0, -1.0, -1.0)),
        ((0.3, -0.7, 1.2, -2.0), 173, (0.25, -0.5, 1.0, -1.0)),
    ],
)
def test_fsq_of_1000_codes(z, index, latents):
    y = jq.FSQ(levels=(8, 5, 5, 5))(jnp.array([z]))
    assert y.codes.tolist() == [[index]] and y.latents.tolist() == [list(latents)]


def test_symmetric_fsq_has_even_levels_and_two_of_them_work():
    y = jq.FSQ(levels=(4,), symmetric=True)(jnp.array([[-10.0], [-0.5], [0.0], [0.2], [10.0]]))
    _close(y.latents[:, 0], [-1, -1 / 3, 1 / 3, 1 / 3, 1])
    assert y.codes[:, 0].tolist() == [0, 1, 2, 2, 3]
    y = jq.FSQ(levels=(2, 2), symmetric=True)(jnp.array([[-0.1, 0.1], [0.1, -0.1]]))
    assert y.latents.tolist() == [[-1, 1], [1, -1]] and y.codes.tolist() == [[2], [1]]


def test_fsq_keeps_its_levels_whatever_their_number():
    for levels in ((1002,), (1003, 3), (2048, 5)):
        q = jq.FSQ(levels=levels)
        for sign in (-20.0, 20.0):
            y = q(jnp.full((1, len(levels)), sign))
            assert int(y.codes[0, 0]) == (0 if sign < 0 else q.codebook_size - 1)
            np.testing.assert_array_equal(q.decode(y.codes), y.latents)


def test_fsq_gradient_is_that_of_the_bounding_function():
    q = jq.FSQ(levels=(5,))  # odd: half = 2 (1 + 1e-3), code = round(b) / 2
    found = jax.vmap(jax.grad(lambda z: q(z[None]).latents[0]))(jnp.array([0.0, 0.4]))
    _close(found, 1.001 * (1 - np.tanh([0.0, 0.4]) ** 2))


def test_fsq_noise_is_added_after_the_codes_and_stays_in_range():
    q, z = jq.FSQ(levels=(5, 4), symmetric=True, noise=0.5), jax.random.normal(KEY, (4000, 2))
    quiet, noisy = q(z), q(z, rng=KEY, train=True)
    np.testing.assert_array_equal(quiet.codes, noisy.codes)
    moved = np.asarray(quiet.latents != noisy.latents)
    # Half of the elements draw noise; of those at the ends, half are cut back to where they were.
    ends = np.abs(quiet.latents) == 1
    _close(moved[~ends].mean(), 0.5, 0.03)
    _close(moved[ends].mean(), 0.25, 0.03)
    assert np.abs(noisy.latents).max() <= 1 and np.abs(noisy.latents - quiet.latents).max() <= 0.5


# ---- bits ----


def test_lfq_of_two_bits():
    z = jnp.array([[0.1, -0.2]])
    y = jq.LFQ(bits=2, temperature=1.0, entropy=1.0, diversity=0.0)(z)
    _close(jax.nn.sigmoid(4 * z), [[0.59869, 0.31003]], 1e-5)
    _close(y.loss, 1.29266, 1e-5)
    assert y.latents.tolist() == [[1, -1]] and y.codes.tolist() == [[2]]
    assert jq.LFQ(bits=2, order="little").encode(z).tolist() == [[1]]
    assert jq.LFQ(bits=2)(jnp.zeros((1, 2))).latents.tolist() == [[-1, -1]]


def test_lfq_entropies_are_those_of_the_softmax_over_all_codes():
    bits, z = 6, jax.random.normal(KEY, (50, 6))
    signs = jq.LFQ(bits=bits).decode(jnp.arange(2**bits)[:, None])
    p = jax.nn.softmax(2 * 0.7 * z @ signs.T)
    y = jq.LFQ(bits=bits, temperature=1 / 0.7)(z)
    _close(y.metrics["entropy_sample"], -(p * jnp.log(p)).sum(-1).mean(), 1e-5)
    mean = p.mean(0)
    _close(y.metrics["entropy_codebook"], -(mean * jnp.log(mean)).sum(), 1e-5)
    _close(y.loss, 0.1 * (y.metrics["entropy_sample"] - y.metrics["entropy_codebook"]))


def test_smaller_groups_bound_the_codebook_entropy_from_above():
    logits = 2 * jax.random.normal(KEY, (40, 9)) + 1
    joint, three, single = (entropy.of_mean_bits(logits, None, group) for group in (9, 3, 1))
    assert joint < three < single


def test_bsq_group_zero_is_the_joint_entropy():
    z = jax.random.normal(KEY, (30, 8))
    q = jq.BSQ(bits=8, group=0, temperature=3.0)
    u = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    corners = q.decode(jnp.arange(256)[:, None])
    mean = jax.nn.softmax(2 * 3 * u @ corners.T).mean(0)
    _close(q(z).metrics["entropy_codebook"], -(mean * jnp.log(mean)).sum(), 1e-5)


def test_eighteen_bits_at_a_time_agree_with_counting():
    # Far from 0 every vector is one code for certain, so the mean distribution is the histogram.
    bits = jax.random.bernoulli(KEY, 0.5, (500, 18))
    q = jq.LFQ(bits=18)
    y = q(jnp.where(bits, 5.0, -5.0))
    counts = np.unique(np.asarray(y.codes), return_counts=True)[1]
    p = counts / counts.sum()
    _close(y.metrics["entropy_codebook"], -(p * np.log(p)).sum(), 1e-4)
    _close(y.metrics["entropy_sample"], 0.0)


# ---- VQ and its relatives ----

SQUARE = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def _vq(book, **fields):
    q = jq.VQ(size=len(book), width=book.shape[1], **fields)
    return lambda z, **options: q.apply({"params": {"embedding": book}}, z, **options)


def test_vq_values_loss_and_gradient():
    z = jnp.array([[0.1, 0.2], [0.9, 0.8]])
    y = _vq(SQUARE)(z)
    assert y.codes.tolist() == [[0], [3]] and y.latents.tolist() == [[0, 0], [1, 1]]
    mean = (0.01 + 0.04 + 0.01 + 0.04) / 4
    _close(y.loss, 1.25 * mean)
    _close(_vq(SQUARE, commitment=0.5, legacy=True)(z).loss, 1.5 * mean)
    _close(jax.grad(lambda z: _vq(SQUARE)(z).loss)(z), 0.25 * 2 * (z - y.latents) / 4)
    _close(jax.grad(lambda z: _vq(SQUARE, legacy=True)(z).loss)(z), 2 * (z - y.latents) / 4)
    by_codes = jax.grad(lambda book: _vq(book)(z).loss)(SQUARE)
    _close(by_codes, 2 * (y.latents - z)[jnp.array([0, 0, 0, 1])] / 4 * jnp.array([[1], [0], [0], [1]]))
    _close(jax.grad(lambda z: (_vq(SQUARE)(z).latents * jnp.array([3.0, 5.0])).sum())(z), [[3, 5], [3, 5]])


def test_ties_go_to_the_lowest_index_and_blocks_change_nothing(monkeypatch):
    assert _vq(SQUARE)(jnp.full((1, 2), 0.5)).codes.tolist() == [[0]]
    book, z = jax.random.normal(KEY, (1000, 5)), jax.random.normal(jax.random.key(1), (7, 3, 5))
    book = book.at[700:].set(book[:300])  # every one of them twice
    whole = nearest.nearest(z, book)
    exact = jnp.square(z[..., None, :] - book).sum(-1).argmin(-1)
    np.testing.assert_array_equal(whole, exact)
    assert whole.max() < 700
    monkeypatch.setattr(nearest, "ENTRIES", 21 * 64)  # 15 blocks of 64 codes and one of 40
    np.testing.assert_array_equal(nearest.nearest(z, book), whole)


def test_search_over_a_mesh_is_the_same():
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    book, z = jax.random.normal(KEY, (64, 5)), jax.random.normal(jax.random.key(1), (6, 9, 5))
    book = book.at[40:].set(book[:24])
    search = nearest.OverMesh(mesh, "tensor", rows="data")
    np.testing.assert_array_equal(jax.jit(search)(z, book), nearest.nearest(z, book))
    dot = nearest.OverMesh(mesh, "tensor", dot=True)
    np.testing.assert_array_equal(jax.jit(dot)(z, book), jnp.einsum("abd,kd->abk", z, book).argmax(-1))
    assert search == nearest.OverMesh(mesh, "tensor", rows="data") and hash(search) is not None
    assert int(nearest.OverMesh(mesh, "tensor")(z[0, 0], book)) == int(nearest.nearest(z[0, 0], book))
    with pytest.raises(ValueError, match="4 devices must divide the codes, found 63"):
        search(z, book[:63])


def test_normalized_search_returns_raw_codes_and_all_returns_unit_ones():
    book = jnp.array([[10.0, 0.0], [0.0, 0.1]])
    z = jnp.array([[0.3, 0.4]])  # nearer to the second in distance and in direction
    assert _vq(book, normalize="search")(z).latents.tolist() == [[0.0, np.float32(0.1)]]
    _close(_vq(book, normalize="all")(z).latents, [[0.0, 1.0]])
    _close(_vq(book, normalize="all")(z).metrics["commitment"], (0.6**2 + 0.2**2) / 2)


def test_vq_entropy_is_that_of_the_softmax_of_distances(monkeypatch):
    book, z = jax.random.normal(KEY, (12, 4)), jax.random.normal(jax.random.key(1), (9, 4))
    p = jax.nn.softmax(-jnp.square(z[:, None] - book).sum(-1) / 0.5)
    sample, mean = -(p * jnp.log(p)).sum(-1).mean(), p.mean(0)
    expected = 0.1 * (sample + (mean * jnp.log(mean)).sum())
    apply = _vq(book, entropy=0.1, temperature=0.5)
    plain = _vq(book)
    _close(apply(z).loss - plain(z).loss, expected, 1e-5)
    monkeypatch.setattr(entropy, "ENTRIES", 24)  # blocks of two vectors, the last one half full
    _close(apply(z).loss - plain(z).loss, expected, 1e-5)


def test_ema_step_by_hand():
    q = jq.EMAVQ(size=2, width=2, decay=0.8)
    book = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    state = {"embedding": book, "counts": jnp.ones(2), "sums": book, "started": jnp.asarray(True)}
    z = jnp.array([[0.2, 0.0], [0.9, 1.0], [1.1, 1.0]])
    y, moved = q.apply({"codebook": state}, z, train=True, mutable=["codebook"])
    assert y.codes.tolist() == [[0], [1], [1]] and y.latents.tolist() == [[0, 0], [1, 1], [1, 1]]  # the old table's
    _close(moved["codebook"]["counts"], [1.0, 1.2])
    _close(moved["codebook"]["sums"], [[0.04, 0.0], [1.2, 1.2]])
    _close(moved["codebook"]["embedding"], [[0.04, 0.0], [1.000001, 1.000001]])
    _close(y.loss, 0.25 * (0.04 + 0.01 + 0.01) / 6)
    masked, kept = q.apply(
        {"codebook": state}, z, mask=jnp.array([True, False, False]), train=True, mutable=["codebook"]
    )
    _close(kept["codebook"]["counts"], [1.0, 0.8])
    _close(masked.loss, 0.25 * 0.04 / 2)
    _, still = q.apply({"codebook": state}, z, mask=jnp.zeros(3, bool), train=True, mutable=["codebook"])
    np.testing.assert_array_equal(still["codebook"]["counts"], state["counts"])


def test_ema_revives_dead_codes_with_vectors_of_the_batch():
    q = jq.EMAVQ(size=3, width=1, decay=0.5, revive=0.6)
    book = jnp.array([[0.0], [1.0], [50.0]])
    state = {"embedding": book, "counts": jnp.ones(3), "sums": book, "started": jnp.asarray(True)}
    z = jnp.array([[0.0], [0.25], [1.0], [1.25], [777.0]])
    mask = jnp.array([True, True, True, True, False])
    _, moved = q.apply({"codebook": state}, z, mask=mask, rng=KEY, train=True, mutable=["codebook"])
    _close(moved["codebook"]["counts"], [1.5, 1.5, 0.6])
    revived = float(moved["codebook"]["embedding"][2, 0])
    assert revived in (0.0, 0.25, 1.0, 1.25)
    _close(moved["codebook"]["sums"][2, 0], 0.6 * revived)
    with pytest.raises(ValueError, match="needs rng"):
        q.apply({"codebook": state}, z, train=True, mutable=["codebook"])


def test_ema_begins_with_k_means():
    centres = jnp.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    z = (centres[:, None] + 0.1 * jax.random.normal(KEY, (3, 200, 2))).reshape(-1, 2)
    q = jq.EMAVQ(size=3, width=2, kmeans=10, decay=0.99)
    for seed in range(5):  # Lloyd's iterations may end with two codes in one cluster; one of few starts does not
        variables = q.init(jax.random.key(seed), z)
        y, moved = q.apply(variables, z, rng=jax.random.key(seed), train=True, mutable=["codebook"])
        state = moved["codebook"]
        assert bool(state["started"])
        if float(y.metrics["error"]) < 1e-3:
            found = state["embedding"][jnp.argsort(state["embedding"] @ jnp.array([1.0, 2.0]))]
            _close(found, centres, 0.05)
            _close(state["counts"], [200.0] * 3, 0.01)
            return
    raise AssertionError("no start found the three clusters")


def test_the_state_may_be_donated_after_an_eager_init():
    q, z = jq.EMAVQ(size=8, width=2), jax.random.normal(KEY, (20, 2))
    variables = q.init(KEY, z)
    step = jax.jit(lambda v: q.apply(v, z, train=True, mutable=["codebook"])[1], donate_argnums=0)
    assert step(variables)["codebook"]["counts"].shape == (8,)


def test_diveq_trains_codes_without_a_codebook_term():
    z, weights = jnp.array([[0.1, 0.2], [0.9, 0.8]]), jnp.array([[1.0, 2.0], [3.0, 4.0]])

    def loss(book):
        y = _vq(book, estimator=estimators.diveq, commitment=0.0, to_codes=0.0)(z)
        return y.loss + (weights * y.latents).sum()

    d = np.array([[-0.1, -0.2], [0.1, 0.2]]) / np.sqrt(0.05)  # unit(q - z)
    expected = np.zeros((4, 2))
    expected[[0, 3]] = d * (weights * d).sum(-1, keepdims=True)
    _close(jax.grad(loss)(SQUARE), expected, 1e-5)
    assert loss(SQUARE) == 7.0


def test_cosine_ema_keeps_unit_rows():
    q, z = jq.EMAVQ(size=16, width=4, cosine=True, decay=0.5), 3 * jax.random.normal(KEY, (100, 4))
    variables = q.init(KEY, z)
    y, moved = q.apply(variables, z, train=True, mutable=["codebook"])
    _close(jnp.linalg.norm(moved["codebook"]["embedding"], axis=-1), 1.0)
    _close(jnp.linalg.norm(y.latents, axis=-1), 1.0)
    _close(y.codes[:, 0], (z @ variables["codebook"]["embedding"].T).argmax(-1))


def test_simvq_is_a_linear_map_of_a_frozen_table():
    q, z = jq.SimVQ(size=64, width=4), jax.random.normal(KEY, (100, 4))
    variables = q.init(KEY, z)
    table, linear = variables["codebook"]["embedding"], variables["params"]["map"]
    _close(q.apply(variables, method="codebook"), table @ linear["kernel"] + linear["bias"], 1e-5)
    _close(table.std(), 0.5, 0.1)
    plain, exported = jq.export(q, variables)
    np.testing.assert_array_equal(q.apply(variables, z).codes, plain.apply(exported, z).codes)
    np.testing.assert_array_equal(q.apply(variables, z).latents, plain.apply(exported, z).latents)


def test_ibq_gradient_reaches_every_code_and_equals_autodiff(monkeypatch):
    book, z = jax.random.normal(KEY, (10, 4)), jax.random.normal(jax.random.key(1), (7, 4))
    q = jq.IBQ(size=10, width=4, entropy=0.0)
    weights = jax.random.normal(jax.random.key(2), (7, 4))

    def plain(z, book):
        p = jax.nn.softmax(z @ book.T)
        hard = jax.nn.one_hot((z @ book.T).argmax(-1), 10)
        row = hard @ book
        out = (hard + p - jax.lax.stop_gradient(p)) @ book
        sg = jax.lax.stop_gradient
        loss = jnp.square(out - z).mean() + jnp.square(sg(row) - z).mean() + 0.25 * jnp.square(row - sg(z)).mean()
        return loss + (weights * out).sum()

    def ours(z, book):
        y = q.apply({"params": {"embedding": book}}, z)
        return y.loss + (weights * y.latents).sum()

    for entries in (1 << 20, 30):  # one block; blocks of three vectors
        monkeypatch.setattr("jaxtok.quantizers.ibq.ENTRIES", entries)
        _close(ours(z, book), plain(z, book), 1e-5)
        found, expected = jax.grad(ours, (0, 1))(z, book), jax.grad(plain, (0, 1))(z, book)
        jax.tree.map(lambda a, b: _close(a, b, 1e-5), found, expected)
    assert (jnp.abs(found[1]).sum(-1) > 0).all()


# ---- estimators ----


def test_rotation_by_hand():
    z, q = jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])
    for estimator, expected in ((estimators.rotation, (2.0, 0.0)), (estimators.rotation_tangent, (0.0, 0.0))):
        value, pull = jax.vjp(lambda z, f=estimator: f(z, q, None), z)
        _close(value, [0.0, 2.0])
        _close(pull(jnp.array([1.0, 0.0]))[0], [0.0, -2.0])
        _close(pull(jnp.array([0.0, 1.0]))[0], expected)


def test_rotation_jacobian_is_a_scaled_rotation():
    z, q = jax.random.normal(KEY, (2, 5))
    jacobian = jax.jacobian(lambda z: estimators.rotation(z, q, None))(z)
    scale = jnp.linalg.norm(q) / jnp.linalg.norm(z)
    _close(jacobian @ jacobian.T / scale**2, jnp.eye(5), 1e-5)
    _close(jnp.linalg.det(jacobian / scale), 1.0, 1e-5)
    _close(jacobian @ z, q, 1e-5)


@pytest.mark.parametrize("q", [(-2.0, 0.0), (0.0, 0.0)])
def test_rotation_falls_back_to_the_identity(q):
    jacobian = jax.jacobian(lambda z: estimators.rotation(z, jnp.array(q), None))(jnp.array([1.0, 0.0]))
    _close(jacobian, jnp.eye(2))


def test_diveq_moves_both_along_their_difference():
    z, q = jnp.array([1.0, 1.0]), jnp.array([4.0, 5.0])  # |q - z| = 5, direction (0.6, 0.8)
    value, pull = jax.vjp(lambda z, q: estimators.diveq(z, q, None), z, q)
    _close(value, q)
    by_z, by_q = pull(jnp.array([1.0, 0.0]))
    _close(by_z, [1 - 0.6 * 0.6, -0.6 * 0.8])
    _close(by_q, [0.36, 0.48])
    noisy = estimators.diveq(jnp.zeros((4000, 2)), jnp.broadcast_to(q, (4000, 2)), KEY)
    _close(jnp.linalg.norm(noisy, axis=-1), np.sqrt(41), 1e-5)
    assert 0.005 < float(jnp.arctan2(noisy[:, 1], noisy[:, 0]).std()) < 0.02  # sqrt(5e-3)/|q - z| = 0.011


# ---- layers of quantizers ----


def test_residual_layers_by_hand():
    q = jq.ResidualVQ(layers=(jq.VQ(size=2, width=1), jq.VQ(size=2, width=1)))
    params = {
        "layers_0": {"embedding": jnp.array([[0.0], [1.0]])},
        "layers_1": {"embedding": jnp.array([[-0.2], [0.2]])},
    }
    z = jnp.array([[1.3], [-0.1]])
    y = q.apply({"params": params}, z)
    assert y.codes.tolist() == [[1, 1], [0, 0]]
    _close(y.latents, [[1.2], [-0.2]])
    _close(y.loss, 1.25 * ((0.09 + 0.01) / 2 + (0.01 + 0.01) / 2), 1e-5)
    _close(q.apply({"params": params}, y.codes[:, :1], method="decode"), [[1.0], [0.0]])
    _close(q.apply({"params": params}, jnp.array([[1, -1]]), method="decode"), [[1.0]])
    jacobian = jax.grad(lambda z: q.apply({"params": params}, z).latents.sum())(z)
    _close(jacobian, jnp.ones((2, 1)))  # once, not once per layer


def _residual(**fields):
    q = jq.ResidualVQ(layers=tuple(jq.VQ(size=16, width=4) for _ in range(8)), **fields)
    z = jax.random.normal(KEY, (32, 5, 4))
    return q, z, q.init(KEY, z)


def test_more_layers_are_nearer_to_what_they_were_fitted_to():
    q = jq.ResidualVQ(layers=tuple(jq.EMAVQ(size=8, width=3, kmeans=8) for _ in range(6)))
    z = jax.random.normal(KEY, (400, 3))
    _, variables = q.apply(q.init(KEY, z), z, rng=KEY, train=True, mutable=["codebook"])
    codes = q.apply(variables, z).codes
    prefixes = [q.apply(variables, codes[:, :n], method="decode") for n in range(1, 7)]
    errors = [float(jnp.square(y - z).mean()) for y in (0 * z, *prefixes)]
    assert all(a > b for a, b in itertools.pairwise(errors))
    silent = q.apply(variables, codes.at[:, 2:].set(-1), method="decode")  # the vectors of the others are 0
    _close(silent, prefixes[1])


def test_dropout_of_the_batch_keeps_a_prefix_of_layers():
    q, z, variables = _residual(dropout="batch", at_least=3)
    run = jax.jit(lambda key: q.apply(variables, z, rng=key, train=True))
    seen = set()
    for seed in range(40):
        y = run(jax.random.key(seed))
        active = (np.asarray(y.codes) >= 0).all((0, 1))
        assert active.sum() == (np.cumsum(~active) == 0).sum()  # a prefix
        assert ((np.asarray(y.codes) >= 0) == active).all()  # the same for all
        np.testing.assert_allclose(y.latents, q.apply(variables, y.codes, method="decode"), atol=1e-6)
        seen.add(int(active.sum()))
    assert seen == {3, 4, 5, 6, 7, 8}
    q, z, variables = _residual(dropout="batch", multiple=4)
    run = jax.jit(lambda key: (q.apply(variables, z, rng=key, train=True).codes[0, 0] >= 0).sum())
    assert {int(run(jax.random.key(seed))) for seed in range(20)} == {4, 8}


def test_diveq_outside_of_layers_reaches_codes_also_as_a_partial():
    for estimator in (estimators.diveq, functools.partial(estimators.diveq, variance=1e-3)):
        layers = tuple(jq.VQ(size=8, width=2, commitment=0.0, to_codes=0.0) for _ in range(2))
        q, z = jq.ResidualVQ(layers=layers, estimator=estimator), jax.random.normal(KEY, (20, 2))
        variables = q.init(KEY, z)
        slope = jax.grad(lambda v, q=q, z=z: q.apply(v, z).latents.sum())(variables)
        assert all(jnp.abs(leaf).sum() > 0 for leaf in jax.tree.leaves(slope))


def test_dropout_of_samples_spares_the_second_half_and_weighs_its_loss():
    q, z, variables = _residual(dropout="sample")
    y = q.apply(variables, z, rng=KEY, train=True)
    active = (np.asarray(y.codes[:, 0]) >= 0).sum(-1)
    assert (active[16:] == 8).all() and (active[:16] < 8).any()
    every = q.apply(variables, z)
    residual, expected = z, 0.0
    for i in range(8):
        code = every.codes[..., i : i + 1]
        q_i = variables["params"][f"layers_{i}"]["embedding"][code[..., 0]]
        on = (i < active)[:, None, None]
        expected += 1.25 * (jnp.square(residual - q_i) * on).mean()
        residual = residual - q_i
    _close(y.loss, expected, 1e-5)


def test_grouped_residual_round_trip():
    half = jq.ResidualVQ(layers=(jq.VQ(size=8, width=3), jq.VQ(size=8, width=3)))
    q, z = jq.GroupedVQ(groups=(half, half)), jax.random.normal(KEY, (5, 6))
    y, variables = q.init_with_output(KEY, z)
    assert y.codes.shape == (5, 4) and q.num_codebooks == 4
    _close(q.apply(variables, y.codes, method="decode"), y.latents)


def test_residual_fsq_refines():
    q, z = jq.ResidualFSQ(levels=(5, 5, 3), depth=4), jax.random.normal(KEY, (200, 3))
    y = q.apply({}, z)
    bounded = np.array([1.25, 1.25, 1.5]) * np.tanh(z / np.array([1.25, 1.25, 1.5]))
    errors = [float(jnp.abs(q.apply({}, y.codes[:, :n], method="decode") - bounded).max()) for n in (1, 2, 3, 4)]
    assert all(a > 2 * b for a, b in itertools.pairwise(errors))
    jacobian = jax.grad(lambda z: q.apply({}, z).latents.sum())(z)
    _close(jacobian, 1 - np.tanh(z / np.array([1.25, 1.25, 1.5])) ** 2, 1e-5)


# ---- without a codebook ----


def test_scalar_rounding_has_nineteen_levels():
    y = jq.ScalarRound(width=1)(jnp.linspace(-4, 4, 2001)[:, None])
    assert len(np.unique(np.asarray(y.latents))) == 19
    assert y.codes.min() == 0 and y.codes.max() == 18
    packed = jq.ScalarRound(width=4, word=2)(jnp.array([[9.0, -9.0, 0.0, 0.5]]))
    assert packed.codes.tolist() == [[18 + 19 * 0, 9 + 19 * 13]]


def test_kl_of_unit_mean_is_half_per_element():
    moments = jnp.concatenate([jnp.ones((3, 5, 4)), jnp.zeros((3, 5, 4))], -1)
    _close(jq.Gaussian(width=4, weight=1.0)(moments).loss, 5 * 4 / 2)
    _close(jq.Gaussian(width=4, weight=1.0, reduction="mean")(moments).loss, 0.5)
    mask = jnp.arange(5) < jnp.array([5, 2, 0])[:, None]
    _close(jq.Gaussian(width=4, weight=1.0)(moments, mask=mask).loss, 7 * 4 / 2 / 2)
    y = jq.Gaussian(width=4)(jnp.broadcast_to(moments[:1], (500, 5, 8)), rng=KEY, train=True)
    _close([y.latents.mean(), y.latents.std()], [1.0, 1.0], 0.03)


# ---- usage ----


def test_counts_in_jit_are_exact_and_leave_out_what_does_not_count():
    codes = jnp.array([[0, 0, 0, 2], [2, 1, -1, 7]])
    assert usage.count(codes, 4).tolist() == [3, 1, 2, 0]
    assert usage.count(codes, 4, jnp.array([[True] * 4, [False] * 4])).tolist() == [3, 0, 1, 0]
    _close(usage.perplexity(jnp.array([3, 1])), 1.7548, 1e-4)
    _close(usage.perplexity(jnp.zeros(4, jnp.int32)), 1.0)


def test_balance_and_level_histograms():
    bits = np.array([[True, False], [True, True], [False, False], [True, False]])
    assert usage.balance(bits).tolist() == [0.75, 0.25]
    digits = np.array([[0, 2], [1, 2], [1, 0]])
    assert [h.tolist() for h in usage.level_histogram(digits, (2, 3))] == [[1, 2], [1, 0, 2]]
