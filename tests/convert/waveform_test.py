"""The layouts of SEANet, SQ-Codec, Oobleck and DAC: names, shapes and folded weight normalisation, without PyTorch."""

import ast
import importlib
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxtok
import jaxtok.quantizers as jq
from jaxtok import cli
from jaxtok import convert as converters
from jaxtok.build import build
from jaxtok.convert import dac as convert_dac
from jaxtok.convert import ezaudio as convert_ezaudio
from jaxtok.convert import oobleck as convert_oobleck
from jaxtok.convert import seanet as convert_seanet
from jaxtok.convert import sq_codec as convert_sq
from jaxtok.convert.weight_norm import ConvReader, fold
from jaxtok.nn import oobleck, seanet, sq_codec
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer


def tokenizer(networks, quantizer, **sizes):
    return FeedForwardTokenizer(networks.Encoder(**sizes), quantizer, networks.Decoder(**sizes))


SEANET = tokenizer(
    seanet,
    jq.ResidualVQ(layers=tuple(jq.EMAVQ(size=4, width=6) for _ in range(2))),
    dimension=6,
    width=4,
    strides=(2, 3),
)
SQ_CODEC = tokenizer(sq_codec, jq.ScalarRound(width=3), latent=3, width=2, strides=(2, 3))
OOBLECK = tokenizer(oobleck, jq.Gaussian(width=3), channels=2, multipliers=(1, 2), strides=(2, 3), latent=3)


def factorized(**fields):
    layers = tuple(jq.FactorizedVQ(size=4, width=6, inner_width=2, **fields) for _ in range(2))
    return jq.ResidualVQ(layers=layers, gradient="layers")


DAC = FeedForwardTokenizer(
    oobleck.Encoder(channels=2, multipliers=(1, 2), strides=(2, 3), latent=3),
    factorized(weight_norm=False),
    oobleck.Decoder(channels=3, multipliers=(1, 2), strides=(2, 3), latent=6, bias=True, tanh=True),
)


def dac(state, module):
    """``convert_dac.params_from`` with alphas that are positive."""
    state = {name: np.abs(value) if name.endswith(".alpha") else value for name, value in state.items()}
    return convert_dac.params_from(state, module)


# Keys that the files have, with their shapes in the small networks.
CASES = {
    "transformers": (SEANET, convert_seanet.params_from, {
        "encoder.layers.3.conv.weight": (8, 4, 4), "encoder.layers.7.lstm.bias_hh_l1": (64,),
        "encoder.layers.9.conv.bias": (6,), "decoder.layers.3.conv.weight": (16, 8, 6),
        "decoder.layers.7.shortcut.conv.weight": (4, 4, 1),
    }),
    "encodec": (SEANET, lambda s, m: convert_seanet.params_from(s, m, convert_seanet.ORIGINAL), {
        "encoder.model.1.block.3.conv.conv.weight": (4, 2, 1), "encoder.model.9.conv.conv.weight": (6, 16, 7),
        "decoder.model.1.lstm.weight_ih_l0": (64, 16), "decoder.model.6.convtr.convtr.bias": (4,),
    }),
    "sq_codec": (SQ_CODEC, convert_sq.params_from, {
        "encoder.0.weight": (2, 1, 7), "encoder.1.activation.weight": (1,), "encoder.4.weight": (3, 8, 7),
        "encoder.3.down_conv.layer.weight": (8, 4, 6), "decoder.1.up_conv.layer.weight": (8, 4, 6),
        "decoder.2.convs.4.activation2.weight": (1,), "decoder.3.conv.weight": (2, 2, 7),
    }),
    "diffusers": (OOBLECK, convert_oobleck.params_from, {
        "encoder.block.1.res_unit3.snake2.beta": (1, 2, 1), "encoder.conv2.weight": (6, 4, 3),
        "decoder.block.0.conv_t1.weight": (4, 2, 6), "decoder.conv2.weight": (1, 2, 7),
    }),
    "ezaudio": (
        OOBLECK, convert_ezaudio.params_from, {
        "autoencoder.encoder.layers.2.layers.2.layers.2.beta": (2,), "autoencoder.encoder.layers.4.weight": (6, 4, 3),
        "autoencoder.decoder.layers.1.layers.1.weight": (4, 2, 6), "autoencoder.decoder.layers.4.weight": (1, 2, 7),
    }),
    "dac": (DAC, dac, {
        "encoder.conv2.weight": (6, 4, 3), "encoder.block.1.res_unit3.snake2.alpha": (1, 2, 1),
        "decoder.block.0.conv_t1.weight": (6, 3, 6), "decoder.conv2.bias": (1,), "decoder.snake1.alpha": (1, 3, 1),
        "quantizer.quantizers.1.in_proj.weight": (2, 6, 1), "quantizer.quantizers.0.codebook.weight": (4, 2),
    }),
}  # fmt: skip


def complete(convert, module):
    """The state dict that a converter asks for key by key, of random numbers, and what it makes of it."""
    state, rng = {}, np.random.default_rng(0)
    while True:
        try:
            return state, convert(state, module)
        except ValueError as error:
            found = re.fullmatch(r"weights: key '(.*)' with shape (\(.*\)) is missing", str(error))
            if found is None:
                raise
            shape = ast.literal_eval(found[2])
            state[found[1]] = np.full(1, 0.25) if shape == (1,) else rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("layout", CASES)
def test_layouts_give_all_parameters(layout):
    module, convert, names = CASES[layout]
    state, params = complete(convert, module)
    assert {name: state[name].shape for name in names} == names
    x = jnp.zeros((1, 120, 1))
    for part, z in (("encoder", x), ("decoder", jnp.zeros((1, 4, getattr(module.decoder, "latent", 6))))):
        expected = jax.eval_shape(getattr(module, part).init, jax.random.key(0), z)["params"]
        assert jax.tree.map(jnp.shape, params[part]) == jax.tree.map(jnp.shape, expected)
    with pytest.raises(ValueError, match="unknown keys 'encoder.more'"):
        convert({**state, "encoder.more": np.zeros(1)}, module)
    name = next(iter(names))
    with pytest.raises(ValueError, match=f"key '{name}' with shape .* is missing"):
        convert({key: value for key, value in state.items() if key != name}, module)
    with pytest.raises(ValueError, match=f"key '{name}' has shape .*, expected"):
        convert(state | {name: np.zeros((9, 9))}, module)


def test_what_ezaudios_training_leaves_is_left_out():
    state, params = complete(convert_ezaudio.params_from, OOBLECK)
    more = {"discriminator.discriminators.0.bias": np.ones(2), "sdstft.window": np.ones(4)}
    jax.tree.map(np.testing.assert_array_equal, convert_ezaudio.params_from(state | more, OOBLECK), params)


@pytest.mark.parametrize("slug", ["sq_codec", "ezaudio"])
def test_released_weights_become_a_model(slug, tmp_path):
    config = jaxtok.get_config(f"{slug}:tiny").copy_and_resolve_references().to_dict()
    module = build(config["model"])
    released, params = complete(importlib.import_module(converters.FAMILIES[slug]).params_from, module)
    safetensors.numpy.save_file({k: np.float32(v) for k, v in released.items()}, tmp_path / "weights.safetensors")
    arguments = f"--family {slug} --config {slug}:tiny --weights {tmp_path}/weights.safetensors --output {tmp_path}/out"
    assert cli.main(["convert", *arguments.split()]) == 0
    model = jaxtok.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_allclose, model.variables["params"], params)
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.hop)))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)


def test_weight_norm_is_folded_in_both_forms():
    v = np.asarray([[[3.0, 4.0]], [[0.0, 2.0]]], np.float32)  # [2, 1, 2]
    g = np.asarray([10.0, 1.0], np.float32).reshape(2, 1, 1)
    np.testing.assert_allclose(fold(g, v), [[[6.0, 8.0]], [[0.0, 1.0]]])
    for ends in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        keys = ConvReader({f"c.{ends[0]}": g, f"c.{ends[1]}": v})
        np.testing.assert_allclose(keys.conv("c", 1, 2, 2, bias=False)["kernel"], [[[6.0, 0.0]], [[8.0, 1.0]]])
        keys.finish()
        with pytest.raises(ValueError, match=rf"key 'c.{ends[1]}' with shape \(2, 1, 2\) is missing"):
            ConvReader({f"c.{ends[0]}": g}).conv("c", 1, 2, 2)
    with pytest.raises(ValueError, match=r"unknown keys 'c.weight'"):  # plain beside normalised: which one is meant?
        keys = ConvReader({"c.weight": v, "c.weight_g": g, "c.weight_v": v})
        keys.conv("c", 1, 2, 2, bias=False)
        keys.finish()
    transposed = ConvReader({"c.weight_g": g, "c.weight_v": v, "c.bias": np.ones(1)}).transposed("c", 2, 1, 2)
    np.testing.assert_allclose(transposed["kernel"], [[[6.0], [0.0]], [[8.0], [1.0]]])  # [size, in, out]


def test_codebooks_are_read_in_full():
    module, convert = SEANET, convert_seanet.codebook_from
    state, codebook = complete(convert, module)
    assert sorted(state)[:2] == ["quantizer.layers.0.codebook.cluster_size", "quantizer.layers.0.codebook.embed"]
    expected = jax.eval_shape(module.quantizer.init, jax.random.key(0), jnp.zeros((1, 5, 6)))["codebook"]
    assert jax.tree.map(jnp.shape, codebook["quantizer"]) == jax.tree.map(jnp.shape, expected)
    assert codebook["quantizer"]["layers_1"]["started"]


def test_encodecs_codebooks_are_among_its_variables():
    convert = lambda state, module: converters.variables_from_reference("encodec", state, module)  # noqa: E731
    state, variables = complete(convert, SEANET)
    expected = jax.eval_shape(SEANET.init, jax.random.key(0), jnp.zeros((1, 60, 1)))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    params = converters.from_reference("encodec", state, SEANET)
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    for more in ("quantizer.layers.2.codebook.embed", "quantizer.bias", "encoder.bias"):
        with pytest.raises(ValueError, match=f"unknown keys '{more}'"):
            converters.from_reference("encodec", state | {more: np.ones(1)}, SEANET)
    learned = SEANET.clone(quantizer=jq.ResidualVQ(layers=(jq.VQ(size=4, width=6),)))
    with pytest.raises(ValueError, match=r"quantizer: expected ResidualVQ of EMAVQ, found ResidualVQ, VQ"):
        convert(state, learned)


def test_what_dacs_layout_cannot_say_is_refused():
    state, _ = complete(dac, DAC)
    state = {name: np.abs(value) for name, value in state.items()}
    convert = convert_dac.params_from
    name = "decoder.block.1.res_unit2.snake1.alpha"
    with pytest.raises(ValueError, match=f"key '{name}' must be positive throughout, found -0.5"):
        convert(state | {name: np.full((1, 3, 1), -0.5, np.float32)}, DAC)
    for more in ("encoder.snake1.beta", "quantizer.quantizers.2.in_proj.bias"):
        with pytest.raises(ValueError, match=f"unknown keys '{more}'"):
            convert(state | {more: np.ones(1)}, DAC)
    with pytest.raises(ValueError, match="decoder: expected bias and tanh to be True, found True and False"):
        convert(state, DAC.clone(decoder=DAC.decoder.clone(tanh=False)))
    with pytest.raises(ValueError, match="expected weight_norm=False"):
        convert(state, DAC.clone(quantizer=factorized()))
    with pytest.raises(ValueError, match="expected ResidualVQ of FactorizedVQ, found ResidualVQ, EMAVQ, EMAVQ"):
        convert(state, DAC.clone(quantizer=SEANET.quantizer))


SMALLER = {  # of the docstrings' configs
    "encodec": {
        "dimension=128, width=32, strides=(2, 4, 5, 8)": "dimension=6, width=4, strides=(2, 3)",
        "size=1024, width=128": "size=4, width=6", "* 32": "* 2",
    },
    "dac": {
        "multipliers=(2, 4, 8, 16), strides=(2, 4, 8, 8)": "multipliers=(1, 2), strides=(2, 3)",
        "size=1024, width=1024, inner_width=8": "size=4, width=6, inner_width=2", "* 9": "* 2",
        "channels=64, latent=512": "channels=2, latent=3", "channels=96, latent=1024": "channels=3, latent=6",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", SMALLER)
def test_a_docstrings_config_makes_a_model(family, tmp_path):
    text = importlib.import_module(converters.FAMILIES[family]).__doc__
    example = textwrap.dedent(re.search(r"(?s)    import ml_collections.*?(?=    jaxtok convert)", text)[0])
    for large, small in SMALLER[family].items():
        assert large in example
        example = example.replace(large, small)
    (tmp_path / "mine.py").write_text(example)
    released, _ = complete(*{"encodec": (convert_seanet.variables_from, SEANET), "dac": (dac, DAC)}[family])
    released = {name: np.float32(np.abs(v) if name.endswith(".alpha") else v) for name, v in released.items()}
    safetensors.numpy.save_file(released, tmp_path / "weights.safetensors")
    files = f"--config {tmp_path}/mine.py --weights {tmp_path}/weights.safetensors --output {tmp_path}/out"
    assert cli.main(["convert", "--family", family, *files.split()]) == 0
    model = jaxtok.load(tmp_path / "out")
    tokens = model.encode(np.sin(np.arange(120.0)))
    assert tokens.codes.shape == (1, 20, 2) and tokens.latents.shape == (1, 20, 6)
    again = model.decode(model.tokens(np.asarray(tokens.codes[0])))
    np.testing.assert_allclose(again, model.decode(tokens), atol=1e-4 * np.abs(again).max())
    assert again.shape == (120,) and again.std() > 0
