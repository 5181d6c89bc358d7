"""What holds for every quantizer."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxtok.quantizers as jq
from jaxtok.quantizers import estimators

WIDTH = 6
KEY = jax.random.key(0)


def _layers():
    return tuple(jq.VQ(size=32, width=WIDTH) for _ in range(3))


QUANTIZERS = {
    "vq": jq.VQ(size=64, width=WIDTH),
    "vq-entropy": jq.VQ(size=64, width=WIDTH, entropy=0.1, temperature=0.5),
    "vq-legacy-rotation": jq.VQ(size=64, width=WIDTH, legacy=True, estimator=estimators.rotation),
    "vq-tangent": jq.VQ(size=64, width=WIDTH, estimator=estimators.rotation_tangent),
    "vq-diveq": jq.VQ(size=64, width=WIDTH, estimator=estimators.diveq),
    "vq-search-normalized": jq.VQ(size=64, width=WIDTH, normalize="search"),
    "vq-unit": jq.VQ(size=64, width=WIDTH, normalize="all"),
    "ema": jq.EMAVQ(size=64, width=WIDTH, revive=0.5, kmeans=2),
    "ema-cosine": jq.EMAVQ(size=64, width=WIDTH, cosine=True),
    "standardized": jq.Standardized(inner=jq.EMAVQ(size=64, width=WIDTH), width=WIDTH),
    "factorized": jq.FactorizedVQ(size=64, width=WIDTH, inner_width=3),
    "simvq": jq.SimVQ(size=64, width=WIDTH),
    "fvq": jq.FVQ(size=64, width=WIDTH, patch=4, hidden=16, heads=2),
    "ibq": jq.IBQ(size=64, width=WIDTH),
    "residual": jq.ResidualVQ(layers=_layers(), dropout="sample"),
    "residual-layers": jq.ResidualVQ(layers=_layers(), gradient="layers", dropout="batch"),
    "residual-ema": jq.ResidualVQ(
        layers=(jq.EMAVQ(size=32, width=WIDTH), jq.EMAVQ(size=32, width=WIDTH, revive=0.2)), dropout="batch"
    ),
    "grouped": jq.GroupedVQ(
        groups=(jq.VQ(size=16, width=2), jq.FSQ(levels=(4, 4), symmetric=True), jq.EMAVQ(size=16, width=2))
    ),
    "lfq": jq.LFQ(bits=WIDTH, temperature=1.0, commitment=0.25),
    "bsq": jq.BSQ(bits=WIDTH, group=3, commitment=0.25),
    "bsq-words": jq.BSQ(bits=WIDTH, word=2, gradient="identity", order="little", group=0),
    "fsq": jq.FSQ(levels=(8, 5, 5, 5, 3, 4)),
    "fsq-symmetric": jq.FSQ(levels=(8, 5, 2, 5, 3, 4), symmetric=True, noise=0.3),
    "residual-fsq": jq.ResidualFSQ(levels=(5, 5, 3, 4, 4, 4), depth=3, dropout="batch"),
    "scalar": jq.ScalarRound(width=WIDTH, word=3),
    "perturbed": jq.Perturbed(inner=jq.FSQ(levels=(5,) * WIDTH), scale=0.1),
    "gaussian": jq.Gaussian(width=3),
    "continuous": jq.Continuous(bound=jnp.tanh),
}
CODED = [name for name, q in QUANTIZERS.items() if q.num_codebooks]

every = pytest.mark.parametrize("name", QUANTIZERS)
coded = pytest.mark.parametrize("name", CODED)


@functools.cache
def variables_of(name):
    """Variables that are not degenerate: a bridge begins with all codes at 0."""
    variables = QUANTIZERS[name].init(KEY, jnp.ones((2, 3, WIDTH)))
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(7), len(leaves) + 1)

    def draw(key, leaf):
        return leaf + 0.3 * jax.random.normal(key, leaf.shape) if leaf.ndim > 1 else leaf

    return jax.tree.unflatten(tree, [draw(key, leaf) for key, leaf in zip(keys, leaves)])


@functools.cache
def program(name, train=False):
    q = QUANTIZERS[name]
    mutable = ["codebook"] if train else False

    def run(variables, z, mask, rng):
        return q.apply(variables, z, mask=mask, rng=rng, train=train, mutable=mutable)

    return jax.jit(run)


def _vectors(seed, shape=(4, 9), scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), (*shape, WIDTH))


@coded
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10_000), scale=st.sampled_from((1e-3, 0.3, 1.0, 30.0)))
def test_decode_of_encode_is_the_forward_value_and_codes_are_in_range(name, seed, scale):
    q, variables = QUANTIZERS[name], variables_of(name)
    z = _vectors(seed, scale=scale)
    y = program(name)(variables, z, None, None)
    codes = _encode(name)(variables, z)
    np.testing.assert_array_equal(y.codes, codes)
    assert codes.dtype == jnp.int32 and codes.shape == (4, 9, q.num_codebooks)
    assert codes.min() >= 0 and codes.max() < q.codebook_size
    np.testing.assert_allclose(_decode(name)(variables, codes), y.latents, atol=1e-6, rtol=1e-6)
    assert y.latents.dtype == jnp.float32


@coded
def test_variables_of_numpy_will_do_inside_a_compiled_function(name):
    """Weights as they are loaded, closed over rather than given."""
    q, variables, z = QUANTIZERS[name], variables_of(name), _vectors(11)
    loaded = jax.tree.map(np.asarray, variables)
    there_and_back = jax.jit(lambda z: (q.apply(loaded, z).latents, q.apply(loaded, z, method="encode")))
    latents, codes = there_and_back(z)
    np.testing.assert_array_equal(codes, _encode(name)(variables, z))
    decode = jax.jit(lambda codes: q.apply(loaded, codes, method="decode"))
    np.testing.assert_allclose(decode(codes), latents, atol=1e-6, rtol=1e-6)


@functools.cache
def _encode(name):
    return jax.jit(lambda variables, z: QUANTIZERS[name].apply(variables, z, method="encode"))


@functools.cache
def _decode(name):
    return jax.jit(lambda variables, codes: QUANTIZERS[name].apply(variables, codes, method="decode"))


@coded
def test_bfloat16_is_its_float32_cast(name):
    z = _vectors(1).astype(jnp.bfloat16)
    run = program(name)
    half, full = run(variables_of(name), z, None, None), run(variables_of(name), z.astype(jnp.float32), None, None)
    np.testing.assert_array_equal(half.codes, full.codes)
    np.testing.assert_array_equal(half.latents, full.latents)
    assert half.loss.dtype == jnp.float32


@every
def test_padding_counts_nowhere(name):
    """The same losses, metrics and moved state for other padding, however wild."""
    variables, run = variables_of(name), program(name, train=True)
    z, mask = _vectors(2), jnp.arange(9) < jnp.array([9, 4, 1, 6])[:, None]
    wild = jnp.where(mask[..., None], z, 1e4 * _vectors(3))
    (a, state_a), (b, state_b) = (run(variables, x, mask, KEY) for x in (z, wild))
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a.metrics, b.metrics)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), state_a, state_b)
    np.testing.assert_array_equal(a.latents[mask], b.latents[mask])


@every
def test_padding_that_is_cut_off_changes_nothing(name):
    """A masked batch has the loss of the batch without its padded half."""
    if "residual" in name or name in ("perturbed", "fsq-symmetric", "gaussian", "vq-diveq", "ema"):
        train = False  # their training draws by the batch's shape
    else:
        train = True
    variables, run = variables_of(name), program(name, train)
    z, mask = _vectors(4), jnp.arange(9) < 4
    out = run(variables, z, jnp.broadcast_to(mask, (4, 9)), KEY)
    cut = run(variables, z[:, :4], None, KEY)
    a, b = (x[0] if train else x for x in (out, cut))
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a.metrics, b.metrics)


@every
def test_codes_do_not_depend_on_the_batch(name):
    variables, run = variables_of(name), program(name)
    z = _vectors(5)
    whole, alone = run(variables, z, None, None), run(variables, z[1:2, 3:4], None, None)
    np.testing.assert_allclose(alone.latents, whole.latents[1:2, 3:4], atol=1e-6)
    if whole.codes is not None:
        np.testing.assert_array_equal(alone.codes, whole.codes[1:2, 3:4])


@every
def test_one_two_and_eight_devices_agree(name):
    """Statistics, losses, moved state, revival and gradients are those of the global batch."""
    counts = (1, 2, 8) if name in ("vq", "ema", "bsq", "residual") else (1, 8)
    q, variables = QUANTIZERS[name], variables_of(name)
    z, mask = _vectors(6, (8, 5)), jnp.arange(5) < jnp.arange(1, 9)[:, None]

    @jax.jit
    def run(z, mask):
        def loss(z):
            y, moved = q.apply(variables, z, mask=mask, rng=KEY, train=True, mutable=["codebook"])
            return y.loss + (y.latents * mask[..., None]).sum(), (y, moved)

        return jax.value_and_grad(loss, has_aux=True)(z)

    results = []
    for devices in counts:
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
        )
        rows = NamedSharding(mesh, P("data"))
        results.append(jax.device_get(run(*jax.device_put((z, mask), rows))))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), results[0], other)


@every
def test_gradients_are_finite_at_extreme_inputs(name):
    q, variables = QUANTIZERS[name], variables_of(name)

    @jax.jit
    def gradient(variables, z):
        def loss(params, z):
            y, _ = q.apply({**variables, "params": params}, z, rng=KEY, train=True, mutable=["codebook"])
            return y.loss + y.latents.sum()

        return jax.grad(loss, (0, 1))(variables.get("params", {}), z)

    same = jnp.broadcast_to(_vectors(8, (1, 1)), (4, 9, WIDTH))
    for z in (jnp.zeros((4, 9, WIDTH)), _vectors(8, scale=1e4), -_vectors(8, scale=1e-20), same):
        for leaf in jax.tree.leaves(gradient(variables, z)):
            assert np.isfinite(leaf).all()


@every
def test_training_twice_compiles_once(name):
    traced = []

    @jax.jit
    def run(*arguments):
        traced.append(1)
        return program(name, train=True).__wrapped__(*arguments)

    variables = jax.tree.map(jnp.asarray, dict(variables_of(name)))
    for seed in range(2):
        _, moved = run(variables, _vectors(seed), None, jax.random.key(seed))
        variables = {**variables, **moved}
    assert len(traced) == 1


@every
def test_modules_are_static_jit_arguments(name):
    assert hash(QUANTIZERS[name]) == hash(QUANTIZERS[name].clone()) and QUANTIZERS[name] == QUANTIZERS[name].clone()


# ---- bad input ----

BAD = {
    "a codebook of one": (lambda: jq.VQ(size=1, width=4), "expected size >= 2"),
    "an unknown normalization": (lambda: jq.VQ(size=4, width=4, normalize="l2"), "normalize must be one of"),
    "a decay of 1": (lambda: jq.EMAVQ(size=4, width=4, decay=1.0), r"decay in \[0, 1\), found 1.0"),
    "FSQ with 2 levels": (lambda: jq.FSQ(levels=(8, 2)), "at least 3 .2 with symmetric=True., found"),
    "FSQ with 1 level": (lambda: jq.FSQ(levels=(8, 1), symmetric=True), "at least 2, found"),
    "FSQ with too many codes": (lambda: jq.FSQ(levels=(1000,) * 4), "at most 2.31 codes"),
    "FSQ with noise": (lambda: jq.FSQ(levels=(5, 5), noise=0.1), "need symmetric=True"),
    "an odd group": (lambda: jq.BSQ(bits=14, group=4), "group must divide bits, found 4 and 14"),
    "a long word": (lambda: jq.LFQ(bits=36), "word at most 31, found 36, 36"),
    "an unknown order": (lambda: jq.LFQ(bits=6, order="middle"), "order must be one of"),
    "a codebook that is no square": (lambda: jq.FVQ(size=128, width=4), "a square, or rows to be given, found 128"),
    "a patch that does not divide": (lambda: jq.FVQ(size=256, width=4, patch=5), "patch 5 must divide the sides"),
    "no layer": (lambda: jq.ResidualVQ(layers=()), "at least one layer"),
    "a layer of many codes": (lambda: jq.ResidualVQ(layers=(jq.LFQ(bits=4, word=2),)), r"with one code, found \[2\]"),
    "layers of two sizes": (
        lambda: jq.ResidualVQ(layers=(jq.VQ(size=4, width=2), jq.VQ(size=8, width=2))),
        r"one codebook_size, found \[4, 8\]",
    ),
    "projections under an outer estimator": (
        lambda: jq.ResidualVQ(layers=(jq.FactorizedVQ(size=8, width=4),)), "need gradient='layers'"),
    "a share of none": (lambda: jq.ResidualVQ(layers=_layers(), dropout="sample", share=0.0), "share must lie in"),
    "a joint of 36 bits": (lambda: jq.LFQ(bits=36, word=12), "at most 24 bits .the joint distribution., found 36"),
    "IBQ with VQ's weight": (lambda: jq.IBQ(size=8, width=2, to_codes=0.0), "as they are"),
    "decoding a continuous bottleneck": (lambda: jq.Gaussian(width=2).decode(None), "has no codes to decode"),
    "a group without codes": (lambda: jq.GroupedVQ(groups=(jq.Gaussian(width=2),)), r"each with codes, found \[0\]"),
    "unknown dropout": (lambda: jq.ResidualVQ(layers=_layers(), dropout="all"), "dropout must be one of"),
    "too many active layers": (lambda: jq.ResidualVQ(layers=_layers(), at_least=4), r"at_least in \[1, 3\]"),
    "a word that does not divide": (lambda: jq.ScalarRound(width=5, word=2), "divides width"),
    "a reduction": (lambda: jq.Gaussian(width=2, reduction="max"), "reduction must be one of"),
    "another width": (lambda: jq.LFQ(bits=6)(jnp.zeros((2, 5))), r"expected 6 channels, found shape \(2, 5\)"),
    "no vector": (lambda: jq.FSQ(levels=(5, 5))(jnp.zeros((0, 2))), r"at least one vector, found shape \(0, 2\)"),
    "integers": (lambda: jq.LFQ(bits=6)(jnp.zeros((2, 6), int)), "floating point vectors, found int32"),
    "codes out of range": (lambda: jq.FSQ(levels=(5, 5)).decode(jnp.array([[25]])), r"\[0, 25\), found 25 to 25"),
    "codes of another depth": (lambda: jq.LFQ(bits=6).decode(jnp.zeros((3, 2), int)), "end in 1 codebooks"),
    "codes that are floats": (lambda: jq.LFQ(bits=6).decode(jnp.zeros((3, 1))), "expected integer codes"),
    "too many layers": (lambda: jq.ResidualFSQ(levels=(5,), depth=2).apply({}, jnp.zeros((1, 3), int), method="decode"),
                        "expected 1 to 2 codebooks"),
    "training noise without a key": (lambda: jq.Gaussian(width=1)(jnp.zeros((2, 2)), train=True), "needs rng"),
    "dropout without a key": (
        lambda: jq.ResidualFSQ(levels=(5,), depth=2, dropout="batch").apply({}, jnp.zeros((1, 1)), train=True),
        "needs rng",
    ),
    "channels that do not divide": (
        lambda: jq.GroupedVQ(groups=(jq.LFQ(bits=2), jq.LFQ(bits=2))).apply({}, jnp.zeros((1, 5))),
        "2 groups must divide the channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case):
    make, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        make()
