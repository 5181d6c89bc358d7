"""SEANet, SQ-Codec, Oobleck, EnCodec and DAC against transformers, diffusers and plain PyTorch.

All with shared random weights.
"""

import functools
import importlib
import re
import textwrap

import jax
import numpy as np
import pytest

import jaxtok.quantizers as jq
from jaxtok.build import build
from jaxtok.convert import FAMILIES, variables_from_reference
from jaxtok.convert import dac as convert_dac
from jaxtok.convert import oobleck as convert_oobleck
from jaxtok.convert import seanet as convert_seanet
from jaxtok.convert import sq_codec as convert_sq
from jaxtok.nn import oobleck, seanet, sq_codec
from jaxtok.nn.conv2d import GroupNorm
from jaxtok.quantizers.gaussian import softplus
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer
from jaxtok.tokenizers.waveform import WaveformTokenizer

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
F = torch.nn.functional
torch.set_num_threads(1)

SEANET = dict(dimension=6, width=4, strides=(2, 3), units=2)


def drawn(seed, *sizes):
    return np.random.default_rng(seed).standard_normal(sizes, dtype=np.float32)


def shaken(make):
    """A model of random weights, all of which matter: scales, biases and snakes' logarithms begin at 1 and 0."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(0.2 * torch.randn_like(value))
            if name.endswith("original0"):  # EnCodec's biases would drown its signal
                value.mul_(2)
    return model.eval()


def arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def encodec(**fields):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'parity'")
    config = transformers.EncodecConfig(
        hidden_size=6, num_filters=4, num_residual_layers=2, upsampling_ratios=(3, 2), codebook_size=8, codebook_dim=6,
        sampling_rate=600, target_bandwidths=(0.6,), **fields,
    )  # fmt: skip
    return shaken(lambda: transformers.EncodecModel(config))


def norm(name, **types):
    return GroupNorm(1, epsilon=1e-5, name=name, **types)


def tokenizer(layers=2, **fields):
    quantizer = jq.ResidualVQ(layers=tuple(jq.EMAVQ(size=8, width=6) for _ in range(layers)))
    return WaveformTokenizer(seanet.Encoder(**SEANET, **fields), quantizer, seanet.Decoder(**SEANET, **fields))


def transposed(x):
    return torch.from_numpy(x).transpose(1, 2)


def same(found, expected, tolerance=1e-4):
    expected = expected.detach().transpose(1, 2).numpy()
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=tolerance)


FORMS = {
    "causal": (dict(), dict()),
    "same": (dict(use_causal_conv=False), dict(causal=False)),
    "zeros": (dict(pad_mode="constant"), dict(mode="zeros")),
    "48 kHz": (
        dict(use_causal_conv=False, norm_type="time_group_norm", audio_channels=2),
        dict(causal=False, audio_channels=2, norm=norm),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_seanet_is_encodec(form):
    theirs, ours = FORMS[form]
    model = encodec(**theirs)
    module = tokenizer(len(model.quantizer.layers), **ours)
    params = convert_seanet.params_from(arrays(model), module)
    for length in (46, 4) if form == "causal" else (46,):  # a frame that is only begun; too short for reflections
        audio = drawn(1, 2, length, ours.get("audio_channels", 1))
        z, _ = jax.jit(module.encoder.apply)({"params": params["encoder"]}, audio)
        same(z, model.encoder(transposed(audio)))
    z = drawn(2, 2, 9, 6)
    same(jax.jit(module.decoder.apply)({"params": params["decoder"]}, z), model.decoder(transposed(z)))
    theirs = sum(p.numel() for name, p in model.encoder.named_parameters() if "original0" not in name)
    twice = 2 * 4 * 16  # PyTorch's second biases
    assert sum(leaf.size for leaf in jax.tree.leaves(params["encoder"])) == theirs - twice


def agree(module, variables, audio, z, codes, latents, expected):
    """The reference's frames [B, Z, T] of audio [B, L], codes [B, Q, T], latents [B, D, T] and audio again [B, L]."""

    def run(m, audio, codes):
        return m.analyse(audio, None)[0], m.encode(audio), m.quantizer.decode(codes)

    like = jax.eval_shape(module.init, jax.random.key(0), audio)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, like)
    codes = codes.permute(0, 2, 1).numpy()
    assert all(len(np.unique(book)) > 3 for book in codes.reshape(-1, codes.shape[-1]).T)
    found, tokens, dequantized = jax.jit(functools.partial(module.apply, method=run))(variables, audio, codes)
    same(found, z)
    np.testing.assert_array_equal(tokens.codes, codes)
    same(tokens.latents, latents)
    same(dequantized, latents)
    again = jax.jit(functools.partial(module.apply, method="decode"))(variables, dequantized)
    same(again[..., None], expected[:, None])


@torch.no_grad()
def test_a_converted_encodec_has_its_codes_and_audio():
    model = encodec()
    for i, layer in enumerate(model.quantizer.layers):
        layer.codebook.embed.copy_(torch.from_numpy(4 * drawn(3 + i, 8, 6)))
    module = tokenizer(len(model.quantizer.layers))
    variables = variables_from_reference("encodec", arrays(model), module)
    audio = drawn(1, 2, 124)
    wave = torch.from_numpy(audio)[:, None]
    codes = model.encode(wave, bandwidth=0.6).audio_codes
    expected = model.decode(codes, [None]).audio_values[:, 0]
    latents = model.quantizer.decode(codes[0].transpose(0, 1))
    agree(module, variables, audio, model.encoder(wave), codes[0], latents, expected)


def dac(strides):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'parity'")
    config = transformers.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=list(strides), decoder_hidden_size=12, n_codebooks=3,
        codebook_size=16, codebook_dim=3,
    )  # fmt: skip
    sizes = dict(multipliers=(2, 4), strides=strides)
    layers = tuple(jq.FactorizedVQ(size=16, width=16, inner_width=3, weight_norm=False) for _ in range(3))
    module = WaveformTokenizer(
        oobleck.Encoder(channels=4, latent=8, **sizes),
        jq.ResidualVQ(layers=layers, gradient="layers"),
        oobleck.Decoder(channels=3, latent=16, bias=True, tanh=True, **sizes),
    )
    return shaken(lambda: transformers.DacModel(config)), module


@pytest.mark.parametrize("strides", [(2, 4), (3, 2)])
@torch.no_grad()
def test_a_converted_dac_has_its_codes_and_audio(strides):
    model, module = dac(strides)
    model.decoder.conv2.weight.mul_(0.1)  # tanh would hide the rest
    variables = variables_from_reference("dac", arrays(model), module)
    audio = drawn(1, 2, 121)
    wave = torch.from_numpy(audio)[:, None]
    found = model.encode(wave)
    expected = model.decode(audio_codes=found.audio_codes).audio_values
    assert expected.abs().max() > 0.5 and expected.abs().median() < 0.9
    z, latents = model.encoder(wave), found.quantized_representation
    agree(module, variables, audio, z, found.audio_codes, latents, expected)
    model.apply_weight_norm()
    state = arrays(model)
    assert "quantizer.quantizers.2.in_proj.parametrizations.weight.original0" in state and "decoder.conv2.bias" in state
    again = convert_dac.params_from(state, module)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), again, variables["params"])


@pytest.mark.parametrize("family", ["encodec", "dac"])
def test_configs_of_the_docstrings_are_of_the_released_sizes(family):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'parity'")
    models = {
        "encodec": lambda: transformers.EncodecModel(transformers.EncodecConfig()),
        "dac": lambda: transformers.DacModel(transformers.DacConfig(sampling_rate=44100)),
    }
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in models[family]().state_dict().items()}
    text = importlib.import_module(FAMILIES[family]).__doc__
    example = re.search(r"(?s)    import ml_collections.*?(?=    jaxtok convert)", text)[0]
    exec(textwrap.dedent(example), names := {})
    config = names["get_config"]().copy_and_resolve_references().to_dict()
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    variables, module = variables_from_reference(family, state, config["model"]), build(config["model"])
    like = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, module.hop), np.float32))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, like)


def original(name):
    """A key of transformers' in EnCodec's own names."""
    number = name.split(".")[2]
    strided = name.startswith("decoder") and number in ("3", "7")
    name = name.replace(".layers.", ".model.", 1) if "coder." in name else name
    name = name.replace(".conv.", ".convtr.convtr." if strided else ".conv.conv.")
    name = name.replace("parametrizations.weight.original0", "weight_g")
    name = name.replace("parametrizations.weight.original1", "weight_v")
    return name.replace("quantizer.layers", "quantizer.vq.layers").replace(".codebook.", "._codebook.")


def test_original_names_and_wavtokenizers_give_the_same_parameters():
    model = encodec()
    state, module = arrays(model), tokenizer(len(model.quantizer.layers))
    renamed = {original(name): value for name, value in state.items()}
    assert "decoder.model.3.convtr.convtr.weight_g" in renamed and "encoder.model.1.block.1.conv.conv.bias" in renamed
    expected = convert_seanet.params_from(state, module)
    found = convert_seanet.params_from(renamed, module, convert_seanet.ORIGINAL)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    within = {f"feature_extractor.encodec.{name}": value for name, value in renamed.items()}
    within |= {"head.out.bias": np.ones(3), "dac.discriminators.0.bias": np.ones(2)}
    encoder, codebook, left = convert_seanet.wavtokenizer(within, module.encoder, module.quantizer)
    jax.tree.map(np.testing.assert_array_equal, encoder, expected["encoder"])
    expected = convert_seanet.codebook_from(state, module)["quantizer"]
    jax.tree.map(np.testing.assert_array_equal, codebook, expected)
    assert list(left) == ["head.out.bias"]
    with pytest.raises(ValueError, match="unknown keys 'optimizer.x'"):
        convert_seanet.wavtokenizer(within | {"optimizer.x": np.ones(1)}, module.encoder, module.quantizer)


def stable_audio(name):
    """A key of diffusers' in stable-audio-tools' names, for two stages."""
    part, *rest = name.split(".")
    units = {"snake1": "0", "conv1": "1", "snake2": "2", "conv2": "3"}
    inner = {"encoder": {"snake1": "3", "conv1": "4"}, "decoder": {"snake1": "0", "conv_t1": "1"}}[part]
    if rest[0] == "block":
        block = [str(int(rest[1]) + 1), "layers"]
        if rest[2].startswith("res_unit"):
            first = 0 if part == "encoder" else 2
            block += [str(int(rest[2][-1]) - 1 + first), "layers", units[rest[3]], *rest[4:]]
        else:
            block += [inner[rest[2]], *rest[3:]]
    else:
        block = [{"conv1": "0", "snake1": "3", "conv2": "4"}[rest[0]], *rest[1:]]
    return ".".join(["autoencoder", part, "layers", *block])


@pytest.mark.parametrize("strides", [(2, 4), (3, 2)])
def test_oobleck_is_stable_audios(strides):
    diffusers = pytest.importorskip("diffusers", reason="needs the extra 'parity'")
    model = shaken(
        lambda: diffusers.AutoencoderOobleck(
            encoder_hidden_size=8, downsampling_ratios=list(strides), channel_multiples=[1, 3], decoder_channels=8,
            decoder_input_channels=4, audio_channels=2,
        )
    )  # fmt: skip
    sizes = dict(channels=8, multipliers=(1, 3), strides=strides, latent=4, audio_channels=2)
    encoder, decoder = oobleck.Encoder(**sizes), oobleck.Decoder(**sizes)
    module = FeedForwardTokenizer(encoder, jq.Gaussian(width=4), decoder)
    params = convert_oobleck.params_from(arrays(model), module)
    audio, z = drawn(1, 2, 61, 2), drawn(2, 2, 9, 4)
    moments, _ = jax.jit(encoder.apply)({"params": params["encoder"]}, audio)
    with torch.no_grad():
        latents = model.encode(transposed(audio)).latent_dist
        decoded = model.decode(transposed(z)).sample
    quantizer = jq.Gaussian(width=4, weight=2.0, reduction="position", log_variance=softplus)
    found = quantizer(moments)
    same(found.latents, latents.mean)
    same(np.exp(softplus(moments[..., 4:]) / 2), latents.std)
    np.testing.assert_allclose(found.loss, latents.kl(), rtol=1e-5)
    same(jax.jit(decoder.apply)({"params": params["decoder"]}, z), decoded)
    renamed = {stable_audio(name): value for name, value in arrays(model).items()}
    renamed = {k: v.ravel() if k.endswith((".alpha", ".beta")) else v for k, v in renamed.items()}
    found = convert_oobleck.params_from(renamed, module, convert_oobleck.STABLE_AUDIO, "autoencoder.")
    jax.tree.map(np.testing.assert_array_equal, found, params)


class ScalarCodec:
    """SQ-Codec over a state dict of its names, with torch's own functions."""

    def __init__(self, state, strides, pool, causal):
        self.w, self.strides, self.pool, self.causal = state, strides, pool, causal

    def weight(self, name):
        if f"{name}.weight" in self.w:
            return self.w[f"{name}.weight"]
        v, g = self.w[f"{name}.weight_v"], self.w[f"{name}.weight_g"]
        return torch._weight_norm(v, g, 0)

    def conv(self, name, x, stride=1, dilation=1, causal=None):
        weight, total = self.weight(name), dilation * (self.weight(name).shape[-1] - 1)
        around = (total, 0) if (self.causal if causal is None else causal) else (total // 2, total // 2)
        return F.conv1d(F.pad(x, around), weight, self.w[f"{name}.bias"], stride, dilation=dilation)

    def prelu(self, name, x):
        return F.prelu(x, self.w[f"{name}.weight"])

    def units(self, name, x):
        for j, dilation in enumerate((1, 3, 5, 7, 9)):
            unit = f"{name}.convs.{j}"
            h = self.prelu(f"{unit}.activation1", self.conv(f"{unit}.conv1", x, dilation=dilation))
            x = x + self.prelu(f"{unit}.activation2", self.conv(f"{unit}.conv2", h))
        return x

    def encode(self, x):
        x = self.conv("encoder.0", x)
        x = F.avg_pool1d(self.prelu("encoder.1.activation", self.conv("encoder.1.conv", x)), self.pool)
        for i, stride in enumerate(self.strides):
            name = f"encoder.{2 + i}"
            x = self.conv(f"{name}.down_conv.layer", self.units(name, x), stride)
            x = self.prelu(f"{name}.down_conv.activation", x)
        return self.conv(f"encoder.{2 + len(self.strides)}", x)

    def decode(self, x):
        x = self.conv("decoder.0", x, causal=False)
        for i, stride in enumerate(reversed(self.strides)):
            name = f"decoder.{1 + i}"
            layer, padding = f"{name}.up_conv.layer", 0 if self.causal else stride // 2
            x = F.conv_transpose1d(x, self.weight(layer), self.w[f"{layer}.bias"], stride, padding)
            x = self.units(name, x[..., :-stride] if self.causal else x)
        name = f"decoder.{1 + len(self.strides)}"
        x = self.prelu(f"{name}.activation", self.conv(f"{name}.conv", x.repeat_interleave(self.pool, -1)))
        return self.conv(f"decoder.{2 + len(self.strides)}", x)


def scalar_state(width=2, latent=3, strides=(2, 3)):
    """Random weights under the reference's names."""
    shapes = {"encoder.0": (width, 1, 7), "encoder.1.conv": (width, width, 7), "decoder.0": (4 * width, latent, 5)}
    shapes |= {"encoder.4": (latent, 4 * width, 7), "decoder.3.conv": (width, width, 7), "decoder.4": (1, width, 7)}
    slopes = ["encoder.1.activation", "decoder.3.activation"]
    for i, stride in enumerate(strides):
        inner, outer = f"encoder.{2 + i}", f"decoder.{len(strides) - i}"
        shapes |= {f"{inner}.down_conv.layer": (2 * width, width, 2 * stride)}
        shapes |= {f"{outer}.up_conv.layer": (2 * width, width, 2 * stride)}
        for unit in (f"{name}.convs.{j}" for name in (inner, outer) for j in range(5)):
            shapes |= {f"{unit}.conv1": (width, width, 7), f"{unit}.conv2": (width, width, 1)}
            slopes += [f"{unit}.activation1", f"{unit}.activation2"]
        width *= 2
    state = {}
    for i, (name, shape) in enumerate(shapes.items()):
        plain = ".conv" in name and "convs" not in name and "_conv" not in name
        state |= {f"{name}.{'weight' if plain else 'weight_v'}": 0.3 * drawn(i, *shape)}
        state |= {} if plain else {f"{name}.weight_g": 1 + 0.2 * drawn(100 + i, shape[0], 1, 1)}
        state[f"{name}.bias"] = 0.1 * drawn(200 + i, shape[1] if "up_conv" in name else shape[0])
    state |= {f"{name}.weight": 0.25 + 0.1 * drawn(300 + i, 1) for i, name in enumerate(slopes)}
    return state | {f"encoder.{2 + i}.down_conv.activation.weight": np.full(1, 0.4, np.float32) for i in (0, 1)}


@pytest.mark.parametrize("causal", [True, False])
def test_sq_codec_is_the_references(causal):
    state, sizes = scalar_state(), dict(latent=3, width=2, strides=(2, 3), pool=2, causal=causal)
    encoder, decoder = sq_codec.Encoder(**sizes), sq_codec.Decoder(**sizes)
    module = FeedForwardTokenizer(encoder, jq.ScalarRound(width=3), decoder)
    params = convert_sq.params_from(state, module)
    reference = ScalarCodec({k: torch.from_numpy(v) for k, v in state.items()}, (2, 3), 2, causal)
    audio, z = drawn(1, 2, 75, 1), drawn(2, 2, 7, 3)
    found, _ = jax.jit(encoder.apply)({"params": params["encoder"]}, audio)
    same(found, reference.encode(transposed(audio)))
    same(jax.jit(decoder.apply)({"params": params["decoder"]}, z), reference.decode(transposed(z)))


def test_slopes_that_differ_are_refused():
    module = FeedForwardTokenizer(
        sq_codec.Encoder(latent=3, width=2, strides=(2, 3)), jq.ScalarRound(width=3),
        sq_codec.Decoder(latent=3, width=2, strides=(2, 3)),
    )  # fmt: skip
    state = scalar_state() | {"encoder.3.down_conv.activation.weight": np.full(1, 0.5, np.float32)}
    with pytest.raises(ValueError, match=r"one slope under all of 'encoder.2.down_conv.activation.weight', .* several"):
        convert_sq.params_from(state, module)


@pytest.mark.parametrize("name", ["encoder.layers.1.block.1.conv.parametrizations.weight.original1", "x"])
def test_missing_and_unknown_keys_are_named(name):
    state = arrays(encodec())
    if name in state:
        del state[name]
    else:
        state[name] = np.ones(1)
    with pytest.raises(ValueError, match=f"key '{name}' .* is missing|unknown keys '{name}'"):
        convert_seanet.params_from(state, tokenizer())
