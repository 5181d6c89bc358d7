"""WavTokenizer's released layout against plain PyTorch arithmetic, with random weights under the released names.

The encoder's arithmetic is held against EnCodec's in ``waveform_test.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.build import build
from jaxtok.convert import from_reference, variables_from_reference
from jaxtok.quantizers.nearest import nearest

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
F = torch.nn.functional
torch.set_num_threads(1)

DIM, WIDTH, HIDDEN, DEPTH, IDS, GROUPS, N_FFT, HOP, SIZE = 6, 8, 12, 2, 3, 2, 24, 6, 8
CONFIG = dict(
    target="jaxtok.tokenizers.waveform:WaveformTokenizer",
    conditional=True,
    encoder=dict(target="jaxtok.nn.seanet:Encoder", dimension=DIM, width=2, strides=(2, 3), causal=False),
    quantizer=dict(target="jaxtok.quantizers:EMAVQ", size=SIZE, width=DIM),
    decoder=dict(
        target="jaxtok.papers.wavtokenizer:Decoder", dimension=DIM, width=WIDTH, hidden=HIDDEN, depth=DEPTH,
        n_fft=N_FFT, hop=HOP, bandwidths=IDS, groups=GROUPS,
    ),
)  # fmt: skip
ENCODEC = "feature_extractor.encodec"
BOOK = f"{ENCODEC}.quantizer.vq.layers.0._codebook"


def shapes():
    convs = {"0": (2, 1, 7), "3": (4, 2, 4), "6": (8, 4, 6), "9": (DIM, 8, 7)}
    for number, width in (("1", 2), ("4", 4)):
        convs |= {f"{number}.block.1": (width // 2, width, 3), f"{number}.block.3": (width, width // 2, 1)}
        convs[f"{number}.shortcut"] = (width, width, 1)
    found = {}
    for name, shape in convs.items():
        ends = {"weight_v": shape, "weight_g": (shape[0], 1, 1), "bias": shape[:1]}
        found |= {f"{ENCODEC}.encoder.model.{name}.conv.conv.{end}": s for end, s in ends.items()}
    for i in (0, 1):
        ends = {"weight_ih": (32, 8), "weight_hh": (32, 8), "bias_ih": (32,), "bias_hh": (32,)}
        found |= {f"{ENCODEC}.encoder.model.7.lstm.{end}_l{i}": shape for end, shape in ends.items()}
    found |= {f"{BOOK}.embed": (SIZE, DIM), f"{BOOK}.embed_avg": (SIZE, DIM), f"{BOOK}.cluster_size": (SIZE,)}

    def layer(name, *weight):
        found.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    layer("backbone.embed", WIDTH, DIM, 7)
    for i in (0, 1, 3, 4):
        for j in (1, 2):
            layer(f"backbone.pos_net.{i}.norm{j}", WIDTH)
            layer(f"backbone.pos_net.{i}.conv{j}", WIDTH, WIDTH, 3)
    layer("backbone.pos_net.2.norm", WIDTH)
    for name in ("q", "k", "v", "proj_out"):
        layer(f"backbone.pos_net.2.{name}", WIDTH, WIDTH, 1)
    layer("backbone.pos_net.5", WIDTH)
    for name in ("backbone.norm", *(f"backbone.convnext.{i}.norm" for i in range(DEPTH))):
        found |= {f"{name}.scale.weight": (IDS, WIDTH), f"{name}.shift.weight": (IDS, WIDTH)}
    for i in range(DEPTH):
        layer(f"backbone.convnext.{i}.dwconv", WIDTH, 1, 7)
        layer(f"backbone.convnext.{i}.pwconv1", HIDDEN, WIDTH)
        layer(f"backbone.convnext.{i}.pwconv2", WIDTH, HIDDEN)
        found[f"backbone.convnext.{i}.gamma"] = (WIDTH,)
    layer("backbone.final_layer_norm", WIDTH)
    layer("head.out", N_FFT + 2, WIDTH)
    return found


def weights():
    rng = np.random.default_rng(0)
    state = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes().items()}
    for name in state:  # the signal passes the encoder with its size, so that codes differ
        if name.startswith(f"{ENCODEC}.encoder") and name.endswith(("weight_g", "bias")):
            state[name] = rng.uniform(1.5, 2.5, state[name].shape).astype(np.float32) * (1 if "_g" in name else 0.02)
    state["head.out.bias"][3] = 9.0  # a magnitude over the limit
    extra = {
        "dac.discriminators.0.conv_post.bias": (1,), "multiperioddisc.discriminators.0.emb.weight": (4, 4),
        f"{ENCODEC}.decoder.model.0.conv.conv.bias": (4,), "melspec_loss.mel_spec.spectrogram.window": (8,),
    }  # fmt: skip
    state |= {name: np.ones(shape, np.float32) for name, shape in extra.items()}
    return state | {f"{BOOK}.inited": np.ones(1, np.float32), "head.istft.window": torch.hann_window(N_FFT).numpy()}


def converted(state):
    return jax.tree.map(jnp.asarray, variables_from_reference("wavtokenizer", state, CONFIG))


def reference(state, z, which):
    """Audio [B, HOP T] of vectors [B, T, DIM] for bandwidth ids [B], in double precision."""
    w = {name: torch.from_numpy(value).double() for name, value in state.items()}
    x = torch.from_numpy(z).double().transpose(1, 2)

    def conv(name, x, **fields):
        return F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=w[f"{name}.weight"].shape[-1] // 2, **fields)

    def group_norm(name, x):
        return F.group_norm(x, GROUPS, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)

    def by_id(name, x):
        scale, shift = (w[f"{name}.{end}.weight"][which][:, None] for end in ("scale", "shift"))
        return F.layer_norm(x, (WIDTH,), eps=1e-6) * scale + shift

    def residual(name, x):
        h = conv(f"{name}.conv1", F.silu(group_norm(f"{name}.norm1", x)))
        return x + conv(f"{name}.conv2", F.silu(group_norm(f"{name}.norm2", h)))

    def attend(name, x):
        h = group_norm(f"{name}.norm", x)
        q, k, v = (conv(f"{name}.{end}", h) for end in "qkv")
        chosen = F.softmax(torch.einsum("bct,bcs->bts", q, k) * WIDTH**-0.5, dim=-1)
        return x + conv(f"{name}.proj_out", torch.einsum("bts,bcs->bct", chosen, v))

    x = conv("backbone.embed", x)
    for i in range(5):
        x = (attend if i == 2 else residual)(f"backbone.pos_net.{i}", x)
    x = by_id("backbone.norm", group_norm("backbone.pos_net.5", x).transpose(1, 2))
    for i in range(DEPTH):
        name = f"backbone.convnext.{i}"
        h = by_id(f"{name}.norm", conv(f"{name}.dwconv", x.transpose(1, 2), groups=WIDTH).transpose(1, 2))
        h = F.gelu(F.linear(h, w[f"{name}.pwconv1.weight"], w[f"{name}.pwconv1.bias"]))
        x = x + w[f"{name}.gamma"] * F.linear(h, w[f"{name}.pwconv2.weight"], w[f"{name}.pwconv2.bias"])
    x = F.layer_norm(
        x, (WIDTH,), w["backbone.final_layer_norm.weight"], w["backbone.final_layer_norm.bias"], eps=1e-6
    )  # fmt: skip
    out = F.linear(x, w["head.out.weight"], w["head.out.bias"])
    bins, frames = N_FFT // 2 + 1, x.shape[1]
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    spectrum = torch.polar(out[..., :bins].exp().clamp(max=100), out[..., bins:])
    pieces = torch.fft.irfft(spectrum, N_FFT) * window
    audio = torch.zeros(len(x), (frames - 1) * HOP + N_FFT, dtype=torch.float64)
    envelope = torch.zeros(audio.shape[1], dtype=torch.float64)
    for t in range(frames):
        audio[:, t * HOP : t * HOP + N_FFT] += pieces[:, t]
        envelope[t * HOP : t * HOP + N_FFT] += window**2
    trim = (N_FFT - HOP) // 2
    return (audio / envelope)[:, trim:-trim].float().numpy()


def test_decoder_is_the_references():
    variables, z = converted(weights()), drawn(1, 2, 9, DIM)
    module = build(CONFIG)
    found = jax.jit(lambda z, ids: module.apply(variables, z, cond={"bandwidth_id": ids}, method="decode"))
    ids = np.array([0, 2])
    expected = reference(weights(), z, torch.from_numpy(ids))
    assert expected.std() > 0.1
    np.testing.assert_allclose(found(z, ids), expected, atol=1e-4 * np.abs(expected).max())


def test_codes_are_the_nearest_of_the_files_codebook():
    state, module = weights(), build(CONFIG)
    variables, audio = converted(state), drawn(2, 2, 90)
    like = jax.eval_shape(module.init, jax.random.key(0), audio)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, like)

    @jax.jit
    def run(audio):
        z, _ = module.encoder.apply({"params": variables["params"]["encoder"]}, audio[..., None])
        return z, module.apply(variables, audio, method="encode").codes

    z, codes = run(audio)
    np.testing.assert_array_equal(codes[..., 0], nearest(z, state[f"{BOOK}.embed"]))
    assert len(np.unique(codes)) > 2 and variables["codebook"]["quantizer"]["started"]


def test_every_key_is_accounted_for():
    for name in shapes() | {f"{BOOK}.inited": ()}:
        state = weights()
        del state[name]
        with pytest.raises(ValueError, match=r"key '.*' .* is missing"):
            from_reference("wavtokenizer", state, CONFIG)
    for name in ("backbone.pos_net.6.weight", f"{ENCODEC}.encoder.model.10.conv.conv.bias", "optimizer.x"):
        with pytest.raises(ValueError, match=f"unknown keys '{name}'"):
            from_reference("wavtokenizer", weights() | {name: np.ones(1, np.float32)}, CONFIG)
    with pytest.raises(ValueError, match="'head.istft.window' is not the periodic Hann window of 24 samples"):
        window = np.hanning(N_FFT).astype(np.float32)
        from_reference("wavtokenizer", weights() | {"head.istft.window": window}, CONFIG)


def drawn(seed, *sizes):
    return np.random.default_rng(seed).standard_normal(sizes, dtype=np.float32)
