"""The fidelity checks of TaDiCodec: golden values of the reference code on a small model with given weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.convert import from_reference
from jaxtok.diffusion import noise
from jaxtok.nn import embed
from jaxtok.nn.llama import Llama
from jaxtok.tokenizers.diffusion import FlowSampler

WIDTH, HIDDEN, BITS, BANDS, FRAMES, DEPTH, VOCABULARY = 32, 128, 6, 8, 24, 2, 20
TEXT = {"text_ids": jnp.array([[3, 7, 1, 19]])}


def config(scan=False):
    size = dict(width=WIDTH, depth=DEPTH, heads=4, hidden=HIDDEN, scan=scan)
    return dict(
        target="jaxtok.tokenizers.diffusion:DiffusionTokenizer",
        encoder=dict(target="jaxtok.papers.tadicodec:Encoder", bits=BITS, **size),
        quantizer=dict(target="jaxtok.quantizers.bsq:BSQ", bits=BITS),
        decoder=dict(target="jaxtok.papers.tadicodec:PrefixDecoder", bands=BANDS, vocabulary=VOCABULARY, **size),
    )


def reference_shapes():
    shapes = {"text_emb.weight": (VOCABULARY, WIDTH)}

    def linear(name, inputs, outputs, bias=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    linear("vq_in_linear", WIDTH, BITS)
    linear("vq_out_linear", BITS, WIDTH)
    linear("decoder.out_linear", WIDTH, BANDS)
    linear("decoder.norm.to_weight", WIDTH, WIDTH)
    for name in ("text_mlp", "diff_step_mlp", "cond_mlp"):
        linear(f"decoder.{name}.0", WIDTH, 4 * WIDTH)
        linear(f"decoder.{name}.2", 4 * WIDTH, WIDTH)
    for part in ("encoder", "decoder"):
        linear(f"{part}.in_linear", BANDS, WIDTH)
        for layer in range(DEPTH):
            prefix = f"{part}.layers.{layer}"
            for p in "qkvo":
                linear(f"{prefix}.self_attn.{p}_proj", WIDTH, WIDTH, bias=False)
            linear(f"{prefix}.mlp.gate_proj", WIDTH, HIDDEN, bias=False)
            linear(f"{prefix}.mlp.up_proj", WIDTH, HIDDEN, bias=False)
            linear(f"{prefix}.mlp.down_proj", HIDDEN, WIDTH, bias=False)
            if part == "decoder":
                linear(f"{prefix}.input_layernorm.to_weight", WIDTH, WIDTH)
                linear(f"{prefix}.post_attention_layernorm.to_weight", WIDTH, WIDTH)
    return shapes


def reference_weights():
    """The j-th tensor by name is 0.2 sin(0.37 k + 1.3 j), k its flat index in PyTorch's layout."""
    shapes = reference_shapes()
    assert len(shapes) == 61
    return {
        name: (0.2 * np.sin(0.37 * np.arange(np.prod(shapes[name])) + 1.3 * j)).reshape(shapes[name])
        for j, name in enumerate(sorted(shapes))
    }


@pytest.fixture(scope="module", params=[False, True], ids=["unrolled", "scanned"])
def model(request):
    described = config(request.param)
    module = build(described)
    variables = {"params": from_reference("tadicodec", reference_weights(), described)}
    return lambda *args, **kwargs: module.apply(variables, *args, **kwargs)


FRAME, BAND = np.arange(FRAMES)[:, None], np.arange(BANDS)
MEL = jnp.asarray(np.sin(0.3 * FRAME + 0.7 * BAND) + 0.1 * BAND, jnp.float32)[None]
STATE = jnp.asarray(np.cos(0.5 * FRAME - 0.2 * BAND), jnp.float32)[None]


def statistics(x, mean, std):
    np.testing.assert_allclose(x.mean(), mean, atol=2e-6)
    np.testing.assert_allclose(x.std(ddof=1), std, atol=2e-6)


def test_encoder_output(model):
    def run(module, x):
        """All frames up to the last norm; the encoder keeps those that resampling reads."""
        encoder, params = module.encoder, module.encoder.variables["params"]
        stack = Llama(encoder.depth, encoder.heads, encoder.hidden, scan=encoder.scan)
        first = params["in_linear"]
        return stack.apply({"params": params["transformer"]}, x @ first["kernel"] + first["bias"])

    out = model(MEL, method=run)
    statistics(out, -0.0570125, 0.999023)
    np.testing.assert_allclose(out[0, 0, :3], [-0.991993, -0.147319, -0.806155], atol=1e-5)
    np.testing.assert_allclose(out[0, 23, -3:], [0.339703, -0.215346, 1.790440], atol=1e-5)


def test_codes_and_quantizer_losses(model):
    z, _ = model(MEL, method=lambda module, x: module.encoder(x))
    first = z[0, 0] / jnp.linalg.norm(z[0, 0])
    np.testing.assert_allclose(first, [-0.028391, -0.402474, -0.629463, -0.575793, -0.244559, 0.222797], atol=1e-6)
    tokens = model(MEL, method="encode")
    np.testing.assert_array_equal(tokens.codes, [[[1], [1], [1]]])
    np.testing.assert_allclose(tokens.loss, -0.0026300, atol=1e-6)
    np.testing.assert_allclose(tokens.metrics["entropy_codebook"], 3.857202, atol=1e-6)
    np.testing.assert_allclose(tokens.metrics["commitment"], 0.246068, atol=1e-6)


def test_decoder_with_text(model):
    latents = model(MEL, method="encode").latents
    out = -model(STATE, jnp.array([0.7]), latents, cond=TEXT, method="denoise")  # the reference's t is 0.3
    statistics(out, 0.105520, 0.202734)
    np.testing.assert_allclose(out[0, 0, :3], [0.424083, 0.190523, -0.098246], atol=1e-6)
    np.testing.assert_allclose(out[0, -1, -3:], [0.048135, 0.246251, 0.367878], atol=1e-6)


def test_decoder_without_condition(model):
    def run(module, x_t, t, latents):
        context = module.decoder.null(module.decoder.context(latents, cond=TEXT))
        return module.decoder.velocity(x_t, module.decoder.modulation(t), context)

    out = -model(STATE, jnp.array([0.7]), jnp.ones((1, 3, BITS)), method=run)
    statistics(out, 0.110906, 0.155812)
    np.testing.assert_allclose(out[0, 0, :3], [0.393139, 0.183838, -0.077298], atol=1e-6)


@pytest.mark.parametrize(("t", "divisor"), [(0.7, 0.7), (0.01, 0.05)])
def test_a_decoder_of_data_gives_the_flow_from_what_it_predicts(model, t, divisor):
    def velocity(module, prediction):
        decoder = module.decoder.clone(prediction=prediction, parent=None)
        variables = {"params": module.decoder.variables["params"]}
        return decoder.apply(variables, STATE, method=lambda m, x: m.velocity(x, m.modulation(at), m.context(latents)))

    at, latents = jnp.array([t]), jnp.ones((1, 3, BITS))
    frames = -model("flow", method=velocity)  # the same network's output
    np.testing.assert_allclose(model("data", method=velocity), (STATE - frames) / divisor, atol=1e-5)
    with pytest.raises(ValueError, match="prediction must be 'flow' or 'data', found 'noise'"):
        model("noise", method=velocity)


def test_sampler_with_prompt_guidance_and_rescale(model):
    latents = model(MEL, method="encode").latents
    start = jnp.zeros_like(MEL).at[0, 8:].set(jnp.cos(0.9 * jnp.arange(16)[:, None] + 0.4 * BAND))
    cond = TEXT | {"prompt": MEL, "prompt_mask": jnp.arange(FRAMES)[None] < 8}
    sampler = FlowSampler(steps=4, guidance=2.0, rescale=0.75)
    out = model(latents, cond=cond, start=start, sampler=sampler, method="decode")
    np.testing.assert_array_equal(out[:, :8], MEL[:, :8])
    statistics(out[:, 8:], 0.0723968, 0.717195)
    np.testing.assert_allclose(out[0, 8, :3], [1.284382, 1.080655, 0.687763], atol=2e-6)
    np.testing.assert_allclose(out[0, -1, -3:], [-0.932987, -0.778199, -0.528149], atol=2e-6)


def test_time_embedding():
    out = embed.sinusoidal(jnp.array(0.5), 1024)
    np.testing.assert_allclose(out[:3], [0.479426, 0.471569, 0.463815], atol=1e-6)
    np.testing.assert_allclose(out[512:515], [0.877583, 0.881829, 0.885932], atol=1e-6)


def test_guidance_of_one_is_no_guidance(model):
    latents = model(MEL, method="encode").latents
    plain = model(latents, cond=TEXT, start=STATE, sampler=FlowSampler(3, 1.0), method="decode")
    nearly = model(latents, cond=TEXT, start=STATE, sampler=FlowSampler(3, 1.0 + 1e-7, 0.75), method="decode")
    np.testing.assert_allclose(plain, nearly, atol=1e-6)


def test_paper_has_the_published_number_of_parameters():
    module = build(jaxtok.get_config("tadicodec:paper").model)
    cond = {"text_ids": jnp.zeros((1, 4), jnp.int32)}
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 128)), jnp.ones(1), cond=cond))

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    encoder, decoder = params["params"]["encoder"], params["params"]["decoder"]
    assert count(params) == 495_766_670
    assert count(encoder) - count(encoder["code_linear"]) == 134_349_824  # 134.35 M
    text = count(decoder["text_embed"])
    assert text == 32_870_400 and count(decoder) - text - count(decoder["code_linear"]) == 328_516_736  # 328.52 M


def test_converter_names_missing_extra_and_misshapen_keys():
    weights = reference_weights()
    with pytest.raises(ValueError, match=r"'decoder.norm.to_weight.bias' .* is missing"):
        from_reference("tadicodec", {k: v for k, v in weights.items() if k != "decoder.norm.to_weight.bias"}, config())
    with pytest.raises(ValueError, match="unknown keys 'decoder.extra'"):
        from_reference("tadicodec", weights | {"decoder.extra": np.zeros(3)}, config())
    with pytest.raises(ValueError, match=r"'text_emb.weight' has shape \(19, 32\), expected \(20, 32\)"):
        from_reference("tadicodec", weights | {"text_emb.weight": np.zeros((19, WIDTH))}, config())
    assert from_reference("tadicodec", weights | {"bsq.basis": np.zeros(3)}, config())  # a buffer, recomputed


def test_frames_that_are_no_multiple_of_the_factor_are_refused(model):
    with pytest.raises(ValueError, match="multiple of 8 frames, found shape"):
        model(MEL[:, :23], method="encode")


def _batch(rng, lengths, longest):
    mask = np.arange(longest) < np.asarray(lengths)[:, None]
    mel = rng.normal(size=(len(lengths), longest, BANDS)).astype(np.float32)
    return jnp.where(mask[..., None], mel, 0.0), jnp.asarray(mask)


def test_tokens_do_not_depend_on_padding_or_neighbours(model):
    mel, mask = _batch(np.random.default_rng(1), [16, 40, 24], 64)
    together = model(mel, mask=mask, method="encode").codes
    for row, length in enumerate([16, 40, 24]):
        alone = model(mel[row : row + 1, :length], method="encode").codes[0]
        np.testing.assert_array_equal(together[row, : length // 8], alone)


def test_samples_do_not_depend_on_padding_or_neighbours(model):
    _, mask = _batch(np.random.default_rng(2), [16, 40], 48)
    text = {
        "text_ids": jnp.array([[3, 7, 1, 0, 0], [2, 2, 5, 11, 4]]),
        "text_mask": jnp.array([[1, 1, 1, 0, 0], [1] * 5], bool),
    }
    latents = jax.random.normal(jax.random.key(5), (2, 6, BITS))  # what padded tokens hold must not matter
    keys = noise.per_example(jax.random.key(0), jnp.array([7, 3]))
    sampler = FlowSampler(steps=3)
    together = model(latents, mask=mask, cond=text, rng=keys, sampler=sampler, method="decode")
    alone = model(
        latents[:1, :2], cond={"text_ids": jnp.array([[3, 7, 1]])}, rng=keys[:1], sampler=sampler, method="decode"
    )
    np.testing.assert_allclose(together[0, :16], alone[0], atol=2e-5)


def test_decode_without_noise_is_refused(model):
    with pytest.raises(ValueError, match="needs rng"):
        model(jnp.ones((1, 2, BITS)), method="decode")


def test_both_initialisations():
    scales = {}
    for init in ("reference", "stable"):
        described = config()
        described["decoder"] = described["decoder"] | {"norm_init": init}
        module = build(described)
        params = jax.jit(lambda m=module: m.init(jax.random.key(0), MEL, jnp.ones(1), cond=TEXT))()["params"]
        scales[init] = module.apply(
            {"params": params}, jnp.array([0.3]), method=lambda m, t: m.decoder.modulation(t)[0]
        )
        np.testing.assert_allclose(params["encoder"]["in_linear"]["kernel"].std(), 0.02, rtol=0.1)
    np.testing.assert_array_equal(scales["stable"], 1.0)
    assert abs(float(scales["reference"].mean())) < 0.01


def test_sampler_settings_are_checked():
    for bad in (dict(steps=0), dict(rescale=1.5), dict(guidance=-1.0)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FlowSampler(**bad)
