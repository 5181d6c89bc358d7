"""WavTokenizer: the sizes and frames of its releases, its bandwidth ids, and tokens that know no padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.nn import discriminators, seanet
from jaxtok.papers.wavtokenizer import Decoder, conditional
from jaxtok.quantizers import EMAVQ
from jaxtok.tokenizers.waveform import WaveformTokenizer

HOP = 6
MODULE = WaveformTokenizer(
    seanet.Encoder(dimension=8, width=2, strides=(2, 3), causal=False),
    EMAVQ(size=16, width=8),
    Decoder(dimension=8, width=8, hidden=12, depth=2, n_fft=24, hop=HOP, bandwidths=3, groups=2),
    conditional=True,
)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def drawn(seed, *sizes):
    return np.random.default_rng(seed).standard_normal(sizes, dtype=np.float32)


@pytest.fixture(scope="module")
def variables():
    """Drawn without compiling ``init``; the signal passes with its size, so that codes differ."""
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros((1, 12)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.dtype == bool:
            return jnp.ones(leaf.shape, bool)
        name, size = path[-1].key, max(1, math.prod(leaf.shape[:-1]))
        deviation = {"bias": 0.05, "scale": 0.3, "embedding": 1.0}.get(name, 1.5 * size**-0.5)
        return jnp.asarray(rng.normal(0, deviation, leaf.shape) + (name == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("variant", "rate", "encoder", "head"),
    [("paper", 40, 8_296_304, 1_847_138), ("paper75", 75, 8_796_016, 985_858)],
)
def test_frames_and_sizes_are_the_published_ones(variant, rate, encoder, head):
    module = build(jaxtok.get_config(f"wavtokenizer:{variant}").model)
    assert module.hop == module.decoder.hop == 24000 // rate and module.decoder.n_fft == 4 * module.hop
    for samples, tokens in ((24000, rate), (24001, rate + 1)):
        audio = jax.ShapeDtypeStruct((1, samples), jnp.float32)
        (found, y), shapes = jax.eval_shape(module.init_with_output, jax.random.key(0), audio)
        assert found.codes.shape == (1, tokens, 1) and y.shape == (1, samples)
    whole = jax.eval_shape(lambda v, z: module.apply(v, z, method="decode"), shapes, found.latents)
    assert whole.shape == (1, (rate + 1) * module.hop)
    params = shapes["params"]
    assert count(params["encoder"]) == encoder and count(params["decoder"]["head"]) == head
    assert count(params["decoder"]) - head == 61_961_472
    assert shapes["codebook"]["quantizer"]["embedding"].shape == (4096, 512)


def test_bandwidth_ids_and_dropout_change_the_audio(variables):
    z, keys = drawn(1, 2, 7, 8), jax.random.split(jax.random.key(3), 2)

    @jax.jit
    def run(ids, keys):
        cond = {"bandwidth_id": ids}
        quiet = MODULE.apply(variables, z, cond=cond, method="decode")
        return quiet, MODULE.apply(variables, z, cond=cond, rng=keys, train=True, method="decode")

    zero, noisy = run(jnp.zeros(2, jnp.int32), keys)
    assert zero.shape == (2, 7 * HOP)
    np.testing.assert_allclose(jax.jit(lambda z: MODULE.apply(variables, z, method="decode"))(z), zero, atol=1e-5)
    mixed, other = run(jnp.array([0, 2]), keys[::-1])
    np.testing.assert_array_equal(mixed[0], zero[0])
    assert np.abs(mixed[1] - zero[1]).max() > 0.01 * np.abs(zero).max()
    assert np.abs(noisy[0] - zero[0]).max() > 1e-3 < np.abs(noisy[0] - other[0]).max()


def test_a_row_is_the_same_alone_and_padded(variables):
    audio, lengths = drawn(2, 2, 64), np.array([64, 27])
    mask = np.arange(64) < lengths[:, None]
    run = jax.jit(lambda audio, mask: MODULE.apply(variables, audio, mask=mask))
    tokens, y = run(audio, mask)
    dirty, again = run(np.where(mask, audio, 9.0).astype(np.float32), mask)
    np.testing.assert_array_equal(tokens.codes, dirty.codes)
    np.testing.assert_array_equal(y, again)
    np.testing.assert_array_equal(y[1, 27:], 0)
    alone, audio_alone = jax.jit(lambda audio: MODULE.apply(variables, audio))(audio[1:, :27])
    assert alone.codes.shape == (1, 5, 1) and len(np.unique(tokens.codes)) > 3
    np.testing.assert_array_equal(alone.codes[0], tokens.codes[1, :5])
    np.testing.assert_allclose(audio_alone[0], y[1, :27], atol=1e-4 * np.abs(y).max())


def test_projection_adds_the_table_times_the_last_layer():
    plain = discriminators.multi_period((2, 3), channels=(2, 4))
    known, audio, ids = conditional(plain, 3), drawn(3, 2, 50), jnp.array([2, 0])
    params = jax.jit(known.init)(jax.random.key(0), audio, ids)["params"]
    inner = {name: member["discriminator"] for name, member in params.items()}
    expected = jax.jit(plain.apply)({"params": inner}, audio)
    run = jax.jit(known.apply)
    for one, other in zip(run({"params": params}, audio, ids), expected):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-5)  # the table begins with zeros
    for i, member in enumerate(params.values()):
        member["table"] = drawn(4 + i, 3, 4)
    for member, one, other in zip(params.values(), run({"params": params}, audio, ids), expected):
        more = np.einsum("bhwc,bc->bhw", other.features[-1], member["table"][np.array([2, 0])])
        assert np.abs(more).max() > 0.01
        np.testing.assert_allclose(one.logits, other.logits + more, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"condition: expected int32 \[batch\], found None"):
        known.init(jax.random.key(0), audio)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (
            lambda: MODULE.init(jax.random.key(0), jnp.zeros((1, 12, 1))),
            r"audio: expected \[batch, samples\] .*, 12, 1",
        ),
        (lambda: MODULE.init(jax.random.key(0), jnp.zeros((1, 0))), "audio: expected .* samples > 0, found shape"),
        (lambda: MODULE.decoder.init(jax.random.key(0), jnp.zeros((1, 3, 7))), "latents: expected .* 8], found shape"),
        (lambda: MODULE.decoder.init(jax.random.key(0), jnp.zeros((1, 3, 8)), train=True), "one key per example"),
        (
            lambda: MODULE.init(jax.random.key(0), jnp.zeros((1, 12)), mask=jnp.ones((1, 3), bool)),
            r"mask: expected shape \(1, 12\)",
        ),
    ],
)
def test_wrong_input_is_refused(run, said):
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(run)


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="wavtokenizer has no variant 'huge'; known: tiny, mini, paper, paper75"):
        jaxtok.get_config("wavtokenizer:huge")
